"""`collector run` as a process: signals, log, progress, the report and the exit status."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import Any, Protocol

import structlog
from rich.console import Console

from collector import log
from collector.errors import CollectorError, ConfigurationError, SinkClosedError
from collector.events import Event, Observer
from collector.pipeline import Collector
from collector.progress import ProgressBar, print_report
from collector.report_file import check_report, write_report
from collector.settings import Settings

COMPLETE, NOTHING_DONE, INCOMPLETE, SIGNALLED = 0, 1, 3, 128

_FLUSH_TIME = 5.0
"""Seconds after the grace in which a sink that does not take its records is given up on."""


def run(settings: Settings) -> int:
    """Run once with ``settings``; returns the exit status. Raises CollectorError."""
    _collect_garbage_less()
    log.configure(settings.log_format, settings.log_level)
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


class _Metrics(Observer, Protocol):
    """An observer that has something to hand over at the end; `close` takes a bounded time."""

    def close(self) -> None: ...


_METRICS = {"emf": "collector.emf", "otel": "collector.otlp"}


def _metrics(settings: Settings) -> list[_Metrics]:
    """Those that were asked for; of the others nothing is imported. Raises ConfigurationError.

    In the order of the table above: at the end the first ones wait for nobody.
    """
    wanted = [module for name, module in _METRICS.items() if name in settings.metrics]
    try:
        return [import_module(module).start(settings) for module in wanted]
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "--metrics otel needs OpenTelemetry: pip install 'aws-resource-collector[otel]'."
        ) from error


class _Process:
    """The run, what it shows, and the signals that may end it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._console = Console(stderr=True)
        self._shown = ExitStack()
        self._metrics = _metrics(settings)
        self._collector = Collector(settings, observers=[self._observer(), *self._metrics])
        self._closing = False
        self._ended = asyncio.Event()
        self._giving_up: asyncio.Future[None] | None = None
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
        if self._settings.report is not None:
            await check_report(self._settings.report, self._settings)
        try:
            status = await self._main()
        finally:
            await self._close_metrics()
        if self._settings.state is not None:
            self._exit(status)  # with the state given back the run has ended: at once, or never
        return status

    async def _main(self) -> int:
        async with self._collector as collector:
            with self._shown:
                failure = await self._run()
            report = collector.report
            unwritten = await self._write_report(report)
            closed = isinstance(failure, SinkClosedError)
            if not closed and (failure is None or report["totals"]["targets"]):
                self._show(report)
            status = COMPLETE if closed else self._status()
            if unwritten is not None:
                if failure is None:
                    raise unwritten
                structlog.get_logger().error(str(unwritten))  # and the failure came first
            if failure is not None and not closed:
                raise failure
        return status

    async def _close_metrics(self) -> None:
        """Let go what was measured. It may wait for a receiver, but not longer than a signal."""
        if not self._metrics:
            return
        loop = asyncio.get_running_loop()

        def close() -> None:
            for metrics in self._metrics:
                metrics.close()
            with suppress(RuntimeError):  # a signal came first
                loop.call_soon_threadsafe(self._ended.set)

        self._closing = True
        threading.Thread(target=close, daemon=True).start()
        await self._ended.wait()

    async def _run(self) -> CollectorError | None:
        try:
            await self._collector.run()
        except CollectorError as error:
            return error
        return None

    async def _write_report(self, report: Mapping[str, Any]) -> CollectorError | None:
        """What kept the report from being written, which is no reason not to show it."""
        if self._settings.report is None:
            return None
        try:
            await write_report(self._settings.report, report, self._settings)
        except CollectorError as error:
            return error
        return None

    def _status(self) -> int:
        if self.signal is not None:
            return SIGNALLED + self.signal
        complete = self._collector.complete or self._settings.allow_incomplete
        return COMPLETE if complete else INCOMPLETE

    def _show(self, report: Mapping[str, Any]) -> None:
        table = self._console.is_terminal and self._settings.log_format != "json"
        _show(self._console, report, table=table)

    def _on_signal(self, number: int) -> None:
        if self._closing:
            self._ended.set()  # the run has its status already
            return
        if self.signal is not None:
            self._exit(SIGNALLED + self.signal)
        self.signal = number
        structlog.get_logger().warning(
            "stopping: what is under way is finished; a second signal stops at once"
        )
        loop = asyncio.get_running_loop()
        grace, status = self._settings.grace, SIGNALLED + number
        loop.call_later(grace, self._collector.cut)
        loop.call_later(grace + _FLUSH_TIME, self._give_up, status)
        self._collector.stop()

    def _give_up(self, status: int) -> None:
        """The sink takes nothing any more: what there is to report is all that can be had."""
        self._giving_up = asyncio.ensure_future(self._report_and_exit(status))

    async def _report_and_exit(self, status: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_TIME):
                await self._write_report(self._collector.report)
        self._exit(status)

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
