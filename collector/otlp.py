"""`--metrics otel`: providers as the OTEL_ variables want them, and an end that does not wait long.

Everything but which exporter to take is read by the SDK and the exporters themselves.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import structlog
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from collector import __version__
from collector.errors import ConfigurationError
from collector.events import Event
from collector.settings import Settings
from collector.telemetry import OpenTelemetry
from collector.text import clean

SERVICE = "aws-resource-collector"
"""Name of the service, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES has another."""

FLUSH_SECONDS = 5.0
"""How long the end of a run waits for a receiver, at most."""

_PROTOCOLS = {"http/protobuf": "http", "grpc": "grpc"}
_SIGNALS = {
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
    "traces": ("trace_exporter", "OTLPSpanExporter"),
}


class Otlp:
    """The observer of `collector run --metrics otel`, with the providers that it writes to."""

    def __init__(self, metric_exporter: Any, span_exporter: Any, resource: Resource) -> None:
        self._exporters = [each for each in (metric_exporter, span_exporter) if each is not None]
        # Shut down here, within a bounded time, and not by the SDK when the process exits.
        self._meters = MeterProvider(
            [PeriodicExportingMetricReader(metric_exporter)] if metric_exporter else (),
            resource=resource,
            shutdown_on_exit=False,
        )
        self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        if span_exporter:
            self._tracers.add_span_processor(BatchSpanProcessor(span_exporter))
        self._observer = OpenTelemetry(self._meters, self._tracers)

    def __call__(self, event: Event, /) -> None:
        self._observer(event)

    def close(self) -> None:
        """Send what is left; a receiver that takes longer than FLUSH_SECONDS does not get it."""
        self._observer.close()
        ends = [
            threading.Thread(target=_quietly, args=(provider.shutdown,), daemon=True)
            for provider in (self._meters, self._tracers)
        ]
        deadline = time.monotonic() + FLUSH_SECONDS
        for end in ends:
            end.start()
        for end in ends:
            end.join(max(0.0, deadline - time.monotonic()))
        if any(end.is_alive() for end in ends):
            for exporter in self._exporters:
                _quietly(exporter.shutdown)  # it stops trying


def _quietly(action: Callable[[], object]) -> None:
    """What a provider raises at its end is no error of the run; its exporter has logged it."""
    with suppress(Exception):
        action()


def start(_: Settings) -> Otlp:
    """Raises ConfigurationError where the OTEL_ variables ask for what there is not."""
    _log_once()
    try:
        # Ours are defaults: what the variables say comes over them.
        ours = Resource({"service.name": SERVICE, "service.version": __version__})
        resource = Resource.create(ours.merge(OTELResourceDetector().detect()).attributes)
        return Otlp(_exporter("metrics"), _exporter("traces"), resource)
    except ConfigurationError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ConfigurationError(f"OpenTelemetry cannot be set up: {clean(text)}.") from error


def _exporter(signal: str) -> Any:
    """The exporter of a signal, or None where none is wanted."""
    name = f"OTEL_{signal.upper()}_EXPORTER"
    wanted = os.environ.get(name, "").strip() or "otlp"
    if wanted == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if wanted != "otlp":  # console, for one, would write among the records
        raise ConfigurationError(f"{name}={clean(wanted)}: the collector knows otlp and none.")
    module, kind = _SIGNALS[signal]
    protocol = _protocol(signal)
    try:
        return getattr(
            import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.{module}"), kind
        )()
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"OTLP over {protocol} needs its exporter: "
            f"pip install opentelemetry-exporter-otlp-proto-{protocol}."
        ) from error


def _protocol(signal: str) -> str:
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    for name in names:
        wanted = os.environ.get(name, "").strip()
        if wanted and wanted not in _PROTOCOLS:
            known = " and ".join(_PROTOCOLS)
            raise ConfigurationError(f"{name}={clean(wanted)}: the collector knows {known}.")
        if wanted:
            return _PROTOCOLS[wanted]
    return "http"


class _Once(logging.Handler):
    """A receiver that is not there is told of once, in one line; at debug, each time."""

    def __init__(self) -> None:
        super().__init__()
        self._told = False

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        # A query may hold a token.
        message = re.sub(r"\?[^\s'\")]+", "?***", clean(record.getMessage()))
        write = log.debug if self._told or record.levelno < logging.WARNING else log.warning
        self._told |= record.levelno >= logging.WARNING
        write(f"OpenTelemetry: {message}", logger=record.name)


def _log_once() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.handlers[:], logger.propagate = [_Once()], False
