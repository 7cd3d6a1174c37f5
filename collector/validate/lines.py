"""The lines of a file that may be compressed, in memory bounded by the longest of them."""

from __future__ import annotations

import contextlib
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, Any

import zstandard

from collector.errors import ConfigurationError

MAX_LINE = 64 << 20
"""Bytes. Far above any record; a file without line ends must not fill the memory."""

_FEED = 128
"""Bytes given to the zstd decoder at a time: its answer is up to 32,000 times as long."""

_Stream = IO[bytes] | gzip.GzipFile


def open_lines(path: str) -> Iterator[bytes]:
    """Lines of a file (plain, ``.gz`` or ``.zst``) or of stdin (``-``), with their line ends.

    Opened at once, read as they are asked for. A line longer than MAX_LINE comes cut to one byte
    more. Raises ConfigurationError here if there is no such file, and while reading if it is
    damaged or ends too early.
    """
    if path == "-":
        return _read(contextlib.nullcontext(sys.stdin.buffer), "The standard input")
    try:
        file = open(path, "rb")  # noqa: SIM115, PTH123 - closed by _decompressed
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    return _read(_decompressed(file, path), path)


def _read(opened: AbstractContextManager[_Stream], name: str) -> Iterator[bytes]:
    try:
        with opened as stream:
            while line := stream.readline(MAX_LINE + 1):
                yield line
                while len(line) > MAX_LINE and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE + 1)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise ConfigurationError(f"{name} is damaged or ends too early: {error}.") from error


@contextlib.contextmanager
def _decompressed(file: io.BufferedReader, name: str) -> Iterator[_Stream]:
    with file:
        if not name.endswith((".gz", ".zst")):
            yield file
        elif not file.peek(1):
            raise EOFError("there is nothing in it, not even a header")
        elif name.endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream
        else:
            with io.BufferedReader(_Zstd(file)) as buffered:
                yield buffered


class _Zstd(io.RawIOBase):
    """The content of all frames of a zstd file.

    zstandard's own reader takes a file that breaks off in a frame for one that ends there.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or self._file.read(_FEED)
            if not self._input:
                if self._frame:
                    raise EOFError("the last frame is not whole")
                return 0
            self._decode()
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._output))
        target[:size], self._output = self._output[:size], self._output[size:]
        return size

    def _decode(self) -> None:
        self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        self._output = memoryview(self._frame.decompress(self._input))
        self._input = b""
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None
