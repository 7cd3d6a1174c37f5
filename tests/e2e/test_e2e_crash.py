"""Real processes killed at any moment, and full disks: nothing lost, nothing twice in a file."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import Run, assert_sums, command, environment, identities, identity, settings, start
from state_setup import (
    ABROAD,
    DAY,
    FIRST,
    HOME,
    SECOND,
    arguments,
    committed,
    content,
    document,
    filled,
    known,
    partial,
    read,
    set_back,
    wait_until,
)

from collector import collect
from collector.aws import throttle
from collector.testing import Estate, FakeAws, Limits

JOBS = 150
SLOW = {"DescribeTrainingJob": (15.0, 4.0)}
"""So slow that no run ends between its first call and the moment that it is killed."""

LONGEST = 0.9
"""Seconds from a run's first call to the latest moment that it is killed."""


@pytest.fixture
def aws():
    """Two accounts by two regions, whose jobs take a run some eight seconds."""
    estate = Estate.generate(2, (HOME, ABROAD), JOBS)
    with FakeAws(estate, limits=Limits(dict(SLOW))).in_thread() as server:
        yield server


def kill(aws: FakeAws, folder: Path, rng: random.Random, *more: str) -> str:
    """A run that is killed at some moment, early or late; whole lines of what it wrote."""
    output = folder / "stdout"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "collector", *arguments(folder, *more)],
            env=environment(aws),
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
        try:
            if rng.random() < 0.2:
                time.sleep(rng.uniform(0, 0.6))  # it may still be finding out what to read
            else:
                before = aws.calls["DescribeTrainingJob"]
                wait_until(lambda: aws.calls["DescribeTrainingJob"] > before)
                time.sleep(rng.uniform(0, LONGEST))
            assert process.poll() is None, "it ended by itself"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    written = output.read_text()
    return written[: written.rfind("\n") + 1]


def finish(aws: FakeAws, folder: Path, *more: str) -> Run:
    """The same command to its end, as fast as may be."""
    aws.limits.set("DescribeTrainingJob", None)
    run = command(*arguments(folder, *more), aws=aws)
    run.report = json.loads((folder / "report.json").read_text())
    return run


def assert_file_is_behind(folder: Path, path: Path) -> None:
    """The state is whole, and what it calls delivered is in the unfinished file, each once."""
    assert not path.exists()
    if not document(folder).exists():
        return
    run = known(folder).run
    if run is None:
        return
    assert run.position is not None
    lines = content(partial(path), run.position["offset"]).splitlines()
    assert len(lines) == committed(run)
    assert len({identity(json.loads(line)) for line in lines}) == len(lines)


@pytest.mark.parametrize(
    ("name", "kills"), [("jobs.ndjson", 4), ("jobs.ndjson.gz", 3), ("jobs.ndjson.zst", 3)]
)
def test_a_file_holds_every_job_once_however_often_its_run_was_killed(aws, tmp_path, name, kills):
    """SIGKILL again and again: every job exactly once, a report that is true of the whole file."""
    rng, path = random.Random(name), tmp_path / name
    for _ in range(kills):
        kill(aws, tmp_path, rng, "--sink", str(path))
        assert_file_is_behind(tmp_path / "state", path)
    run = finish(aws, tmp_path, "--sink", str(path))
    assert run.status == 0
    run.records = read(path)
    assert Counter(map(identity, run.records)) == dict.fromkeys(identities(aws.estate), 1)
    assert_sums(run)
    assert run.report["complete"] is True
    assert run.report["totals"]["emitted"] == 4 * JOBS
    assert run.report["totals"]["bytes"] == len(content(path))
    assert not partial(path).exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {
        name,
        "report.json",
        "state",
        "stdout",
    }


def test_a_lake_holds_every_job_once_however_often_its_run_was_killed(aws, tmp_path):
    """No manifest while the run is cut off; in the end each job is in its parts exactly once."""
    rng, lake = random.Random("lake"), tmp_path / "lake"
    sink = ("--sink", f"file://{lake}?roll_after=300ms&codec=none")
    for _ in range(4):
        kill(aws, tmp_path, rng, *sink)
        assert not list(lake.rglob("_manifest*"))
    run = finish(aws, tmp_path, *sink)
    assert run.status == 0
    (manifest,) = lake.rglob("_manifest.json")
    parts = [part["path"] for part in json.loads(manifest.read_bytes())["parts"]]
    there = {str(path.relative_to(lake)) for path in lake.rglob("part-*")}
    assert there == set(parts)
    lines = [line for part in parts for line in (lake / part).read_bytes().splitlines()]
    run.records = [json.loads(line) for line in lines]
    assert Counter(map(identity, run.records)) == dict.fromkeys(identities(aws.estate), 1)
    assert_sums(run)
    assert run.report["complete"] is True
    assert json.loads(manifest.read_bytes())["rows"] == 4 * JOBS


def test_standard_output_has_every_job_however_often_its_run_was_killed(aws, tmp_path):
    """The union of all outputs has every job; a job comes again only if it was not committed."""
    rng, seen, doubled = random.Random("stdout"), set(), 0
    for _ in range(5):
        uncommitted = len(seen) - (
            committed(known(tmp_path / "state").run) if document(tmp_path / "state").exists() else 0
        )
        assert uncommitted >= 0, "the state is ahead of the output"
        found = [identity(json.loads(line)) for line in kill(aws, tmp_path, rng).splitlines()]
        assert len(set(found)) == len(found)
        again = seen & set(found)
        assert len(again) <= uncommitted
        doubled += len(again)
        seen |= set(found)
    before = len(seen) - committed(known(tmp_path / "state").run)
    run = finish(aws, tmp_path)
    assert run.status == 0
    found = [identity(json.loads(line)) for line in run.lines]
    assert len(set(found)) == len(found)
    assert len(seen & set(found)) <= before
    assert seen | set(found) == identities(aws.estate)
    run.records = [json.loads(line) for line in run.lines]
    assert_sums(run)


def test_an_incremental_run_that_is_killed_reads_what_had_changed_once(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    """It goes on as an incremental run: what had not changed is not read, no watermark moves."""
    estate = filled(range(1, 51))
    estate_size, changed = 4 * 50, 4 * 40
    state, path = tmp_path / "state", tmp_path / "jobs.ndjson"
    rng = random.Random("incremental")
    with FakeAws(estate).in_thread() as aws:
        monkeypatch.setattr(throttle, "INITIAL_RATE", 2_000.0)
        assert len(list(collect(settings(aws, state=str(state))))) == estate_size
        set_back(state, 2 * DAY)
        watermarks = known(state).targets
        for account in estate.accounts:
            for region in estate.regions:
                for age in range(11, 51):
                    estate.update_job(
                        account, region, f"job-{age:03}", LastModifiedTime=estate.now - DAY
                    )
        aws.requests.clear()
        aws.limits.set("DescribeTrainingJob", 8, 3)
        for _ in range(3):
            kill(aws, tmp_path, rng, "--sink", str(path))
            assert_file_is_behind(state, path)
            assert known(state).targets == watermarks
        run = finish(aws, tmp_path, "--sink", str(path))
        names = {
            params["TrainingJobName"]
            for operation, _, _, params in aws.requests
            if operation == "DescribeTrainingJob"
        }
        aws.requests.clear()
        after = finish(aws, tmp_path, "--sink", str(path))
    assert run.status == 0
    assert run.report["mode"] == "incremental"
    assert run.report["totals"]["listed"] == estate_size
    # The jobs of the last two days ended after the watermark that was set back.
    assert run.report["totals"]["emitted"] == changed + 4 * 2
    assert run.report["totals"]["unchanged"] == estate_size - changed - 4 * 2
    assert names == {f"job-{age:03}" for age in (1, 2, *range(11, 51))}
    assert after.report["totals"]["emitted"] == 0


POINT = """
import os, signal, sys

from collector import report_file
from collector.__main__ import main
from collector.sinks.file import FileSink
from collector.store import FolderStore

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def wrap(owner, name, when):
    whole = getattr(owner, name)
    def wrapped(*args, **kwargs):
        if when == "before":
            die()
        result = whole(*args, **kwargs)
        die()
        return result
    setattr(owner, name, wrapped)

POINTS = {
    "before the first save": (FolderStore, "_save", "before"),
    "after the first save": (FolderStore, "_save", "after"),
    "before it gets its name": (FileSink, "_rename", "before"),
    "after it got its name": (FileSink, "_rename", "after"),
    "after the report": (report_file, "_write_file", "after"),
    "before it has ended": (FolderStore, "release", "before"),
}
wrap(*POINTS[sys.argv.pop(1)])
main()
"""


DENIED = (FIRST, ABROAD, "ListTrainingJobs")
UNDESCRIBED = (SECOND, ABROAD, "DescribeTrainingJob")


@pytest.mark.parametrize(
    ("point", "denied"),
    [
        ("before the first save", (DENIED, UNDESCRIBED)),
        ("after the first save", (DENIED, UNDESCRIBED)),
        ("before it gets its name", (DENIED, UNDESCRIBED)),
        ("after it got its name", (DENIED, UNDESCRIBED)),
        ("after it got its name", (DENIED,)),
        ("after it got its name", (UNDESCRIBED,)),
        ("after it got its name", ()),
        ("after the report", (DENIED,)),
        ("before it has ended", (DENIED, UNDESCRIBED)),
    ],
)
def test_a_run_killed_at_its_last_steps_is_told_truly(tmp_path, point, denied):
    """Wherever its end is cut off, the same command says what the run would have said itself."""
    path = tmp_path / "jobs.ndjson"
    estate = Estate.generate(2, (HOME, ABROAD), 6)
    outcomes = {
        (account, region): "complete" for account in estate.accounts for region in estate.regions
    }
    outcomes |= {DENIED[:2]: "denied"} if DENIED in denied else {}
    outcomes |= {UNDESCRIBED[:2]: "denied"} if UNDESCRIBED in denied else {}
    with FakeAws(estate, denied=denied).in_thread() as aws:
        done = subprocess.run(
            [sys.executable, "-c", POINT, point, *arguments(tmp_path, "--sink", str(path))],
            env=environment(aws),
            capture_output=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        run = finish(aws, tmp_path, "--sink", str(path))
    assert {entry.name for entry in tmp_path.iterdir()} == {"jobs.ndjson", "report.json", "state"}
    run.records = read(path)
    wanted = set().union(
        *(
            identities(estate, [account], [region])
            for (account, region), outcome in outcomes.items()
            if outcome == "complete"
        )
    )
    assert Counter(map(identity, run.records)) == dict.fromkeys(wanted, 1)
    assert run.outcomes == outcomes
    assert run.status == (3 if denied else 0)
    assert run.report["complete"] is not bool(denied)
    assert_sums(run)
    assert run.report["totals"]["bytes"] == path.stat().st_size


def test_what_is_masked_is_in_nothing_that_a_run_leaves(aws, tmp_path):
    """Neither the unfinished file, the state, the report nor the debug log has a secret in it."""
    path = tmp_path / "jobs.ndjson"
    masked = ("--sink", str(path), "--redact", "environment=values", "--log-level", "debug")

    def assert_masked(written: Path, log: str) -> None:
        assert '"API_TOKEN":"***"' in written.read_text()
        left = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
        assert len(left) >= 3
        assert "tok_" not in "".join([log, *left])

    with start(*arguments(tmp_path, *masked), aws=aws) as process:
        wait_until(lambda: document(tmp_path / "state").exists())
        wait_until(lambda: "API_TOKEN" in partial(path).read_text())
        process.kill()
        _, log = process.communicate(timeout=10)
    assert_masked(partial(path), log)
    run = finish(aws, tmp_path, *masked)
    assert run.status == 0
    assert_masked(path, run.stderr)
    jobs = (aws.estate.describe(FIRST, HOME, name) for name in aws.estate.jobs(FIRST, HOME))
    assert any("tok_" in str(job) for job in jobs)


def run_full(aws: FakeAws, room: int, args: list[str]) -> tuple[int, str, str]:
    """A run none of whose files may grow beyond ``room`` bytes, as on a disk that is full."""
    with start(*args, aws=aws) as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def errors(stderr: str) -> list[str]:
    """What stderr holds beside the log."""
    return [line for line in stderr.splitlines() if not line.startswith("{")]


@pytest.mark.parametrize(("name", "room"), [("jobs.ndjson", 900_000), ("jobs.ndjson.gz", 90_000)])
def test_a_disk_that_fills_up_costs_nothing(aws, tmp_path, name, room):
    """Exit 1, one sentence, state intact, no result; with room it goes on: every job once."""
    path = tmp_path / name
    aws.limits.set("DescribeTrainingJob", 150, 50)
    for _ in range(2):
        status, out, err = run_full(aws, room, arguments(tmp_path, "--sink", str(path)))
        assert (status, out) == (1, "")
        assert len(errors(err)) == 1, err
        assert "Traceback" not in err
        assert not path.exists()
        assert_file_is_behind(tmp_path / "state", path)
    run = finish(aws, tmp_path, "--sink", str(path))
    assert run.status == 0
    run.records = read(path)
    assert Counter(map(identity, run.records)) == dict.fromkeys(identities(aws.estate), 1)
    assert_sums(run)
    assert run.report["totals"]["bytes"] == len(content(path))


def test_a_lake_on_a_full_disk_is_not_called_complete(aws, tmp_path):
    """All was read when its one part met the limit: exit 1, and no report that calls it whole."""
    lake = tmp_path / "lake"
    sink = ("--sink", f"file://{lake}?codec=none")
    aws.limits.set("DescribeTrainingJob", None)
    status, out, err = run_full(aws, 900_000, arguments(tmp_path, *sink))
    assert (status, out) == (1, "")
    (error,) = errors(err)
    assert error.endswith(": File too large.")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["totals"]["emitted"] == 4 * JOBS
    assert report["complete"] is False
    assert "did not end by itself: Cannot write to file://" in report["warnings"][0]
    assert not list(lake.rglob("_manifest*"))
    run = finish(aws, tmp_path, *sink)
    assert (run.status, run.report["complete"]) == (0, True)
    (part,) = lake.rglob("part-*")
    run.records = [json.loads(line) for line in part.read_bytes().splitlines()]
    assert Counter(map(identity, run.records)) == dict.fromkeys(identities(aws.estate), 1)


def test_a_disk_too_full_for_the_state_stops_the_run(aws, tmp_path):
    """Where the state cannot be written the run stops with one sentence; nothing is lost."""
    aws.limits.set("DescribeTrainingJob", 150, 50)
    status, out, err = run_full(aws, 8_000, arguments(tmp_path, report=False))
    assert status == 1
    assert len(errors(err)) == 1, err
    assert "The state in " in err
    assert "cannot be written: File too large." in err
    assert not document(tmp_path / "state").exists()
    first = [json.loads(line) for line in out.splitlines()]
    run = finish(aws, tmp_path)
    assert run.status == 0
    rest: list[dict[str, Any]] = [json.loads(line) for line in run.lines]
    assert set(map(identity, [*first, *rest])) == identities(aws.estate)
