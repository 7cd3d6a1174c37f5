"""Reports of several runs as one: what is summed, and what keeps the whole from being complete."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import events
from collector.errors import ConfigurationError
from collector.model import Account, Outcome, Target
from collector.report import Report
from collector.report_merge import merge, summary
from collector.shards import CLOSED
from tests.event_values import job, page

FIRST, SECOND, THIRD = (digit * 12 for digit in "123")


def report(
    shard: str | None = None,
    *targets: tuple[str, str, int],
    run: str = "run",
    at: float = 0.0,
    outcome: Outcome = Outcome.COMPLETE,
    ended: bool = True,
    table: str = "table",
) -> dict[str, Any]:
    """A report as a run makes it and a file holds it; ``targets`` with their number of jobs."""
    made = Report()
    made(events.RunStarted(run, table, at, shard))
    for account, region, jobs in targets:
        target = Target(Account(account), region)
        made(events.TargetFound(target))
        made(events.TargetStarted(target))
        made(page(target, jobs))
        for _ in range(jobs):
            made(events.CallEnded(account, region, "DescribeTrainingJob", "ok", False, 0.1))
            made(events.JobEmitted(target))
        made(events.BytesDelivered(jobs, 100 * jobs))
        made(events.TargetEnded(target, outcome, 1.0, (("ListTrainingJobs", 2.0),), None))
    if ended:
        made(events.RunEnded(at + 10))
    return orjson.loads(orjson.dumps(made.as_dict()))


def merged(*reports: dict[str, Any]) -> dict[str, Any]:
    return merge({f"report-{n}.json": each for n, each in enumerate(reports)})


def test_shards_make_a_whole():
    """Sums, times and rows of three shards are those of the run that they are parts of."""
    whole = merged(
        report("2/3", (SECOND, "us-east-1", 5), run="b", at=20.0),
        report("1/3", (FIRST, "us-east-1", 2), (FIRST, "eu-west-1", 3), run="a", at=10.0),
        report("3/3", run="c", at=30.0),
    )
    alone = report(
        None, (FIRST, "us-east-1", 2), (FIRST, "eu-west-1", 3), (SECOND, "us-east-1", 5), at=10.0
    )
    assert whole == alone | {
        "run_id": "a+b+c",
        "finished_at": "1970-01-01T00:00:40.000Z",
        "complete": True,
    }
    assert list(whole) == list(alone)
    assert summary(whole, 3) == (
        "3 reports, 3 targets, 10 emitted, 0 unchanged, 0 gone, 0 failed: complete."
    )


def test_a_report_alone_stays_as_it_is():
    """What is no shard is merged with nothing into itself; a merged report can be merged again."""
    alone = report(None, (FIRST, "us-east-1", 2))
    assert merged(alone) == alone
    whole = merged(report("1/2", (FIRST, "a", 1)), report("2/2", (SECOND, "a", 1)))
    assert merged(whole) == whole


def test_everything_else_is_joined():
    """Calls, drift and coercions are summed; failures and warnings are joined, equal ones once."""
    parts = []
    for number, arn in enumerate(("arn:1", "arn:2")):
        made, target = Report(), Target(Account(FIRST), f"region-{number}")
        made(events.RunStarted("run", "table", 0.0, f"{number + 1}/2"))
        made(events.TargetStarted(target, incremental=bool(number)))
        made(events.CallEnded(FIRST, "r", "ListTags", "throttled", True, 0.1))
        made(page(target, 1))
        made(events.JobFailed(target, job(arn), "DescribeTrainingJob", "why", 4))
        made(events.FieldsNoted(("A.B",), ("c",) * number))
        made(events.Warned("both"))
        made(events.Warned(f"only {number}"))
        made(events.TargetEnded(target, Outcome.PARTIAL, 1.0, (), "why"))
        made(events.RunEnded(1.0))
        parts.append(made.as_dict())
    whole = merged(*parts)
    assert whole["calls"] == {
        "ListTags": {"calls": 2, "throttled": 2, "retried": 2, "failed": 0},
    }
    assert [failure["arn"] for failure in whole["failures"]] == ["arn:1", "arn:2"]
    assert (whole["schema_drift"], whole["coerced"]) == ({"A.B": 2}, {"c": 1})
    assert whole["warnings"] == ["both", "only 0", "only 1"]
    assert (whole["mode"], whole["complete"]) == ("incremental", False)


ONE, TWO = report("1/2", (FIRST, "a", 1), run="x"), report("2/2", (SECOND, "a", 1), run="y")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((ONE,), "no report of 2"),
        ((ONE, TWO, report("2/2")), "more than one report of 2"),
        ((ONE, TWO, report("1/3")), "of 2 and of 3"),
        ((ONE, report(None, (SECOND, "a", 1))), "no report of 2"),
        ((report(None, (FIRST, "a", 1)), report(None, (FIRST, "a", 1))), f"{FIRST}/a stand in"),
        (
            (report(None, (FIRST, "a", 1), (THIRD, "b", 1)),) * 2,
            f"{FIRST}/a and 1 more stand in",
        ),
    ],
)
def test_what_is_no_whole_is_not_complete(parts, words):
    """Shards that lack or come twice, and targets read by two runs, are told of."""
    whole = merged(*parts)
    assert all(part["complete"] for part in parts)
    assert whole["complete"] is False
    assert words in whole["warnings"][0]
    assert whole["totals"]["listed"] == sum(part["totals"]["listed"] for part in parts)
    assert whole["totals"]["targets"] == len(whole["targets"])


def test_a_part_that_is_not_complete_makes_no_whole():
    """A denied target, and a run that has not ended: no warning of our own, and no end."""
    denied = merged(ONE, report("2/2", (SECOND, "a", 0), outcome=Outcome.DENIED))
    assert (denied["complete"], denied["warnings"]) == (False, [])
    running = merged(ONE, report("2/2", (SECOND, "a", 1), ended=False))
    assert (running["complete"], running["finished_at"]) == (False, None)


def test_an_account_that_nobody_could_enter_stands_there_once():
    """Each shard that could not come in for a fault says so: that is one target of the whole."""
    parts = [
        report(f"{n}/2", (FIRST, "*", 0), (SECOND, f"r{n}", 1), outcome=Outcome.FAILED)
        for n in (1, 2)
    ]
    whole = merged(*parts)
    assert [(row["account_id"], row["region"]) for row in whole["targets"]] == [
        (FIRST, "*"),
        (SECOND, "r1"),
        (SECOND, "r2"),
    ]
    assert whole["totals"]["targets"] == 3
    assert whole["complete"] is False


@pytest.mark.parametrize(
    ("accounts", "closed", "complete"),
    [
        ((FIRST, SECOND), (FIRST, SECOND, THIRD), True),
        ((FIRST, SECOND), (FIRST, SECOND), True),
        ((FIRST, SECOND), (FIRST,), False),
        ((FIRST, SECOND), (SECOND, THIRD), False),
        ((FIRST,), (), False),
        ((), (FIRST,), True),
    ],
)
def test_an_account_that_was_closed_to_some_shards_only_is_told_of(accounts, closed, complete):
    """A role that came and went: what one shard was kept out of stands in no other's report."""
    made = Report()
    made(events.RunStarted("run", "table", 0.0, "2/2"))
    for account in accounts:
        made(events.Warned(CLOSED, account))
    made(events.RunEnded(1.0))
    whole = merged(report("1/2", *((account, "*", 0) for account in closed)), made.as_dict())
    told = [warning for warning in whole["warnings"] if "Shard 2/2 was kept out" in warning]
    assert [FIRST in warning for warning in told] == ([] if complete else [True])
    assert whole["complete"] is complete


@given(
    jobs=st.dictionaries(st.tuples(st.sampled_from((FIRST, SECOND)), st.sampled_from("abcdef")),
                         st.integers(0, 4)),
    of=st.integers(1, 5),
)  # fmt: skip
def test_any_whole_is_the_sum_of_its_shards(jobs, of):
    """However targets fall to shards, the report of all is that of the run without any."""
    targets = sorted((*key, count) for key, count in jobs.items())
    parts = [report(f"{n + 1}/{of}", *targets[n::of]) for n in range(of)]
    assert merged(*parts) == report(None, *targets) | {"run_id": "run"}


def spoilt(change) -> Any:
    value = copy.deepcopy(ONE)
    change(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        7,
        spoilt(lambda value: value.pop("totals")),
        spoilt(lambda value: value.update(complete="maybe")),
        spoilt(lambda value: value.update(shard="3")),
        spoilt(lambda value: value.update(shard="3/2")),
        spoilt(lambda value: value.update(started_at="yesterday")),
        spoilt(lambda value: value.update(more=1)),
        spoilt(lambda value: value["targets"][0].pop("region")),
        spoilt(lambda value: value["targets"][0].update(outcome="good")),
        spoilt(lambda value: value["totals"].update(listed=-1)),
    ],
)
def test_what_is_no_report_is_refused_by_name(value):
    """One sentence that names the file; nothing is guessed."""
    with pytest.raises(ConfigurationError, match=r"^report-1\.json is not the report of a run"):
        merged(ONE, value)


def test_reports_of_two_tables_are_refused():
    """Both are named."""
    with pytest.raises(ConfigurationError, match=r"report-1\.json is of the table other.*table"):
        merged(ONE, report("2/2", table="other"))
