"""Metrics of whole runs: they are the report's figures, they arrive, they hold up no run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import pytest
from harness import is_one_sentence, run_command, settings, start
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from collector import Collector
from collector.events import QueueMeasured, RateChanged
from collector.telemetry import OpenTelemetry
from collector.testing import Estate, FakeAws, Faults, Limits

REGIONS = ("us-east-1", "eu-west-1")


class Sums:
    """The metrics of a reader, added up over what they are not asked for."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        (resource,) = reader.get_metrics_data().resource_metrics
        (scope,) = resource.scope_metrics
        self._points = {metric.name: metric.data.data_points for metric in scope.metrics}

    def by(self, name: str, attribute: str) -> dict[str, float]:
        sums: Counter[str] = Counter()
        for point in self._points.get(name, ()):
            value = point.count if hasattr(point, "bucket_counts") else point.value
            sums[point.attributes[attribute]] += value
        return {key: value for key, value in sums.items() if value}

    def all(self, name: str) -> float:
        return sum(self.by(name, "collector.table").values())


@pytest.mark.usefixtures("at_full_speed")
async def test_metrics_and_spans_are_the_reports(tmp_path):
    """Throttles, faults, gone jobs and a denied target: each figure is that of the report."""
    reader, exporter, told = InMemoryMetricReader(), InMemorySpanExporter(), []
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    observer = OpenTelemetry(MeterProvider([reader], shutdown_on_exit=False), tracers)
    fake = FakeAws(
        Estate.generate(2, REGIONS, 60),
        limits=Limits({"DescribeTrainingJob": (60, 20)}),
        faults=Faults(error_500=0.05, vanish=0.05),
        denied=[("222222222222", "eu-west-1", "ListTrainingJobs")],
    )
    async with fake as aws:
        options = settings(aws, sink=str(tmp_path / "jobs.ndjson"))
        async with Collector(options, observers=[observer, told.append]) as collector:
            report = await collector.run()
    sums, totals = Sums(reader), report["totals"]

    calls = report["calls"]
    assert {call: row["calls"] for call, row in calls.items()} == sums.by(
        "collector.calls", "rpc.method"
    )
    assert sums.by("rpc.client.call.duration", "rpc.method") == sums.by(
        "collector.calls", "rpc.method"
    )
    results = sums.by("collector.calls", "collector.call.result")
    assert results["throttled"] == sum(row["throttled"] for row in calls.values()) > 0
    retried = sum(row["retried"] for row in calls.values())
    assert sums.all("collector.retries") == retried > 0
    not_ok = sum(results.values()) - results["ok"]
    assert not_ok - retried == sum(row["failed"] for row in calls.values())
    ends = {name: totals[name] for name in ("emitted", "unchanged", "gone", "failed")}
    assert sums.by("collector.jobs.ended", "collector.job.end") == {
        name: count for name, count in ends.items() if count
    }
    assert totals["gone"] > 0
    assert sums.all("collector.jobs.listed") == totals["listed"]
    assert sums.all("collector.sink.records") == totals["emitted"]
    assert sums.all("collector.sink.io") == totals["bytes"]
    assert sums.all("collector.targets.found") == totals["targets"]
    outcomes = dict(Counter(row["outcome"] for row in report["targets"]))
    assert sums.by("collector.targets.ended", "collector.target.outcome") == outcomes
    assert sums.by("collector.target.duration", "collector.target.outcome") == outcomes
    assert sums.all("collector.run.complete") == int(report["complete"]) == 0

    queued = [event for event in told if isinstance(event, QueueMeasured)]
    assert all(0 < event.depth <= event.capacity for event in queued)
    assert sums.all("collector.queue.depth") == queued[-1].depth
    rates = {
        (event.account_id, event.region): event.rate
        for event in told
        if isinstance(event, RateChanged) and event.operation == "DescribeTrainingJob"
    }
    assert sum(rates.values()) == pytest.approx(
        sums.by("collector.limit.rate", "rpc.method").get("DescribeTrainingJob", 0)
    )
    assert set(rates) <= {(row["account_id"], row["region"]) for row in report["targets"]}

    spans = exporter.get_finished_spans()
    (run,) = [span for span in spans if span.name == "collector.run"]
    assert run.attributes["collector.run.id"] == report["run_id"]
    assert run.attributes["collector.jobs.emitted"] == totals["emitted"]
    targets = {
        (span.attributes["cloud.account.id"], span.attributes["cloud.region"]): span
        for span in spans
        if span is not run
    }
    assert len(targets) == totals["targets"] == len(spans) - 1
    for row in report["targets"]:
        span = targets[row["account_id"], row["region"]]
        assert span.parent.span_id == run.context.span_id
        assert span.attributes["collector.target.outcome"] == row["outcome"]
        assert span.attributes["collector.jobs.emitted"] == row["emitted"]
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(row["seconds"], abs=0.001)


class Receiver:
    """An OTLP receiver: what was posted, by path, as the protocol's own messages."""

    def __init__(self, *, answers: bool = True) -> None:
        self.got: dict[str, list[bytes]] = {"/v1/metrics": [], "/v1/traces": []}
        self.headers: list[dict[str, str]] = []
        self.asked, self._left = threading.Event(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got[self.path].append(body)
                outer.headers.append(dict(self.headers))
                outer.asked.set()
                if not answers:
                    outer._left.wait(30)
                    return
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def resources(self, path: str) -> list:
        kind, name = {
            "/v1/metrics": (ExportMetricsServiceRequest, "resource_metrics"),
            "/v1/traces": (ExportTraceServiceRequest, "resource_spans"),
        }[path]
        return [item for body in self.got[path] for item in getattr(kind.FromString(body), name)]


def test_a_receiver_gets_metrics_and_spans(aws, tmp_path):
    """The command line sends both as OTLP to where the standard variables say, with their names."""
    with Receiver() as receiver:
        run = run_command(
            aws,
            tmp_path,
            *("--metrics", "otel"),
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            OTEL_EXPORTER_OTLP_HEADERS="api-key=word",
            OTEL_SERVICE_NAME="inventory",
        )
    assert (run.status, len(run.records)) == (0, run.report["totals"]["emitted"])
    assert {headers["api-key"] for headers in receiver.headers} == {"word"}
    metrics, traces = receiver.resources("/v1/metrics"), receiver.resources("/v1/traces")
    for resource in (*metrics, *traces):
        named = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
        assert named["service.name"] == "inventory"
    found = {m.name: m for each in metrics for scope in each.scope_metrics for m in scope.metrics}
    listed = found["collector.jobs.listed"].sum
    assert listed.is_monotonic
    assert sum(point.as_int for point in listed.data_points) == run.report["totals"]["listed"]
    (complete,) = found["collector.run.complete"].gauge.data_points
    assert complete.as_int == 1
    spans = [span for each in traces for scope in each.scope_spans for span in scope.spans]
    assert Counter(span.name for span in spans) == {"collector.run": 1, "collector.target": 4}
    assert len({span.trace_id for span in spans}) == 1


def test_a_receiver_that_is_not_there_costs_nothing(aws, tmp_path):
    """The run ends as it would have, with all its records; stderr says so in a line or two."""
    run = run_command(
        aws,
        tmp_path,
        *("--metrics", "otel", "--log-format", "json"),
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_EXPORTER_OTLP_TIMEOUT="0.2",
    )
    assert (run.status, len(run.records)) == (0, 32)
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert len([line for line in lines if "OpenTelemetry" in line["event"]]) == 1
    assert "Traceback" not in run.stderr


def test_a_signal_ends_the_wait_for_a_receiver(aws):
    """Where a receiver takes its time, a signal ends the process with the status the run had."""
    with Receiver(answers=False) as receiver:
        process = start(
            "run",
            *("--regions", "us-east-1", "--metrics", "otel"),
            aws=aws,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        )
        assert receiver.asked.wait(20)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert len(out.splitlines()) == 8
    assert "Traceback" not in err
    assert "stopping" not in err  # there was nothing left to stop


def emf_lines(text: str) -> list[dict]:
    return [line for line in map(json.loads, text.splitlines()) if "_aws" in line]


def test_lines_go_to_stderr_and_records_to_stdout(aws, tmp_path):
    """With emf stdout has the records alone; the lines on stderr add up to the report."""
    run = run_command(aws, tmp_path, "--metrics", "emf", "--log-format", "json")
    assert len(run.records) == run.report["totals"]["emitted"]
    assert not any("_aws" in record for record in run.records)
    lines = emf_lines(run.stderr)
    calls = Counter()
    for line in lines:
        calls.update({line["Operation"]: line["Calls"]} if "Operation" in line else {})
    assert calls == {name: row["calls"] for name, row in run.report["calls"].items()}
    assert lines[-1]["Bytes"] == run.report["totals"]["bytes"]
    assert lines[-1]["TargetsComplete"] == run.report["totals"]["targets"]
    assert (lines[-1]["Complete"], lines[-1]["RunId"]) == (1, run.report["run_id"])


def test_a_failure_has_its_last_line(aws, tmp_path):
    """A run that nothing came of ends with its own status, and an incomplete line in the file."""
    file = tmp_path / "metrics.jsonl"
    run = run_command(
        aws,
        tmp_path,
        *("--metrics", "emf", "--metrics-file", str(file)),
        AWS_SECRET_ACCESS_KEY="wrong",
    )
    assert run.status == 1
    assert not emf_lines("\n".join(x for x in run.stderr.splitlines() if x.startswith("{")))
    assert [line["Incomplete"] for line in emf_lines(file.read_text()) if "Records" in line] == [1]


def test_a_stopped_run_has_its_last_line(tmp_path):
    """After SIGTERM what was read is counted, and the run is incomplete; the status is 143."""
    estate, file = Estate.generate(1, ("us-east-1",), 200), tmp_path / "metrics.jsonl"
    limits = Limits({"DescribeTrainingJob": (20, 20)})
    with FakeAws(estate, limits=limits).in_thread() as aws:
        options = ("--metrics", "emf", "--metrics-file", str(file))
        process = start("run", *("--regions", "us-east-1"), *options, aws=aws)
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 143
    (run,) = [line for line in emf_lines(file.read_text()) if "Records" in line]
    assert (run["Records"], run["Complete"]) == (len(out.splitlines()) + 1, 0)


WITHOUT = (
    "import sys; sys.modules['opentelemetry'] = None; import collector.__main__ as m; m.main()"
)
LOADED = """
import atexit, sys
atexit.register(lambda: print("opentelemetry" in sys.modules, file=sys.stderr))
import collector.__main__ as m
m.main()
"""


def python(code: str, *args: str):
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False
    )


def test_without_the_extra_a_sentence_says_what_to_install():
    """--metrics otel without OpenTelemetry is bad usage, told in one sentence before any call."""
    done = python(WITHOUT, "demo", "--metrics", "otel")
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_sentence(done.stderr)
    assert "pip install 'aws-resource-collector[otel]'" in done.stderr


@pytest.mark.parametrize("more", [(), ("--metrics", "emf")])
def test_without_otel_nothing_of_it_is_imported(more):
    """A run that does not ask for OpenTelemetry does not load it."""
    done = python(LOADED, "demo", "--jobs", "1", "--log-level", "error", *more)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "False"
