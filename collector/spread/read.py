"""One part, read by the library's own crawl, as Arrow batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from collector.blocking import Collection
from collector.crawl import History
from collector.errors import CollectorError, SinkError
from collector.events import Event, JobFailed, TargetEnded
from collector.extract import Plan
from collector.model import Outcome, Record, Start, Target
from collector.pipeline import Collector
from collector.report import Report
from collector.settings import Settings
from collector.spread.options import FAILFAST, Options
from collector.spread.parts import Found, Part, Run
from collector.spread.reports import leave_report
from collector.spread.rows import Rows

BATCH = 500
"""Records of one Arrow batch, at most: some megabytes."""

_BAD = (Outcome.DENIED, Outcome.FAILED, Outcome.PARTIAL)


class UnreadError(CollectorError):
    """Something of a part could not be read, and the read is to fail then."""


class Only:
    """The history of a run that reads the targets of one part."""

    def __init__(self, run: History, part: Part) -> None:
        self._run = run
        self._spans = part.spans
        self.run_id, self.started_at = part.run.id, part.run.started_at

    def replay(self) -> Iterable[Event]:
        return self._run.replay()

    def start(self, target: Target, plan: Plan) -> Start | None:  # noqa: ARG002
        if target.key not in self._spans:
            return None
        return Start(span=self._spans[target.key])

    def size(self, target: Target) -> int:  # noqa: ARG002
        return 0

    def rates(self, target: Target) -> Mapping[str, float]:  # noqa: ARG002
        return {}


class _Watch:
    """Remembers the first thing that could not be read, as a sentence, and counts failed jobs.

    ``advice`` is what one can do about it.
    """

    def __init__(self, advice: str = "mode=permissive reads what can be read") -> None:
        self.sentence: str | None = None
        self._failed = 0
        self._advice = advice

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, JobFailed):
            self._failed += 1
            self._note(event.target, "1 job failed", event.error)
        elif isinstance(event, TargetEnded) and event.outcome in _BAD:
            self._note(event.target, event.outcome.value, event.error)

    def _note(self, target: Target, what: str, why: str | None) -> None:
        if self.sentence is None:
            account, region = target.key
            where = f"Account {account}" + ("" if region == "*" else f", region {region}")
            self.sentence = f"{where} could not be read whole ({what}): {why}"

    def check(self) -> None:
        """Raises UnreadError if anything could not be read."""
        if self.sentence is not None:
            count = f"; {self._failed} jobs failed until then" if self._failed > 1 else ""
            raise UnreadError(f"{self.sentence}{count}. {self._advice}.")


def check_found(options: Options, found: Found, run: Run) -> None:
    """Answer for the accounts that are out of reach: fail, or leave a report on them.

    Raises UnreadError or SinkError.
    """
    watch, report = _Watch(), Report()
    for event in found.events(run, options.settings.table):
        watch(event)
        report(event)
    if options.mode == FAILFAST:
        watch.check()
    elif options.report_path is not None and found.unreachable:
        leave_report(options.report_path, options.settings, report.as_dict(), "search")


def read_part(options: Options, part: Part, attempt: str) -> Iterator[Any]:
    """The records of ``part`` as batches; ``attempt`` names this reading among all of the part.

    Raises UnreadError where something could not be read and the mode is failfast, and what
    `Collector.records` raises. Closed early, it leaves no task, no thread and no socket behind.
    """
    rows, watch = Rows(options.columns), _Watch(*_advice(part))
    strict = options.mode == FAILFAST
    settings = _settings(options, part)
    jobs = Collection(Collector(settings, observers=[watch], narrow=lambda run: Only(run, part)))
    try:
        batch: list[Record] = []
        for record in jobs:
            if strict:
                watch.check()
            batch.append(record)
            if len(batch) == BATCH:
                yield rows.batch(batch)
                batch = []
        if strict:
            watch.check()
        if batch:
            yield rows.batch(batch)
    except GeneratorExit:  # nobody wants the rest: there is nothing to report on
        raise
    except BaseException:
        jobs.close()
        with suppress(SinkError):  # what went wrong first is what is to be known
            _leave(options, part, jobs.report, attempt)
        raise
    else:
        _leave(options, part, jobs.report, attempt)
    finally:
        jobs.close()


def _advice(part: Part) -> tuple[str, ...]:
    in_stream = any(span is not None for _, _, span in part.targets)
    return ("The next attempt reads the same changes",) if in_stream else ()


def _leave(options: Options, part: Part, report: dict[str, Any], attempt: str) -> None:
    if options.report_path is not None:
        leave_report(options.report_path, options.settings, report, f"{part.number:05d}-{attempt}")


def _settings(options: Options, part: Part) -> Settings:
    """The settings that lead a run to the part's accounts and regions."""
    tags = {} if any(column.name == "tags" for column in options.columns) else {"tags": "none"}
    return options.settings.model_copy(
        update={
            "accounts": tuple(dict.fromkeys(account for account, _, _ in part.targets)),
            "regions": tuple(dict.fromkeys(region for _, region, _ in part.targets)),
            "exclude_accounts": (),
            "include_ou": (),
            **tags,
        }
    )
