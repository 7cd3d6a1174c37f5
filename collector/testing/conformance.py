"""What every sink promises, as checks that its author can run: see `check_sink`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle
from typing import Any

from collector.errors import ConfigurationError, CredentialsError, SinkError
from collector.settings import Settings
from collector.sinks.base import Kept, Position, Row, Run
from collector.testing.bench import Bench, FailNext, Kill, Make, Read, hold, none_are, reasons

MANY = 3_000
"""Records in the check of a whole run."""

SIZES = (1, 2, 499, 500, 37, 0, 250)
"""Records written at once, in turn: the pipeline hands on up to 500."""

TURNS = (0, 1, 2, 4, 8, 16, 32, 64)
"""Turns of the event loop after which a write is cancelled: each catches it at another point."""

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
    bench = Bench(
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


async def _everything_arrives(bench: Bench) -> None:
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


async def _a_run_may_be_empty(bench: Bench) -> None:
    """A run without a record ends like any other."""
    for writes in (0, 1):
        run = bench.run()
        async with bench.opened(run) as sink:
            for _ in range(writes):
                await bench.put(sink, [])
            await bench.flush(sink)
            await bench.close(sink, whole=True)
        await bench.shows_nothing(run)


async def _nothing_shows_early(bench: Bench) -> None:
    """Where the sink hides them, records show under the final name at close(whole=True) only."""
    if not bench.hides:
        return
    earlier, run = bench.run(), bench.run()
    before, rows = bench.rows(earlier, range(20)), bench.rows(run, range(700))
    await bench.deliver(earlier, before)
    async with bench.opened(run) as sink:
        await bench.put(sink, rows[:500])
        position = await bench.flush(sink)
        hold(position is not None, "flush gave no position, and nobody could go on from here")
        await bench.put(sink, rows[500:])
        await bench.shows_nothing(run)
        await bench.shows(earlier, before)
        await bench.close(sink, whole=True)
    await bench.shows(run, rows, once=True)


async def _what_is_not_whole_stays_apart(bench: Bench) -> None:
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


async def _what_is_acknowledged_outlives_the_process(bench: Bench) -> None:
    """What flush has acknowledged is there, or can be gone on from, however the run was cut off."""
    for flushed_again in (False, True):
        for stopped in (False, True):
            run = bench.run()
            rows, cut = bench.rows(run, range(300)), bench.rows(run, range(300, 550))
            position = await _cut_off(bench, run, rows, cut, again=flushed_again, stopped=stopped)
            bench.forget()
            if position is None:
                hold(not bench.hides, "its output is hidden, and flush gave no position")
                await bench.shows(run, rows, or_of=cut)
            else:
                await _go_on_twice(bench, run, position, rows)


async def _cut_off(
    bench: Bench, run: Run, rows: Sequence[Row], cut: Sequence[Row], *, again: bool, stopped: bool
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


async def _go_on_twice(bench: Bench, run: Run, position: Position, rows: Sequence[Row]) -> None:
    """Go on from ``position``, are cut off again, and go on to the end."""
    second, third = bench.rows(run, range(300, 400), attempt=2), bench.rows(run, range(400, 450))
    lost = bench.rows(run, range(400, 410), attempt=3)
    async with bench.opened(run, position) as sink:
        await bench.flush(sink)
        await bench.put(sink, second)
        later = await bench.flush(sink)
        hold(later is not None, "it went on from a position, and gave none itself")
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


async def _what_is_whole_is_left_alone(bench: Bench) -> None:
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
    hold(kept is not Kept.PART, "open returned Kept.PART: there is nothing to go on with")
    await bench.shows(run, rows)


async def _faults_pass(bench: Bench) -> None:
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


async def _too_long_is_told(bench: Bench) -> None:
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
        hold(ours, "a refusal's row is none of those that were written")
        told = bool(refusal.sink and refusal.why) and "\n" not in refusal.sink + refusal.why
        hold(told, f"a refusal does not say in one line who refused and why: {reasons([refusal])}")
    names = {refusal.row.arn for refusal in refused}
    fitting = [row.arn for row in rows if len(row.line) <= limit]
    none_are(
        names.intersection(fitting), fitting, f"were refused within the limit of {limit} bytes"
    )
    unfit = [rows[5].arn, alone.arn]
    none_are(set(unfit) - names, unfit, f"of {2 * limit} bytes were not refused")
    await bench.shows(run, [row for row in rows if row.arn not in names])


async def _a_write_may_be_cancelled(bench: Bench) -> None:
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


async def _closing_twice_does_nothing(bench: Bench) -> None:
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


async def _a_bad_place_is_told_at_once(bench: Bench) -> None:
    """A place that cannot be written to is told of in one sentence when the sink is opened."""
    if bench.unreachable is None:
        return
    try:
        sink = bench.unreachable(bench.run())
    except ConfigurationError as error:
        hold(_is_sentence(str(error)), f"the error is no sentence: {error!r}")
        return
    try:
        await sink.open()
    except _ASIDE as error:
        hold(_is_sentence(str(error)), f"the error is no sentence: {error!r}")
    except Exception as error:
        names = ", ".join(kind.__name__ for kind in _ASIDE)
        raise AssertionError(f"open raised {error!r} and none of {names}") from error
    else:
        raise AssertionError("open found nothing wrong")
    finally:
        await sink.close(whole=False)


_CHECKS: tuple[Callable[[Bench], Awaitable[None]], ...] = (
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


def _is_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text
