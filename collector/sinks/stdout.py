"""Standard output: records as they come, for pipes."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Sequence

from collector.errors import SinkClosedError, SinkError
from collector.sinks.base import Kept, Position, Row, Run

SCHEMES = ("-",)


def open_sink(uri: str, run: Run) -> StdoutSink:  # noqa: ARG001
    return StdoutSink()


class StdoutSink:
    """Writes to file descriptor 1, in a thread: a reader that stops must not stop the crawl's loop.

    At least once, and nothing is hidden until the end: a pipe has no final name.
    """

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor

    async def open(self, position: Position | None = None) -> Kept:  # noqa: ARG002
        try:
            os.fstat(self._descriptor)
        except OSError as error:
            raise SinkError("Standard output is closed: there is nowhere to write to.") from error
        return Kept.NOTHING

    async def write(self, rows: Sequence[Row]) -> None:
        await asyncio.to_thread(self._write, b"".join([row.line for row in rows]))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:  # some parents hand down a pipe that does not block
                    select.select([], [self._descriptor], [])
        except BrokenPipeError as error:
            raise SinkClosedError("The reader of standard output went away.") from error
        except OSError as error:
            raise SinkError(f"Cannot write to standard output: {error.strerror}.") from error

    async def flush(self) -> Position | None:
        """Nothing is held back, and nothing can be taken back."""
        return None

    async def close(self, *, whole: bool) -> str | None:  # noqa: ARG002
        return None
