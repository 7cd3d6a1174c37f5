"""OpenTelemetry: every metric and span, with the SDK's in-memory exporters, and the set-up."""

from __future__ import annotations

import logging
import sys
import threading

import pytest
from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import (
    cloud_attributes,
    error_attributes,
    rpc_attributes,
)
from opentelemetry.semconv._incubating.metrics import rpc_metrics
from opentelemetry.trace import StatusCode
from structlog.testing import capture_logs

from collector import Settings, events, otlp, telemetry
from collector.errors import ConfigurationError
from collector.model import Account, Outcome, Target
from collector.telemetry import METRICS, OpenTelemetry
from tests.event_values import job, page

ONE = Target(Account("111111111111"), "us-east-1")
TWO = Target(Account("222222222222"), "eu-west-1")
TABLE = "aws_sagemaker_trainingjob"
STARTED = 1_700_000_000.0


class Telemetry:
    """The observer under test over in-memory exporters, with its clocks."""

    def __init__(self) -> None:
        self.reader, self.exporter = InMemoryMetricReader(), InMemorySpanExporter()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.now, self.seconds = STARTED + 60, 0.0
        self.observer = OpenTelemetry(
            self.meters, self.tracers, clock=lambda: self.seconds, now=lambda: self.now
        )

    def __call__(self, *told: events.Event) -> None:
        for event in told:
            self.observer(event)

    def metrics(self) -> dict:
        """Name to (kind, unit, {attributes: value}); the value of a histogram is (count, sum)."""
        data = self.reader.get_metrics_data()
        found = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "collector"
                for metric in scope.metrics:
                    points = metric.data.data_points
                    found[metric.name] = (
                        type(metric.data).__name__,
                        metric.unit,
                        {frozenset(point.attributes.items()): value_of(point) for point in points},
                    )
        return found

    def points(self, name: str) -> list[tuple[dict, object]]:
        return [(dict(key), value) for key, value in self.metrics()[name][2].items()]

    @property
    def spans(self) -> dict:
        return {
            (span.name, span.attributes.get("cloud.region")): span
            for span in self.exporter.get_finished_spans()
        }


def value_of(point):
    return (point.count, point.sum) if hasattr(point, "bucket_counts") else point.value


@pytest.fixture
def told():
    """A run in which everything happens."""
    telemetry_ = Telemetry()
    telemetry_(
        events.RunStarted("run-1", TABLE, STARTED),
        events.TargetFound(ONE),
        events.TargetFound(TWO),
        events.TargetStarted(ONE),
        page(ONE, 5),
        events.CallEnded(*ONE.key, "DescribeTrainingJob", "ok", retried=False, seconds=0.25),
        events.CallEnded(*ONE.key, "DescribeTrainingJob", "ok", retried=False, seconds=0.5),
        events.CallEnded(*ONE.key, "DescribeTrainingJob", "throttled", retried=True, seconds=0.1),
        events.CallEnded(*TWO.key, "ListTrainingJobs", "refused", retried=False, seconds=0.1),
        events.CallEnded("", "", "POST", "ok", retried=False, seconds=0.1),
        events.RateChanged(*ONE.key, "DescribeTrainingJob", 21.0),
        events.RateChanged(*ONE.key, "DescribeTrainingJob", 19.5),
        events.JobEmitted(ONE),
        events.JobEmitted(ONE),
        events.JobsUnchanged(ONE, (job("arn:same"),)),
        events.JobGone(ONE, job("arn:gone")),
        events.JobFailed(ONE, job("arn:failed"), "DescribeTrainingJob", "why", 4),
        events.QueueMeasured(2, 1000),
        events.TargetEnded(ONE, Outcome.PARTIAL, 12.5, error="1 job could not\x1b[31m be read"),
        events.TargetEnded(TWO, Outcome.DENIED, 0.5, error="AccessDenied: no"),
        events.RunEnded(STARTED + 30),
        events.BytesDelivered(2, 900),
    )
    return telemetry_


def test_every_metric_is_as_it_is_described(told):
    """Each metric of the table is published with its kind, its unit and no other attributes."""
    kinds = {"Sum": "counter", "Histogram": "histogram", "Gauge": "gauge"}
    found = told.metrics()
    assert {name: (kinds[kind], unit) for name, (kind, unit, _) in found.items()} == {
        metric.name: (metric.kind, metric.unit) for metric in METRICS
    }
    for metric in METRICS:
        used = {name for attributes, _ in told.points(metric.name) for name in attributes}
        assert used == {"collector.table", *metric.attributes}, metric.name
        assert {attributes["collector.table"] for attributes, _ in told.points(metric.name)} == {
            TABLE
        }


def total(told, name, **attributes):
    wanted = {key.replace("_", "."): value for key, value in attributes.items()}
    return sum(value for found, value in told.points(name) if wanted.items() <= {**found}.items())


def test_counts_are_the_events(told):
    """Calls, retries, jobs, records, bytes and targets are what the events add up to."""
    assert total(told, "collector.calls", rpc_method="DescribeTrainingJob") == 3
    assert total(told, "collector.calls", collector_call_result="throttled") == 1
    assert total(told, "collector.calls", rpc_method="POST") == 1
    assert total(told, "collector.retries") == 1
    assert total(told, "collector.jobs.listed", cloud_region=ONE.region) == 5
    ends = {
        attributes["collector.job.end"]: value
        for attributes, value in told.points("collector.jobs.ended")
    }
    assert ends == {"emitted": 2, "unchanged": 1, "gone": 1, "failed": 1}
    assert total(told, "collector.sink.records") == 2
    assert total(told, "collector.sink.io") == 900
    assert total(told, "collector.targets.found") == 2
    assert total(told, "collector.targets.ended", collector_target_outcome="denied") == 1
    ((_, queued),) = told.points("collector.queue.depth")
    ((_, limit),) = told.points("collector.queue.limit")
    assert (queued, limit) == (2, 1000)


def test_durations_and_rates_are_the_events(told):
    """Calls and targets are timed as the events say; the last rate of a scope stands."""
    calls = {
        (attributes["rpc.method"], attributes.get("error.type")): value
        for attributes, value in told.points("rpc.client.call.duration")
    }
    assert calls["DescribeTrainingJob", None] == (2, 0.75)
    assert calls["DescribeTrainingJob", "throttled"] == (1, 0.1)
    targets = {
        attributes["collector.target.outcome"]: value
        for attributes, value in told.points("collector.target.duration")
    }
    assert targets == {"partial": (1, 12.5), "denied": (1, 0.5)}
    ((scope, rate),) = told.points("collector.limit.rate")
    assert rate == 19.5
    assert scope["cloud.account.id"] == ONE.account.id
    ((_, seconds),) = told.points("collector.run.duration")
    ((_, complete),) = told.points("collector.run.complete")
    assert (seconds, complete) == (30.0, 0)


def test_no_metric_but_the_rate_knows_accounts():
    """A thousand accounts do not make a thousand series of each metric."""
    assert [m.name for m in METRICS if "cloud.account.id" in m.attributes] == [
        "collector.limit.rate"
    ]


def test_names_are_the_conventions():
    """What OpenTelemetry has a name for has that name, and not one that is given up."""
    assert telemetry.CALL_DURATION.name == rpc_metrics.RPC_CLIENT_CALL_DURATION
    conventions = {
        rpc_attributes.RPC_SYSTEM_NAME,
        rpc_attributes.RPC_METHOD,
        cloud_attributes.CLOUD_REGION,
        cloud_attributes.CLOUD_ACCOUNT_ID,
        error_attributes.ERROR_TYPE,
    }
    used = {name for metric in METRICS for name in metric.attributes}
    assert {name for name in used if not name.startswith("collector.")} == conventions


def test_spans_are_the_run_and_its_targets(told):
    """One trace: the run, and below it each target, with their own times, counts and outcome."""
    spans = told.spans
    assert set(spans) == {
        ("collector.run", None),
        ("collector.target", ONE.region),
        ("collector.target", TWO.region),
    }
    run, one = spans["collector.run", None], spans["collector.target", ONE.region]
    assert run.parent is None
    assert (run.start_time, run.end_time) == (STARTED * 1e9, (STARTED + 30) * 1e9)
    assert dict(run.attributes) == {
        "cloud.provider": "aws",
        "collector.table": TABLE,
        "collector.run.id": "run-1",
        "collector.run.complete": False,
        "collector.targets": 2,
        "collector.jobs.listed": 5,
        "collector.jobs.emitted": 2,
        "collector.jobs.unchanged": 1,
        "collector.jobs.gone": 1,
        "collector.jobs.failed": 1,
        "error.type": "incomplete",
    }
    assert one.parent.span_id == run.context.span_id
    assert one.context.trace_id == run.context.trace_id
    assert (one.start_time, one.end_time) == ((told.now - 12.5) * 1e9, told.now * 1e9)
    assert dict(one.attributes) == {
        "cloud.provider": "aws",
        "cloud.account.id": ONE.account.id,
        "cloud.region": ONE.region,
        "collector.table": TABLE,
        "collector.target.outcome": "partial",
        "collector.jobs.listed": 5,
        "collector.jobs.emitted": 2,
        "collector.jobs.unchanged": 1,
        "collector.jobs.gone": 1,
        "collector.jobs.failed": 1,
        "error.type": "partial",
    }
    assert one.status.status_code is StatusCode.ERROR
    assert one.status.description == "1 job could not  be read"


def test_a_good_run_has_no_error():
    """Complete and unavailable are no errors, and a run of them is complete."""
    telemetry_ = Telemetry()
    telemetry_(
        events.RunStarted("run-1", TABLE, STARTED),
        events.TargetEnded(ONE, Outcome.COMPLETE, 1.0),
        events.TargetEnded(TWO, Outcome.UNAVAILABLE, 1.0, error="not enabled"),
        events.RunEnded(STARTED + 2),
    )
    assert {span.status.status_code for span in telemetry_.spans.values()} == {StatusCode.UNSET}
    assert not any("error.type" in span.attributes for span in telemetry_.spans.values())
    ((_, complete),) = telemetry_.points("collector.run.complete")
    assert complete == 1


def test_counts_are_handed_on_as_time_goes_by():
    """While a run lasts, its counts are published a second late at most."""
    telemetry_ = Telemetry()
    telemetry_(events.RunStarted("run-1", TABLE, STARTED), events.JobEmitted(ONE))
    telemetry_.seconds += telemetry.FLUSH_EVERY
    telemetry_(events.JobEmitted(ONE))
    assert total(telemetry_, "collector.jobs.ended") == 2


def test_an_interrupted_run_is_closed():
    """A run without an end is told of when the process ends, as an error."""
    telemetry_ = Telemetry()
    telemetry_(events.RunStarted("run-1", TABLE, STARTED), events.JobEmitted(ONE))
    telemetry_.observer.close()
    (run,) = telemetry_.spans.values()
    assert run.status.status_code is StatusCode.ERROR
    assert run.end_time == telemetry_.now * 1e9
    assert total(telemetry_, "collector.jobs.ended") == 1
    ((_, complete),) = telemetry_.points("collector.run.complete")
    assert complete == 0


def test_a_resumed_run_counts_as_the_report_does():
    """Jobs that are in the output from before the run was cut off are this run's, everywhere."""
    telemetry_ = Telemetry()
    telemetry_(
        events.RunStarted("run-1", TABLE, STARTED),
        events.TargetResumed(ONE, emitted=10, unchanged=2, gone=1),
        events.JobEmitted(ONE),
        events.TargetEnded(ONE, Outcome.COMPLETE, 1.0),
        events.RunEnded(STARTED + 2),
    )
    assert total(telemetry_, "collector.jobs.ended", collector_job_end="emitted") == 11
    assert total(telemetry_, "collector.jobs.ended", collector_job_end="gone") == 1
    assert total(telemetry_, "collector.jobs.listed") == 13
    run = telemetry_.spans["collector.run", None]
    assert run.attributes["collector.jobs.emitted"] == 11


def test_one_observer_can_watch_several_runs():
    """The next run adds to the counters, and has a span and an end of its own."""
    telemetry_ = Telemetry()
    for number, outcome in enumerate((Outcome.DENIED, Outcome.COMPLETE)):
        telemetry_(
            events.RunStarted(f"run-{number}", TABLE, STARTED),
            events.JobEmitted(ONE),
            events.TargetEnded(ONE, outcome, 1.0),
            events.RunEnded(STARTED + 2),
        )
    runs = [s for s in telemetry_.exporter.get_finished_spans() if s.name == "collector.run"]
    assert [span.attributes["collector.run.id"] for span in runs] == ["run-0", "run-1"]
    assert [span.attributes["collector.run.complete"] for span in runs] == [False, True]
    assert [span.attributes["collector.jobs.emitted"] for span in runs] == [1, 1]
    assert total(telemetry_, "collector.jobs.ended") == 2


def test_two_observers_share_a_provider():
    """Each run of a library may have its own observer: the same metrics add up, nothing warns."""
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    for _ in range(2):
        observer = OpenTelemetry(meters, TracerProvider(shutdown_on_exit=False))
        observer(events.RunStarted("run-1", TABLE, STARTED))
        observer(events.JobEmitted(ONE))
        observer(events.RunEnded(STARTED))
    (resource,) = reader.get_metrics_data().resource_metrics
    (jobs,) = [m for m in resource.scope_metrics[0].metrics if m.name == "collector.jobs.ended"]
    assert [point.value for point in jobs.data.data_points] == [2]


def test_the_global_providers_are_the_default(monkeypatch):
    """Without arguments the providers that the program has set are written to."""
    telemetry_ = Telemetry()
    monkeypatch.setattr(otel_metrics, "get_meter_provider", lambda: telemetry_.meters)
    monkeypatch.setattr(otel_trace, "get_tracer_provider", lambda: telemetry_.tracers)
    observer = OpenTelemetry()
    observer(events.RunStarted("run-1", TABLE, STARTED))
    observer(events.RunEnded(STARTED))
    assert ("collector.run", None) in telemetry_.spans
    assert telemetry_.points("collector.run.complete")


# ------------------------------------------------------------------------------------- set-up


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """The SDK's logger is the process's own: what a test sets up is taken down again."""
    logger = logging.getLogger("opentelemetry")
    handlers, propagate = list(logger.handlers), logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OTEL_METRICS_EXPORTER", "console", "OTEL_METRICS_EXPORTER=console"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER=zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "x", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=x"),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "grpc",
            "pip install opentelemetry-exporter-otlp-proto-grpc",
        ),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "OpenTelemetry cannot be set up"),
    ],
)
def test_variables_that_cannot_be_met_are_one_sentence(monkeypatch, name, value, says):
    """What the variables ask for and is not there stops the run before it starts."""
    monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc", None)
    with pytest.raises(ConfigurationError, match=says) as caught:
        otlp.start(Settings(metrics="otel"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_what_is_turned_off_starts_no_thread(monkeypatch, variables):
    """Without exporters there is nobody to send to, and nothing that would."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = threading.active_count()
    observer = otlp.start(Settings(metrics="otel"))
    observer(events.RunStarted("run-1", TABLE, STARTED))
    assert threading.active_count() == before
    observer.close()


class Stuck(SpanExporter):
    """A receiver that does not answer until it is given up on."""

    def __init__(self) -> None:
        self.asked, self.left = threading.Event(), threading.Event()

    def export(self, spans):  # noqa: ARG002
        self.asked.set()
        self.left.wait()
        return SpanExportResult.FAILURE

    def shutdown(self):
        self.left.set()


def test_the_end_does_not_wait_for_a_receiver_that_does_not_answer(monkeypatch):
    """After FLUSH_SECONDS an export that is under way is given up."""
    monkeypatch.setattr(otlp, "FLUSH_SECONDS", 0.05)
    exporter = Stuck()
    observer = otlp.Otlp(None, exporter, Resource.get_empty())
    observer(events.RunStarted("run-1", TABLE, STARTED))
    observer.close()
    assert exporter.asked.is_set()
    assert exporter.left.is_set()


def test_the_service_has_a_name_unless_it_is_given_one(monkeypatch):
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come over our own."""
    made = []
    monkeypatch.setattr(otlp, "Otlp", lambda _, __, resource: made.append(resource.attributes))
    otlp.start(Settings())
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.name=a"
    )
    otlp.start(Settings())
    monkeypatch.setenv("OTEL_SERVICE_NAME", "b")
    otlp.start(Settings())
    assert [attributes["service.name"] for attributes in made] == [otlp.SERVICE, "a", "b"]
    assert made[2]["deployment.environment.name"] == "prod"


def test_a_receiver_that_is_not_there_is_told_of_once():
    """The SDK repeats itself; one line is enough, and it shows no query."""
    otlp._log_once()
    log = logging.getLogger("opentelemetry.exporter.otlp")
    with capture_logs() as lines:
        for _ in range(3):
            log.error("Max retries exceeded with url: /v1/traces?token=hidden (refused)")
    assert [line["log_level"] for line in lines] == ["warning", "debug", "debug"]
    said = "OpenTelemetry: Max retries exceeded with url: /v1/traces?*** (refused)"
    assert {line["event"] for line in lines} == {said}
