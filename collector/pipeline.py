"""A run as a whole: the crawl at one end, a sink or the caller's loop at the other.

    Crawl ─> queue ─> sink, or records() ─> acknowledgement ─> journal ─> state

A full queue stops the describes, those stop the listing: nothing is read ahead without bound.
What the sink has acknowledged is written down at each checkpoint, and nothing else ever is.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import orjson

from collector.crawl import Crawl, History, run_started
from collector.errors import CollectorError, SinkError, StateError
from collector.events import (
    BytesDelivered,
    Event,
    Observer,
    QueueMeasured,
    RecordRefused,
    RunEnded,
    SinkClosed,
    Warned,
)
from collector.extract import first_error
from collector.journal import Journal
from collector.model import Job, Record, Target
from collector.report import Report
from collector.retry_failed import Retry, read_failures
from collector.settings import Settings
from collector.shards import shared_outputs
from collector.sinks.base import Kept, Refusal, Row, Run, Sink, open_sinks
from collector.store import name_of, open_store
from collector.tables import load_table

QUEUE = 1_000
"""Records between the crawl and the sink or the caller."""

BATCH = 500
"""Records handed on at once, at most; fewer when the crawl is slower than who takes them."""

LINGER = 0.05
"""Seconds that a record may wait for others: handed on one at a time it would cost twice."""

_LEFT = "stopped before the end"

_CALLER = "the caller"
"""What the output of `records` is called in the state."""


Item = tuple[Target, Job, Record]


def _row(target: Target, job: Job, record: Record) -> Row:
    line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    return Row(line, job.arn, *target.key)


class _Stream:
    """A bounded queue of records with an end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Item | None] = asyncio.Queue(QUEUE)

    async def put(self, item: Item) -> None:
        await self._queue.put(item)

    async def end(self) -> None:
        await self._queue.put(None)

    async def batch(self, linger: float = 0.0, within: float | None = None) -> list[Item] | None:
        """What is there now; None at the end, empty if nothing comes ``within`` so many seconds.

        ``linger`` is how many seconds to wait after the first item, for others to join it.
        """
        try:
            async with asyncio.timeout(within):
                item = await self._queue.get()
        except TimeoutError:
            return []
        if item is None:
            return None
        if linger and self._queue.qsize() < BATCH:
            await asyncio.sleep(linger)
        items = [item]
        while len(items) < BATCH and not self._queue.empty():
            item = self._queue.get_nowait()
            if item is None:
                self._queue.put_nowait(None)  # the end is for the next call
                break
            items.append(item)
        return items

    def measured(self, taken: list[Item]) -> QueueMeasured:
        """How much was waiting when a batch was ``taken``."""
        return QueueMeasured(min(len(taken) + self._queue.qsize(), QUEUE), QUEUE)


class Records:
    """An async iterator of records; made by `Collector.records`.

    With state, a record counts as delivered once the caller asks for the one after it.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._stream = _Stream()
        self._given: deque[list[Item]] = deque()
        self._batch: Iterator[Record] = iter(())
        self.handed = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        for record in self._batch:
            self.handed += 1
            return record
        if self._given:
            self.acknowledge()
        batch = await self.batch()
        if not batch:
            await self._collector._finish()  # noqa: SLF001
            raise StopAsyncIteration
        self._batch = iter(batch)
        self.handed = 1
        return next(self._batch)

    async def batch(self) -> list[Record]:
        """Some records at once, or none at the end. Raises what the run raised."""
        collector = self._collector
        task = collector._start(self._stream)  # noqa: SLF001
        await collector._checkpoint(None)  # noqa: SLF001
        items: list[Item] | None = []
        while items == []:
            items = await self._stream.batch(within=collector._journal.wait)  # noqa: SLF001
            await collector._checkpoint(None)  # noqa: SLF001
        if items is None:
            await task
            return []
        collector._observe(self._stream.measured(items))  # noqa: SLF001
        self._given.append(items)
        return [record for _, _, record in items]

    def acknowledge(self) -> None:
        """The earliest batch that was not acknowledged yet is the caller's now."""
        self._acknowledge(self._given.popleft())

    def leave(self) -> None:
        """The caller asks for no more.

        Of the earliest batch it was ``handed`` so many; all but the last of them are its own.
        """
        if self._given and self.handed:
            self._acknowledge(self._given.popleft()[: self.handed - 1])

    def _acknowledge(self, items: list[Item]) -> None:
        self._collector._journal.acknowledge(  # noqa: SLF001
            (target, job) for target, job, _ in items
        )


class Collector:
    """A run as a library call: an async context manager around one crawl.

        async with Collector(Settings(regions=["us-east-1"])) as c:
            async for record in c.records():
                ...
        print(c.report)

    Leaving the block early leaves no task and no socket behind. With state, leaving it is what
    ends the run: until then the same run can be gone on with. ``observers`` are told of every
    event (see `collector.events`). ``narrow`` makes of what is known from earlier runs what this
    one begins with, as for a run that is to read some targets only. A Collector runs once.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        observers: Iterable[Observer] = (),
        narrow: Callable[[History], History] | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._narrow = narrow
        self._report = Report()
        self._observers: tuple[Observer, ...] = (self._report, *observers)
        self._journal = Journal(self._settings, None, output="")
        self._history: History = self._journal
        self._crawl: Crawl | None = None
        self._task: asyncio.Task[Any] | None = None
        self._records: Records | None = None
        self._entered = False
        self._finished = False
        self._halted = False
        self._cut = False
        self._failure: str | None = None

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._task is not None and not self._task.done():
                self._task.cancel()
                with suppress(asyncio.CancelledError, CollectorError):
                    await self._task
            if self._records is not None and not self._finished:
                self._records.leave()
                await self._journal.save(None)
                if self._task is not None:
                    self._observe(RunEnded(time.time(), self._failure or _LEFT))
        finally:
            await self._journal.close()

    @property
    def report(self) -> dict[str, Any]:
        """The run report (see `collector.report`), as it stands: a copy, ready for JSON.

        ``totals``, ``calls`` by operation, ``targets`` with outcome and error each, ``failures`` by
        ARN, ``warnings`` and more; the README names every key. Times are RFC 3339 in UTC.
        """
        return self._report.as_dict()

    @property
    def complete(self) -> bool:
        """True once the run has ended with nothing missing."""
        return self._report.complete

    def records(self) -> Records:
        """Every record, a dict of the table's columns; targets come mixed.

        Backpressured: the crawl is never more than some hundred records ahead of the caller.
        Iterating raises CredentialsError, DiscoveryError, StateError or ConfigurationError when
        nothing can be read; what goes wrong in one target only is in the `report`.
        """
        self._records = Records(self)
        return self._records

    async def run(self) -> dict[str, Any]:
        """Crawl into the sink of the settings; returns the report.

        Raises SinkError when records cannot be delivered, before any call to AWS if that shows at
        once, and what `records` raises. The sink's records are whole under their final name only
        if this returns and the run was not stopped.
        """
        settings = self._settings
        for sentence in shared_outputs(settings.shard, settings.report, settings.sink):
            self._observe(Warned(sentence))
        self._remember(" ".join(settings.sink))
        journal = self._journal
        run = Run(settings.table, journal.run_id, journal.started_at, settings, self._observe)
        try:
            await self._run(open_sinks(settings.sink, run))
        finally:
            if not self._entered:
                await journal.close()
        return self.report

    async def _run(self, sink: Sink) -> None:
        self._task = asyncio.create_task(self._begin(sink))
        try:
            kept = await self._task
        except BaseException as error:
            self._start_observed()
            self._end(error)
            if isinstance(error, asyncio.CancelledError) and self._cut:
                return
            raise
        try:
            await self._deliver_all(sink, kept)
            await self._finish()
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    async def _deliver_all(self, sink: Sink, kept: Kept) -> None:
        """Crawl into ``sink``, and close it."""
        try:
            if kept is Kept.WHOLE:
                # All had been delivered when the run was cut off, before it could say so.
                self._replay()
            else:
                await self._crawl_into(sink)
        except BaseException as error:
            await self._abandon(sink)
            if isinstance(error, BaseExceptionGroup):
                raise first_error(error) from error
            raise
        await self._close(sink, whole=not self._halted and not self._report.fruitless)

    async def _abandon(self, sink: Sink) -> None:
        """Close the sink of a run that has failed: what failed first is what to raise."""
        try:
            await self._close(sink, whole=False)
        except SinkError as failure:
            self._observe(Warned(str(failure)))

    async def _close(self, sink: Sink, *, whole: bool) -> None:
        note = await sink.close(whole=whole)
        if note:
            self._observe(Warned(note))

    def _end(self, error: BaseException | None) -> None:
        """Tell of the end of the run, however it came: nothing is told after it."""
        if isinstance(error, asyncio.CancelledError):
            why: str | None = "interrupted" if self._cut else _LEFT
        elif error is not None:
            why = self._failure = str(error) or type(error).__name__
        else:
            why = "interrupted" if self._halted else None
        self._observe(RunEnded(time.time(), why))

    async def _finish(self) -> None:
        """The run has ended by itself, and everything is where it should be."""
        self._finished = True
        if not self._halted:
            await self._journal.finish()

    def _remember(self, output: str) -> None:
        """Find out where state is kept, if any is."""
        settings = self._settings
        if settings.state is None or settings.retry_failed is not None:
            return
        store = open_store(
            settings.state,
            name_of(settings),
            settings,
            tell=lambda message: self._observe(Warned(message)),
        )
        self._journal = Journal(settings, store, output=output)
        self._observers += (self._journal,)

    async def _begin(self, sink: Sink | None) -> Kept:
        """Read the state, open the sink, and find out from where to go on."""
        settings, table, journal = self._settings, load_table(self._settings.table), self._journal
        failures = None
        if settings.retry_failed is not None:
            failures = await read_failures(settings.retry_failed, table, settings)
        await journal.open()
        kept = Kept.NOTHING
        if sink is not None:
            kept = await self._open(sink)
        journal.begin(kept, flush_every=getattr(sink, "flush_every", 0.0))
        self._history = self._narrow(journal) if self._narrow else journal
        if failures is not None:
            self._history = Retry(journal, failures)
            settings = settings.model_copy(update=failures.narrowing())
        if sink is not None and kept is Kept.PART:
            await journal.save(await sink.flush())  # it may have been put in order to go on
        if failures is None or failures.jobs:
            self._crawl = Crawl(settings, self._observe, self._history)
            if self._halted:
                self._crawl.halt()
        return kept

    async def _open(self, sink: Sink) -> Kept:
        try:
            kept = await sink.open(self._journal.position)
            if kept is Kept.WHOLE and not self._journal.delivered:
                kept = await sink.open()  # somebody gave it its name before its time
        except BaseException:
            await sink.close(whole=False)  # of several, some may be open
            raise
        return kept

    def _replay(self) -> None:
        """There is nothing to crawl: all is told that is known already."""
        self._start_observed()
        for event in self._history.replay():
            self._observe(event)

    def _start_observed(self) -> None:
        self._observe(run_started(self._journal, self._settings))

    async def _crawl_into(self, sink: Sink) -> None:
        stream = _Stream()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write(sink, stream))
            group.create_task(self._fill(stream))

    def stop(self) -> None:
        """Start nothing more; what is under way is finished, delivered and reported."""
        self._halted = True
        if self._crawl is not None:
            self._crawl.halt()
        if self._crawl is None or not self._crawl.busy:
            self.cut()  # still finding out what to read: there is nothing to finish

    def cut(self) -> None:
        """After `stop`: do not wait for what is under way, deliver and report what is there."""
        self._cut = True
        if self._task is not None:
            self._task.cancel()

    def _observe(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)

    def _start(self, stream: _Stream) -> asyncio.Task[None]:
        if self._task is None:
            self._task = asyncio.create_task(self._read(stream))
        return self._task

    async def _read(self, stream: _Stream) -> None:
        """The run behind `records`, from the state to the end."""
        try:
            try:
                self._remember(_CALLER)
                await self._begin(None)
            except BaseException:
                self._start_observed()
                await stream.end()
                raise
            await self._fill(stream)
        except BaseException as error:
            self._end(error)
            if isinstance(error, asyncio.CancelledError) and self._cut:
                return
            raise
        self._end(None)

    async def _fill(self, stream: _Stream) -> None:
        """The crawl, from its first event to its last record, into ``stream``."""

        async def deliver(target: Target, job: Job, record: Record) -> None:
            await stream.put((target, job, record))

        # Only now to be cancelled: a task that was before its first step would not end the stream.
        self._task = asyncio.current_task()
        listening = True
        try:
            if self._crawl is None:
                self._replay()
            elif not self._cut:
                await self._crawl.run(deliver)
        except asyncio.CancelledError:
            listening = self._cut
            if not self._cut:
                raise
        finally:
            if listening:
                await stream.end()

    async def _write(self, sink: Sink, stream: _Stream) -> None:
        try:
            while (items := await stream.batch(LINGER, self._journal.wait)) is not None:
                if items:
                    self._observe(stream.measured(items))
                    await self._deliver(sink, items)
                await self._checkpoint(sink)
            position = await sink.flush()
            if self._journal.is_kept:
                await self._journal.save(position, delivered=not self._halted)
        except (SinkError, StateError):
            self._observe(SinkClosed())
            raise

    async def _deliver(self, sink: Sink, items: list[Item]) -> None:
        rows = [_row(*item) for item in items]
        refusals = await sink.write(rows)
        taken = list(zip(rows, items, strict=True))
        if refusals:
            taken = self._refuse(refusals, taken)
        count = sum(len(row.line) for row, _ in taken)
        self._journal.acknowledge(((target, job) for _, (target, job, _) in taken), count)
        self._observe(BytesDelivered(len(taken), count))

    def _refuse(
        self, refusals: Sequence[Refusal], sent: list[tuple[Row, Item]]
    ) -> list[tuple[Row, Item]]:
        """Name the records that a sink does not take; returns the others."""
        why = {id(refusal.row): refusal for refusal in reversed(refusals)}
        for row, (target, job, _) in sent:
            if refusal := why.get(id(row)):
                self._observe(RecordRefused(target, job, refusal.sink, refusal.why))
        return [(row, item) for row, item in sent if id(row) not in why]

    async def _checkpoint(self, sink: Sink | None) -> None:
        """Write down how far the run is, if it is time: only what the sink has made durable."""
        if self._journal.due:
            await self._journal.save(await sink.flush() if sink else None)
