"""`collector run` as a process: signals, log, progress, the report file and the exit status."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import orjson
import structlog
from rich.console import Console

from collector import log
from collector.errors import CollectorError, ConfigurationError, SinkClosedError
from collector.events import Observer
from collector.pipeline import Collector
from collector.progress import ProgressBar, print_report
from collector.settings import Settings

COMPLETE, NOTHING_DONE, INCOMPLETE, SIGNALLED = 0, 1, 3, 128

_FLUSH_TIME = 5.0
"""Seconds after the grace in which a sink that does not take its records is given up on."""


def run(settings: Settings) -> int:
    """Run once with ``settings``; returns the exit status. Raises CollectorError."""
    _collect_garbage_less()
    log.configure(settings.log_format, settings.log_level)
    check_report_path(settings.report)
    console = Console(stderr=True)
    terminal = console.is_terminal
    bar = settings.progress == "on" or (settings.progress == "auto" and terminal)
    observers: list[Observer] = [] if bar and settings.log_level != "debug" else [log.LogObserver()]
    with ExitStack() as stack:
        if bar:
            observers.append(stack.enter_context(ProgressBar(console)))
        collector = Collector(settings, observers=observers)
        process = _Process(collector, settings)
        failure: CollectorError | None = None
        with _runner() as runner:
            try:
                runner.run(process.main())
            except CollectorError as error:
                failure = error
    report = collector.report
    if isinstance(failure, SinkClosedError):
        return COMPLETE
    if failure is None or report["totals"]["targets"]:
        _show(console, report, table=terminal and settings.log_format != "json")
    if failure is not None:
        raise failure
    if process.signal is not None:
        return SIGNALLED + process.signal
    return COMPLETE if collector.complete or settings.allow_incomplete else INCOMPLETE


def _collect_garbage_less() -> None:
    """Answers and records are freed by reference counts; looking for cycles took a tenth of CPU.

    For the process of the command line alone: a library leaves its host's collector as it is.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _runner() -> asyncio.Runner:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


class _Process:
    """The run and the signals that may end it."""

    def __init__(self, collector: Collector, settings: Settings) -> None:
        self._collector = collector
        self._grace = settings.grace
        self._report = settings.report
        self.signal: int | None = None

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        async with self._collector as collector:
            try:
                await collector.run()
            finally:
                # Within the block: until it is left, a run that is killed can be gone on with.
                if self._report is not None:
                    write_report(self._report, collector.report)

    def _on_signal(self, number: int) -> None:
        if self.signal is not None:
            self._exit()
        self.signal = number
        structlog.get_logger().warning(
            "stopping: what is under way is finished; a second signal stops at once"
        )
        loop = asyncio.get_running_loop()
        loop.call_later(self._grace, self._collector.cut)
        loop.call_later(self._grace + _FLUSH_TIME, self._exit)
        self._collector.stop()

    def _exit(self) -> None:
        with suppress(OSError, ValueError):
            if sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h")  # the progress bar hides the cursor
            sys.stderr.flush()
        os._exit(SIGNALLED + (self.signal or signal.SIGINT))


def _show(console: Console, report: Mapping[str, Any], *, table: bool) -> None:
    if table:
        print_report(console, report)
        return
    outcomes: dict[str, int] = {}
    for row in report["targets"]:
        outcomes[row["outcome"]] = outcomes.get(row["outcome"], 0) + 1
    structlog.get_logger().info(
        "run ended",
        run_id=report["run_id"],
        complete=report["complete"],
        outcomes=outcomes,
        calls=report["calls"],
        **report["totals"],
    )


def check_report_path(path: Path | None) -> None:
    """Raises ConfigurationError if no report could be written there: before, not after a run."""
    if path is None:
        return
    if path.is_dir():
        raise ConfigurationError(f"The report {path} is a folder: give the path of a file.")
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigurationError(f"The report {path} cannot be written: check the folder {folder}.")


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON, whole or not at all. Raises CollectorError."""
    data = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                umask = os.umask(0)
                os.umask(umask)
                Path(file.name).chmod(0o666 & ~umask)
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise CollectorError(f"Cannot write the report {path}: {error.strerror}.") from error
