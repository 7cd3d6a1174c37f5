"""One object that is being written: compressed, and sent up in pieces as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
from obstore.store import ObjectStore

from collector.sinks._encoders import Encoder, encoder_for

CHUNK = 8 << 20
"""Bytes of one upload of a multipart upload; a part that is smaller is put at once."""

UPLOADS = 2
"""Chunks of one part on their way at once."""


@dataclass(frozen=True, slots=True)
class Done:
    """A part that is in place."""

    path: str
    rows: int
    bytes: int


_ABORT = b""


class _AbortedError(Exception):
    """Tells the library to abort an upload: cancelling the call would only leave it."""


class Part:
    """A part that is being written."""

    def __init__(self, store: ObjectStore, path: str, opened_at: float) -> None:
        self.path = path
        self.opened_at = opened_at
        self.rows = self.size = 0
        self._store = store
        self._encoder: Encoder = encoder_for(Path(path).suffix)
        self._buffer = bytearray()
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._upload: asyncio.Task[Any] | None = None

    async def write(self, data: bytes, rows: int) -> None:
        # Off the loop: compressing a batch takes longer than a call to AWS may wait.
        self._take(await asyncio.to_thread(self._encoder.compress, data))
        self.rows += rows
        while len(self._buffer) >= CHUNK:
            chunk = bytes(self._buffer[:CHUNK])
            del self._buffer[:CHUNK]
            await self._send(chunk)

    def _take(self, data: bytes) -> None:
        self._buffer += data
        self.size += len(data)

    async def _send(self, chunk: bytes | None) -> None:
        if self._upload is None:
            self._upload = asyncio.create_task(self._run())
        sending = asyncio.create_task(self._chunks.put(chunk))
        try:
            # The upload ends early only if it fails.
            await asyncio.wait({sending, self._upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not sending.done():
                sending.cancel()
        if self._upload.done():
            await self._upload

    async def _run(self) -> None:
        await obstore.put_async(
            self._store,
            self.path,
            self._stream(),
            chunk_size=CHUNK,
            max_concurrency=UPLOADS,
        )

    async def _stream(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            if not chunk:
                raise _AbortedError
            yield chunk

    async def finish(self) -> Done:
        """Put the part in its place."""
        self._take(await asyncio.to_thread(self._encoder.flush))
        rest = bytes(self._buffer)
        if self._upload is None:
            await obstore.put_async(self._store, self.path, rest, use_multipart=False)
        else:
            if rest:
                await self._send(rest)
            await self._send(None)
            await self._upload
        return Done(self.path, self.rows, self.size)

    async def abort(self) -> None:
        """Leave no trace; a multipart upload under way is aborted."""
        if self._upload is not None:
            while not self._chunks.empty():
                self._chunks.get_nowait()
            self._chunks.put_nowait(_ABORT)
            await asyncio.gather(self._upload, return_exceptions=True)
