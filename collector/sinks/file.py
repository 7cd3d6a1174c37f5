"""A file: plain, gzip (.gz) or Zstandard (.zst), whole under its name or not there at all.

Records are written to ``NAME.partial`` beside it, synced, and renamed at the end. Another run can
go on from any flush: what came after it is cut off. A compressor cannot be taken up in the middle,
so what it had written is compressed once more then.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

from collector.errors import ConfigurationError, SinkClosedError, SinkError
from collector.files import replace_synced
from collector.sinks._encoders import Decoder, decoder_for, encoder_for
from collector.sinks.base import Kept, Position, Row, Run

SCHEMES = ("",)

PARTIAL = ".partial"
_CHUNK = 1 << 20
_END_MARK = 32
"""Bytes that the end of a compressed file may take: less than any record."""

_TAIL = 65_536
"""Bytes before a position that tell whether a file is the one that was written."""


def open_sink(uri: str, run: Run) -> FileSink:  # noqa: ARG001
    path = Path(uri)
    if path.is_dir() or uri.endswith("/"):
        raise ConfigurationError(f"The sink {uri} is a folder: give the path of a file.")
    return FileSink(path.resolve())  # a link is followed, not replaced


def _decompressed(decoder: Decoder, data: bytes, path: Path) -> bytes:
    try:
        return decoder.decompress(data)
    except Exception as error:
        raise SinkError(
            f"The unfinished file {path} is damaged ({error}): remove it, to begin anew."
        ) from error


class FileSink:
    """Exactly once under the final name: the rename is the acknowledgement of the whole run.

    Devices and pipes (/dev/null, a FIFO) are written to directly.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._encoder = encoder_for(path.suffix)
        self._descriptor: int | None = None
        self._direct = False
        self._broken = False
        self._flushed = 0
        self._written = False
        self._busy = threading.Lock()

    async def open(self, position: Position | None = None) -> Kept:
        return await asyncio.to_thread(self._open, position)

    def _open(self, position: Position | None) -> Kept:
        try:
            self._direct = self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode)
            if self._direct:
                self._descriptor = os.open(self._path, os.O_WRONLY)
                return Kept.NOTHING
            if self._path.exists() and not os.access(self._path, os.W_OK):
                raise PermissionError(13, "the file is there and may not be replaced")
            if position is not None and self._is_whole(position):
                return Kept.WHOLE
            self._descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_still_there()
            return self._go_on(self._descriptor, position)
        except BlockingIOError as error:
            self._drop()
            raise SinkError(f"Another run is writing {self._path} right now.") from error
        except OSError as error:
            self._drop()
            raise SinkError(f"Cannot write to {self._path}: {error.strerror}.") from error
        except SinkError:
            self._drop()
            raise

    def _check_still_there(self) -> None:
        """Another run may have held the file, and renamed it between our open and our lock."""
        ours = os.fstat(self._descriptor or 0)
        if not (self._partial.exists() and os.path.samestat(ours, self._partial.stat())):
            raise BlockingIOError

    def _is_whole(self, position: Position) -> bool:
        """Whether the file had got its name before the run that wrote it was cut off."""
        if self._partial.exists() or not self._path.exists():
            return False
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            more = os.fstat(descriptor).st_size - int(position.get("offset", -1))
            return 0 <= more <= _END_MARK and self._wrote(descriptor, position)
        finally:
            os.close(descriptor)

    def _go_on(self, descriptor: int, position: Position | None) -> Kept:
        kept = position is not None and self._wrote(descriptor, position)
        offset = int(position["offset"]) if kept and position else 0
        decoder = decoder_for(self._path.suffix)
        if offset and decoder is not None:
            descriptor = self._compress_again(descriptor, offset, decoder)
            offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.ftruncate(descriptor, offset)
        os.lseek(descriptor, offset, os.SEEK_SET)
        self._flushed = offset
        self._written = offset > 0
        return Kept.PART if kept else Kept.NOTHING

    def _compress_again(self, old: int, offset: int, decoder: Decoder) -> int:
        """The first ``offset`` bytes of an unfinished file, as one that can be gone on with."""
        new = self._partial.with_name(self._partial.name + ".new")
        self._descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            for start in range(0, offset, _CHUNK):
                data = os.pread(old, min(_CHUNK, offset - start), start)
                self._put(self._encoder.compress(_decompressed(decoder, data, self._partial)))
            self._put(self._encoder.sync())
            os.fsync(self._descriptor)
            replace_synced(new, self._partial)
        except (OSError, SinkError):
            new.unlink(missing_ok=True)
            raise
        finally:
            os.close(old)
        return self._descriptor

    def _wrote(self, descriptor: int, position: Position) -> bool:
        """Whether this is the file that ``position`` speaks of, as far as that goes."""
        return self._position(descriptor, int(position.get("offset", -1))) == position

    def _position(self, descriptor: int, offset: int) -> Position | None:
        if not 0 <= offset <= os.fstat(descriptor).st_size:
            return None
        tail = os.pread(descriptor, min(_TAIL, offset), max(0, offset - _TAIL))
        digest = hashlib.sha256(tail).hexdigest()
        return {"path": str(self._path), "offset": offset, "tail": digest}

    def _drop(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def write(self, rows: Sequence[Row]) -> None:
        await asyncio.to_thread(self._write, b"".join([row.line for row in rows]))

    def _write(self, data: bytes) -> None:
        # A write that was cancelled goes on in its thread: closing waits for it.
        with self._busy:
            self._check_open()
            self._written = True
            self._put(self._encoder.compress(data))

    def _check_open(self) -> int:
        if self._descriptor is None:
            raise SinkError(f"The sink {self._path} is not open.")
        return self._descriptor

    def _put(self, data: bytes) -> None:
        descriptor = self._check_open()
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except BrokenPipeError as error:
            raise SinkClosedError(f"The reader of {self._path} went away.") from error
        except OSError as error:
            self._broken = True
            raise SinkError(f"Cannot write to {self._path}: {error.strerror}.") from error

    async def flush(self) -> Position | None:
        return await asyncio.to_thread(self._flush, end=False)

    def _flush(self, *, end: bool) -> Position | None:
        with self._busy:
            descriptor = self._check_open()
            self._put(self._encoder.flush() if end else self._encoder.sync())
            if self._direct:
                return None
            try:
                os.fsync(descriptor)
                self._flushed = os.lseek(descriptor, 0, os.SEEK_CUR)
                return self._position(descriptor, self._flushed)
            except OSError as error:
                self._broken = True
                raise SinkError(f"Cannot write to {self._path}: {error.strerror}.") from error

    async def close(self, *, whole: bool) -> str | None:
        return await asyncio.to_thread(self._close, whole=whole)

    def _close(self, *, whole: bool) -> str | None:
        if self._descriptor is None:
            return None
        try:
            if not self._broken:
                self._flush(end=True)
            if whole and not self._broken and not self._direct:
                self._rename()
                return None
            return None if self._direct else self._leave()
        except SinkError:
            if not self._direct:
                self._leave()
            raise
        finally:
            with self._busy:
                self._drop()

    def _leave(self) -> str | None:
        """What was read stays, since it may be all there is; what was not flushed is cut off."""
        if self._broken:
            os.ftruncate(self._check_open(), self._flushed)
        if not self._written or (self._broken and not self._flushed):
            self._partial.unlink(missing_ok=True)
            return f"{self._path} stays as it was" if self._path.exists() else None
        return f"What was read is in {self._partial}, not whole"

    def _rename(self) -> None:
        try:
            replace_synced(self._partial, self._path)
        except OSError as error:
            raise SinkError(f"Cannot write to {self._path}: {error.strerror}.") from error
