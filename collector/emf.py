"""Metrics for CloudWatch without a call: lines in its embedded metric format.

CloudWatch Logs makes metrics of each JSON line that has an ``_aws`` member, whoever sends it there,
so a container that logs to it needs nothing else. Source: Amazon CloudWatch User Guide,
"Specification: Embedded metric format". Written by hand, since it is a few members: AWS's own
library (aws-embedded-metrics) writes to stdout or to an agent, and asks a metadata service where
it is.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import structlog

from collector.errors import ConfigurationError
from collector.events import Event, RunStarted
from collector.model import Outcome
from collector.settings import Settings
from collector.tally import Counts, Tally

NAMESPACE = "AwsResourceCollector"

EVERY = 60.0
"""Seconds between two groups of lines: CloudWatch keeps a value a minute."""

MOST_METRICS, MOST_DIMENSIONS, MOST_BYTES = 100, 30, 1_000_000
"""Of one line, by the specification. Ours have a few; a test holds them to it."""

CALLS = {"Calls": "Count", "Throttled": "Count", "Retried": "Count", "Failed": "Count"}
"""Metrics of each operation, by table and operation: name to unit."""

_ENDS = ("emitted", "unchanged", "gone", "failed", "refused")
RUN = {
    "Records": "Count",
    "Bytes": "Bytes",
    "JobsListed": "Count",
    **{f"Jobs{end.title()}": "Count" for end in _ENDS},
    **{f"Targets{outcome.value.title()}": "Count" for outcome in Outcome},
}
"""Metrics of the run, by table."""

END = {"Complete": "Count", "Incomplete": "Count", "Duration": "Seconds"}
"""Metrics of the run's last line alone."""


class EmbeddedMetrics:
    """An observer that writes lines as events come, a minute apart, and the last ones at `close`.

    What is written counts from the line before. ``write`` takes a line with its end; ``now`` gives
    epoch seconds.
    """

    def __init__(
        self, table: str, write: Callable[[bytes], None], *, now: Callable[[], float] = time.time
    ) -> None:
        self._table = table
        self._write = write
        self._now = now
        self._due = now() + EVERY
        self._tally = Tally()
        self._run_id: str | None = None

    def __call__(self, event: Event, /) -> None:
        self._tally(event)
        if isinstance(event, RunStarted):
            self._run_id = event.run_id
        if (now := self._now()) >= self._due:
            self._due = now + EVERY
            self._lines()

    def close(self) -> None:
        """Write what is left, and how the run ended."""
        complete = self._tally.complete
        self._lines(
            {
                "Complete": int(complete),
                "Incomplete": int(not complete),
                "Duration": round(self._tally.seconds, 3),
            }
        )

    def _lines(self, end: dict[str, float] | None = None) -> None:
        counts = self._tally.take()
        for operation, values in sorted(_calls(counts).items()):
            self._line({"Operation": operation}, CALLS, values)
        totals = _totals(counts)
        self._line({}, RUN | END if end else RUN, totals | end if end else totals)

    def _line(
        self, place: Mapping[str, str], units: Mapping[str, str], values: Mapping[str, float]
    ) -> None:
        dimensions = {"Table": self._table, **place}
        metrics = [{"Name": name, "Unit": unit} for name, unit in units.items()]
        line: dict[str, Any] = {
            "_aws": {
                "Timestamp": int(self._now() * 1000),
                "CloudWatchMetrics": [
                    {"Namespace": NAMESPACE, "Dimensions": [[*dimensions]], "Metrics": metrics}
                ],
            },
            **dimensions,
            **{name: values.get(name, 0) for name in units},
            "RunId": self._run_id,
        }
        self._write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _calls(counts: Counts) -> dict[str, Counter[str]]:
    """The metrics of CALLS by operation."""
    found: dict[str, Counter[str]] = {}
    for (kind, *labels), count in counts.items():
        if kind not in {"calls", "retries"}:
            continue
        values = found.setdefault(labels[0], Counter())
        if kind == "retries":
            values["Retried"] += count
            values["Failed"] -= count  # those that failed and were not made again
            continue
        values["Calls"] += count
        values["Throttled"] += count * (labels[-1] == "throttled")
        values["Failed"] += count * (labels[-1] != "ok")
    return found


def _totals(counts: Counts) -> dict[str, float]:
    """The metrics of RUN."""
    names = {"records": "Records", "bytes": "Bytes", "listed": "JobsListed"}
    values: Counter[str] = Counter()
    for (kind, *labels), count in counts.items():
        if kind in names:
            values[names[kind]] += count
        elif kind in {"jobs", "targets"}:
            values[f"{kind.title()}{labels[-1].title()}"] += count
    return dict(values)


def start(settings: Settings) -> EmbeddedMetrics:
    """Into the file of the settings, or to stderr. Raises ConfigurationError."""
    path = settings.metrics_file
    return EmbeddedMetrics(settings.table, _to_stderr if path is None else _File(path).write)


def _to_stderr(line: bytes) -> None:
    try:
        sys.stderr.write(line.decode())
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        return  # nobody reads it: no reason to end a run


class _File:
    """Appends whole lines, so that several runs may share a file. Says once if it cannot."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._broken = False
        try:
            path.open("ab").close()
        except OSError as error:
            raise ConfigurationError(
                f"The metrics file {path} cannot be written: {error.strerror}."
            ) from error

    def write(self, line: bytes) -> None:
        if self._broken:
            return
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            self._broken = True
            structlog.get_logger().warning(
                f"metrics are not written to {self._path} any more: {error.strerror}"
            )
