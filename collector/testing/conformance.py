"""What every sink promises, as checks that its author can run: see `check_sink`."""

from __future__ import annotations

import asyncio
import gc
import inspect
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from secrets import token_hex
from typing import Any, TypeAlias, TypeVar

import orjson

from collector.errors import ConfigurationError, CredentialsError, SinkError
from collector.settings import Settings
from collector.sinks.base import Kept, Position, Refusal, Row, Run, Sink
from collector.tables import load_table

_T = TypeVar("_T")
Make: TypeAlias = Callable[[Run], Sink]
Seen: TypeAlias = Iterable[Mapping[str, Any] | bytes | str]
Read: TypeAlias = Callable[[], Seen | Awaitable[Seen]]
FailNext: TypeAlias = Callable[[int], Awaitable[None] | None]
Kill: TypeAlias = Callable[[Sink], Awaitable[None] | None]

MANY = 3_000
"""Records in the check of a whole run."""

SIZES = (1, 2, 499, 500, 37, 0, 250)
"""Records written at once, in turn: the pipeline hands on up to 500."""

TURNS = (0, 1, 2, 4, 8, 16, 32, 64)
"""Turns of the event loop after which a write is cancelled: each catches it at another point."""

_PLACES = (
    ("111111111111", "us-east-1"),
    ("111111111111", "eu-west-1"),
    ("222222222222", "us-east-1"),
)
_TEXT = "naïve – Ω≈ç√ – 訓練ジョブ – 🚂 – \u2028 – \\n\"'"  # noqa: RUF001
_ASIDE = (ConfigurationError, CredentialsError, SinkError)


async def check_sink(
    make: Make,
    read: Read,
    *,
    settings: Settings | None = None,
    hides: bool = False,
    ordered: bool = True,
    exactly_once: bool = False,
    limit: int | None = None,
    fail_next: FailNext | None = None,
    kill: Kill | None = None,
    unreachable: Make | None = None,
    patience: float = 60.0,
) -> None:
    """Hold a sink to the promises of `collector.sinks.base.Sink`.

    Raises AssertionError that names the promise and says how it was broken. An error of the sink
    itself comes through, with a note that names the promise. Asked of the caller are

    ``make``
        a sink for a `Run`, not yet opened, always for the same place: ``partial(open_sink, uri)``.
        A run that is gone on with has its old ``run_id``, any other a new one. ``settings`` are
        the run's.
    ``read``
        the records at that place under their final name, in its order where it has one, as
        mappings or as lines of JSON; may be async. They may include what was there before, and
        what earlier checks wrote. A place that does not exist yet holds none. It has to wait
        itself for a place that shows late what it has acknowledged.

    and what the sink promises:

    ``hides``
        nothing shows under the final name before ``close(whole=True)``. Such a sink has to give
        a position, as without one nobody could go on with a run that was cut off.
    ``ordered``
        records keep their order. Of one that came twice, the first counts.
    ``exactly_once``
        no record is there twice, even after faults and, if it gives a position, after cuts.
        Where nothing goes wrong, none ever may be.
    ``limit``
        the longest line that it takes, in bytes with the newline; one twice as long is refused.

    and ways to do what a test cannot do by itself:

    ``fail_next(n)``
        lets the next ``n`` requests of a sink fail in a way that passes, or in part; none for 0.
    ``kill(sink)``
        does to an open sink what the death of its process would: gives back descriptors and locks
        and forgets the rest. By default the object is dropped.
    ``unreachable``
        like ``make``, for a place that nothing can be written to.

    ``patience`` is how many seconds each of the checks may take.
    """
    bench = _Bench(
        make=make,
        read=read,
        settings=settings or Settings(),
        hides=hides,
        ordered=ordered,
        exactly_once=exactly_once,
        limit=limit,
        fail_next=fail_next,
        kill=kill,
        unreachable=unreachable,
    )
    for check in _CHECKS:
        promise = inspect.cleandoc(check.__doc__ or check.__name__)
        try:
            async with asyncio.timeout(patience) as timer:
                await check(bench)
        except AssertionError as error:
            raise _broken(promise, str(error)) from error
        except Exception as error:
            if timer.expired():
                raise _broken(promise, f"it took more than {patience:g} s") from error
            error.add_note(f"While a sink was held to its promise: {promise}")
            raise


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What `check_sink` was given, and what its checks are made of."""

    make: Make
    read: Read
    settings: Settings
    hides: bool
    ordered: bool
    exactly_once: bool
    limit: int | None
    fail_next: FailNext | None
    kill: Kill | None
    unreachable: Make | None

    def run(self) -> Run:
        return Run(self.settings.table, f"check-{token_hex(6)}", time.time(), self.settings)

    @cached_property
    def _columns(self) -> tuple[dict[str, None], str]:
        """The table's columns, and the one that holds the ARN."""
        table = load_table(self.settings.table)
        (arn,) = (column.name for column in table.columns if column.provider == table.arn)
        return {column.name: None for column in table.columns}, arn

    def row(self, run: Run, number: int, *, attempt: int = 1, size: int = 0) -> Row:
        """A record of ``run``, padded to ``size`` bytes; each ``attempt`` at it looks different."""
        columns, key = self._columns
        account, region = _PLACES[number % len(_PLACES)]
        arn = f"arn:aws:sagemaker:{region}:{account}:training-job/{run.run_id}-{number:05}"
        tags = [f"attempt:{attempt}", f"note:{_TEXT}", "pad:"]
        record = {**columns, key: arn, "account_id": account, "tags": tags}
        padding = size - len(orjson.dumps(record)) - 1
        tags[-1] += "x" * max(0, padding)
        return Row(orjson.dumps(record) + b"\n", arn, account, region)

    def rows(self, run: Run, numbers: Iterable[int], *, attempt: int = 1) -> list[Row]:
        return [self.row(run, number, attempt=attempt) for number in numbers]

    @asynccontextmanager
    async def opened(self, run: Run, position: Position | None = None) -> AsyncIterator[Sink]:
        """A sink that is open, at ``position`` if one is given; closed here only after an error."""
        sink = self.make(run)
        _hold(isinstance(sink, Sink), f"{type(sink).__name__} lacks a method of Sink")
        kept = await sink.open(position)
        try:
            wanted = Kept.NOTHING if position is None else Kept.PART
            _hold(kept is wanted, f"open({position}) returned {kept} in place of {wanted}")
            yield sink
        except BaseException:
            with suppress(Exception):
                await sink.close(whole=False)
            raise

    async def put(self, sink: Sink, rows: Sequence[Row]) -> None:
        """Write rows none of which may be refused."""
        refused = list(await sink.write(rows) or ())
        _hold(not refused, f"write refused records within its limit: {_why(refused)}")

    async def flush(self, sink: Sink) -> Position | None:
        position = await sink.flush()
        try:
            kept: Position | None = orjson.loads(orjson.dumps(position))
        except orjson.JSONEncodeError as error:
            raise AssertionError(
                f"the position that flush returned is not JSON: {error}"
            ) from error
        _hold(kept == position, f"the position {position} comes back from JSON as {kept}")
        return kept

    async def close(self, sink: Sink, *, whole: bool) -> None:
        note = await sink.close(whole=whole)
        told = note is None or (isinstance(note, str) and bool(note) and "\n" not in note)
        _hold(told, f"close returned {note!r} in place of one sentence or None")

    async def deliver(self, run: Run, rows: Sequence[Row]) -> None:
        """A whole run."""
        async with self.opened(run) as sink:
            await self.put(sink, rows)
            await self.flush(sink)
            await self.close(sink, whole=True)

    async def end(self, sink: Sink) -> None:
        """The end of the sink's process, as far as it can be had in this one."""
        if self.kill is not None:
            await _done(self.kill(sink))

    def forget(self) -> None:
        """A sink that was dropped does what it does then."""
        if self.kill is None:
            gc.collect()

    async def fail(self, requests: int) -> None:
        if self.fail_next is not None:
            await _done(self.fail_next(requests))

    async def seen(self, run: Run) -> list[dict[str, Any]]:
        """The records of ``run`` at the destination."""
        mark = run.run_id
        coded = mark.encode()
        lines = [item for item in await _done(self.read()) if _holds(item, mark, coded)]
        key = self._columns[1]
        records = map(_record, lines)
        return [record for record in records if f"/{mark}-" in str(record.get(key))]

    async def shows_nothing(self, run: Run) -> None:
        found = await self.seen(run)
        _hold(not found, f"{len(found)} records are there")

    async def shows(
        self, run: Run, rows: Sequence[Row], *, once: bool | None = None, or_of: Sequence[Row] = ()
    ) -> None:
        """``rows`` are there, ``once`` as promised or as said; of ``or_of``, any may be."""
        key = self._columns[1]
        wanted = {row.arn: orjson.loads(row.line) for row in rows}
        found: dict[str, list[dict[str, Any]]] = {}
        for record in await self.seen(run):
            found.setdefault(record[key], []).append(record)
        _none([arn for arn in wanted if arn not in found], wanted, "are missing")
        strange = found.keys() - wanted.keys() - {row.arn for row in or_of}
        _none(strange, found, "should not be there")
        changed = [arn for arn, record in wanted.items() if record not in found[arn]]
        _none(changed, wanted, "are not as they were last written")
        if self.exactly_once if once is None else once:
            twice = [arn for arn, copies in found.items() if len(copies) > 1]
            _none(twice, wanted, "are there more than once")
        if self.ordered:
            came = [arn for arn in found if arn in wanted]
            moved = [arn for arn, other in zip(wanted, came, strict=True) if arn != other]
            _none(moved, wanted, "are out of order")


async def _everything_arrives(bench: _Bench) -> None:
    """Every record arrives once, unchanged and in order, whatever the batches."""
    run = bench.run()
    rows = bench.rows(run, range(MANY))
    async with bench.opened(run) as sink:
        start = 0
        for count, size in enumerate(cycle(SIZES)):
            await bench.put(sink, rows[start : start + size])
            start += size
            if count % 3 == 0:
                await bench.flush(sink)
            if start >= len(rows):
                break
        await bench.flush(sink)
        await bench.close(sink, whole=True)
    await bench.shows(run, rows, once=True)


async def _a_run_may_be_empty(bench: _Bench) -> None:
    """A run without a record ends like any other."""
    for writes in (0, 1):
        run = bench.run()
        async with bench.opened(run) as sink:
            for _ in range(writes):
                await bench.put(sink, [])
            await bench.flush(sink)
            await bench.close(sink, whole=True)
        await bench.shows_nothing(run)


async def _nothing_shows_early(bench: _Bench) -> None:
    """Where the sink hides them, records show under the final name at close(whole=True) only."""
    if not bench.hides:
        return
    earlier, run = bench.run(), bench.run()
    before, rows = bench.rows(earlier, range(20)), bench.rows(run, range(700))
    await bench.deliver(earlier, before)
    async with bench.opened(run) as sink:
        await bench.put(sink, rows[:500])
        position = await bench.flush(sink)
        _hold(position is not None, "flush gave no position, and nobody could go on from here")
        await bench.put(sink, rows[500:])
        await bench.shows_nothing(run)
        await bench.shows(earlier, before)
        await bench.close(sink, whole=True)
    await bench.shows(run, rows, once=True)


async def _what_is_not_whole_stays_apart(bench: _Bench) -> None:
    """After close(whole=False) nothing has come or gone under the final name."""
    earlier, run = bench.run(), bench.run()
    before, rows = bench.rows(earlier, range(20)), bench.rows(run, range(40))
    await bench.deliver(earlier, before)
    async with bench.opened(run) as sink:
        await bench.put(sink, rows)
        await bench.flush(sink)
        await bench.close(sink, whole=False)
    if bench.hides:
        await bench.shows_nothing(run)
        await bench.shows(earlier, before)
    else:
        await bench.shows(run, rows)


async def _what_is_acknowledged_outlives_the_process(bench: _Bench) -> None:
    """What flush has acknowledged is there, or can be gone on from, however the run was cut off."""
    for flushed_again in (False, True):
        for stopped in (False, True):
            run = bench.run()
            rows, cut = bench.rows(run, range(300)), bench.rows(run, range(300, 550))
            position = await _cut_off(bench, run, rows, cut, again=flushed_again, stopped=stopped)
            bench.forget()
            if position is None:
                _hold(not bench.hides, "its output is hidden, and flush gave no position")
                await bench.shows(run, rows, or_of=cut)
            else:
                await _go_on_twice(bench, run, position, rows)


async def _cut_off(
    bench: _Bench, run: Run, rows: Sequence[Row], cut: Sequence[Row], *, again: bool, stopped: bool
) -> Position | None:
    """A run that comes to its end early; where it was when ``rows`` were written.

    It may have flushed ``again`` since then, and may have been ``stopped`` in good order.
    """
    async with bench.opened(run) as sink:
        await bench.put(sink, rows)
        position = await bench.flush(sink)
        await bench.put(sink, cut)
        if again:
            await bench.flush(sink)
        await (bench.close(sink, whole=False) if stopped else bench.end(sink))
    return position


async def _go_on_twice(bench: _Bench, run: Run, position: Position, rows: Sequence[Row]) -> None:
    """Go on from ``position``, are cut off again, and go on to the end."""
    second, third = bench.rows(run, range(300, 400), attempt=2), bench.rows(run, range(400, 450))
    lost = bench.rows(run, range(400, 410), attempt=3)
    async with bench.opened(run, position) as sink:
        await bench.flush(sink)
        await bench.put(sink, second)
        later = await bench.flush(sink)
        _hold(later is not None, "it went on from a position, and gave none itself")
        await bench.put(sink, lost)
        await bench.end(sink)
    del sink
    bench.forget()
    async with bench.opened(run, later) as sink:
        if bench.hides:
            await bench.shows_nothing(run)
        await bench.put(sink, third)
        await bench.flush(sink)
        await bench.close(sink, whole=True)
    # A sink that cannot take back what it has handed on still has what the first attempt wrote.
    left = [] if bench.exactly_once else bench.rows(run, range(300, 550))
    await bench.shows(run, [*rows, *second, *third], or_of=left)


async def _what_is_whole_is_left_alone(bench: _Bench) -> None:
    """Asked to go on with what is whole, the sink says so or begins anew, and changes nothing."""
    run = bench.run()
    rows = bench.rows(run, range(50))
    async with bench.opened(run) as sink:
        await bench.put(sink, rows)
        position = await bench.flush(sink)
        await bench.close(sink, whole=True)
    if position is None:
        return
    again = bench.make(run)
    kept = await again.open(position)
    await bench.close(again, whole=kept is Kept.WHOLE)
    _hold(kept is not Kept.PART, "open returned Kept.PART: there is nothing to go on with")
    await bench.shows(run, rows)


async def _faults_pass(bench: _Bench) -> None:
    """Requests that fail for a while, or in part, are made again, and cost no record."""
    if bench.fail_next is None:
        return
    for step in ("write", "flush", "close"):
        run = bench.run()
        rows = bench.rows(run, range(700))
        async with bench.opened(run) as sink:
            for start in range(0, len(rows), 500):
                if step == "write":
                    await bench.fail(2)
                await bench.put(sink, rows[start : start + 500])
            if step == "flush":
                await bench.fail(2)
            await bench.flush(sink)
            if step == "close":
                await bench.fail(2)
            await bench.close(sink, whole=True)
        await bench.fail(0)
        await bench.shows(run, rows)


async def _too_long_is_told(bench: _Bench) -> None:
    """A record above the sink's limit is refused by name, and costs no other."""
    if bench.limit is None:
        return
    run, limit = bench.run(), bench.limit
    sizes = (0, limit, 0, limit + 1, 0, 2 * limit, 0)
    rows = [bench.row(run, number, size=size) for number, size in enumerate(sizes)]
    alone = bench.row(run, len(rows), size=2 * limit)
    async with bench.opened(run) as sink:
        refused = [*(await sink.write(rows) or ()), *(await sink.write([alone]) or ())]
        await bench.flush(sink)
        await bench.close(sink, whole=True)
    for refusal in refused:
        ours = any(refusal.row is row for row in (*rows, alone))
        _hold(ours, "a refusal's row is none of those that were written")
        told = bool(refusal.sink and refusal.why) and "\n" not in refusal.sink + refusal.why
        _hold(told, f"a refusal does not say in one line who refused and why: {_why([refusal])}")
    names = {refusal.row.arn for refusal in refused}
    fitting = [row.arn for row in rows if len(row.line) <= limit]
    _none(names.intersection(fitting), fitting, f"were refused within the limit of {limit} bytes")
    unfit = [rows[5].arn, alone.arn]
    _none(set(unfit) - names, unfit, f"of {2 * limit} bytes were not refused")
    await bench.shows(run, [row for row in rows if row.arn not in names])


async def _a_write_may_be_cancelled(bench: _Bench) -> None:
    """Cancelled in mid-write, the sink can be closed, leaves no task, and can be gone on with."""
    for turns in TURNS:
        run = bench.run()
        rows, rest = bench.rows(run, range(40)), bench.rows(run, range(40, 240))
        tasks = asyncio.all_tasks()
        async with bench.opened(run) as sink:
            await bench.put(sink, rows)
            position = await bench.flush(sink)
            await _cancelled(asyncio.ensure_future(sink.write(rest)), turns)
            await bench.close(sink, whole=False)
        await _ended(tasks)
        if bench.hides:
            await bench.shows_nothing(run)
        else:
            await bench.shows(run, rows, or_of=rest)
        async with bench.opened(run, position) as sink:
            await bench.put(sink, rest)
            await bench.flush(sink)
            await bench.close(sink, whole=True)
        # Without a position, nobody knows how much had got through: all of it is written again.
        once = bench.exactly_once and position is not None
        await bench.shows(run, [*rows, *rest], once=once)


async def _cancelled(writing: asyncio.Future[Any], turns: int) -> None:
    """Cancel a write after some turns of the event loop, and see it end."""
    for _ in range(turns):
        await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    if not writing.cancelled() and (error := writing.exception()):
        raise AssertionError(f"cancelled, write raised {type(error).__name__}: {error}") from error


async def _ended(before: set[asyncio.Task[Any]]) -> None:
    """No task is left that was not there before; the last ones get a moment to end."""
    for _ in range(50):
        left = asyncio.all_tasks() - before
        if not left:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(left)} tasks are left: {', '.join(sorted(map(repr, left)))}")


async def _closing_twice_does_nothing(bench: _Bench) -> None:
    """A second close does nothing, whatever it says."""
    for whole in (True, False):
        run = bench.run()
        rows = bench.rows(run, range(40))
        async with bench.opened(run) as sink:
            await bench.put(sink, rows)
            await bench.flush(sink)
            await bench.close(sink, whole=whole)
            await bench.close(sink, whole=not whole)
            await bench.close(sink, whole=whole)
        if whole or not bench.hides:
            await bench.shows(run, rows, once=True)
        else:
            await bench.shows_nothing(run)


async def _a_bad_place_is_told_at_once(bench: _Bench) -> None:
    """A place that cannot be written to is told of in one sentence when the sink is opened."""
    if bench.unreachable is None:
        return
    try:
        sink = bench.unreachable(bench.run())
    except ConfigurationError as error:
        _hold(_is_sentence(str(error)), f"the error is no sentence: {error!r}")
        return
    try:
        await sink.open()
    except _ASIDE as error:
        _hold(_is_sentence(str(error)), f"the error is no sentence: {error!r}")
    except Exception as error:
        names = ", ".join(kind.__name__ for kind in _ASIDE)
        raise AssertionError(f"open raised {error!r} and none of {names}") from error
    else:
        raise AssertionError("open found nothing wrong")
    finally:
        await sink.close(whole=False)


_CHECKS: tuple[Callable[[_Bench], Awaitable[None]], ...] = (
    _a_bad_place_is_told_at_once,
    _everything_arrives,
    _a_run_may_be_empty,
    _nothing_shows_early,
    _what_is_not_whole_stays_apart,
    _what_is_acknowledged_outlives_the_process,
    _what_is_whole_is_left_alone,
    _faults_pass,
    _too_long_is_told,
    _a_write_may_be_cancelled,
    _closing_twice_does_nothing,
)


def _broken(promise: str, found: str) -> AssertionError:
    return AssertionError(f"A sink's promise is broken. {promise} But {found}.")


def _hold(kept: bool, found: str) -> None:
    if not kept:
        raise AssertionError(found)


def _none(arns: Collection[str], among: Collection[str], what: str) -> None:
    if arns:
        first = min(arns).rpartition("/")[2]
        raise AssertionError(f"{len(arns)} of {len(among)} records {what}, such as {first}")


def _why(refused: Sequence[Refusal]) -> str:
    return "; ".join(f"{refusal.sink!r}, {refusal.why!r}" for refusal in refused[:3])


def _is_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text


def _holds(item: Mapping[str, Any] | bytes | str, mark: str, coded: bytes) -> bool:
    """Whether a record that was read may be of the run with this id: most are of others."""
    if isinstance(item, bytes):
        return coded in item
    return not isinstance(item, str) or mark in item


def _record(item: Mapping[str, Any] | bytes | str) -> dict[str, Any]:
    """A record as `read` gave it."""
    if isinstance(item, Mapping):
        return dict(item)
    try:
        record = orjson.loads(item)
    except orjson.JSONDecodeError as error:
        raise AssertionError(f"what was read is no record: {item[:100]!r}") from error
    _hold(isinstance(record, dict), f"what was read is no record: {item[:100]!r}")
    return dict(record)


async def _done(result: Awaitable[_T] | _T) -> _T:
    """The result of what may be a coroutine."""
    return await result if isinstance(result, Awaitable) else result
