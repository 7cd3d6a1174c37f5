"""The log on stderr, and the observer that writes a run into it."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from typing import Any, TextIO

import structlog

from collector import events
from collector.events import Event
from collector.model import Outcome
from collector.text import clean

_MOST_FAILURES = 5
"""Failed jobs of one target that are logged one by one; the report names every one."""


class _Stderr:
    """stderr as it is at the time of writing: a progress bar puts itself in between."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _ToStructlog(logging.Handler):
    """What libraries log goes the same way, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        # structlog knows the five standard levels only.
        level = max(logging.DEBUG, min(record.levelno // 10 * 10, logging.CRITICAL))
        try:
            structlog.get_logger().log(
                level,
                record.getMessage(),
                logger=record.name,
                **({"exc_info": record.exc_info} if record.exc_info else {}),
            )
        except Exception:  # noqa: BLE001 - a library's bad log call is not to stop the run
            self.handleError(record)


def configure(log_format: str, level: str) -> None:
    """Log to stderr: ``console`` or ``json`` (``auto``: console on a terminal), from ``level``."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    number = getattr(logging, level.upper())
    # Tracebacks are for those who ask for them.
    trouble: list[Any] = [structlog.processors.format_exc_info] if level == "debug" else [_no_trace]
    plain = structlog.dev.plain_traceback  # it comes as text: some versions warn of anything else
    last: list[Any] = (
        [
            _cleaned,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain),
        ]
        if console
        else [structlog.processors.JSONRenderer()]
    )
    stream: Any = _Stderr()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *trouble,
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=_as_text(stream)),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=logging.DEBUG if level == "debug" else logging.WARNING,
        handlers=[_ToStructlog()],
        force=True,
    )
    # At debug, the SDK logs requests with their signatures and tokens.
    for name in ("aiobotocore", "boto3", "botocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _as_text(stream: Any) -> TextIO:
    text: TextIO = stream
    return text


def _cleaned(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """A terminal does what it is told to: names that AWS returned must not tell it anything."""
    return {
        key: clean(value) if isinstance(value, str) and key != "exception" else value
        for key, value in event.items()
    }


def _no_trace(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    event.pop("exc_info", None)
    return event


class LogObserver:
    """Writes what a person would want to know about a run; never a record or a part of one."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()
        self._warned: set[str] = set()
        self._failed: Counter[tuple[str, str]] = Counter()
        self._quiet = False
        self._run: events.RunStarted | None = None

    def __call__(self, event: Event, /) -> None:  # noqa: C901 - one flat match
        if self._quiet:
            return
        match event:
            case events.SinkClosed():
                self._quiet = True
            case events.RunStarted():
                self._run = event
            case events.TargetFound() if self._run is not None:
                # Not before there is something to read: an error is to stand alone.
                run = self._run
                more = {"shard": run.shard} if run.shard else {}
                self._log.info("run started", run_id=run.run_id, table=run.table, **more)
                self._run = None
            case events.TargetEnded():
                good = event.outcome in {Outcome.COMPLETE, Outcome.UNAVAILABLE}
                write = self._log.info if good else self._log.warning
                write(
                    "target ended",
                    account_id=event.target.account.id,
                    region=event.target.region,
                    outcome=event.outcome.value,
                    seconds=round(event.seconds, 3),
                    **({"error": event.error} if event.error else {}),
                )
            case events.JobFailed(target=target) if event.error != events.INTERRUPTED:
                self._failed[target.key] += 1
                if self._failed[target.key] <= _MOST_FAILURES:
                    self._log.warning(
                        "job failed",
                        arn=event.job.arn,
                        operation=event.operation,
                        error=event.error,
                    )
            case events.RecordRefused():
                self._log.warning(
                    "record refused", arn=event.job.arn, sink=event.sink, error=event.why
                )
            case events.Warned(message=message) if message not in self._warned:
                self._warned.add(message)
                place = {"account_id": event.account_id, "region": event.region}
                self._log.warning(message, **{key: val for key, val in place.items() if val})
            case events.CallEnded(result="throttled" | "faulted"):
                self._log.debug(
                    "call failed",
                    operation=event.operation,
                    account_id=event.account_id,
                    region=event.region,
                    result=event.result,
                    retried=event.retried,
                )
