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
from collector.events import Event, Observer
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
    with _runner() as runner:
        return runner.run(_Process(settings).main())


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
    """The run, what it shows, and the signals that may end it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._console = Console(stderr=True)
        self._shown = ExitStack()
        self._collector = Collector(settings, observers=[self._observer()])
        self.signal: int | None = None

    def _observer(self) -> Observer:
        settings = self._settings
        bar = settings.progress == "on" or (
            settings.progress == "auto" and self._console.is_terminal
        )
        watchers: list[Observer] = []
        if bar:
            watchers.append(self._shown.enter_context(ProgressBar(self._console)))
        if not bar or settings.log_level == "debug":
            watchers.append(log.LogObserver())

        def observe(event: Event) -> None:
            for watcher in watchers:
                watcher(event)

        return observe

    async def main(self) -> int:
        """The whole run; returns the exit status. Raises CollectorError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        async with self._collector as collector:
            with self._shown:
                failure = await self._run()
            report = collector.report
            self._write_report(report, failure)
            closed = isinstance(failure, SinkClosedError)
            if not closed and (failure is None or report["totals"]["targets"]):
                self._show(report)
            status = COMPLETE if closed else self._status()
            if failure is not None and not closed:
                raise failure
        if self._settings.state is not None:
            self._exit(status)  # with the state given back the run has ended: at once, or never
        return status

    async def _run(self) -> CollectorError | None:
        try:
            await self._collector.run()
        except CollectorError as error:
            return error
        return None

    def _write_report(self, report: Mapping[str, Any], failure: CollectorError | None) -> None:
        if self._settings.report is None:
            return
        try:
            write_report(self._settings.report, report)
        except CollectorError as error:
            if failure is None:
                raise
            structlog.get_logger().error(str(error))  # and the failure, which came first, ends it

    def _status(self) -> int:
        if self.signal is not None:
            return SIGNALLED + self.signal
        complete = self._collector.complete or self._settings.allow_incomplete
        return COMPLETE if complete else INCOMPLETE

    def _show(self, report: Mapping[str, Any]) -> None:
        table = self._console.is_terminal and self._settings.log_format != "json"
        _show(self._console, report, table=table)

    def _on_signal(self, number: int) -> None:
        if self.signal is not None:
            self._exit(SIGNALLED + self.signal)
        self.signal = number
        structlog.get_logger().warning(
            "stopping: what is under way is finished; a second signal stops at once"
        )
        loop = asyncio.get_running_loop()
        grace, status = self._settings.grace, SIGNALLED + number
        loop.call_later(grace, self._collector.cut)
        loop.call_later(grace + _FLUSH_TIME, self._exit, status)
        self._collector.stop()

    def _exit(self, status: int) -> None:
        with suppress(OSError, ValueError):
            if sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h")  # the progress bar hides the cursor
            sys.stderr.flush()
        os._exit(status)


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
    path = path.resolve()  # a link is followed, not replaced
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # a device or a pipe, which must not be replaced by a file
            return
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
