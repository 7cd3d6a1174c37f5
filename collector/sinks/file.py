"""A file: plain, gzip (.gz) or Zstandard (.zst), whole under its name or not there at all.

Records are written to ``NAME.partial`` beside it, synced, and renamed at the end.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from collector.errors import ConfigurationError, SinkClosedError, SinkError

SCHEMES = ("",)

PARTIAL = ".partial"
_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to ask for a gzip header
_GZIP_LEVEL = 6


def open_sink(uri: str) -> FileSink:
    path = Path(uri)
    if path.is_dir() or uri.endswith("/"):
        raise ConfigurationError(f"The sink {uri} is a folder: give the path of a file.")
    return FileSink(path.resolve())  # a link is followed, not replaced


class Encoder(Protocol):
    """A streaming compressor."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Plain:
    """No compression."""

    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def encoder_for(path: Path) -> Encoder:
    """The encoder that a file's ending asks for."""
    if path.suffix == ".gz":
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)
    if path.suffix == ".zst":
        import zstandard  # noqa: PLC0415 - only for who asks for it

        return zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return Plain()


class FileSink:
    """Exactly once under the final name: the rename is the acknowledgement of the whole run.

    Devices and pipes (/dev/null, a FIFO) are written to directly.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._encoder = encoder_for(path)
        self._descriptor: int | None = None
        self._direct = False
        self._broken = False
        self._written = False
        self._busy = threading.Lock()

    async def open(self) -> None:
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        try:
            self._direct = self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode)
            if self._direct:
                self._descriptor = os.open(self._path, os.O_WRONLY)
                return
            if self._path.exists() and not os.access(self._path, os.W_OK):
                raise PermissionError(13, "the file is there and may not be replaced")
            self._descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_still_there()
            os.ftruncate(self._descriptor, 0)
        except BlockingIOError as error:
            self._drop()
            raise SinkError(f"Another run is writing {self._path} right now.") from error
        except OSError as error:
            self._drop()
            raise SinkError(f"Cannot write to {self._path}: {error.strerror}.") from error

    def _check_still_there(self) -> None:
        """Another run may have held the file, and renamed it between our open and our lock."""
        ours = os.fstat(self._descriptor or 0)
        if not (self._partial.exists() and os.path.samestat(ours, self._partial.stat())):
            raise BlockingIOError

    def _drop(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def write(self, lines: Sequence[bytes]) -> None:
        await asyncio.to_thread(self._write, b"".join(lines))

    def _write(self, data: bytes) -> None:
        # A write that was cancelled goes on in its thread: closing waits for it.
        with self._busy:
            if self._descriptor is None:
                raise SinkError(f"The sink {self._path} is not open.")
            self._written = True
            self._put(self._encoder.compress(data))

    def _put(self, data: bytes) -> None:
        if self._descriptor is None:
            raise SinkError(f"The sink {self._path} is not open.")
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError as error:
            raise SinkClosedError(f"The reader of {self._path} went away.") from error
        except OSError as error:
            self._broken = True
            raise SinkError(f"Cannot write to {self._path}: {error.strerror}.") from error

    async def flush(self) -> None:
        await asyncio.to_thread(self._sync)

    def _sync(self) -> None:
        if self._descriptor is None or self._direct:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._broken = True
            raise SinkError(f"Cannot write to {self._path}: {error.strerror}.") from error

    async def close(self, *, whole: bool) -> str | None:
        return await asyncio.to_thread(self._close, whole=whole)

    def _close(self, *, whole: bool) -> str | None:
        with self._busy:
            return self._end(whole=whole)

    def _end(self, *, whole: bool) -> str | None:
        if self._descriptor is None:
            return None
        try:
            if not self._broken:
                self._put(self._encoder.flush())
                self._sync()
            if whole and not self._broken and not self._direct:
                self._rename()
            elif not self._direct:
                return self._leave()
        finally:
            self._drop()
        return None

    def _leave(self) -> str | None:
        """An unfinished file stays, since it may be all there is; a broken or empty one goes."""
        if self._broken or not self._written:
            self._partial.unlink(missing_ok=True)
            return None
        return f"What was read is in {self._partial}, not whole"

    def _rename(self) -> None:
        try:
            self._partial.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise SinkError(f"Cannot write {self._path}: {error.strerror}.") from error
