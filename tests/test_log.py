"""The log: its two forms, what it tells of a run, and what it never tells."""

from __future__ import annotations

import json
import logging
import sys
from typing import get_args

import pytest
import structlog

from collector import events, log
from collector.aws.sigv4 import Credentials
from collector.model import Account, Outcome, Target
from tests.event_values import job, page

TARGET = Target(Account("222222222222", "arn:aws:iam::222222222222:role/R", "Sales"), "us-east-1")


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """The log is the process's own: what a test sets up is taken down again."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in ("botocore", "aiobotocore")}
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)


EVENTS: list[events.Event] = [
    events.RunStarted("run-1", "aws_sagemaker_trainingjob", 0.0),
    events.TargetFound(TARGET),
    events.DiscoveryEnded(),
    events.TargetStarted(TARGET),
    events.TargetResumed(TARGET, 10, 2, 1),
    page(TARGET, 100),
    events.JobsUnchanged(TARGET, (job("arn:same"),)),
    events.RecordRefused(TARGET, job("arn:big"), "firehose://jobs", "too large"),
    events.CallEnded(*TARGET.key, "DescribeTrainingJob", "ok", retried=False, seconds=0.1),
    events.CallEnded(*TARGET.key, "DescribeTrainingJob", "throttled", retried=True, seconds=0.1),
    events.CallEnded(*TARGET.key, "DescribeTrainingJob", "refused", retried=False, seconds=0.1),
    events.RateChanged(*TARGET.key, "DescribeTrainingJob", 19.5),
    events.QueueMeasured(500, 1000),
    events.JobEmitted(TARGET),
    events.JobGone(TARGET, job("arn:gone")),
    events.JobFailed(TARGET, job("arn:failed"), "DescribeTrainingJob", "it broke", 4),
    events.BytesDelivered(3, 300),
    events.FieldsNoted(("SecretMemberName",), ("environment{}",)),
    events.Warned("careful", *TARGET.key),
    events.TargetEnded(TARGET, Outcome.PARTIAL, 1.23456, (), "1 job could not be read"),
    events.RunEnded(1.0, None),
    events.SinkClosed("The disk is full."),
]


def test_every_event_is_among_those_observed():
    """The events below are all there are."""
    assert {type(event) for event in EVENTS} == set(get_args(events.Event))


def written(capsys, log_format: str = "json", level: str = "info") -> list[dict]:
    log.configure(log_format, level)
    observer = log.LogObserver()
    for event in EVENTS:
        observer(event)
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()] if log_format == "json" else [err]


def test_a_run_is_told_in_few_lines(capsys):
    """At info a run is its start, its failures, its warnings and its targets."""
    lines = written(capsys)
    assert all(line.pop("timestamp").endswith("Z") for line in lines)
    place = {"account_id": "222222222222", "region": "us-east-1"}
    assert lines == [
        {
            "event": "run started",
            "level": "info",
            "run_id": "run-1",
            "table": "aws_sagemaker_trainingjob",
        },
        {
            "event": "record refused",
            "level": "warning",
            "arn": "arn:big",
            "sink": "firehose://jobs",
            "error": "too large",
        },
        {
            "event": "job failed",
            "level": "warning",
            "arn": "arn:failed",
            "operation": "DescribeTrainingJob",
            "error": "it broke",
        },
        {"event": "careful", "level": "warning", **place},
        {
            "event": "target ended",
            "level": "warning",
            **place,
            "outcome": "partial",
            "seconds": 1.235,
            "error": "1 job could not be read",
        },
    ]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("level", ["debug", "info"])
def test_members_and_records_are_never_told(capsys, log_format, level):
    """No name or value from inside an answer gets into the log, whatever its level."""
    text = str(written(capsys, log_format, level))
    assert "SecretMemberName" not in text
    assert "environment" not in text


def test_calls_are_told_at_debug_alone(capsys):
    """Throttled and faulted calls are for those who look for them."""
    assert "call failed" not in str(written(capsys))
    calls = [line for line in written(capsys, level="debug") if line["event"] == "call failed"]
    assert [call["result"] for call in calls] == ["throttled"]


def test_levels_are_kept_to(capsys):
    """At warning and error there is less to read."""
    assert {line["level"] for line in written(capsys, level="warning")} == {"warning"}
    assert written(capsys, level="error") == []


def test_warnings_are_told_once(capsys):
    """Equal warnings are one line, however many targets they come from."""
    log.configure("json", "info")
    observer = log.LogObserver()
    for number in range(5):
        observer(events.Warned("same", f"{number:012}"))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_failures_of_a_target_are_told_up_to_a_point(capsys):
    """A target whose every job fails does not fill the log; each target has its own share."""
    log.configure("json", "info")
    observer = log.LogObserver()
    other = Target(Account("333333333333"), "us-east-1")
    for number in range(1000):
        for target in (TARGET, other):
            observer(events.JobFailed(target, job(f"arn:{number}"), "Describe", "why", 1))
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 40


def test_nothing_is_told_after_the_reader_has_left(capsys):
    """A closed pipe is no trouble: what follows from it is not told."""
    log.configure("json", "info")
    observer = log.LogObserver()
    observer(events.SinkClosed("The disk is full."))
    for event in EVENTS:
        observer(event)
    assert capsys.readouterr().err == ""


def test_a_failure_is_not_hidden_by_the_good(capsys):
    """Complete and unavailable targets are information, the others are warnings."""
    log.configure("json", "info")
    observer = log.LogObserver()
    for outcome in Outcome:
        observer(events.TargetEnded(TARGET, outcome, 1.0))
    lines = map(json.loads, capsys.readouterr().err.splitlines())
    assert {line["outcome"] for line in lines if line["level"] == "info"} == {
        "complete",
        "unavailable",
    }


def fail() -> None:
    try:
        int("inner trouble")
    except ValueError:
        logging.getLogger("aiohttp").exception("it failed")
        structlog.get_logger().error("we failed", exc_info=True)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_are_for_debug(capsys, log_format):
    """Without debug an error is its sentence; with debug it has its traceback."""
    log.configure(log_format, "info")
    fail()
    text = capsys.readouterr().err
    assert "it failed" in text
    assert "we failed" in text
    assert "Traceback" not in text
    assert "inner trouble" not in text
    log.configure(log_format, "debug")
    fail()
    assert capsys.readouterr().err.count("Traceback") == 2


def test_libraries_log_in_the_same_form(capsys):
    """What another package logs is a line like ours, with its name."""
    log.configure("json", "info")
    logging.getLogger("some.package").warning("look %s", "here")
    logging.getLogger("some.package").info("not this")
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["event"], line["logger"], line["level"]) == (
        "look here",
        "some.package",
        "warning",
    )


@pytest.mark.parametrize("name", ["botocore.auth", "aiobotocore.endpoint", "urllib3", "boto3"])
def test_the_sdk_does_not_log_its_requests(capsys, name):
    """At debug the SDK would write signatures and tokens: it is not let."""
    log.configure("json", "debug")
    logging.getLogger(name).debug("Authorization: AWS4-HMAC-SHA256 ...")
    assert capsys.readouterr().err == ""


def test_keys_do_not_show_in_a_log(capsys):
    """Credentials that get into a log line by mistake show no secret."""
    log.configure("json", "debug")
    structlog.get_logger().info("x", keys=Credentials("AKIA", "hidden", "hidden"))
    text = capsys.readouterr().err
    assert "AKIA" in text
    assert "hidden" not in text


def test_auto_is_console_on_a_terminal(capsys, monkeypatch):
    """On a terminal a log is for reading, anywhere else it is JSON."""
    log.configure("auto", "info")
    structlog.get_logger().info("x")
    json.loads(capsys.readouterr().err)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    log.configure("auto", "info")
    structlog.get_logger().info("x")
    with pytest.raises(json.JSONDecodeError):
        json.loads(capsys.readouterr().err)


def test_a_message_stays_on_its_line(capsys):
    """In JSON a sentence with a line break is one line all the same."""
    log.configure("json", "info")
    log.LogObserver()(events.Warned("two\nlines"))
    assert len(capsys.readouterr().err.splitlines()) == 1
