"""The library: backpressure, early ends, cancellation, threads; nothing is ever left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from pathlib import Path

import pytest
from harness import assert_sums, crawl, identities, identity, settings

from collector import (
    Collector,
    ConfigurationError,
    CredentialsError,
    Settings,
    SinkError,
    collect,
    pipeline,
)
from collector.crawl import ROOM
from collector.events import JobEmitted, RunEnded
from collector.sinks.base import Kept
from collector.testing import Estate, FakeAws

FIRST, HOME = "111111111111", "us-east-1"

pytestmark = pytest.mark.usefixtures("at_full_speed")


def sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - entries go while they are read
        try:
            count += str(Path(f"/proc/self/fd/{entry}").readlink()).startswith("socket:")
        except OSError:
            continue
    return count


async def sockets_down_to(wanted: int) -> int:
    """How many sockets are open once closed ones had a few turns of the loop to go."""
    for _ in range(50):
        gc.collect()
        if sockets() <= wanted:
            break
        await asyncio.sleep(0.01)
    return sockets()


@pytest.fixture
def server():
    """A stand-in in a thread, so that its tasks and ours are not in one loop."""
    with FakeAws(Estate.generate(1, (HOME,), 300), latency=0.002).in_thread() as aws:
        yield aws


async def test_breaking_out_early_leaves_nothing(server):
    """Left in the middle, a crawl has no task running and no socket open."""
    before = sockets()
    tasks = asyncio.all_tasks()
    async with Collector(settings(server)) as collector:
        seen = 0
        async for _ in collector.records():
            seen += 1
            if seen == 10:
                break
        assert len(asyncio.all_tasks()) > len(tasks)
        assert sockets() > before
    assert asyncio.all_tasks() == tasks
    assert await sockets_down_to(before) <= before
    assert 10 <= server.calls["DescribeTrainingJob"] <= 300
    assert collector.complete is False
    assert "stopped before the end" in collector.report["warnings"][0]


async def test_reading_to_the_end_leaves_nothing(server):
    """Read to the end, the same holds, and the report is complete."""
    before = sockets()
    tasks = asyncio.all_tasks()
    run = await crawl(server)
    assert asyncio.all_tasks() == tasks
    assert await sockets_down_to(before) <= before
    assert run.status == 0
    assert len(run.records) == 300


async def test_an_error_in_the_loop_is_the_callers_own(server):
    """What the caller's loop raises comes out as it is, and nothing is left."""
    before = sockets()
    tasks = asyncio.all_tasks()

    async def read():
        async with Collector(settings(server)) as collector:
            async for _ in collector.records():
                _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        await read()
    assert asyncio.all_tasks() == tasks
    assert await sockets_down_to(before) <= before


async def test_cancelling_the_task_around_it_ends_it(server):
    """Cancelled from outside, the task ends as cancelled, at once, and nothing is left."""
    before = sockets()
    tasks = asyncio.all_tasks()
    reading = asyncio.Event()

    async def read():
        async with Collector(settings(server)) as collector:
            async for _ in collector.records():
                reading.set()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert task.cancelled()
    assert asyncio.all_tasks() == tasks
    assert await sockets_down_to(before) <= before


async def test_a_timeout_around_it_works(server):
    """asyncio.timeout around a crawl raises TimeoutError, as around anything else."""
    tasks = asyncio.all_tasks()
    server.latency = 0.5
    began = time.monotonic()

    async def read():
        async with asyncio.timeout(0.3), Collector(settings(server)) as collector:
            async for _ in collector.records():
                pass

    with pytest.raises(TimeoutError):
        await read()
    assert time.monotonic() - began < 3
    assert asyncio.all_tasks() == tasks


async def still(count, seconds: float = 0.3) -> int:
    """The value of ``count()`` once it has not changed for so long."""
    value, since = count(), time.monotonic()
    while time.monotonic() - since < seconds:
        await asyncio.sleep(0.02)
        if count() != value:
            value, since = count(), time.monotonic()
    return value


async def test_a_reader_that_stops_stops_the_crawl(monkeypatch):
    """After ten records taken and no more, describes stop at a bound that the settings give."""
    monkeypatch.setattr(pipeline, "QUEUE", 40)
    monkeypatch.setattr(pipeline, "BATCH", 20)
    in_flight = 8
    bound = 20 + 40 + ROOM * in_flight
    async with FakeAws(Estate.generate(2, (HOME, "eu-west-1"), 400)) as aws:
        async with Collector(settings(aws, max_in_flight=in_flight)) as collector:
            records = collector.records()
            for _ in range(10):
                await anext(records)
            described = await still(lambda: aws.calls["DescribeTrainingJob"])
            assert 10 < described <= bound
            listed = collector.report["totals"]["listed"]
            assert listed <= 4 * 400
            rest = [record async for record in records]
        assert len(rest) == 4 * 400 - 10
        assert collector.complete


async def test_a_reader_that_stops_stops_the_crawl_at_the_real_bound():
    """The same with the sizes that a run really has: a few thousand records, not the estate."""
    in_flight = 16
    bound = pipeline.BATCH + pipeline.QUEUE + ROOM * in_flight
    aws = FakeAws(Estate.generate(2, (HOME, "eu-west-1"), 2000))
    async with aws, Collector(settings(aws, max_in_flight=in_flight)) as collector:
        await anext(collector.records())
        assert await still(lambda: aws.calls["DescribeTrainingJob"]) <= bound < 4 * 2000
    assert aws.calls["DescribeTrainingJob"] >= pipeline.QUEUE


async def test_the_report_can_be_read_while_it_runs(server):
    """Midway the report has the listed and some of the emitted, no end, and is not complete."""
    async with Collector(settings(server)) as collector:
        records = collector.records()
        assert collector.report["totals"]["targets"] == 0
        await anext(records)
        report = collector.report
        assert report["finished_at"] is None
        assert report["complete"] is False
        assert report["run_id"] != ""
        assert 0 < report["totals"]["emitted"] < report["totals"]["listed"] <= 300
        async for _ in records:
            pass
    assert collector.report["totals"]["emitted"] == 300
    assert collector.report["finished_at"] >= collector.report["started_at"]


async def test_two_crawls_in_one_loop_do_not_meet():
    """Two Collectors at once, of two estates: each has its own records and its own report."""
    async with (
        FakeAws(Estate.generate(1, (HOME,), 80, seed=1)) as one,
        FakeAws(Estate.generate(2, (HOME,), 60, seed=2)) as two,
    ):
        first, second = await asyncio.gather(crawl(one), crawl(two))
    for run, aws in ((first, one), (second, two)):
        assert_sums(run)
        assert set(map(identity, run.records)) == identities(aws.estate)
        calls = {operation: counts["calls"] for operation, counts in run.report["calls"].items()}
        assert calls == dict(aws.calls)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_collect_in_plain_code(server):
    """collect() gives every record without an event loop, and its thread is gone after it."""
    before = threads()
    found = [identity(record) for record in collect(settings(server))]
    assert len(found) == 300
    assert set(found) == identities(server.estate)
    assert threads() == before


async def test_collect_under_a_running_loop(server):
    """collect() works where a loop is running already, as in a notebook."""
    before = threads()
    assert sum(1 for _ in collect(settings(server))) == 300
    assert threads() == before


def test_breaking_out_of_collect_joins_its_thread(server):
    """Left early, collect() ends its crawl: no thread, no socket."""
    before = threads()
    open_before = sockets()
    records = collect(settings(server))
    for number, _ in enumerate(records):
        if number == 5:
            assert "collector" in threads()
            break
    records.close()
    assert threads() == before
    # Our ends are closed; the server, in this process too, closes its own when it sees that.
    deadline = time.monotonic() + 5
    while sockets() > open_before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sockets() <= open_before
    calls = server.calls.total()
    assert calls < 700


def test_collect_that_nobody_reads_starts_nothing(server):
    """Until the first record is asked for, no thread runs and no call is made."""
    before = threads()
    records = collect(settings(server))
    assert threads() == before
    records.close()
    assert server.calls.total() == 0


def test_an_error_of_collect_is_raised_where_it_is_read(server, monkeypatch):
    """What the crawl raises comes up in the caller's thread, and the thread is gone."""
    before = threads()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "A" * 40)
    with pytest.raises(CredentialsError):
        next(collect(settings(server)))
    assert threads() == before


def test_observers_of_collect_see_every_event(server):
    """Observers are told of each emitted job."""
    seen = []
    list(collect(settings(server), observers=[seen.append]))
    assert sum(isinstance(event, JobEmitted) for event in seen) == 300


async def test_an_account_without_a_role_is_a_mistake_of_the_settings(server):
    """Another account than the caller's without role_name raises ConfigurationError."""
    wrong = Settings(accounts=["222222222222"], regions=[HOME], endpoint_url=server.url)
    with pytest.raises(ConfigurationError, match="role_name"):
        async with Collector(wrong) as collector:
            await anext(collector.records())


async def test_run_writes_a_file_that_is_whole(server, tmp_path):
    """Collector.run() fills the sink of the settings and returns the report."""
    path = tmp_path / "jobs.ndjson"
    async with Collector(settings(server, sink=str(path))) as collector:
        report = await collector.run()
    assert report["complete"] is True
    assert len(path.read_bytes().splitlines()) == 300
    assert list(tmp_path.iterdir()) == [path]


class Failing:
    """A sink of which one method fails, when everything has been crawled if that comes late."""

    def __init__(self, where: str) -> None:
        self.where = where

    async def open(self, position=None):  # noqa: ARG002
        self.fail("open")
        return Kept.NOTHING

    async def write(self, rows):  # noqa: ARG002
        self.fail("write")

    async def flush(self):
        self.fail("flush")

    async def close(self, *, whole):
        if whole:
            self.fail("close")

    def fail(self, method):
        if method == self.where:
            raise SinkError("The disk is full.")


@pytest.mark.parametrize("where", ["open", "write", "flush", "close"])
async def test_a_run_whose_sink_fails_is_never_called_complete(server, monkeypatch, where):
    """Whenever the sink fails, the report says so, and the end of the run is told last and once."""
    told = []
    monkeypatch.setattr(pipeline, "open_sinks", lambda *_: Failing(where))
    async with Collector(settings(server), observers=[told.append]) as collector:
        with pytest.raises(SinkError, match="full"):
            await collector.run()
        assert collector.complete is False
    report = collector.report
    assert report["finished_at"]
    assert report["run_id"]
    assert report["warnings"] == ["The run did not end by itself: The disk is full."]
    assert [event for event in told if isinstance(event, RunEnded)] == told[-1:]
