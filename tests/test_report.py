"""The report: its shape, its sums, and when a run is complete."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import events
from collector.model import Account, Outcome, Target
from collector.report import Report
from tests.event_values import job, page

ONE = Target(Account("111111111111"), "us-east-1")
TWO = Target(Account("111111111111"), "eu-west-1")


def told(*told_events: events.Event) -> Report:
    report = Report()
    for event in told_events:
        report(event)
    return report


def started() -> events.RunStarted:
    return events.RunStarted("run-1", "aws_sagemaker_trainingjob", 1_700_000_000.123)


def ended(target: Target, outcome: Outcome = Outcome.COMPLETE, **more) -> events.TargetEnded:
    return events.TargetEnded(target, outcome, 1.23456, **more)


def test_the_report_has_the_documented_shape():
    """Every key of the report, its place and its type are those that the README promises."""
    report = told(
        started(),
        events.TargetFound(ONE),
        events.DiscoveryEnded(),
        events.TargetStarted(ONE),
        page(ONE, 3),
        events.CallEnded(*ONE.key, "DescribeTrainingJob", "ok", retried=False, seconds=0.1),
        events.JobEmitted(ONE),
        events.JobGone(ONE, job("arn:gone")),
        events.JobFailed(ONE, job("arn:failed"), "DescribeTrainingJob", "why", 4),
        events.FieldsNoted(("New",), ("environment{}",)),
        events.BytesDelivered(1, 100),
        events.Warned("careful", *ONE.key),
        ended(ONE, Outcome.PARTIAL, rates=(("DescribeTrainingJob", 9.5),), error="1 job"),
        events.RunEnded(1_700_000_060.0),
    ).as_dict()
    assert report == {
        "run_id": "run-1",
        "table": "aws_sagemaker_trainingjob",
        "started_at": "2023-11-14T22:13:20.123Z",
        "finished_at": "2023-11-14T22:14:20.000Z",
        "complete": False,
        "mode": "full",
        "totals": {
            "targets": 1,
            "listed": 3,
            "emitted": 1,
            "unchanged": 0,
            "gone": 1,
            "failed": 1,
            "bytes": 100,
        },
        "calls": {"DescribeTrainingJob": {"calls": 1, "throttled": 0, "retried": 0, "failed": 0}},
        "targets": [
            {
                "account_id": "111111111111",
                "region": "us-east-1",
                "outcome": "partial",
                "listed": 3,
                "emitted": 1,
                "unchanged": 0,
                "gone": 1,
                "failed": 1,
                "seconds": 1.235,
                "rate": {"DescribeTrainingJob": 9.5},
                "error": "1 job",
            }
        ],
        "failures": [
            {
                "arn": "arn:failed",
                "operation": "DescribeTrainingJob",
                "error": "why",
                "attempts": 4,
            }
        ],
        "schema_drift": {"New": 1},
        "coerced": {"environment{}": 1},
        "warnings": ["careful (in 111111111111/us-east-1)"],
    }
    assert orjson.loads(orjson.dumps(report)) == report


def test_the_report_of_a_shard_says_so():
    """One key more, after the mode; nothing else is other."""
    alone, shard = Report(), Report()
    for report, name in ((alone, None), (shard, "3/16")):
        report(events.RunStarted("run", "table", 0.0, name))
        report(events.RunEnded(1.0))
    keys = list(shard.as_dict())
    assert keys[keys.index("mode") + 1] == "shard"
    assert shard.as_dict() == alone.as_dict() | {"shard": "3/16"}


def test_a_report_can_be_asked_for_at_any_time():
    """Before the end, and before the start, there is a report, and it is not complete."""
    for report in (told(), told(started()), told(started(), events.TargetFound(ONE))):
        found = report.as_dict()
        assert found["finished_at"] is None
        assert found["complete"] is False
        orjson.dumps(found)
    assert report.as_dict()["targets"][0]["outcome"] == "failed"
    assert report.as_dict()["targets"][0]["error"] == "not started"


@pytest.mark.parametrize(
    ("outcomes", "error", "complete"),
    [
        ([Outcome.COMPLETE, Outcome.COMPLETE], None, True),
        ([Outcome.COMPLETE, Outcome.UNAVAILABLE], None, True),
        ([Outcome.COMPLETE, Outcome.PARTIAL], None, False),
        ([Outcome.COMPLETE, Outcome.DENIED], None, False),
        ([Outcome.COMPLETE, Outcome.FAILED], None, False),
        ([Outcome.COMPLETE, None], None, False),
        ([Outcome.COMPLETE, Outcome.COMPLETE], "interrupted", False),
    ],
)
def test_complete_means_every_target(outcomes, error, complete):
    """Complete is a run that ended by itself, with every target read or not there at all."""
    report = told(started(), events.TargetFound(ONE), events.TargetFound(TWO))
    for target, outcome in zip((ONE, TWO), outcomes, strict=True):
        if outcome is not None:
            report(ended(target, outcome))
    assert not report.complete
    report(events.RunEnded(1.0, error))
    assert report.complete is complete
    assert report.as_dict()["complete"] is complete
    told_so = any(error in sentence for sentence in report.as_dict()["warnings"] if error)
    assert told_so is (error is not None)


jobs = st.lists(
    st.tuples(st.sampled_from([ONE, TWO]), st.sampled_from(["emitted", "gone", "failed"])),
    max_size=40,
)


@pytest.mark.parametrize("ended_first", [True, False])
def test_what_was_read_and_not_delivered_is_not_complete(ended_first):
    """A sink that fails, be it after the last job was read, is said once and by its sentence."""
    failed, over = events.SinkClosed("The disk is full."), events.RunEnded(1.0, None)
    if not ended_first:
        over = events.RunEnded(1.0, "The disk is full.")
    last = (over, failed) if ended_first else (failed, over)
    report = told(started(), events.TargetFound(ONE), ended(ONE), *last)
    assert report.complete is False
    assert report.as_dict()["complete"] is False
    assert report.as_dict()["warnings"] == ["The run did not end by itself: The disk is full."]


@given(jobs)
def test_sums_add_up(ends):
    """Totals are the sums of the targets, and each target's jobs add up to what was listed."""
    report = told(started(), events.TargetFound(ONE), events.TargetFound(TWO))
    for target, end in ends:
        report(page(target, 1))
        report(
            {
                "emitted": events.JobEmitted(target),
                "gone": events.JobGone(target, job("arn")),
                "failed": events.JobFailed(target, job("arn"), "DescribeTrainingJob", "why", 1),
            }[end]
        )
    found = report.as_dict()
    for row in found["targets"]:
        assert row["listed"] == row["emitted"] + row["unchanged"] + row["gone"] + row["failed"]
    for name in ("listed", "emitted", "unchanged", "gone", "failed"):
        assert found["totals"][name] == sum(row[name] for row in found["targets"])
    assert found["totals"]["emitted"] == [end for _, end in ends].count("emitted")
    assert found["totals"]["failed"] == len(found["failures"])
    assert found["totals"]["targets"] == 2


def test_targets_are_sorted():
    """Targets stand in order of account and region, however they were found."""
    other = Target(Account("000000000000"), "us-west-2")
    rows = told(*map(events.TargetFound, (ONE, TWO, other, ONE))).as_dict()["targets"]
    assert [(row["account_id"], row["region"]) for row in rows] == [other.key, TWO.key, ONE.key]


def test_calls_are_counted_by_operation():
    """A request counts once as a call, and by how it ended; a retried one did not fail."""

    def call(operation: str, result: str, *, retried: bool) -> events.CallEnded:
        return events.CallEnded(*ONE.key, operation, result, retried, 0.1)

    report = told(
        call("B", "ok", retried=False),
        call("B", "throttled", retried=True),
        call("B", "throttled", retried=False),
        call("B", "faulted", retried=True),
        call("A", "refused", retried=False),
    )
    assert report.as_dict()["calls"] == {
        "A": {"calls": 1, "throttled": 0, "retried": 0, "failed": 1},
        "B": {"calls": 4, "throttled": 2, "retried": 2, "failed": 1},
    }
    assert list(report.as_dict()["calls"]) == ["A", "B"]


def test_equal_warnings_are_one():
    """A warning is told once, with the first place and how many more there were."""
    report = told(
        events.Warned("a", "111111111111", "us-east-1"),
        events.Warned("b"),
        events.Warned("a", "111111111111", "eu-west-1"),
        events.Warned("c", region="us-east-1"),
        events.Warned("a", "222222222222", "eu-west-1"),
        events.Warned("b"),
    )
    assert report.as_dict()["warnings"] == [
        "a (in 111111111111/us-east-1 and 2 more)",
        "b and 1 more",
        "c (in us-east-1)",
    ]


def test_drift_and_coercions_are_counted_by_path():
    """Each path counts once for each time it was noted, and paths are sorted."""
    report = told(
        events.FieldsNoted(("b", "a"), ()), events.FieldsNoted(("a", "a"), ("c",))
    ).as_dict()
    assert report["schema_drift"] == {"a": 3, "b": 1}
    assert list(report["schema_drift"]) == ["a", "b"]
    assert report["coerced"] == {"c": 1}


def test_a_given_report_does_not_change():
    """What was handed out stays as it was while the run goes on."""
    report = told(started(), events.TargetFound(ONE))
    before = report.as_dict()
    text = orjson.dumps(before)
    for event in (
        page(ONE, 1),
        events.JobFailed(ONE, job("arn"), "DescribeTrainingJob", "why", 1),
        events.Warned("x"),
        ended(ONE, rates=(("A", 1.0),)),
    ):
        report(event)
    assert orjson.dumps(before) == text
