"""A run that is interrupted: what was read is kept, and everything says that it is not whole."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import ROLE, Run, assert_sums, environment, identities, identity, settings, start

from collector import Collector
from collector.testing import Estate, FakeAws, Limits

JOBS = 150
REGIONS = ("us-east-1", "eu-west-1")


@pytest.fixture
def slow():
    """A stand-in that takes some ten seconds for a crawl."""
    estate = Estate.generate(2, REGIONS, JOBS)
    limits = Limits({"DescribeTrainingJob": (15, 5)})
    with FakeAws(estate, limits=limits, latency=0.02).in_thread() as aws:
        yield aws


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        "run",
        "--accounts",
        "111111111111,222222222222",
        "--role-name",
        ROLE,
        "--regions",
        ",".join(REGIONS),
        "--report",
        str(folder / "report.json"),
        *more,
    ]


def wait_for(condition, seconds: float = 15.0) -> None:
    """Return once ``condition()`` holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


def stop(process: subprocess.Popen[str], number: int) -> tuple[str, str, float]:
    """Send the signal; what the process wrote, and how long it went on."""
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return out, err, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_it_has_read(slow, tmp_path, number):
    """SIGINT, SIGTERM: exit 130, 143 within the grace, whole lines, a true report of the part."""
    with start(*arguments(tmp_path, "--grace", "5s"), aws=slow) as process:
        wait_for(lambda: slow.calls["DescribeTrainingJob"] > 40)
        out, err, seconds = stop(process, number)
    assert process.returncode == 128 + number
    assert seconds < 4
    assert out.endswith("\n")
    records = [json.loads(line) for line in out.splitlines()]
    report = json.loads((tmp_path / "report.json").read_text())
    run = Run(records, report)
    assert_sums(run)
    assert 0 < len(records) < 4 * JOBS
    assert set(map(identity, records)) < identities(slow.estate)
    assert report["complete"] is False
    assert any("interrupted" in warning for warning in report["warnings"])
    assert {row["outcome"] for row in report["targets"]} == {"failed"}
    assert report["totals"]["emitted"] == len(records)
    assert report["totals"]["bytes"] == len(out.encode())
    assert "Traceback" not in err
    done = subprocess.run(
        [sys.executable, "-m", "collector", "validate", "-"],
        input=out,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_grace_ends(tmp_path):
    """Calls that do not end are not waited for longer than the grace, and all is still told."""
    with (
        FakeAws(Estate.generate(2, REGIONS, 60)).in_thread() as aws,
        start(*arguments(tmp_path, "--grace", "500ms"), aws=aws) as process,
    ):
        wait_for(lambda: aws.calls["DescribeTrainingJob"] >= 20)
        aws.latency = 20.0
        time.sleep(0.1)
        out, err, seconds = stop(process, signal.SIGTERM)
    assert process.returncode == 143
    assert 0.4 < seconds < 4
    run = Run(
        [json.loads(line) for line in out.splitlines()],
        json.loads((tmp_path / "report.json").read_text()),
    )
    assert_sums(run)
    assert run.report["complete"] is False
    assert run.report["totals"]["failed"] > 0
    assert "Traceback" not in err


def test_a_second_signal_stops_at_once(slow, tmp_path):
    """The second signal does not wait for anything: exit within a moment, in spite of the grace."""
    with start(*arguments(tmp_path, "--grace", "60s"), aws=slow) as process:
        wait_for(lambda: slow.calls["DescribeTrainingJob"] > 20)
        slow.latency = 20.0
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        _, err, seconds = stop(process, signal.SIGINT)
    assert process.returncode == 130
    assert seconds < 1
    assert "Traceback" not in err


def test_a_signal_while_targets_are_looked_for(tmp_path):
    """Before anything is read there is nothing to finish: it ends at once."""
    with (
        FakeAws(Estate.generate(1, REGIONS, 5), latency=8.0).in_thread() as aws,
        start(*arguments(tmp_path), aws=aws) as process,
    ):
        wait_for(lambda: aws._in_flight > 0)
        out, err, seconds = stop(process, signal.SIGINT)
    assert (process.returncode, out) == (130, "")
    assert seconds < 3
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["jobs.ndjson", "jobs.ndjson.gz"])
def test_an_interrupted_file_does_not_get_its_name(slow, tmp_path, name):
    """The file sink leaves NAME.partial and says so; nothing is there under NAME."""
    path = tmp_path / "out" / name
    path.parent.mkdir()
    with start(*arguments(tmp_path, "--sink", str(path)), aws=slow) as process:
        wait_for(lambda: slow.calls["DescribeTrainingJob"] > 40)
        out, _, _ = stop(process, signal.SIGTERM)
    assert (process.returncode, out) == (143, "")
    assert [entry.name for entry in path.parent.iterdir()] == [f"{name}.partial"]
    assert path.with_name(f"{name}.partial").stat().st_size > 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert any(f"{name}.partial" in warning for warning in report["warnings"])


def test_an_earlier_file_outlives_an_interrupted_run(slow, tmp_path):
    """What the last whole run wrote stays as it is."""
    path = tmp_path / "jobs.ndjson"
    path.write_text("the last one\n")
    with start(*arguments(tmp_path, "--sink", str(path)), aws=slow) as process:
        wait_for(lambda: slow.calls["DescribeTrainingJob"] > 20)
        stop(process, signal.SIGINT)
    assert process.returncode == 130
    assert path.read_text() == "the last one\n"


@pytest.mark.parametrize("lines", [1, 30])
def test_a_reader_that_goes_away_ends_it_quietly(slow, tmp_path, lines):
    """`run | head`: exit 0, no traceback, nothing on stderr that reads like an error."""
    with start(*arguments(tmp_path), aws=slow) as process:
        read = [process.stdout.readline() for _ in range(lines)]
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=20)
    assert all(json.loads(line)["training_job_arn"] for line in read)
    assert process.returncode == 0
    levels = {json.loads(line)["level"] for line in err.splitlines()}
    assert levels <= {"info"}
    assert "rror" not in err.replace('"error": null', "")
    assert slow.calls["DescribeTrainingJob"] < 4 * JOBS


IMPATIENT = """
from collector import console
from collector.__main__ import main

console._FLUSH_TIME = 0.5
main()
"""


def test_a_reader_that_reads_no_more_does_not_keep_the_report(slow, tmp_path):
    """A signal while a pipe is full: what was read cannot be handed on, but it is reported."""
    words = [sys.executable, "-c", IMPATIENT, *arguments(tmp_path, "--grace", "500ms")]
    with subprocess.Popen(
        words, env=environment(slow), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: slow.calls["DescribeTrainingJob"] > 120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143
        assert "Traceback" not in process.stderr.read()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["complete"] is False
    assert report["totals"]["emitted"] > 0


EARLY = """
import os, sys

from collector.__main__ import main
from collector.cli import SettingsCommand

SettingsCommand.get_params = lambda *_: os.kill(os.getpid(), int(sys.argv.pop()))
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_signal_before_there_is_a_run_is_told_alike(command, number):
    """While the program is still starting: the same exit status, and not a word."""
    words = [sys.executable, "-c", EARLY, command, str(int(number))]
    done = subprocess.run(words, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, b"", b"")


@pytest.mark.parametrize("words", [["schema"], ["schema", "--format", "markdown"], ["run", "-h"]])
def test_a_reader_of_text_that_goes_away_ends_it_quietly(words):
    """`schema | head` and `run --help | head` end without a traceback as well."""
    with start(*words) as process:
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=20)
    assert "Traceback" not in err
    assert "Exception" not in err


async def test_a_stop_just_before_the_first_step_of_the_crawl(tmp_path):
    """Whenever a run is stopped, it ends: also between the state's being read and the crawl."""
    with FakeAws(Estate.generate(1, REGIONS, 5)).in_thread() as aws:
        async with Collector(settings(aws, sink=str(tmp_path / "jobs.ndjson"))) as c:
            write = c._write

            async def stop_and_write(*given):  # the sink's task has its first step before
                c.stop()
                await write(*given)

            c._write = stop_and_write
            async with asyncio.timeout(10):
                await c.run()
    assert c.complete is False
    assert c.report["totals"]["emitted"] == 0
