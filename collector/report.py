"""The run report: an observer that counts, and the sums it vouches for.

{"run_id", "table", "started_at", "finished_at", "complete", "mode", of a shard also "shard",
 "totals": {"targets", "listed", "emitted", "unchanged", "gone", "failed", "bytes"},
 "calls": {operation: {"calls", "throttled", "retried", "failed"}},
 "targets": [{"account_id", "region", "outcome", "listed", "emitted", "unchanged", "gone",
              "failed", "seconds", "rate": {operation: per_second}, "error"}],
 "failures": [{"arn", "operation", "error", "attempts"}],
 "schema_drift": {path: count}, "coerced": {path: count}, "warnings": [sentence]}
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from collector import events
from collector.events import Event
from collector.model import Outcome, Target

_MOST_PATHS, _OTHER_PATHS = 1_000, "..."
"""So many paths are counted one by one, and the others together: memory stays bounded."""

_GOOD = (Outcome.COMPLETE, Outcome.UNAVAILABLE)


@dataclass(slots=True)
class _Row:
    account_id: str
    region: str
    outcome: str = Outcome.FAILED
    listed: int = 0
    emitted: int = 0
    unchanged: int = 0
    gone: int = 0
    failed: int = 0
    seconds: float = 0.0
    rate: dict[str, float] = field(default_factory=dict)
    error: str | None = "not started"
    refused: int = 0

    def as_dict(self) -> dict[str, Any]:
        row = asdict(self)
        del row["refused"]
        return row


def _mark_refused(row: _Row) -> None:
    if row.refused and row.outcome == Outcome.COMPLETE:
        row.outcome = Outcome.PARTIAL
        row.error = f"{row.refused} records were refused by the sink"


@dataclass(slots=True)
class _Warning:
    first: events.Warned
    count: int = 0

    def __str__(self) -> str:
        place = "/".join(part for part in (self.first.account_id, self.first.region) if part)
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        return self.first.message + (f" (in {place}{more})" if place else more)


class Report:
    """Watches a run; `as_dict` can be asked at any time, also before the end."""

    def __init__(self) -> None:
        self._run = events.RunStarted("", "", 0.0)
        self._incremental = False
        self._finished_at: float | None = None
        self._error: str | None = None
        self._undelivered: str | None = None
        self._rows: dict[tuple[str, str], _Row] = {}
        self._calls: dict[str, Counter[str]] = {}
        self._failures: list[dict[str, Any]] = []
        self._drift: Counter[str] = Counter()
        self._coerced: Counter[str] = Counter()
        self._warnings: dict[str, _Warning] = {}
        self._bytes = 0

    def __call__(self, event: Event, /) -> None:  # noqa: C901, PLR0912 - one flat match
        match event:
            case events.CallEnded():
                self._count_call(event)
            case events.JobEmitted(target=target):
                self._row(target).emitted += 1
            case events.PageListed(target=target, jobs=jobs):
                self._row(target).listed += len(jobs)
            case events.JobsUnchanged(target=target, jobs=jobs):
                self._row(target).unchanged += len(jobs)
            case events.BytesDelivered(count=count):
                self._bytes += count
            case events.FieldsNoted(drift=drift, coerced=coerced):
                _count(self._drift, drift)
                _count(self._coerced, coerced)
            case events.JobGone(target=target):
                self._row(target).gone += 1
            case events.JobFailed(target=target):
                self._row(target).failed += 1
                self._failures.append(
                    {
                        "arn": event.job.arn,
                        "operation": event.operation,
                        "error": event.error,
                        "attempts": event.attempts,
                    }
                )
            case events.RecordRefused():
                self._refuse(event)
            case events.TargetFound(target=target):
                self._row(target)
            case events.TargetStarted(incremental=incremental):
                self._incremental |= incremental
            case events.TargetResumed():
                self._resume_target(event)
            case events.TargetEnded():
                self._end_target(event)
            case events.Warned(message=message):
                self._warnings.setdefault(message, _Warning(event)).count += 1
            case events.RunStarted():
                self._run = event
            case events.SinkClosed(error=error):
                self._undelivered = error
            case events.RunEnded(finished_at=finished_at, error=error):
                self._finished_at, self._error = finished_at, error

    def _row(self, target: Target) -> _Row:
        row = self._rows.get(target.key)
        if row is None:
            row = self._rows[target.key] = _Row(*target.key)
        return row

    def _count_call(self, event: events.CallEnded) -> None:
        counts = self._calls.get(event.operation)
        if counts is None:
            counts = self._calls[event.operation] = Counter()
        counts["calls"] += 1
        if event.result == "ok":
            return
        if event.result == "throttled":
            counts["throttled"] += 1
        counts["retried" if event.retried else "failed"] += 1

    def _refuse(self, event: events.RecordRefused) -> None:
        row = self._row(event.target)
        row.emitted -= 1
        row.failed += 1
        row.refused += 1
        self._failures.append(
            {"arn": event.job.arn, "operation": event.sink, "error": event.why, "attempts": 1}
        )
        _mark_refused(row)

    def _resume_target(self, event: events.TargetResumed) -> None:
        row = self._row(event.target)
        row.emitted += event.emitted
        row.unchanged += event.unchanged
        row.gone += event.gone
        row.listed += event.emitted + event.unchanged + event.gone

    def _end_target(self, event: events.TargetEnded) -> None:
        row = self._row(event.target)
        row.outcome = event.outcome.value
        row.seconds = round(event.seconds, 3)
        row.rate = dict(event.rates)
        row.error = event.error
        _mark_refused(row)

    @property
    def complete(self) -> bool:
        """Every target complete (or not there at all), and the run ended by itself."""
        return (
            self._finished_at is not None
            and self._error is None
            and self._undelivered is None
            and all(row.outcome in _GOOD for row in self._rows.values())
        )

    @property
    def fruitless(self) -> bool:
        """Whether not one of the targets found could be read, not even in part."""
        return bool(self._rows) and all(
            row.outcome in (Outcome.DENIED, Outcome.FAILED) and not row.emitted
            for row in self._rows.values()
        )

    def as_dict(self) -> dict[str, Any]:
        """The report as it stands; see the module's docstring for its shape."""
        rows = sorted(self._rows.values(), key=lambda row: (row.account_id, row.region))
        sums = ("listed", "emitted", "unchanged", "gone", "failed")
        kinds = ("calls", "throttled", "retried", "failed")
        error = self._error or self._undelivered
        return {
            "run_id": self._run.run_id,
            "table": self._run.table,
            "started_at": _iso(self._run.started_at),
            "finished_at": None if self._finished_at is None else _iso(self._finished_at),
            "complete": self.complete,
            "mode": "incremental" if self._incremental else "full",
            **({} if self._run.shard is None else {"shard": self._run.shard}),
            "totals": {
                "targets": len(rows),
                **{name: sum(getattr(row, name) for row in rows) for name in sums},
                "bytes": self._bytes,
            },
            "calls": {
                operation: {kind: counts[kind] for kind in kinds}
                for operation, counts in sorted(self._calls.items())
            },
            "targets": [row.as_dict() for row in rows],
            "failures": list(self._failures),
            "schema_drift": dict(sorted(self._drift.items())),
            "coerced": dict(sorted(self._coerced.items())),
            "warnings": [
                *([f"The run did not end by itself: {error}"] if error else []),
                *(str(warning) for warning in self._warnings.values()),
            ],
        }


def _count(counts: Counter[str], paths: tuple[str, ...]) -> None:
    for path in paths:
        known = path in counts or len(counts) < _MOST_PATHS
        counts[path if known else _OTHER_PATHS] += 1


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
