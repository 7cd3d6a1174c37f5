"""`--retry-failed REPORT`: the jobs that a report calls failed, and nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from collector.crawl import History
from collector.errors import ConfigurationError
from collector.events import Event, Warned
from collector.extract import Plan
from collector.model import Cursor, Job, Outcome, Start, Table, Target
from collector.report_file import read_report
from collector.settings import Settings

_NOT_READ = (Outcome.DENIED, Outcome.FAILED)
_UNKNOWN = math.nan
"""Creation time of a job that a report names: whatever it is, this is the job that is meant."""


@dataclass(frozen=True, slots=True)
class Failures:
    """The failed jobs of a report by account and region; ``warnings`` say what else had failed."""

    jobs: Mapping[tuple[str, str], tuple[Job, ...]]
    warnings: tuple[str, ...]

    def narrowing(self) -> dict[str, Any]:
        """Settings that lead a run to these accounts and regions."""
        return {
            "accounts": tuple(dict.fromkeys(account for account, _ in self.jobs)),
            "regions": tuple(dict.fromkeys(region for _, region in self.jobs)),
            "exclude_accounts": (),
        }


async def read_failures(uri: str, table: Table, settings: Settings) -> Failures:
    """The failures in the report ``uri``. Raises ConfigurationError."""
    report = await read_report(uri, settings)
    try:
        arns = [str(failure["arn"]) for failure in report["failures"]]
        unread = sum(row["outcome"] in _NOT_READ for row in report["targets"])
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"{uri} is not the report of a run.") from error
    if report.get("table") != table.name:
        raise ConfigurationError(f"The report {uri} is of the table {report.get('table')}.")
    found: dict[tuple[str, str], dict[str, Job]] = {}
    strangers = 0
    for arn in arns:
        match = _pattern(table).fullmatch(arn)
        if match is None:
            strangers += 1
            continue
        job = Job(arn, _UNKNOWN, None, "", dict.fromkeys(table.describe.params, match["name"]))
        found.setdefault((match["account_id"], match["region"]), {})[arn] = job
    warnings = []
    if not found:
        warnings.append(f"The report {uri} names no job that failed: there is none to read again")
    if strangers:
        warnings.append(f"{strangers} failures in {uri} name no job: only a whole run reads them")
    if unread:
        warnings.append(f"{unread} targets in {uri} were not read: only a whole run reads them")
    jobs = {place: tuple(of_target.values()) for place, of_target in found.items()}
    return Failures(jobs, tuple(warnings))


def _pattern(table: Table) -> re.Pattern[str]:
    """What matches the ARNs of a table, with their parts as groups."""
    parts = re.split(r"\{(\w+)\}", table.arn_format)
    names = {"account_id": r"\d{12}", "name": r".+"}
    return re.compile(
        "".join(
            f"(?P<{part}>{names.get(part, '[a-z0-9-]+')})" if n % 2 else re.escape(part)
            for n, part in enumerate(parts)
        )
    )


class Retry:
    """The history of a run that reads the failures of another: each target is listed already."""

    def __init__(self, run: History, failures: Failures) -> None:
        self.run_id, self.started_at = run.run_id, run.started_at
        self._failures = failures

    def replay(self) -> Iterable[Event]:
        return [Warned(warning) for warning in self._failures.warnings]

    def start(self, target: Target, plan: Plan) -> Start | None:  # noqa: ARG002
        jobs = self._failures.jobs.get(target.key)
        return Start(as_of=0.0, cursor=Cursor(ended=True), pending=jobs) if jobs else None

    def size(self, target: Target) -> int:
        return len(self._failures.jobs[target.key])

    def rates(self, target: Target) -> Mapping[str, float]:  # noqa: ARG002
        return {}
