"""Lines in CloudWatch's embedded metric format: their form, their values, and where they go."""

from __future__ import annotations

import io
import json
import sys

import pytest
from structlog.testing import capture_logs

from collector import Settings, emf, events
from collector.emf import CALLS, END, EVERY, RUN, EmbeddedMetrics
from collector.errors import ConfigurationError
from collector.model import Account, Outcome, Target
from tests.event_values import job, page

ONE = Target(Account("111111111111"), "us-east-1")
TWO = Target(Account("222222222222"), "eu-west-1")
TABLE = "aws_sagemaker_trainingjob"

NAME = {"type": "string", "minLength": 1, "maxLength": 255}
LINE = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "additionalProperties": False,
            "properties": {
                "Timestamp": {"type": "integer", "minimum": 0},
                "CloudWatchMetrics": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "additionalProperties": False,
                        "properties": {
                            "Namespace": NAME,
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "type": "array",
                                    "maxItems": emf.MOST_DIMENSIONS,
                                    "uniqueItems": True,
                                    "items": NAME,
                                },
                            },
                            "Metrics": {
                                "type": "array",
                                "minItems": 1,
                                "maxItems": emf.MOST_METRICS,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "additionalProperties": False,
                                    "properties": {
                                        "Name": NAME,
                                        "Unit": {"enum": ["Count", "Bytes", "Seconds"]},
                                        "StorageResolution": {"enum": [1, 60]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}
"""The form of a line, after the specification that `collector.emf` names."""


def check(text: bytes) -> dict:
    """The line as an object, once it is one that CloudWatch makes metrics of."""
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    assert len(text) <= emf.MOST_BYTES
    line = json.loads(text)
    import jsonschema

    jsonschema.validate(line, LINE)
    for directive in line["_aws"]["CloudWatchMetrics"]:
        for dimensions in directive["Dimensions"]:
            assert all(0 < len(line[name]) <= 1024 for name in dimensions)
        for metric in directive["Metrics"]:
            assert type(line[metric["Name"]]) in {int, float}
    return line


class Lines:
    """The observer under test, its clock, and what it has written."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.written: list[bytes] = []
        self.observer = EmbeddedMetrics(TABLE, self.written.append, now=lambda: self.now)
        self(events.RunStarted("run-1", TABLE, self.now))

    def __call__(self, *told: events.Event) -> None:
        for event in told:
            self.observer(event)

    def take(self) -> tuple[dict, dict]:
        """The lines since the last time: those of operations by name, and the run's."""
        *calls, run = map(check, self.written)
        self.written.clear()
        return {line["Operation"]: line for line in calls}, run


def call(operation: str, result: str = "ok", *, retried: bool = False) -> events.CallEnded:
    return events.CallEnded(*ONE.key, operation, result, retried, 0.1)


def values(line: dict, names: dict) -> dict:
    return {name: line[name] for name in names if line.get(name)}


def test_a_run_ends_with_what_it_came_to():
    """The last lines have every count, by operation and for the run, and say it is complete."""
    lines = Lines()
    lines(
        events.TargetFound(ONE),
        page(ONE, 5),
        call("DescribeTrainingJob"),
        call("DescribeTrainingJob", "throttled", retried=True),
        call("DescribeTrainingJob", "faulted"),
        call("ListTags", "refused"),
        events.JobEmitted(ONE),
        events.JobEmitted(ONE),
        events.JobsUnchanged(ONE, (job("arn:same"),)),
        events.JobGone(ONE, job("arn:gone")),
        events.JobFailed(ONE, job("arn:failed"), "DescribeTrainingJob", "why", 4),
        events.BytesDelivered(2, 900),
        events.TargetEnded(ONE, Outcome.COMPLETE, 3.0),
        events.RunEnded(lines.now + 12.5),
    )
    lines.observer.close()
    calls, run = lines.take()
    assert {name: values(line, CALLS) for name, line in calls.items()} == {
        "DescribeTrainingJob": {"Calls": 3, "Throttled": 1, "Retried": 1, "Failed": 1},
        "ListTags": {"Calls": 1, "Failed": 1},
    }
    assert values(run, RUN | END) == {
        "Records": 2,
        "Bytes": 900,
        "JobsListed": 5,
        "JobsEmitted": 2,
        "JobsUnchanged": 1,
        "JobsGone": 1,
        "JobsFailed": 1,
        "TargetsComplete": 1,
        "Complete": 1,
        "Duration": 12.5,
    }
    assert set(RUN | END) <= set(run)
    assert (run["Table"], run["RunId"]) == (TABLE, "run-1")
    assert run["_aws"]["Timestamp"] == 1_700_000_000_000


def test_lines_come_a_minute_apart_and_count_on():
    """Each group of lines counts from the one before; nothing is counted twice or left out."""
    lines = Lines()
    lines(call("A"), call("A"), events.JobEmitted(ONE))
    assert not lines.written
    lines.now += EVERY
    lines(call("A"))
    calls, run = lines.take()
    assert (calls["A"]["Calls"], run["JobsEmitted"]) == (3, 1)
    assert not set(END) & set(run)
    lines.now += EVERY - 1
    lines(call("B"), events.JobEmitted(ONE))
    assert not lines.written
    lines.now += 1
    lines(events.JobEmitted(ONE))
    calls, run = lines.take()
    assert (set(calls), run["JobsEmitted"]) == ({"B"}, 2)
    lines.observer.close()
    calls, run = lines.take()
    assert (calls, run["JobsEmitted"]) == ({}, 0)


@pytest.mark.parametrize(
    ("told", "complete"),
    [
        ([events.TargetEnded(ONE, Outcome.COMPLETE, 1.0)], True),
        ([events.TargetEnded(ONE, Outcome.UNAVAILABLE, 1.0)], True),
        ([events.TargetEnded(ONE, Outcome.DENIED, 1.0)], False),
        ([events.TargetFound(TWO), events.TargetEnded(ONE, Outcome.COMPLETE, 1.0)], False),
        ([events.SinkClosed()], False),
    ],
)
def test_complete_is_the_reports(told, complete):
    """A target that is missing or not read, or a sink that is gone, leaves a run incomplete."""
    lines = Lines()
    lines(*told, events.RunEnded(lines.now))
    lines.observer.close()
    _, run = lines.take()
    assert (run["Complete"], run["Incomplete"]) == (int(complete), int(not complete))


def test_a_record_refused_after_the_end_counts():
    """What the sink refuses of the last batch, once the crawl is over, leaves a run incomplete."""
    lines = Lines()
    lines(
        events.JobEmitted(ONE),
        events.TargetEnded(ONE, Outcome.COMPLETE, 1.0),
        events.RunEnded(lines.now),
        events.RecordRefused(ONE, job("arn:big"), "firehose://jobs", "too large"),
    )
    lines.observer.close()
    _, run = lines.take()
    assert (run["JobsEmitted"], run["JobsRefused"], run["Complete"]) == (1, 1, 0)


def test_a_run_that_never_began_is_incomplete():
    """Where not even the sink could be opened, the last line says so: an alarm can count on it."""
    written: list[bytes] = []
    EmbeddedMetrics(TABLE, written.append).close()
    (run,) = map(check, written)
    assert (run["Complete"], run["Incomplete"], run["Duration"]) == (0, 1, 0)


def test_lines_are_appended_to_the_file(tmp_path, capsys):
    """With metrics_file whole lines go there, behind what it holds, and none to stderr."""
    path = tmp_path / "metrics.jsonl"
    settings = Settings(metrics="emf", metrics_file=path)
    for _ in range(2):
        emf.start(settings).close()
    assert len([check(line) for line in path.read_bytes().splitlines(keepends=True)]) == 2
    assert capsys.readouterr() == ("", "")


def test_a_file_that_cannot_be_written_stops_the_run_before_it_starts(tmp_path):
    """The path is tried out at the start: one sentence, not a run without metrics."""
    with pytest.raises(ConfigurationError, match="cannot be written"):
        emf.start(Settings(metrics="emf", metrics_file=tmp_path / "no" / "metrics.jsonl"))


def test_a_file_that_breaks_is_told_once_and_costs_nothing_else(tmp_path):
    """If the file cannot be appended to any more, the run goes on; the log says so once."""
    folder = tmp_path / "out"
    folder.mkdir()
    observer = emf.start(Settings(metrics="emf", metrics_file=folder / "metrics.jsonl"))
    (folder / "metrics.jsonl").unlink()
    folder.rmdir()
    with capture_logs() as lines:
        observer.close()
        observer.close()
    (line,) = lines
    assert line["event"].startswith("metrics are not written")


@pytest.mark.parametrize("stderr", [None, io.StringIO("closed")])
def test_a_stderr_that_is_not_there_is_no_error(monkeypatch, stderr):
    """A process without stderr loses its lines and nothing else."""
    if stderr is not None:
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    emf.start(Settings(metrics="emf")).close()
