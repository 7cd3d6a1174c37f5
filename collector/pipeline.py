"""A run as a whole: the crawl at one end, a sink or the caller's loop at the other.

    Crawl ─> queue ─> sink, or records()

A full queue stops the describes, those stop the listing: nothing is read ahead without bound.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import orjson

from collector.crawl import Crawl
from collector.errors import CollectorError, SinkError
from collector.events import BytesDelivered, Event, Observer, RunEnded, SinkClosed, Warned
from collector.extract import first_error
from collector.model import Record, Target
from collector.report import Report
from collector.settings import Settings
from collector.sinks.base import Sink, open_sink

QUEUE = 1_000
"""Records between the crawl and the sink or the caller."""

BATCH = 500
"""Records handed on at once, at most; fewer when the crawl is slower than who takes them."""

LINGER = 0.05
"""Seconds that a record may wait for others: handed on one at a time it would cost twice."""

T = TypeVar("T")


class _Stream(Generic[T]):
    """A bounded queue with an end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[T | None] = asyncio.Queue(QUEUE)

    async def put(self, item: T) -> None:
        await self._queue.put(item)

    async def end(self) -> None:
        await self._queue.put(None)

    async def batch(self, linger: float = 0.0) -> list[T]:
        """What is there now, one item at least; empty at the end.

        ``linger`` is how many seconds to wait after the first item, for others to join it.
        """
        items: list[T] = []
        item = await self._queue.get()
        if linger and item is not None and self._queue.qsize() < BATCH:
            await asyncio.sleep(linger)
        while item is not None:
            items.append(item)
            if len(items) == BATCH or self._queue.empty():
                return items
            item = self._queue.get_nowait()
        if items:
            self._queue.put_nowait(None)  # the end is for the next call
        return items


class Records:
    """An async iterator of records; made by `Collector.records`."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._stream: _Stream[Record] = _Stream()
        self._batch: Iterator[Record] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        for record in self._batch:
            return record
        batch = await self.batch()
        if not batch:
            raise StopAsyncIteration
        self._batch = iter(batch)
        return next(self._batch)

    async def batch(self) -> list[Record]:
        """Some records at once, or none at the end. Raises what the run raised."""
        task = self._collector._start(self._stream)  # noqa: SLF001
        batch = await self._stream.batch()
        if not batch:
            await task
        return batch


class Collector:
    """A run as a library call: an async context manager around one crawl.

        async with Collector(Settings(regions=["us-east-1"])) as c:
            async for record in c.records():
                ...
        print(c.report)

    Leaving the block early leaves no task and no socket behind. ``observers`` are told of every
    event (see `collector.events`). A Collector runs once.
    """

    def __init__(
        self, settings: Settings | None = None, *, observers: Iterable[Observer] = ()
    ) -> None:
        self._settings = settings or Settings()
        self._report = Report()
        self._observers: tuple[Observer, ...] = (self._report, *observers)
        self._crawl = Crawl(self._settings, self._observe)
        self._task: asyncio.Task[None] | None = None
        self._halted = False
        self._cut = False
        self._failure: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            with suppress(asyncio.CancelledError, CollectorError):
                await self._task

    @property
    def report(self) -> dict[str, Any]:
        """The run report (see `collector.report`), as it stands."""
        return self._report.as_dict()

    @property
    def complete(self) -> bool:
        """True once the run has ended with nothing missing."""
        return self._report.complete

    def records(self) -> Records:
        """Every record, a dict of the table's columns; targets come mixed.

        Backpressured: the crawl is never more than some hundred records ahead of the caller.
        Iterating raises CredentialsError, DiscoveryError or ConfigurationError when nothing can
        be read; what goes wrong in one target only is in the `report`.
        """
        return Records(self)

    async def run(self) -> dict[str, Any]:
        """Crawl into the sink of the settings; returns the report.

        Raises SinkError when records cannot be delivered, before any call to AWS if that shows at
        once, and what `records` raises. The sink's records are whole under their final name only
        if this returns and the run was not stopped.
        """
        sink = open_sink(self._settings.sink)
        await sink.open()
        stream: _Stream[Record] = _Stream()
        whole = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(sink, stream))
                self._task = group.create_task(self._fill(stream))
            whole = not self._halted
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors
        finally:
            note = await sink.close(whole=whole)
            if note:
                self._observe(Warned(note))
        return self.report

    def stop(self) -> None:
        """Start nothing more; what is under way is finished, delivered and reported."""
        self._halted = True
        self._crawl.halt()
        if not self._crawl.busy:
            self.cut()  # still finding out what to read: there is nothing to finish

    def cut(self) -> None:
        """After `stop`: do not wait for what is under way, deliver and report what is there."""
        self._cut = True
        if self._task is not None:
            self._task.cancel()

    def _observe(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)

    def _start(self, stream: _Stream[Record]) -> asyncio.Task[None]:
        if self._task is None:
            self._task = asyncio.create_task(self._fill(stream))
        return self._task

    async def _fill(self, stream: _Stream[Record]) -> None:
        """The crawl, from its first event to its last, into ``stream``."""

        async def deliver(_target: Target, record: Record) -> None:
            await stream.put(record)

        error: str | None = None
        listening = True
        try:
            await self._crawl.run(deliver)
            error = "interrupted" if self._halted else None
        except asyncio.CancelledError:
            if not self._cut:
                listening = False
                error = self._failure or "stopped before the end"
                raise
            error = "interrupted"
        except Exception as failure:
            error = str(failure) or type(failure).__name__
            raise
        finally:
            self._observe(RunEnded(time.time(), error))
            if listening:
                await stream.end()

    async def _write(self, sink: Sink, stream: _Stream[Record]) -> None:
        while records := await stream.batch(LINGER):
            lines = [orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records]
            try:
                await sink.write(lines)
            except SinkError as failure:
                self._failure = str(failure)
                self._observe(SinkClosed())
                raise
            self._observe(BytesDelivered(len(lines), sum(map(len, lines))))
        await sink.flush()


def collect(settings: Settings | None = None, *, observers: Iterable[Observer] = ()) -> Collection:
    """Every record, as a blocking iterator for scripts and tasks; works under a running loop too.

    Iterating raises what `Collector.records` raises. Breaking out of the loop ends the crawl.
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
    try:
        while (batch := batches.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield from batch
            pump.taken()
    finally:
        pump.stop()
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
        self._room = asyncio.Semaphore(2)
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
            records = collector.records()
            while batch := await records.batch():
                await self._room.acquire()
                self._batches.put(batch)

    def taken(self) -> None:
        self._call(self._room.release)

    def stop(self) -> None:
        if self._task is not None:
            self._call(self._task.cancel)

    def _call(self, function: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended by itself
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)
