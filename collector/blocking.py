"""A run as a plain iterator, for programs without an event loop: `collect`.

The crawl's loop has a thread of its own, which is a few batches ahead of the caller and no more.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Self

from collector.events import Observer
from collector.model import Record
from collector.pipeline import Collector, Records
from collector.settings import Settings

_AHEAD = 2
"""Batches that `collect` holds ready for its caller."""


def collect(settings: Settings | None = None, *, observers: Iterable[Observer] = ()) -> Collection:
    """Every record, as a blocking iterator for scripts and tasks; works under a running loop too.

        jobs = collect(Settings(regions=["us-east-1"], created_after="7d"))
        names = [record["training_job_name"] for record in jobs]
        if not jobs.complete:
            print(jobs.report["targets"])

    A record is a dict of the table's columns, timestamps as text. The crawl runs in a thread of
    its own, a few hundred records ahead. What comes back has ``report``, ``complete`` and
    ``close()``. Iterating raises what `Collector.records` raises: CredentialsError, DiscoveryError,
    StateError or ConfigurationError, never what goes wrong in one target alone. Breaking out of
    the loop ends the crawl.
    """
    return Collection(Collector(settings, observers=observers))


class Collection(Iterator[Record]):
    """A blocking iterator of records; made by `collect`. `close` ends it early."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._records = _pumped(collector)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        return next(self._records)

    def close(self) -> None:
        """End the crawl, its thread and its sockets; does nothing after the last record."""
        self._records.close()

    @property
    def report(self) -> dict[str, Any]:
        """The run report (see `collector.report`), as it stands."""
        return self._collector.report

    @property
    def complete(self) -> bool:
        """True once the run has ended with nothing missing."""
        return self._collector.complete


def _pumped(collector: Collector) -> Generator[Record, None, None]:
    batches: queue.Queue[list[Record] | BaseException | None] = queue.Queue()
    started = threading.Event()
    pump = _Pump(collector, batches, started)
    thread = threading.Thread(target=pump.run, name="collector", daemon=True)
    thread.start()
    started.wait()
    handed = 0
    try:
        while (batch := batches.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            for handed, record in enumerate(batch, 1):  # noqa: B007 - used if it ends here
                yield record
            pump.taken()
            handed = 0
    finally:
        pump.stop(handed)
        thread.join()


class _Pump:
    """The thread behind `collect`: runs the crawl's loop, a few batches ahead of the caller."""

    def __init__(
        self,
        collector: Collector,
        batches: queue.Queue[list[Record] | BaseException | None],
        started: threading.Event,
    ) -> None:
        self._collector = collector
        self._batches = batches
        self._started = started
        self._room = asyncio.Semaphore(_AHEAD)
        self._records: Records | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._pump())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._batches.put(error)
        finally:
            self._started.set()
            self._batches.put(None)

    async def _pump(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._started.set()
        async with self._collector as collector:
            self._records = collector.records()
            while batch := await self._records.batch():
                await self._room.acquire()
                self._batches.put(batch)
            for _ in range(_AHEAD):  # until the caller has taken them all
                await self._room.acquire()
            await collector._finish()  # noqa: SLF001

    def taken(self) -> None:
        """The caller has done with a batch and asks for the next."""
        self._call(self._taken)

    def _taken(self) -> None:
        if self._records is not None:
            self._records.acknowledge()
        self._room.release()

    def stop(self, handed: int) -> None:
        """The caller asks for no more, having been handed so many of the batch in its hand."""
        self._call(partial(self._stop, handed))

    def _stop(self, handed: int) -> None:
        if self._records is not None:
            self._records.handed = handed
        if self._task is not None:
            self._task.cancel()

    def _call(self, function: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended by itself
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)
