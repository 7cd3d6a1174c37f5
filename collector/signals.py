"""Ctrl-C and SIGTERM for commands that have nothing to finish; `run` has: see `console`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_until_told(work: Coroutine[Any, Any, T]) -> T:
    """What `asyncio.run` returns; a signal ends ``work`` first, and then the process.

    Without it a signal would be an exception in whatever task is at its turn.
    """
    return asyncio.run(_until_told(work))


async def _until_told(work: Coroutine[Any, Any, T]) -> T:
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    told: list[int] = []

    def end(number: int) -> None:
        told.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    await asyncio.wait({task})
    if told and task.cancelled():
        sys.exit(128 + told[0])
    return task.result()
