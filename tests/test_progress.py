"""The progress bar and the closing table, drawn on a console that keeps its text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from collector import events
from collector.model import Account, Outcome, Target
from collector.progress import ProgressBar, print_report
from collector.report import Report
from tests.event_values import job, page

ONE = Target(Account("111111111111"), "us-east-1")
TWO = Target(Account("111111111111"), "eu-west-1")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)


def text(console: Console) -> str:
    return console.file.getvalue()


def task(bar: ProgressBar):
    return bar._progress.tasks[0]


def test_the_bar_follows_the_run(console):
    """Targets, jobs and throttles are counted; the end is known once all targets are."""
    with ProgressBar(console) as bar:
        bar(events.RunStarted("r", "t", 0.0))
        bar(events.TargetFound(ONE))
        bar(events.TargetFound(TWO))
        assert task(bar).total is None
        bar(events.DiscoveryEnded())
        assert task(bar).total == 2
        bar(page(ONE, 4))
        bar(events.CallEnded(*ONE.key, "DescribeTrainingJob", "throttled", True, 0.1))
        bar(events.CallEnded(*ONE.key, "DescribeTrainingJob", "ok", False, 0.1))
        bar(events.JobEmitted(ONE))
        bar(events.JobGone(ONE, job("arn")))
        assert task(bar).completed == pytest.approx(0.5)
        fields = task(bar).fields
        assert fields["targets"] == "0/2 targets"
        assert fields["jobs"].startswith("2 jobs")
        assert fields["throttled"] == "50.0% throttled"
        bar(events.TargetEnded(ONE, Outcome.COMPLETE, 1.0))
        assert task(bar).completed == 1
        bar(events.TargetEnded(TWO, Outcome.UNAVAILABLE, 1.0))
        assert task(bar).completed == task(bar).total == 2
    assert "2/2 targets" in text(console)


def test_memory_of_ended_targets_is_let_go(console):
    """What is kept for the bar does not grow with the targets that are done."""
    bar = ProgressBar(console)
    for number in range(100):
        target = Target(Account(f"{number:012}"), "us-east-1")
        for event in (events.TargetFound(target), page(target, 1)):
            bar(event)
        bar(events.JobEmitted(target))
        bar(events.TargetEnded(target, Outcome.COMPLETE, 1.0))
    assert (len(bar._listed), len(bar._done)) == (0, 0)


def report(*more: events.Event, targets=((ONE, Outcome.COMPLETE, None),)) -> dict:
    made = Report()
    for event in more:
        made(event)
    for target, outcome, error in targets:
        made(events.TargetEnded(target, outcome, 1.0, (), error))
    made(events.RunEnded(1.0))
    return made.as_dict()


def test_the_table_tells_the_run(console):
    """Totals, calls, bytes and the verdict are there; what is zero is not."""
    print_report(
        console,
        report(
            page(ONE, 3),
            events.JobEmitted(ONE),
            events.JobEmitted(ONE),
            events.JobGone(ONE, job("arn")),
            events.BytesDelivered(2, 1_234_567),
            events.CallEnded(*ONE.key, "DescribeTrainingJob", "throttled", True, 0.1),
        ),
    )
    shown = text(console)
    assert "1 (1 complete)" in shown
    assert "3 listed: 2 emitted, 1 gone" in shown
    assert "1,234,567" in shown
    assert "1 calls (1 throttled, 1 retried)" in shown
    assert "failed" not in shown
    assert shown.rstrip().endswith("complete")
    assert "NOT" not in shown


def test_troubles_are_told(console):
    """Targets that are not complete, warnings, drift and coerced values are told; others not."""
    print_report(
        console,
        report(
            events.Warned("careful [bold]now[/bold]"),
            events.FieldsNoted(("NewMember",), ("environment{}",)),
            targets=(
                (ONE, Outcome.DENIED, "may [not]"),
                (TWO, Outcome.UNAVAILABLE, "not enabled"),
            ),
        ),
    )
    shown = text(console)
    assert "111111111111 us-east-1: denied: may [not]" in shown
    assert "not enabled" not in shown
    assert "warning: careful [bold]now[/bold]" in shown
    assert "not in the table: NewMember (1)" in shown
    assert "of another type: environment{} (1)" in shown
    assert "NOT complete" in shown


def test_many_troubles_are_cut(console):
    """A hundred failed targets do not scroll the totals away."""
    targets = tuple(
        (Target(Account(f"{number:012}"), "us-east-1"), Outcome.FAILED, None)
        for number in range(100)
    )
    print_report(console, report(targets=targets))
    shown = text(console)
    assert len(shown.splitlines()) < 40
    assert "more, all in the report" in shown


def test_a_run_without_targets_is_told(console):
    """A report with nothing in it can be shown."""
    print_report(console, Report().as_dict())
    assert "NOT complete" in text(console)
