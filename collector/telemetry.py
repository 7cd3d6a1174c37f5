"""Metrics and traces for OpenTelemetry: an observer that turns events into them.

Needs the extra `otel`. The command line sends them as OTLP to where the standard OTEL_ variables
say; a program that has providers of its own gives them to `OpenTelemetry`, or lets it take the
global ones:

    async with Collector(settings, observers=[OpenTelemetry()]) as c:
        ...

Names follow OpenTelemetry's semantic conventions for RPC, the AWS SDK and the cloud, as of 1.40;
what they have no name for is under ``collector.``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.util.types import Attributes

from collector import __version__, events
from collector.events import Event
from collector.model import Outcome, Target
from collector.tally import LABELS, Counts, Tally
from collector.text import clean

SCOPE = "collector"
"""The instrumentation scope, as OpenTelemetry calls it, of everything here."""

FLUSH_EVERY = 1.0
"""Seconds that counts may wait here: adding them one by one would cost several times as much."""


@dataclass(frozen=True, slots=True)
class Metric:
    """``unit`` in UCUM; ``attributes`` beside ``collector.table``, which every metric has."""

    name: str
    kind: str
    unit: str
    attributes: tuple[str, ...]
    meaning: str


SYSTEM, METHOD, ERROR = "rpc.system.name", "rpc.method", "error.type"
PROVIDER, ACCOUNT, REGION = "cloud.provider", "cloud.account.id", "cloud.region"
TABLE, RUN_ID, COMPLETE = "collector.table", "collector.run.id", "collector.run.complete"
RESULT, END, OUTCOME = "collector.call.result", "collector.job.end", "collector.target.outcome"
TARGETS = "collector.targets"
CALL = (SYSTEM, METHOD, REGION)

COUNTERS = {
    "calls": Metric(
        "collector.calls", "counter", "{call}", (*CALL, RESULT),
        "Requests, each attempt counted.",
    ),
    "retries": Metric(
        "collector.retries", "counter", "{call}", CALL,
        "Requests that failed and were made again at once.",
    ),
    "listed": Metric(
        "collector.jobs.listed", "counter", "{job}", (REGION,), "Jobs that the lists named.",
    ),
    "jobs": Metric(
        "collector.jobs.ended", "counter", "{job}", (REGION, END),
        "Jobs that were settled, and how.",
    ),
    "records": Metric(
        "collector.sink.records", "counter", "{record}", (), "Records that the sink took.",
    ),
    "bytes": Metric(
        "collector.sink.io", "counter", "By", (), "Bytes that the sink took, before compression.",
    ),
    "found": Metric(
        "collector.targets.found", "counter", "{target}", (REGION,),
        "Accounts and regions to read.",
    ),
    "targets": Metric(
        "collector.targets.ended", "counter", "{target}", (REGION, OUTCOME),
        "Accounts and regions that ended, and how.",
    ),
}  # fmt: skip
"""By kind of count, as `tally.LABELS` has them."""

CALL_DURATION = Metric(
    "rpc.client.call.duration", "histogram", "s", (*CALL, ERROR), "How long requests took."
)
TARGET_DURATION = Metric(
    "collector.target.duration", "histogram", "s", (REGION, OUTCOME),
    "How long targets took.",
)  # fmt: skip
RUN_DURATION = Metric(
    "collector.run.duration", "gauge", "s", (), "How long the run took, once it has ended."
)
RUN_COMPLETE = Metric(
    "collector.run.complete",
    "gauge",
    "1",
    (),
    "1 if nothing is missing, else 0; once it has ended.",
)
RATE = Metric(
    "collector.limit.rate", "gauge", "{call}/s", (ACCOUNT, REGION, METHOD),
    "Calls a second that AWS allows, once its refusals have shown it.",
)  # fmt: skip
QUEUE_DEPTH = Metric(
    "collector.queue.depth", "gauge", "{record}", (), "Records waiting for the sink."
)
QUEUE_LIMIT = Metric(
    "collector.queue.limit", "gauge", "{record}", (), "Records that may wait for the sink."
)

METRICS = (
    CALL_DURATION, *COUNTERS.values(), TARGET_DURATION, RATE, QUEUE_DEPTH, QUEUE_LIMIT,
    RUN_DURATION, RUN_COMPLETE,
)  # fmt: skip

RUN_SPAN, TARGET_SPAN = "collector.run", "collector.target"
SUMS = ("listed", "emitted", "unchanged", "gone", "failed")
"""Attributes of both spans, below ``collector.jobs.``."""

_CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Seconds, as the conventions give them."""

_TARGET_BUCKETS = (0.5, 1, 2.5, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 14400, 28800)

_NAMES = {"region": REGION, "result": RESULT, "end": END, "outcome": OUTCOME}
"""Label of a count to attribute; of a call's operation see `_call`."""

_INCOMPLETE = "some targets or jobs could not be read"
_GOOD = (Outcome.COMPLETE, Outcome.UNAVAILABLE)


class OpenTelemetry:
    """An observer of one run, or of several one after the other.

    Without providers it takes the process's global ones. ``clock`` gives seconds, ``now`` epoch
    seconds.
    """

    def __init__(
        self,
        meter_provider: metrics.MeterProvider | None = None,
        tracer_provider: trace.TracerProvider | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._instruments = _Instruments(meter_provider or metrics.get_meter_provider())
        self._spans = _Spans(tracer_provider or trace.get_tracer_provider(), now)
        self._clock = clock
        self._due = clock()
        self._tally = Tally()

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, events.RunStarted):
            self._tally = Tally()
            self._instruments.table = event.table
        self._tally(event)
        self._instruments(event)
        self._spans(event)
        if isinstance(event, events.RunEnded):
            self._spans.end(event, complete=self._tally.complete)
        # After the end the sink takes the rest, and any event may be the last.
        if self._tally.ended is not None or self._clock() >= self._due:
            self._flush()

    def close(self) -> None:
        """The process ends: a run that did not come to its end is told of, too."""
        if self._tally.ended is None:
            self._spans.end(None, complete=False)
        self._flush(over=True)

    def _flush(self, *, over: bool = False) -> None:
        self._due = self._clock() + FLUSH_EVERY
        self._instruments.add(self._tally.take())
        if over or self._tally.ended is not None:
            self._instruments.end(self._tally)


class _Instruments:
    """The metrics. ``table`` is an attribute of each."""

    def __init__(self, provider: metrics.MeterProvider) -> None:
        meter = provider.get_meter(SCOPE, __version__)
        self.table = ""
        self._counters = {
            kind: meter.create_counter(metric.name, metric.unit, metric.meaning)
            for kind, metric in COUNTERS.items()
        }
        self._calls, self._targets = (
            meter.create_histogram(
                metric.name,
                metric.unit,
                metric.meaning,
                explicit_bucket_boundaries_advisory=buckets,
            )
            for metric, buckets in (
                (CALL_DURATION, _CALL_BUCKETS),
                (TARGET_DURATION, _TARGET_BUCKETS),
            )
        )
        self._rate, self._depth, self._limit, self._seconds, self._complete = (
            meter.create_gauge(metric.name, metric.unit, metric.meaning)
            for metric in (RATE, QUEUE_DEPTH, QUEUE_LIMIT, RUN_DURATION, RUN_COMPLETE)
        )
        self._series: dict[tuple[str, ...], Attributes] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case events.CallEnded():
                series = ("calls", event.operation, event.region, event.result)
                attributes = self._series.get(series)
                if attributes is None:
                    labels = {**_call(event.operation, event.region), **_error(event.result)}
                    attributes = self._series[series] = self._attributes(labels)
                self._calls.record(event.seconds, attributes)
            case events.TargetEnded(target=target, outcome=outcome):
                labels = {REGION: target.region, OUTCOME: outcome.value}
                self._targets.record(event.seconds, self._attributes(labels))
            case events.RateChanged():
                labels = {ACCOUNT: event.account_id, REGION: event.region, METHOD: event.operation}
                self._rate.set(event.rate, self._attributes(labels))
            case events.QueueMeasured(depth=depth, capacity=capacity):
                self._depth.set(depth, self._attributes({}))
                self._limit.set(capacity, self._attributes({}))
            case events.RunStarted():
                self._series.clear()

    def add(self, counts: Counts) -> None:
        """Count on."""
        for (kind, *values), count in counts.items():
            labels = dict(zip(LABELS[kind], values, strict=True))
            named = {_NAMES[label]: value for label, value in labels.items() if label in _NAMES}
            if "operation" in labels:
                named |= _call(labels["operation"], labels["region"])
            self._counters[kind].add(count, self._attributes(named))

    def end(self, tally: Tally) -> None:
        """How the run has ended, as far as is known."""
        self._seconds.set(tally.seconds, self._attributes({}))
        self._complete.set(int(tally.complete), self._attributes({}))

    def _attributes(self, labels: dict[str, str]) -> Attributes:
        return {TABLE: self.table, **{name: value for name, value in labels.items() if value}}


def _call(operation: str, region: str) -> dict[str, str]:
    """What tells a call; one that goes to no region is a sink's request to some HTTP server."""
    system = "aws-api" if region else "http"
    return {SYSTEM: system, METHOD: operation, REGION: region}


def _error(result: str) -> dict[str, str]:
    return {} if result == "ok" else {ERROR: result}


class _Spans:
    """A span for the run, and one below it for each target."""

    def __init__(self, provider: trace.TracerProvider, now: Callable[[], float]) -> None:
        self._tracer = provider.get_tracer(SCOPE, __version__)
        self._now = now
        self._run: Span | None = None
        self._started: events.RunStarted | None = None
        self._jobs: dict[tuple[str, str], Counter[str]] = {}
        self._sums: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        match event:
            case events.JobEmitted(target=target):
                self._count(target, emitted=1)
            case events.PageListed(target=target, jobs=jobs):
                self._count(target, listed=len(jobs))
            case events.JobsUnchanged(target=target, jobs=jobs):
                self._count(target, unchanged=len(jobs))
            case events.JobGone(target=target):
                self._count(target, gone=1)
            case events.JobFailed(target=target):
                self._count(target, failed=1)
            case events.TargetResumed(target=target):
                done = {end: getattr(event, end) for end in ("emitted", "unchanged", "gone")}
                self._count(target, listed=sum(done.values()), **done)
            case events.TargetEnded():
                self._end_target(event)
            case events.RunStarted():
                self._start(event)

    def _count(self, target: Target, **counts: int) -> None:
        jobs = self._jobs.get(target.key)
        if jobs is None:
            jobs = self._jobs[target.key] = Counter()
        for end, count in counts.items():
            jobs[end] += count

    def _start(self, event: events.RunStarted) -> None:
        self._started = event
        self._jobs, self._sums = {}, Counter()
        self._run = self._tracer.start_span(
            RUN_SPAN,
            start_time=_nanoseconds(event.started_at),
            attributes={TABLE: event.table, RUN_ID: event.run_id, PROVIDER: "aws"},
        )

    def _end_target(self, event: events.TargetEnded) -> None:
        target, now = event.target, self._now()
        jobs = self._jobs.pop(target.key, Counter())
        self._sums.update(jobs)
        self._sums["targets"] += 1
        span = self._tracer.start_span(
            TARGET_SPAN,
            context=trace.set_span_in_context(self._run) if self._run else None,
            start_time=_nanoseconds(now - event.seconds),
            attributes={
                TABLE: self._started.table if self._started else "",
                PROVIDER: "aws",
                ACCOUNT: target.account.id,
                REGION: target.region,
                OUTCOME: event.outcome.value,
                **_sums(jobs),
            },
        )
        if event.outcome not in _GOOD:
            _fail(span, event.outcome.value, event.error or "")
        span.end(_nanoseconds(now))

    def end(self, event: events.RunEnded | None, *, complete: bool) -> None:
        """The run is over; without ``event``, in the middle of it."""
        if self._run is None:
            return
        span, self._run = self._run, None
        for jobs in self._jobs.values():
            self._sums.update(jobs)
        span.set_attributes(
            {COMPLETE: complete, TARGETS: self._sums["targets"], **_sums(self._sums)}
        )
        if not complete:
            why = (event.error if event else events.INTERRUPTED) or _INCOMPLETE
            _fail(span, "incomplete", why)
        span.end(_nanoseconds(event.finished_at if event else self._now()))


def _sums(jobs: Counter[str]) -> dict[str, int]:
    return {f"collector.jobs.{name}": jobs[name] for name in SUMS}


def _fail(span: Span, kind: str, why: str) -> None:
    span.set_attribute(ERROR, kind)
    span.set_status(Status(StatusCode.ERROR, clean(why)))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
