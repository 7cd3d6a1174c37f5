"""Runs that know of earlier ones: what is read again, what is not, and what goes on."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import (
    REGIONS,
    Run,
    assert_sums,
    assert_whole,
    command,
    crawl,
    identities,
    identity,
    is_one_sentence,
    run_command,
    settings,
    start,
)
from state_setup import (
    ABROAD,
    DAY,
    FIRST,
    HOME,
    SECOND,
    TABLE,
    arguments,
    content,
    document,
    fill,
    filled,
    partial,
    read,
    set_back,
    wait_until,
)

import collector.crawl
from collector import Collector, ConfigurationError, collect
from collector.errors import StateError
from collector.events import JobEmitted, TargetStarted
from collector.store import FolderStore
from collector.testing import Estate, FakeAws, Limits
from collector.testing.world import AwsError

OLD, YOUNG = (390, 200, 61), (59, 40, 20, 3, 1)
"""Ages in days of each target's jobs: those that an incremental run does not list, and does."""

EACH = len(OLD) + len(YOUNG)

pytestmark = pytest.mark.usefixtures("at_full_speed")


@pytest.fixture
def aws():
    """Two accounts by two regions, whose jobs have all ended, the last one a day ago."""
    with FakeAws(filled(OLD + YOUNG)).in_thread() as server:
        yield server


def described(aws: FakeAws) -> Counter[tuple[str, str, str]]:
    """Which jobs were described, and how often."""
    return Counter(
        (account, region, params["TrainingJobName"])
        for operation, account, region, params in aws.requests
        if operation == "DescribeTrainingJob"
    )


def forget(aws: FakeAws) -> None:
    """From here on, calls are counted anew."""
    aws.calls.clear()
    aws.requests.clear()


def assert_nothing_was_read(run: Run, aws: FakeAws) -> None:
    """An unchanged estate: one page of the horizon for each target, no describe, true sums."""
    assert (run.status, run.records) == (0, [])
    assert run.report["mode"] == "incremental"
    assert run.report["complete"] is True
    assert_sums(run)
    assert run.report["totals"]["unchanged"] == run.report["totals"]["listed"] == 4 * len(YOUNG)
    assert set(run.outcomes.values()) == {"complete"}
    assert aws.calls["DescribeTrainingJob"] == aws.calls["GetResources"] == 0
    assert aws.calls["ListTags"] == 0
    assert aws.calls["ListTrainingJobs"] == 4
    for operation, _, _, params in aws.requests:
        if operation == "ListTrainingJobs":
            assert abs(params["CreationTimeAfter"] - (time.time() - 60 * DAY)) < 60


def test_an_unchanged_estate_is_not_described_again(aws, tmp_path):
    """Command line: the second run asks for the pages of the horizon, and for nothing else."""
    first = run_command(aws, tmp_path, "--state", str(tmp_path / "state"))
    assert_whole(first, aws)
    assert first.report["mode"] == "full"
    for _ in range(2):
        forget(aws)
        second = run_command(aws, tmp_path, "--state", str(tmp_path / "state"))
        assert_nothing_was_read(second, aws)
        assert second.report["warnings"] == []
        assert second.report["run_id"] != first.report["run_id"]


async def test_an_unchanged_estate_is_not_described_again_by_the_library(aws, tmp_path):
    """The same holds of records() in a program."""
    state = str(tmp_path / "state")
    assert_whole(await crawl(aws, state=state), aws)
    for _ in range(2):
        forget(aws)
        assert_nothing_was_read(await crawl(aws, state=state), aws)


def test_an_unchanged_estate_is_not_described_again_by_collect(aws, tmp_path):
    """And of collect() in a script."""
    options = settings(aws, state=str(tmp_path / "state"))
    assert len(list(collect(options))) == 4 * EACH
    forget(aws)
    again = collect(options)
    records = list(again)
    assert_nothing_was_read(Run(records, again.report), aws)


def test_a_run_into_a_file_writes_what_has_changed(aws, tmp_path):
    """Each run's file holds what that run read: all of it first, then nothing, then the news."""
    path = tmp_path / "jobs.ndjson"
    more = ("--state", str(tmp_path / "state"), "--sink", str(path))
    run = run_command(aws, tmp_path, *more)
    run.records = read(path)
    assert_whole(run, aws)
    run = run_command(aws, tmp_path, *more)
    assert (run.status, read(path)) == (0, [])
    aws.estate.add_job(FIRST, HOME, name="news")
    run = run_command(aws, tmp_path, *more)
    assert [record["training_job_name"] for record in read(path)] == ["news"]
    assert run.report["totals"]["bytes"] == path.stat().st_size
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "jobs.ndjson",
        "report.json",
        "state",
    ]


async def test_what_has_changed_is_described_and_nothing_else(aws, tmp_path):
    """New, still running, ended since, modified: these four; what was deleted just goes."""
    estate, state = aws.estate, str(tmp_path / "state")
    now = estate.now
    estate.add_job(FIRST, HOME, name="runs", creation_time=now - 30 * DAY,
                   TrainingJobStatus="InProgress")  # fmt: skip
    estate.add_job(FIRST, ABROAD, name="ends", creation_time=now - 55 * DAY,
                   TrainingJobStatus="InProgress")  # fmt: skip
    assert_whole(await crawl(aws, state=state), aws)
    estate.update_job(FIRST, ABROAD, "ends", TrainingJobStatus="Failed", FailureReason="oh")
    estate.update_job(SECOND, HOME, "job-020", LastModifiedTime=now)
    estate.add_job(SECOND, ABROAD, name="new")
    estate.delete_job(SECOND, ABROAD, "job-003")
    forget(aws)
    run = await crawl(aws, state=state)
    assert described(aws) == {
        (FIRST, HOME, "runs"): 1,
        (FIRST, ABROAD, "ends"): 1,
        (SECOND, HOME, "job-020"): 1,
        (SECOND, ABROAD, "new"): 1,
    }
    assert sorted(run.names) == ["ends", "job-020", "new", "runs"]
    assert_sums(run)
    assert (run.status, run.report["mode"]) == (0, "incremental")
    assert run.report["totals"]["gone"] == 0
    assert run.target(SECOND, ABROAD)["unchanged"] == len(YOUNG) - 1
    assert run.target(SECOND, ABROAD)["emitted"] == 1


async def test_what_ended_within_the_overlap_is_read_twice_and_then_no_more(aws, tmp_path):
    """A change just before the watermark may have shown late: it is read again, once."""
    state, now = tmp_path / "state", aws.estate.now
    aws.estate.update_job(FIRST, HOME, "job-001", LastModifiedTime=now - 600)
    aws.estate.update_job(FIRST, HOME, "job-003", LastModifiedTime=now - 1800)
    await crawl(aws, state=str(state))
    assert (await crawl(aws, state=str(state))).names == ["job-001"]
    assert (await crawl(aws, state=str(state), overlap="5m")).names == []
    assert sorted((await crawl(aws, state=str(state), overlap="1h")).names) == [
        "job-001",
        "job-003",
    ]


async def test_the_horizon_is_a_setting(aws, tmp_path):
    """A shorter horizon lists less, a longer one more; neither describes what has not changed."""
    state = str(tmp_path / "state")
    await crawl(aws, state=state)
    for horizon, listed in (("30d", 3), ("60d", 5), ("100d", 6), ("500d", EACH)):
        forget(aws)
        run = await crawl(aws, state=state, horizon=horizon)
        assert run.report["totals"]["listed"] == run.report["totals"]["unchanged"] == 4 * listed
        assert aws.calls["DescribeTrainingJob"] == 0


async def test_full_reads_everything_once(aws, tmp_path):
    """--full describes every job, and the run after it is incremental again."""
    state = str(tmp_path / "state")
    await crawl(aws, state=state)
    forget(aws)
    run = await crawl(aws, state=state, full=True)
    assert_whole(run, aws)
    assert run.report["mode"] == "full"
    forget(aws)
    assert_nothing_was_read(await crawl(aws, state=state), aws)


async def test_full_every_counts_from_the_last_full_crawl(aws, tmp_path):
    """Incremental runs in between do not put a full one off; a full one begins the count anew."""
    state = tmp_path / "state"
    await crawl(aws, state=str(state))
    set_back(state, 8 * DAY)
    for every, mode in ((None, "incremental"), ("9d", "incremental"), ("7d", "full")):
        run = await crawl(aws, state=str(state), full_every=every)
        assert run.report["mode"] == mode, every
    assert_whole(run, aws)
    run = await crawl(aws, state=str(state), full_every="7d")
    assert run.report["mode"] == "incremental"


async def test_an_earlier_start_or_another_status_is_read_in_full(aws, tmp_path):
    """Narrower runs are incremental, and leave a state of what they read; wider ones are full."""
    state = str(tmp_path / "state")
    steps: list[tuple[dict[str, Any], str, int]] = [
        ({"created_after": "30d"}, "full", 3),
        ({"created_after": "10d"}, "incremental", 0),
        ({"created_after": "30d"}, "full", 3),
        ({}, "full", EACH),
        ({"created_after": "30d"}, "incremental", 0),
        ({"status": "Completed"}, "full", EACH),
        ({"status": "Completed"}, "incremental", 0),
        ({"status": "Failed"}, "full", 0),
        ({}, "full", EACH),
        ({"status": "Completed"}, "incremental", 0),
    ]
    for number, (narrowed, mode, emitted) in enumerate(steps):
        run = await crawl(aws, state=state, **narrowed)
        assert run.report["mode"] == mode, number
        assert len(run.records) == 4 * emitted, number
        assert_sums(run)
        assert run.status == 0


async def test_an_end_leaves_what_comes_after_it_to_the_next_run(aws, tmp_path):
    """After --created-before, a run without it reads just the jobs that were created later."""
    state = str(tmp_path / "state")
    run = await crawl(aws, state=state, created_before="50d")
    assert len(run.records) == 4 * (len(OLD) + 1)
    run = await crawl(aws, state=state, created_before="50d")
    assert run.records == []
    run = await crawl(aws, state=state)
    assert run.report["mode"] == "incremental"
    assert Counter(run.names) == dict.fromkeys(["job-040", "job-020", "job-003", "job-001"], 4)
    assert (await crawl(aws, state=state)).records == []


@pytest.fixture
def refused(aws, monkeypatch):
    """Names of jobs that the service refuses to describe, empty at first."""
    names: set[str] = set()
    whole = Estate.describe

    def describe(self: Estate, account: str, region: str, name: str) -> dict[str, Any]:
        if self is aws.estate and name in names:
            raise AwsError("ValidationException", "This one is odd.")
        return whole(self, account, region, name)

    monkeypatch.setattr(Estate, "describe", describe)
    return names


def place(record: dict[str, Any]) -> tuple[str, str]:
    """Account and region of a record."""
    return record["account_id"], record["training_job_arn"].split(":")[3]


async def test_a_target_that_was_not_complete_keeps_its_watermark(aws, tmp_path, refused):
    """What changed in a denied or partial target comes the next time; the others have moved on."""
    state, estate = tmp_path / "state", aws.estate
    await crawl(aws, state=str(state))
    set_back(state, 2 * DAY)
    for account in estate.accounts:
        for region in REGIONS:
            estate.update_job(account, region, "job-020", LastModifiedTime=estate.now - DAY)
    estate.update_job(SECOND, ABROAD, "job-040", LastModifiedTime=estate.now - DAY)
    aws.policy.denied = ((FIRST, ABROAD, "ListTrainingJobs"),)
    refused.add("job-040")
    run = await crawl(aws, state=str(state))
    assert (run.status, run.report["complete"]) == (3, False)
    assert run.outcomes == {
        (FIRST, HOME): "complete",
        (FIRST, ABROAD): "denied",
        (SECOND, HOME): "complete",
        (SECOND, ABROAD): "partial",
    }
    assert_sums(run)
    assert Counter(map(place, run.records)) == {
        (FIRST, HOME): 2,
        (SECOND, HOME): 2,
        (SECOND, ABROAD): 2,
    }
    aws.policy.denied = ()
    refused.clear()
    run = await crawl(aws, state=str(state))
    assert (run.status, run.report["mode"]) == (0, "incremental")
    # Each target's job-001 ended a day ago, after the watermark that was set back.
    assert sorted((*place(record), record["training_job_name"]) for record in run.records) == [
        (FIRST, ABROAD, "job-001"),
        (FIRST, ABROAD, "job-020"),
        (SECOND, ABROAD, "job-001"),
        (SECOND, ABROAD, "job-020"),
        (SECOND, ABROAD, "job-040"),
    ]
    assert (await crawl(aws, state=str(state))).records == []


async def test_the_biggest_targets_come_first(monkeypatch, tmp_path):
    """By what was listed the last time; the first time, by how they are found."""
    regions = ("us-east-1", "eu-west-1", "us-west-2", "eu-central-1")
    sizes = dict(zip(regions, (2, 9, 0, 5), strict=True))
    estate = Estate.generate(1, regions, 0, now=time.time())
    for region, size in sizes.items():
        fill(estate, FIRST, region, YOUNG[:1] if size == 1 else tuple(range(1, size + 1)))
    monkeypatch.setattr(collector.crawl, "ACTIVE_TARGETS", 1)
    orders = []
    async with FakeAws(estate) as server:
        for _ in range(3):
            seen: list[str] = []

            def observe(event: object, seen: list[str] = seen) -> None:
                if isinstance(event, TargetStarted):
                    seen.append(event.target.region)

            await crawl(server, state=str(tmp_path / "state"), observers=[observe])
            orders.append(seen)
    assert orders[0] == list(regions)
    assert orders[1] == orders[2] == ["eu-west-1", "eu-central-1", "us-east-1", "us-west-2"]


# A state that cannot be used.


def test_a_state_that_another_run_holds_is_left_alone(aws, tmp_path):
    """Exit 1, one sentence that names the holder; nothing is called, no file is begun."""
    store = FolderStore(tmp_path / "state" / TABLE)
    asyncio.run(store.acquire())
    path = tmp_path / "jobs.ndjson"
    more = ("--state", str(tmp_path / "state"), "--sink", str(path))
    run = run_command(aws, tmp_path, *more)
    assert run.status == 1
    assert is_one_sentence(run.stderr)
    assert f"in use by process {os.getpid()} on" in run.stderr
    assert aws.calls.total() == 0
    assert sorted(entry.name for entry in tmp_path.iterdir() if "job" in entry.name) == []
    assert not document(tmp_path / "state").exists()
    asyncio.run(store.release(ended=True))
    assert run_command(aws, tmp_path, *more).status == 0


def test_a_state_that_is_none_is_refused(aws, tmp_path):
    """Exit 1, one sentence that names the file; it stays, nothing is called, no file is begun."""
    path, where = tmp_path / "jobs.ndjson", document(tmp_path / "state")
    where.parent.mkdir(parents=True)
    where.write_bytes(b'{"version": 4, "serial": 7}')
    run = run_command(
        aws, tmp_path, "--state", str(tmp_path / "state"), "--sink", str(path), "--full"
    )
    assert run.status == 1
    assert is_one_sentence(run.stderr)
    assert str(where) in run.stderr
    assert aws.calls.total() == 0
    assert where.read_bytes() == b'{"version": 4, "serial": 7}'
    assert [entry.name for entry in tmp_path.iterdir() if "job" in entry.name] == []


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_state_is_refused_and_stays(aws, tmp_path, damage):
    """A state that was good once is not guessed at either; with another one all is read."""
    state = tmp_path / "state"
    run_command(aws, tmp_path, "--state", str(state))
    whole = document(state).read_bytes()
    middle = len(whole) // 2
    bad = whole[:middle] if damage == "cut" else whole.replace(b'"listed":8', b'"listed":9', 1)
    assert bad != whole
    document(state).write_bytes(bad)
    forget(aws)
    run = run_command(aws, tmp_path, "--state", str(state))
    assert run.status == 1
    assert is_one_sentence(run.stderr)
    assert aws.calls.total() == 0
    assert document(state).read_bytes() == bad
    document(state).write_bytes(whole)
    run = run_command(aws, tmp_path, "--state", str(state))
    assert_nothing_was_read(run, aws)


def test_a_state_in_the_place_of_a_file_is_one_sentence(aws, tmp_path):
    """A path that cannot be a folder is told of before anything is called."""
    (tmp_path / "state").write_text("")
    run = run_command(aws, tmp_path, "--state", str(tmp_path / "state"))
    assert run.status == 1
    assert is_one_sentence(run.stderr)
    assert aws.calls.total() == 0


@pytest.mark.parametrize("trouble", ["held", "damaged"])
async def test_the_library_leaves_a_state_that_it_cannot_use(aws, tmp_path, trouble):
    """records() raises StateError, calls nothing, and the document is as it was."""
    state = tmp_path / "state"
    await crawl(aws, state=str(state))
    if trouble == "damaged":
        document(state).write_bytes(b"{}")
    before = document(state).read_bytes()
    other = FolderStore(document(state).parent)
    if trouble == "held":
        await other.acquire()
    forget(aws)
    with pytest.raises(StateError):
        await crawl(aws, state=str(state))
    with pytest.raises(StateError):
        await asyncio.to_thread(lambda: list(collect(settings(aws, state=str(state)))))
    assert document(state).read_bytes() == before
    assert aws.calls.total() == 0
    await other.release(ended=True)


# Runs that are left early, and go on.


@pytest.mark.parametrize("taken", [1, 5, 20, 4 * EACH])
async def test_a_loop_that_was_left_goes_on(aws, tmp_path, taken):
    """records() hands out the rest the next time, and the last one again: it may be half done."""
    state = str(tmp_path / "state")
    async with Collector(settings(aws, state=state)) as c:
        first: list[dict[str, Any]] = []
        async for record in c.records():
            first.append(record)
            if len(first) == taken:
                break
    run = await crawl(aws, state=state)
    assert len(run.records) == 4 * EACH - taken + 1
    assert identity(first[-1]) in set(map(identity, run.records))
    assert set(map(identity, first + run.records)) == identities(aws.estate)
    assert run.report["warnings"][0].startswith("Resumed")
    assert run.report["run_id"] == c.report["run_id"]
    assert (run.status, run.report["mode"]) == (0, "full")
    assert (await crawl(aws, state=state)).records == []


async def test_a_loop_that_fails_goes_on_behind_its_failure(aws, tmp_path):
    """Where the caller's own code raises, its record comes again, and those before it do not."""
    state = str(tmp_path / "state")
    first: list[dict[str, Any]] = []

    async def work() -> None:
        async with Collector(settings(aws, state=state)) as c:
            async for record in c.records():
                first.append(record)
                _ = 1 // (7 - len(first))

    with pytest.raises(ZeroDivisionError):
        await work()
    run = await crawl(aws, state=state)
    assert len(run.records) == 4 * EACH - 6
    assert set(map(identity, first + run.records)) == identities(aws.estate)


async def test_a_loop_that_is_left_many_times_ends(aws, tmp_path):
    """Five records at a time: four new ones each time, and at last nothing more."""
    state, seen, left = str(tmp_path / "state"), [], True
    while left:
        async with Collector(settings(aws, state=state)) as c:
            batch: list[dict[str, Any]] = []
            async for record in c.records():
                batch.append(record)
                if len(batch) == 5:
                    break
            else:
                left = False
        seen += batch
        assert len(seen) <= 4 * EACH + 8
    assert set(map(identity, seen)) == identities(aws.estate)
    assert c.complete


@pytest.mark.parametrize("taken", [1, 5, 13, 20, 4 * EACH])
def test_collect_that_was_left_goes_on(aws, tmp_path, taken):
    """However late and slowly it was left, every record that was not handed out comes again."""
    options = settings(aws, state=str(tmp_path / "state"))
    records, first = collect(options), []
    for record in records:
        first.append(record)
        if len(first) == 1:  # all the others are ready by the time the second one is asked for
            wait_until(lambda: records.report["totals"]["emitted"] == 4 * EACH)
        if len(first) == taken:
            break
    records.close()
    rest = list(collect(options))
    assert set(map(identity, first + rest)) == identities(aws.estate)
    assert identity(first[-1]) in set(map(identity, rest))
    assert list(collect(options)) == []


SLOW = 40
"""Jobs of each target where a run is to take a few seconds."""


@pytest.fixture
def slow():
    """A stand-in whose crawl takes a few seconds, until its limits are lifted."""
    estate = Estate.generate(2, REGIONS, SLOW)
    limits = Limits({"DescribeTrainingJob": (20, 5)})
    with FakeAws(estate, limits=limits).in_thread() as server:
        yield server


def interrupt(slow: FakeAws, folder: Path, *more: str, after: int = 50) -> tuple[str, dict]:
    """A run that is told to stop in the middle: what it wrote, and its report."""
    with start(*arguments(folder, *more), aws=slow) as process:
        wait_until(lambda: slow.calls["DescribeTrainingJob"] > after)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    return out, json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("name", ["jobs.ndjson.gz", "-"])
def test_a_run_that_was_told_to_stop_goes_on(slow, tmp_path, name):
    """SIGTERM: 143; the same command reads the rest, and all is there exactly once."""
    path = tmp_path / name
    sink = "-" if name == "-" else str(path)
    out, report = interrupt(slow, tmp_path, "--sink", sink)
    assert report["complete"] is False
    assert not path.exists()
    slow.limits.set("DescribeTrainingJob", None)
    done = command(*arguments(tmp_path, "--sink", sink), aws=slow)
    again = json.loads((tmp_path / "report.json").read_text())
    assert done.status == 0
    if name == "-":
        lines = [*out.splitlines(), *done.lines]
    else:
        lines = content(path).splitlines()
        assert again["totals"]["emitted"] == len(lines)
        assert again["totals"]["bytes"] == len(content(path))
    records = [json.loads(line) for line in lines]
    assert Counter(map(identity, records)) == dict.fromkeys(identities(slow.estate), 1)
    assert max(described(slow).values()) == 1
    assert again["complete"] is True
    assert again["run_id"] == report["run_id"]
    assert again["started_at"] == report["started_at"]
    assert again["warnings"][0].startswith("Resumed the run of ")
    assert not partial(path).exists()


class Halt:
    """Stops a run of the library once so many records were emitted."""

    def __init__(self, after: int) -> None:
        self.collector: Collector | None = None
        self._left = after

    def __call__(self, event: object) -> None:
        if isinstance(event, JobEmitted):
            self._left -= 1
            if self._left == 0:
                self.collector.stop()


async def into_file(aws: FakeAws, path: Path, *, after: int = 0, **changes: Any) -> dict[str, Any]:
    """The report of a run into a file, stopped ``after`` some records if that is given."""
    halt = Halt(after)
    options = settings(aws, sink=str(path), max_in_flight=1, **changes)
    async with Collector(options, observers=[halt]) as halt.collector:
        return await halt.collector.run()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"created_after": "2020-01-01"}, "other settings: created_after"),
        ({"meta": True}, "other settings: meta"),
        ({"full": True}, "other settings: full"),
        ({"sink": "OTHER"}, "other settings: sink"),
        ({"redact": {"environment": "values"}, "tags": "none"}, "other settings: tags, redact"),
    ],
)
async def test_a_run_with_other_settings_begins_anew(aws, tmp_path, changes, why):
    """What shapes the output may not change in the middle: the report says what did."""
    path, state = tmp_path / "jobs.ndjson", str(tmp_path / "state")
    first = await into_file(aws, path, after=9, state=state)
    assert 9 <= first["totals"]["emitted"] < 4 * EACH
    path = tmp_path / changes.get("sink", path.name)
    changes = {name: value for name, value in changes.items() if name != "sink"}
    again = await into_file(aws, path, state=state, **changes)
    assert again["complete"] is True
    assert Counter(map(identity, read(path))) == dict.fromkeys(identities(aws.estate), 1)
    assert again["run_id"] != first["run_id"]
    assert again["mode"] == "full"
    assert f"is not gone on with ({why})" in again["warnings"][0]


async def test_a_run_whose_output_is_gone_begins_anew(aws, tmp_path):
    """Without the unfinished file everything is read again, and the report says why."""
    path, state = tmp_path / "jobs.ndjson", str(tmp_path / "state")
    await into_file(aws, path, after=9, state=state)
    partial(path).unlink()
    again = await into_file(aws, path, state=state)
    assert again["complete"] is True
    assert Counter(map(identity, read(path))) == dict.fromkeys(identities(aws.estate), 1)
    assert "what it had written is not there any more" in again["warnings"][0]


@pytest.mark.parametrize("name", ["jobs.ndjson", "jobs.ndjson.gz", "jobs.ndjson.zst"])
async def test_a_run_that_is_stopped_over_and_over_ends(aws, tmp_path, name):
    """Stopped after every few records, the same run goes on each time, and the file is whole."""
    path, state, ids = tmp_path / name, str(tmp_path / "state"), set()
    for _ in range(2 * EACH):
        report = await into_file(aws, path, after=5, state=state)
        ids.add(report["run_id"])
        if report["complete"]:
            break
        assert not path.exists()
    assert report["complete"] is True
    assert len(ids) == 1
    run = Run(read(path), report)
    assert_whole(run, aws)
    assert report["totals"]["bytes"] == len(content(path))
    assert max(described(aws).values()) == 1


@pytest.mark.parametrize(
    ("how", "sink"),
    [
        ("refused", "-"),
        ("stopped", "jobs.ndjson"),
        ("killed", "jobs.ndjson"),
    ],
)
def test_a_run_that_came_to_nothing_does_not_hide_the_next(aws, tmp_path, how, sink):
    """A run that ends before it reads anything does not leave the one before it to be repeated."""
    path = tmp_path / sink
    more = ("--sink", "-" if sink == "-" else str(path), "--log-level", "warning")
    assert command(*arguments(tmp_path, *more), aws=aws).status == 0
    aws.estate.add_job(FIRST, HOME, name="news")
    if how == "refused":
        wrong = {"AWS_SECRET_ACCESS_KEY": "A" * 40}
        assert command(*arguments(tmp_path, *more), aws=aws, **wrong).status == 1
    else:
        aws.latency = 8.0
        with start(*arguments(tmp_path, *more), aws=aws) as process:
            wait_until(lambda: aws._in_flight > 0)
            process.send_signal(signal.SIGTERM if how == "stopped" else signal.SIGKILL)
            process.wait(10)
        aws.latency = 0.0
    forget(aws)
    done = command(*arguments(tmp_path, *more), aws=aws)
    assert done.status == 0
    lines = done.lines if sink == "-" else path.read_text().splitlines()
    assert [json.loads(line)["training_job_name"] for line in lines] == ["news"]
    assert aws.calls["ListTrainingJobs"] == 4
    assert aws.calls["DescribeTrainingJob"] == 1


# --retry-failed


def test_only_what_had_failed_is_read_again(aws, tmp_path, refused):
    """The failed jobs, no list, no state; what still fails is in the next report."""
    state, report = tmp_path / "state", tmp_path / "report.json"
    refused.update(["job-020", "job-061"])
    aws.policy.denied = ((SECOND, ABROAD, "ListTrainingJobs"),)
    run = run_command(aws, tmp_path, "--state", str(state))
    assert run.status == 3
    assert run.report["totals"]["failed"] == 6
    kept = document(state).read_bytes()
    aws.policy.denied = ()
    refused.remove("job-020")
    forget(aws)
    again = run_command(aws, tmp_path, "--state", str(state), "--retry-failed", str(report))
    assert again.status == 3
    assert sorted(map(place, again.records)) == [(FIRST, ABROAD), (FIRST, HOME), (SECOND, HOME)]
    assert set(again.names) == {"job-020"}
    assert_sums(again)
    assert again.report["totals"]["listed"] == 6
    assert {failure["arn"].rpartition("/")[2] for failure in again.report["failures"]} == {
        "job-061"
    }
    assert aws.calls["ListTrainingJobs"] == 0
    assert aws.calls["DescribeTrainingJob"] == 6
    assert any(
        warning.startswith("1 targets in ") and "were not read" in warning
        for warning in again.report["warnings"]
    )
    assert document(state).read_bytes() == kept
    refused.clear()
    last = run_command(aws, tmp_path, "--retry-failed", str(report))
    assert last.status == 0
    assert set(last.names) == {"job-061"}
    assert last.report["complete"] is True
    assert last.report["totals"] == {**last.report["totals"], "listed": 3, "emitted": 3}
    # The state has not forgotten that these were not read: its own next run reads them.
    final = run_command(aws, tmp_path, "--state", str(state))
    assert final.status == 0
    assert len(final.records) == 4 * EACH


def test_a_report_without_failures_is_not_an_error(aws, tmp_path):
    """There is nothing to read again: exit 0, a warning, no job described."""
    run_command(aws, tmp_path)
    forget(aws)
    run = run_command(aws, tmp_path, "--retry-failed", str(tmp_path / "report.json"))
    assert (run.status, run.records) == (0, [])
    assert any("names no job that failed" in warning for warning in run.report["warnings"])
    assert aws.calls["DescribeTrainingJob"] == aws.calls["ListTrainingJobs"] == 0


def test_jobs_that_are_gone_since_they_failed_are_gone(aws, tmp_path, refused):
    """A failed job that was deleted meanwhile is gone; an earlier report may have its name."""
    refused.add("job-020")
    run_command(aws, tmp_path)
    refused.clear()
    aws.estate.delete_job(FIRST, HOME, "job-020")
    run = run_command(aws, tmp_path, "--retry-failed", str(tmp_path / "report.json"))
    assert run.status == 0
    assert_sums(run)
    assert (run.report["totals"]["emitted"], run.report["totals"]["gone"]) == (3, 1)


REPORT = {"table": TABLE, "failures": [], "targets": []}


@pytest.mark.parametrize("content", [None, b"not json"])
def test_a_file_that_is_no_report_is_refused(aws, tmp_path, content):
    """Exit 2, one sentence that names it, nothing called."""
    path = tmp_path / "failed.json"
    if content is not None:
        path.write_bytes(content)
    run = run_command(aws, tmp_path, "--retry-failed", str(path))
    assert run.status == 2
    assert is_one_sentence(run.stderr)
    assert str(path) in run.stderr
    assert aws.calls.total() == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"7",
        json.dumps({**REPORT, "failures": 5}).encode(),
        json.dumps({**REPORT, "failures": ["x"]}).encode(),
        json.dumps({**REPORT, "failures": [{"operation": "x"}]}).encode(),
        json.dumps({**REPORT, "targets": [{}]}).encode(),
        json.dumps({**REPORT, "table": "aws_s3_bucket"}).encode(),
    ],
)
async def test_reports_of_another_shape_are_refused(aws, tmp_path, content):
    """The library raises ConfigurationError, and calls nothing."""
    path = tmp_path / "failed.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(str(path))):
        await crawl(aws, retry_failed=path)
    assert aws.calls.total() == 0
