"""Every sink keeps the promises of `check_sink`, and a sink that breaks one is found out.

To hold another sink to them, write one more ``@place``: an async generator that makes a
destination in a folder of its own and yields what `check_sink` asks for.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import orjson
import pytest
from test_http_sink import Answer, Endpoint, serving

from collector import Collector, Settings, pipeline
from collector.aws import retry, throttle
from collector.crawl import ROOM
from collector.errors import SinkError
from collector.events import JobEmitted
from collector.sinks.base import Kept, Position, Refusal, Row, Run, Sink, open_sinks
from collector.sinks.file import FileSink
from collector.sinks.http import MOST_RECORD, HttpSink, open_sink
from collector.sinks.stdout import StdoutSink
from collector.testing import Estate, FakeAws, check_sink, credentials_for
from collector.validate import open_lines


@dataclass
class Place:
    """What `check_sink` is given: make, read and the rest."""

    make: Callable[[Run], Sink]
    read: Callable[[], Iterable[bytes]]
    rest: dict[str, Any] = field(default_factory=dict)


PLACES: dict[str, Callable[[Path], AbstractAsyncContextManager[Place]]] = {}

WHOLE = {"hides": True, "exactly_once": True}
FAULTS: tuple[Answer, ...] = (503, "lost", 429, "reset", 408)


def place(offered: Callable[[Path], AsyncIterator[Place]]) -> None:
    PLACES[offered.__name__] = asynccontextmanager(offered)


async def kill(sink: Any) -> None:
    """What the death of its process would do to a sink of ours."""
    for one in getattr(sink, "_sinks", [sink]):
        if isinstance(one, FileSink):
            one._drop()
        elif isinstance(one, HttpSink) and one._session:
            await one._session.close()


def lines_of(path: Path) -> list[bytes]:
    return list(open_lines(str(path))) if path.exists() else []


def failing(endpoint: Endpoint) -> Callable[[int], None]:
    """Lets an endpoint fail, each time in another way."""
    faults = cycle(FAULTS)

    def fail_next(requests: int) -> None:
        endpoint.answers.clear()
        endpoint.answers.extend(next(faults) for _ in range(requests))

    return fail_next


@asynccontextmanager
async def closed_port() -> AsyncIterator[str]:
    """A URL at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


@place
async def stdout(folder: Path) -> AsyncIterator[Place]:
    """A descriptor that a write of a cancelled task may still go to: whole lines count."""
    path = folder / "out"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def read() -> list[bytes]:
        return [line for line in path.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"]

    try:
        yield Place(
            lambda _: StdoutSink(descriptor), read, {"unreachable": lambda _: StdoutSink(9999)}
        )
    finally:
        os.close(descriptor)


def to_a_file(name: str) -> Callable[[Path], AsyncIterator[Place]]:
    async def file(folder: Path) -> AsyncIterator[Place]:
        yield Place(
            partial(open_sinks, [str(folder / name)]),
            lambda: lines_of(folder / name),
            {**WHOLE, "kill": kill, "unreachable": partial(open_sinks, [f"{folder}/none/{name}"])},
        )

    file.__name__ = name
    return file


for ending in ("", ".gz", ".zst"):
    place(to_a_file(f"file.ndjson{ending}"))


@place
async def http(folder: Path) -> AsyncIterator[Place]:  # noqa: ARG001
    """The endpoint knows a batch by its key, so that none is there twice."""
    async with serving(Endpoint()) as endpoint, closed_port() as nowhere:
        yield Place(
            partial(open_sink, endpoint.url),
            lambda: endpoint.lines,
            {
                "exactly_once": True,
                "limit": MOST_RECORD,
                "fail_next": failing(endpoint),
                "kill": kill,
                "unreachable": partial(open_sink, nowhere),
            },
        )


@place
async def two_files(folder: Path) -> AsyncIterator[Place]:
    one, other = folder / "one.ndjson", folder / "other.ndjson.gz"

    def read() -> list[bytes]:
        lines = lines_of(one)
        assert lines_of(other) == lines
        return lines

    bad = partial(open_sinks, [str(one), f"{folder}/none/x"])
    make = partial(open_sinks, [str(one), str(other)])
    yield Place(make, read, {**WHOLE, "kill": kill, "unreachable": bad})


async def file_and_http(folder: Path, *, read_file: bool) -> AsyncIterator[Place]:
    path = folder / "one.ndjson"
    async with serving(Endpoint()) as endpoint, closed_port() as nowhere:
        yield Place(
            partial(open_sinks, [str(path), endpoint.url]),
            (lambda: lines_of(path)) if read_file else (lambda: endpoint.lines),
            {
                **(WHOLE if read_file else {}),
                "fail_next": failing(endpoint),
                "kill": kill,
                "unreachable": partial(open_sinks, [str(path), nowhere]),
            },
        )


@place
async def file_beside_http(folder: Path) -> AsyncIterator[Place]:
    async for one in file_and_http(folder, read_file=True):
        yield one


@place
async def http_beside_file(folder: Path) -> AsyncIterator[Place]:
    """What has a position goes on from it, and the endpoint gets what came after twice."""
    async for one in file_and_http(folder, read_file=False):
        yield one


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """What is tried again is tried again at once."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.0)


@pytest.mark.parametrize("name", PLACES)
async def test_a_sink_keeps_its_promises(name, tmp_path):
    """The whole suite, over real files and real HTTP."""
    async with PLACES[name](tmp_path) as it:
        await check_sink(it.make, it.read, **it.rest)


class Shop:
    """A destination in memory: what is for all to see, and what sinks have put away for it."""

    def __init__(self) -> None:
        self.shown: list[bytes] = []
        self.kept: dict[str, list[bytes]] = {}
        self.whole: set[str] = set()
        self.faults = 0

    def fail_next(self, requests: int) -> None:
        self.faults = requests


class Good:
    """A sink that keeps every promise; with ``hides`` it has a position."""

    hides = True
    limit = 50_000

    def __init__(self, shop: Shop, run: Run) -> None:
        self.shop, self.run = shop, run.run_id
        self.lines: list[bytes] = []
        self.is_open = False

    async def open(self, position: Position | None = None) -> Kept:
        self.is_open = True
        if position is None or not self.hides:
            return Kept.NOTHING
        if self.run in self.shop.whole:
            return Kept.WHOLE
        self.lines = self.shop.kept[self.run][: position["rows"]]
        return Kept.PART

    async def write(self, rows: Sequence[Row]) -> Sequence[Refusal] | None:
        lines = [row.line for row in rows if len(row.line) <= self.limit]
        await self.request(lines)
        return [
            Refusal(row, "shop", f"has {len(row.line)} bytes")
            for row in rows
            if len(row.line) > self.limit
        ]

    async def request(self, lines: list[bytes]) -> None:
        while self.shop.faults:
            self.shop.faults -= 1
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.take(lines)

    def take(self, lines: list[bytes]) -> None:
        if self.hides:
            self.lines += lines
        else:
            self.shop.shown += lines

    async def flush(self) -> Position | None:
        if not self.hides:
            return None
        self.shop.kept[self.run] = list(self.lines)
        return {"rows": len(self.lines)}

    async def close(self, *, whole: bool) -> str | None:
        if not self.is_open:
            return None
        self.is_open = False
        if whole and self.hides and self.run not in self.shop.whole:
            self.shop.shown += self.lines
            self.shop.whole.add(self.run)
        return None if whole else "What was read is put away"


class Plain(Good):
    hides = False


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


@pytest.fixture
def caller(monkeypatch):
    """A caller that the stand-in knows, and a crawl that need not find its rate first."""
    access_key, secret_key = credentials_for("111111111111")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(throttle, "INITIAL_RATE", 2_000.0)


def everything(aws: FakeAws, **changes: Any) -> Settings:
    return Settings(
        accounts=aws.estate.accounts,
        role_name="InventoryReader",
        regions=aws.estate.regions,
        endpoint_url=aws.url,
        **changes,
    )


class Stuck(Plain):
    """Takes the first records, and then none until it is let go."""

    def __init__(self, shop: Shop, run: Run) -> None:
        super().__init__(shop, run)
        self.go = asyncio.Event()

    async def request(self, lines: list[bytes]) -> None:
        if self.shop.shown:
            await self.go.wait()
        await super().request(lines)


async def still(count: Callable[[], int]) -> int:
    """What a count comes to rest at."""
    last, same = -1, 0
    while same < 10:
        same = same + 1 if count() == last else 0
        last = count()
        await asyncio.sleep(0.02)
    return last


@pytest.mark.usefixtures("caller")
async def test_a_slow_sink_slows_the_crawl(monkeypatch):
    """With a sink that stands still, what is read ahead stays within the bounds of the settings."""
    stuck: list[Stuck] = []

    def opened(_: Sequence[str], run: Run) -> Sink:
        stuck.append(Stuck(Shop(), run))
        return stuck[0]

    monkeypatch.setattr(pipeline, "open_sinks", opened)
    monkeypatch.setattr(pipeline, "QUEUE", 40)
    monkeypatch.setattr(pipeline, "BATCH", 20)
    emitted = 0

    def count(event: object) -> None:
        nonlocal emitted
        emitted += isinstance(event, JobEmitted)

    in_flight, jobs = 8, 1_200
    bound = 2 * 20 + 40 + ROOM * in_flight
    async with FakeAws(Estate.generate(2, ("us-east-1", "eu-west-1"), jobs // 4)) as aws:
        collector = Collector(everything(aws, max_in_flight=in_flight), observers=[count])
        async with collector:
            running = asyncio.create_task(collector.run())
            assert 0 < await still(lambda: aws.calls["DescribeTrainingJob"]) <= bound
            assert emitted <= bound
            stuck[0].go.set()
            report = await running
    assert len(stuck[0].shop.shown) == emitted == report["totals"]["emitted"] == jobs


@pytest.mark.usefixtures("caller")
@pytest.mark.parametrize("share", [0.0, 0.05])
async def test_a_crawl_delivers_every_job_by_http(share):
    """1,800 jobs each arrive once, in many requests, also where each twentieth of these fails."""
    chance = random.Random(7)
    async with (
        FakeAws(Estate.generate(3, ("us-east-1", "eu-west-1"), 300)) as aws,
        serving(Endpoint()) as endpoint,
    ):
        faults = cycle(FAULTS)
        endpoint.answers.extend(
            next(faults) if chance.random() < share or (share and number == 2) else 200
            for number in range(10_000)
        )
        options = everything(aws, sink=(endpoint.url,))
        report = await Collector(options).run()
    assert report["complete"]
    arns = [orjson.loads(line)["training_job_arn"] for line in endpoint.lines]
    assert len(arns) == len(set(arns)) == report["totals"]["emitted"] == 1_800
    posts = report["calls"]["POST"]
    assert posts["calls"] == len(endpoint.requests)
    assert (posts["retried"] > 0) is (share > 0)
