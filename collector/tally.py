"""What metrics are made of: the events of a run as counts, whoever publishes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from collector import events
from collector.events import Event
from collector.model import Outcome

LABELS: Mapping[str, tuple[str, ...]] = {
    "calls": ("operation", "region", "result"),
    "retries": ("operation", "region"),
    "listed": ("region",),
    "jobs": ("region", "end"),
    "records": (),
    "bytes": (),
    "found": ("region",),
    "targets": ("region", "outcome"),
}
"""Kind of count to what tells its series apart.

No account among them: a thousand accounts in every region would be more series than a backend
takes. `calls` and `retries` count as in the report. A job that the sink ``refused`` is among those
``emitted``, too, since counts only grow.
"""

Counts = Counter[tuple[str, ...]]
"""(kind, *its labels) to how many."""

_GOOD = (Outcome.COMPLETE, Outcome.UNAVAILABLE)


class Tally:
    """An observer that counts. `take` gives what has come since the last time."""

    def __init__(self) -> None:
        self._counts: Counts = Counter()
        self._outcomes: dict[tuple[str, str], Outcome | None] = {}
        self._lost = False
        self.started_at: float | None = None
        self.ended: events.RunEnded | None = None

    def __call__(self, event: Event, /) -> None:  # noqa: C901, PLR0912 - one flat match
        counts = self._counts
        match event:
            case events.CallEnded():
                counts["calls", event.operation, event.region, event.result] += 1
                if event.retried:
                    counts["retries", event.operation, event.region] += 1
            case events.JobEmitted(target=target):
                counts["jobs", target.region, "emitted"] += 1
            case events.PageListed(target=target, jobs=jobs):
                counts["listed", target.region] += len(jobs)
            case events.JobsUnchanged(target=target, jobs=jobs):
                counts["jobs", target.region, "unchanged"] += len(jobs)
            case events.JobGone(target=target):
                counts["jobs", target.region, "gone"] += 1
            case events.JobFailed(target=target):
                counts["jobs", target.region, "failed"] += 1
            case events.RecordRefused(target=target):
                counts["jobs", target.region, "refused"] += 1
                self._lost = True
            case events.TargetResumed(target=target):
                self._resume(event)
            case events.BytesDelivered(records=records, count=count):
                counts["records",] += records
                counts["bytes",] += count
            case events.TargetFound(target=target):
                counts["found", target.region] += 1
                self._outcomes[target.key] = None
            case events.TargetEnded(target=target, outcome=outcome):
                counts["targets", target.region, outcome.value] += 1
                self._outcomes[target.key] = outcome
            case events.SinkClosed():
                self._lost = True
            case events.RunStarted(started_at=started_at):
                self.started_at = started_at
            case events.RunEnded():
                self.ended = event

    def _resume(self, event: events.TargetResumed) -> None:
        """As the report does, count what this run had done before it was cut off."""
        region, counts = event.target.region, self._counts
        ends = {"emitted": event.emitted, "unchanged": event.unchanged, "gone": event.gone}
        for end, count in ends.items():
            counts["jobs", region, end] += count
        counts["listed", region] += sum(ends.values())

    def take(self) -> Counts:
        """What was counted since the last time."""
        counts, self._counts = self._counts, Counter()
        return counts

    @property
    def complete(self) -> bool:
        """The run ended by itself, every target is read or not there at all, nothing is lost."""
        return (
            self.ended is not None
            and self.ended.error is None
            and not self._lost
            and all(outcome in _GOOD for outcome in self._outcomes.values())
        )

    @property
    def seconds(self) -> float:
        """How long the run took; 0.0 while it lasts."""
        if self.ended is None or self.started_at is None:
            return 0.0
        return max(0.0, self.ended.finished_at - self.started_at)
