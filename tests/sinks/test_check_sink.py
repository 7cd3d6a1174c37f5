"""A sink that breaks a promise is found out by `check_sink`, and one that keeps them is not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson
import pytest
from shop import Good, Plain, Shop

from collector.errors import SinkError
from collector.sinks.base import Kept, Position, Refusal, Row, Run
from collector.testing import check_sink


class Unreachable(Good):
    async def open(self, position: Position | None = None) -> Kept:  # noqa: ARG002
        raise SinkError("The shop is shut.")


async def check(kind: type[Good], **changes: Any) -> None:
    shop = Shop()
    rest: dict[str, Any] = {
        "hides": kind.hides,
        "exactly_once": True,
        "limit": Good.limit,
        "fail_next": shop.fail_next,
        "kill": lambda _: None,
        "unreachable": partial(Unreachable, shop),
    }
    await check_sink(partial(kind, shop), lambda: shop.shown, **rest | changes)


@pytest.mark.parametrize("kind", [Good, Plain])
async def test_a_good_sink_passes(kind):
    """Hidden or not, a sink that keeps its promises is let through."""
    await check(kind)


async def test_reading_may_be_async_and_in_any_order():
    """Records may come as mappings, from a coroutine, and mixed where no order is promised."""
    shop = Shop()

    async def read() -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in reversed(shop.shown)]

    await check_sink(partial(Plain, shop), read, ordered=False)


class Drops(Plain):
    """One record in a thousand gets lost."""

    count = 0

    def take(self, lines: list[bytes]) -> None:
        self.count += len(lines)
        super().take(lines[1:] if self.count > 1_000 and len(lines) > 1 else lines)


class Repeats(Plain):
    def take(self, lines: list[bytes]) -> None:
        super().take(lines + lines[-1:])


class Mixes(Plain):
    def take(self, lines: list[bytes]) -> None:
        super().take(lines[::-1])


class Spoils(Plain):
    def take(self, lines: list[bytes]) -> None:
        super().take([line.decode().encode("ascii", "replace") for line in lines])


class Refuses(Plain):
    limit = 900


class Early(Plain):
    """Acknowledges what is only in its memory."""

    def __init__(self, shop: Shop, run: Run) -> None:
        super().__init__(shop, run)
        self.held: list[bytes] = []

    def take(self, lines: list[bytes]) -> None:
        self.held += lines

    async def close(self, *, whole: bool) -> str | None:
        super().take(self.held)
        self.held = []
        return await super().close(whole=whole)


class EarlyAndHidden(Good):
    async def flush(self) -> Position | None:
        return {"rows": len(self.lines)}

    async def open(self, position: Position | None = None) -> Kept:
        self.shop.kept.setdefault(self.run, [])
        return await super().open(position)


class Forgets(Good):
    async def open(self, position: Position | None = None) -> Kept:  # noqa: ARG002
        return await super().open(None)


class KeepsTheRest(Good):
    """What came after the position is not cut off."""

    def take(self, lines: list[bytes]) -> None:
        super().take(lines)
        self.shop.kept[self.run] = list(self.lines)

    async def open(self, position: Position | None = None) -> Kept:
        kept = await super().open(position)
        if kept is Kept.PART:
            self.lines = self.shop.kept[self.run]
        return kept


class Shows(Good):
    """Writes to the place that all can see."""

    def take(self, lines: list[bytes]) -> None:
        super().take(lines)
        self.shop.shown += lines

    async def close(self, *, whole: bool) -> str | None:  # noqa: ARG002
        return None


class ShowsInTheEnd(Good):
    async def close(self, *, whole: bool) -> str | None:  # noqa: ARG002
        return await super().close(whole=True)


class TakesAway(Good):
    """Makes room for itself before it has anything to show."""

    async def open(self, position: Position | None = None) -> Kept:
        self.shop.shown.clear()
        return await super().open(position)


class NoPosition(Good):
    async def flush(self) -> Position | None:
        await super().flush()
        return None


class NoJson(Good):
    async def flush(self) -> Any:
        return {"rows": object(), **(await super().flush() or {})} | {"at": {1, 2}}


class GoesOnForever(Good):
    async def open(self, position: Position | None = None) -> Kept:
        kept = await super().open(position)
        return Kept.PART if kept is Kept.WHOLE else kept


class SwallowsTheLong(Plain):
    """Leaves out what is too long, and says nothing."""

    async def write(self, rows: Sequence[Row]) -> None:
        await super().write(rows)


class RefusesACopy(Plain):
    async def write(self, rows: Sequence[Row]) -> Sequence[Refusal] | None:
        return [
            refusal._replace(row=Row(*map(str, refusal.row)))
            for refusal in await super().write(rows) or ()
        ]


class GivesNoReason(Plain):
    async def write(self, rows: Sequence[Row]) -> Sequence[Refusal] | None:
        return [refusal._replace(why="") for refusal in await super().write(rows) or ()]


class LosesTheFailed(Plain):
    """Takes a call that succeeded in part for a success."""

    async def request(self, lines: list[bytes]) -> None:
        failed, self.shop.faults = self.shop.faults, 0
        await super().request(lines[failed:])


class SendsAllAgain(Plain):
    """Sends what had succeeded a second time."""

    async def request(self, lines: list[bytes]) -> None:
        if self.shop.faults:
            self.take(lines[:10])
        await super().request(lines)


class GivesUp(Plain):
    async def request(self, lines: list[bytes]) -> None:
        if self.shop.faults:
            raise SinkError("The shop is busy.")
        await super().request(lines)


class LeavesTasks(Plain):
    async def request(self, lines: list[bytes]) -> None:
        self.task = asyncio.create_task(asyncio.Event().wait())
        await super().request(lines)
        self.task.cancel()


class BreaksWhenCancelled(Plain):
    async def request(self, lines: list[bytes]) -> None:
        try:
            await super().request(lines)
        except asyncio.CancelledError:
            raise ValueError("state 17") from None


class ClosesOnce(Plain):
    async def close(self, *, whole: bool) -> str | None:
        if not self.is_open:
            raise SinkError("The shop is closed already.")
        return await super().close(whole=whole)


class ClosesTwice(Good):
    async def close(self, *, whole: bool) -> str | None:
        self.is_open = True
        return await super().close(whole=whole)


class Chats(Plain):
    async def close(self, *, whole: bool) -> str | None:  # noqa: ARG002
        return "All\nis well"


class Hangs(Plain):
    async def flush(self) -> Position | None:
        await asyncio.Event().wait()
        return None


@pytest.mark.parametrize(
    ("kind", "promise", "found"),
    [
        (Drops, "Every record arrives", "of 3000 records are missing"),
        (Repeats, "Every record arrives", "there more than once"),
        (Mixes, "Every record arrives", "out of order"),
        (Spoils, "Every record arrives", "not as they were"),
        (Refuses, "Every record arrives", "refused records within its limit: 'shop', 'has "),
        (Chats, "Every record arrives", "in place of one sentence or None"),
        (NoJson, "Every record arrives", "that flush returned is not JSON"),
        (Hangs, "Every record arrives", "it took more than 0.2 s"),
        (Shows, "Where the sink hides them", "700 records are there"),
        (NoPosition, "Where the sink hides them", "flush gave no position"),
        (TakesAway, "Where the sink hides them", "20 of 20 records are missing"),
        (ShowsInTheEnd, "After close", "40 records are there"),
        (Early, "What flush has acknowledged", "of 300 records are missing"),
        (EarlyAndHidden, "What flush has acknowledged", "of 450 records are missing"),
        (Forgets, "What flush has acknowledged", "returned Kept.NOTHING in place of Kept.PART"),
        (KeepsTheRest, "What flush has acknowledged", "should not be there|are not as they were"),
        (GoesOnForever, "Asked to go on with what is whole", "returned Kept.PART"),
        (LosesTheFailed, "Requests that fail", "of 700 records are missing"),
        (SendsAllAgain, "Requests that fail", "there more than once"),
        (
            SwallowsTheLong,
            "A record above the sink's limit",
            "2 of 2 records of 100000 bytes were not refused",
        ),
        (RefusesACopy, "A record above the sink's limit", "none of those that were written"),
        (GivesNoReason, "A record above the sink's limit", "does not say in one line"),
        (LeavesTasks, "Cancelled in mid-write", "tasks are left"),
        (BreaksWhenCancelled, "Cancelled in mid-write", "cancelled, write raised ValueError"),
        (ClosesTwice, "A second close", "there more than once|records are there"),
    ],
)
async def test_a_broken_promise_is_found(kind, promise, found):
    """Each way to go wrong is told by the promise that it breaks, and by what was seen."""
    before = asyncio.all_tasks()
    seen = rf"(?s)A sink's promise is broken\. {promise}.* But .*({found})"
    with pytest.raises(AssertionError, match=seen):
        await check(kind, patience=0.2 if kind is Hangs else 60.0)
    for task in asyncio.all_tasks() - before:
        task.cancel()


@pytest.mark.parametrize(
    ("kind", "promise", "says"),
    [
        (GivesUp, "Requests that fail for a while", "The shop is busy."),
        (ClosesOnce, "A second close does nothing", "The shop is closed already."),
    ],
)
async def test_a_sinks_own_error_comes_through(kind, promise, says):
    """What a sink raises is not hidden; a note says what it was asked for."""
    with pytest.raises(SinkError, match=says) as caught:
        await check(kind)
    (note,) = caught.value.__notes__
    assert promise in note


class FailsByChance(Good):
    async def open(self, position: Position | None = None) -> Kept:  # noqa: ARG002
        raise KeyError("bucket")


class FailsAtLength(Good):
    async def open(self, position: Position | None = None) -> Kept:  # noqa: ARG002
        raise SinkError("It did not work.\nReally.")


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Good, "open found nothing wrong"),
        (FailsByChance, r"open raised KeyError\('bucket'\) and none of ConfigurationError"),
        (FailsAtLength, "the error is no sentence"),
    ],
)
async def test_a_bad_place_has_to_be_told(kind, found):
    """A place that nothing can be written to is one sentence when it is opened, and no other."""
    with pytest.raises(AssertionError, match=f"A place that cannot be written to.*{found}"):
        await check(Good, unreachable=partial(kind, Shop()))


async def test_what_is_no_sink_is_told():
    """An object that lacks a method is not a sink, and what is no record is no record."""
    with pytest.raises(AssertionError, match="dict lacks a method of Sink"):
        await check_sink(lambda _: {}, list)
    shop = Shop()
    with pytest.raises(AssertionError, match="what was read is no record"):
        await check_sink(partial(Plain, shop), lambda: [b"," + line for line in shop.shown])
