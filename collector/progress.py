"""Progress of a run and its closing table, on a terminal's stderr."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from collector import events
from collector.events import Event
from collector.text import clean

_MOST_TROUBLES = 20
"""Rows of targets that are not complete; the report has them all."""


class ProgressBar:
    """An observer that draws targets, jobs, rate, throttles and time left. Use as a context."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[targets]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[jobs]}"),
            TextColumn("{task.fields[throttled]}", style="dim"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=5,
        )
        self._task: TaskID = self._progress.add_task(
            "", total=None, targets="finding targets", jobs="", throttled=""
        )
        self._found = self._ended = self._jobs = self._calls = self._throttled = 0
        self._listed: Counter[tuple[str, str]] = Counter()
        self._done: Counter[tuple[str, str]] = Counter()
        self._all_found = False

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event, /) -> None:
        match event:
            case events.CallEnded(result=result):
                self._calls += 1
                self._throttled += result == "throttled"
                return  # drawn with the next job
            case events.JobEmitted(target=target) | events.JobGone(target=target):
                self._done[target.key] += 1
                self._jobs += 1
            case events.PageListed(target=target, jobs=jobs):
                self._listed[target.key] += len(jobs)
            case events.JobsUnchanged(target=target, jobs=jobs):
                self._done[target.key] += len(jobs)
                self._jobs += len(jobs)
            case events.TargetFound():
                self._found += 1
            case events.DiscoveryEnded():
                self._all_found = True
            case events.TargetEnded(target=target):
                self._ended += 1
                self._listed.pop(target.key, None)
                self._done.pop(target.key, None)
            case _:
                return
        self._draw()

    def _draw(self) -> None:
        task = self._progress.tasks[0]
        elapsed = task.elapsed or 0.0
        rate = f" ({self._jobs / elapsed:.0f}/s)" if elapsed > 1 else ""
        share = self._throttled / self._calls if self._calls else 0.0
        parts = sum(self._done[key] / count for key, count in self._listed.items() if count)
        self._progress.update(
            self._task,
            completed=self._ended + parts,
            total=self._found if self._all_found and self._found else None,
            targets=f"{self._ended}/{self._found} targets",
            jobs=f"{self._jobs} jobs{rate}",
            throttled=f"{share:.1%} throttled" if self._throttled else "",
        )


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """The run in a few lines: totals, calls, and the targets that are not complete."""
    totals, calls = report["totals"], report["calls"]
    outcomes = Counter(target["outcome"] for target in report["targets"])
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    targets = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    table.add_row("targets", Text(f"{totals['targets']} ({targets})" if targets else "0"))
    jobs = ", ".join(
        f"{totals[name]} {name}"
        for name in ("emitted", "unchanged", "gone", "failed")
        if totals[name]
    )
    table.add_row("jobs", Text(f"{totals['listed']} listed" + (f": {jobs}" if jobs else "")))
    table.add_row("bytes", Text(f"{totals['bytes']:,}"))
    for operation, count in calls.items():
        extra = ", ".join(
            f"{count[kind]} {kind}" for kind in ("throttled", "retried", "failed") if count[kind]
        )
        table.add_row(operation, Text(f"{count['calls']} calls" + (f" ({extra})" if extra else "")))
    console.print(table)
    troubles = [
        row for row in report["targets"] if row["outcome"] not in ("complete", "unavailable")
    ]
    for row in troubles[:_MOST_TROUBLES]:
        line = f"{row['account_id']} {row['region']}: {row['outcome']}"
        console.print(Text(clean(line + (f": {row['error']}" if row["error"] else ""))))
    if len(troubles) > _MOST_TROUBLES:
        console.print(Text(f"... and {len(troubles) - _MOST_TROUBLES} more, all in the report"))
    for warning in report["warnings"]:
        console.print(Text(clean(f"warning: {warning}")))
    for kind, name in (("schema_drift", "not in the table"), ("coerced", "of another type")):
        if report[kind]:
            fields = ", ".join(f"{path} ({count})" for path, count in report[kind].items())
            console.print(Text(clean(f"{name}: {fields}")))
    console.print(Text("complete" if report["complete"] else "NOT complete", style="bold"))
