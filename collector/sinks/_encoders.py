"""Streaming compressors, by the ending of a name: .gz, .zst, or none."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

_GZIP = 16 + zlib.MAX_WBITS  # zlib's way to ask for a gzip header
_GZIP_LEVEL = 6


class Encoder(Protocol):
    """A streaming compressor."""

    def compress(self, data: bytes, /) -> bytes: ...

    def sync(self) -> bytes:
        """What is still held back, so that a reader of the file would see all so far."""

    def flush(self) -> bytes:
        """The end of the compressed data."""


class Decoder(Protocol):
    """A streaming decompressor."""

    def decompress(self, data: bytes, /) -> bytes: ...


class Plain:
    """No compression."""

    def compress(self, data: bytes, /) -> bytes:
        return data

    def sync(self) -> bytes:
        return b""

    def flush(self) -> bytes:
        return b""


class Gzip:
    """One gzip member."""

    def __init__(self) -> None:
        self._encoder = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)
        self.compress = self._encoder.compress
        self.flush = self._encoder.flush

    def sync(self) -> bytes:
        return self._encoder.flush(zlib.Z_SYNC_FLUSH)


class Zstandard:
    """One Zstandard frame: many readers stop at the end of the first."""

    def __init__(self) -> None:
        import zstandard  # noqa: PLC0415 - only for who asks for it

        self._encoder = zstandard.ZstdCompressor(write_checksum=True).compressobj()
        self._block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self.compress = self._encoder.compress
        self.flush = self._encoder.flush

    def sync(self) -> bytes:
        return self._encoder.flush(self._block)


ENDINGS: dict[str, Callable[[], Encoder]] = {".gz": Gzip, ".zst": Zstandard}


def encoder_for(ending: str) -> Encoder:
    """The encoder that the ending of a name asks for."""
    return ENDINGS.get(ending, Plain)()


def decoder_for(ending: str) -> Decoder | None:
    """What reads the encoder's output back; None where nothing is compressed."""
    if ending == ".gz":
        return zlib.decompressobj(_GZIP)
    if ending == ".zst":
        import zstandard  # noqa: PLC0415 - only for who asks for it

        return zstandard.ZstdDecompressor().decompressobj()
    return None
