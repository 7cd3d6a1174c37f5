"""What happens in a run, as frozen values, and the protocol of those who watch.

The stream tells its observers and never asks them: report, progress, log and metrics are all the
same to it. No imports from the rest of the package but the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from collector.model import Cursor, Job, Outcome, Target

INTERRUPTED = "interrupted before it was read whole"
"""Error of a target, and of its jobs, where the run was stopped."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """``started_at`` in epoch seconds; ``shard`` as 3/16, None where the run is the whole."""

    run_id: str
    table: str
    started_at: float
    shard: str | None = None


@dataclass(frozen=True, slots=True)
class TargetFound:
    """A target will be read."""

    target: Target


@dataclass(frozen=True, slots=True)
class DiscoveryEnded:
    """Every target is known."""


@dataclass(frozen=True, slots=True)
class TargetStarted:
    """``incremental``: what did not change since an earlier run is left out."""

    target: Target
    incremental: bool = False


@dataclass(frozen=True, slots=True)
class TargetResumed:
    """Jobs that are in this run's output already, from before it was cut off."""

    target: Target
    emitted: int
    unchanged: int
    gone: int


@dataclass(frozen=True, slots=True)
class PageListed:
    """A page brought new ``jobs``; the list is at ``cursor`` now.

    ``as_of`` is when the target's crawl started, in epoch seconds of the service's clock.
    """

    target: Target
    jobs: tuple[Job, ...]
    cursor: Cursor
    as_of: float


@dataclass(frozen=True, slots=True)
class CallEnded:
    """One HTTP request ended. ``result`` says how; ``retried`` that it will be made again."""

    account_id: str
    region: str
    operation: str
    result: Literal["ok", "throttled", "faulted", "refused"]
    retried: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class RateChanged:
    """AWS's refusals have shown another limit: ``rate`` calls a second of this operation."""

    account_id: str
    region: str
    operation: str
    rate: float


@dataclass(frozen=True, slots=True)
class JobsUnchanged:
    """Listed jobs that an earlier run delivered as they are, or that a later one is to read."""

    target: Target
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class JobEmitted:
    target: Target


@dataclass(frozen=True, slots=True)
class JobGone:
    target: Target
    job: Job


@dataclass(frozen=True, slots=True)
class JobFailed:
    """A listed job will not be in the output; ``error`` is one sentence."""

    target: Target
    job: Job
    operation: str
    error: str
    attempts: int


@dataclass(frozen=True, slots=True)
class RecordRefused:
    """``sink`` can never take the record of a job that was emitted: it is not in the output."""

    target: Target
    job: Job
    sink: str
    why: str


@dataclass(frozen=True, slots=True)
class BytesDelivered:
    """``records`` records, ``count`` bytes of NDJSON, were taken by the sink."""

    records: int
    count: int


@dataclass(frozen=True, slots=True)
class QueueMeasured:
    """``depth`` records of at most ``capacity`` were waiting when a batch of them was taken."""

    depth: int
    capacity: int


@dataclass(frozen=True, slots=True)
class SinkClosed:
    """The sink takes no more, since it failed or its reader went away: the run ends here."""


@dataclass(frozen=True, slots=True)
class FieldsNoted:
    """Members the table lacks (``drift``) and values of a wrong type (``coerced``), as paths."""

    drift: tuple[str, ...]
    coerced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Warned:
    """Something a person should know. Equal ``message`` are counted together, not repeated."""

    message: str
    account_id: str = ""
    region: str = ""


@dataclass(frozen=True, slots=True)
class TargetEnded:
    """How a target ended; ``error`` is a sentence or None.

    ``rates`` are calls a second by operation, as they stood; ``measured`` those of them that were
    confirmed by AWS's refusals.
    """

    target: Target
    outcome: Outcome
    seconds: float
    rates: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    measured: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event: what could be read is delivered, or never will be.

    ``error`` says why the run as a whole stopped early, or is None.
    """

    finished_at: float
    error: str | None = None


Event = (
    RunStarted
    | TargetFound
    | DiscoveryEnded
    | TargetStarted
    | TargetResumed
    | PageListed
    | CallEnded
    | RateChanged
    | JobsUnchanged
    | JobEmitted
    | JobGone
    | JobFailed
    | RecordRefused
    | BytesDelivered
    | QueueMeasured
    | SinkClosed
    | FieldsNoted
    | Warned
    | TargetEnded
    | RunEnded
)


class Observer(Protocol):
    """Anyone who watches a run. Must be quick, must not raise, cannot steer."""

    def __call__(self, event: Event, /) -> None: ...
