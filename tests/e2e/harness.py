"""Runs of the whole program against the stand-in, and what has to hold of each."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reference import moment

from collector import Collector, Settings
from collector.events import Event
from collector.testing import Estate, FakeAws

ROLE = "InventoryReader"
REGIONS = ("us-east-1", "eu-west-1")
LONGEST = 30.0
"""Seconds after which a run is called hung."""
SUMS = ("listed", "emitted", "unchanged", "gone", "failed")


@dataclass
class Run:
    """A run that has ended."""

    records: list[dict[str, Any]]
    report: dict[str, Any]
    status: int = 0
    stderr: str = ""
    lines: list[str] = field(default_factory=list)

    def target(self, account: str, region: str) -> dict[str, Any]:
        """The one row of the report for this account and region."""
        (row,) = (
            row
            for row in self.report["targets"]
            if (row["account_id"], row["region"]) == (account, region)
        )
        return row

    @property
    def outcomes(self) -> dict[tuple[str, str], str]:
        return {
            (row["account_id"], row["region"]): row["outcome"] for row in self.report["targets"]
        }

    @property
    def names(self) -> list[str]:
        return [record["training_job_name"] for record in self.records]


def settings(aws: FakeAws, **changes: Any) -> Settings:
    """Everything that the stand-in has."""
    values: dict[str, Any] = {
        "accounts": aws.estate.accounts,
        "role_name": ROLE,
        "regions": aws.estate.regions,
        "endpoint_url": aws.url,
    }
    return Settings(**values | changes)


async def crawl(
    aws: FakeAws, *, observers: Iterable[Callable[[Event], None]] = (), **changes: Any
) -> Run:
    """A run through the library; its status is what the command line would make of it."""
    options = settings(aws, **changes)
    async with asyncio.timeout(LONGEST), Collector(options, observers=observers) as collector:
        records = [record async for record in collector.records()]
    return Run(records, collector.report, 0 if collector.complete else 3)


def environment(aws: FakeAws | None = None, **changes: str) -> dict[str, str]:
    """Variables for a process: the test's own, those that lead to the stand-in, and others."""
    place = {"AWS_ENDPOINT_URL": aws.url} if aws else {}
    return {**os.environ, **place, **changes}


def start(*args: str, aws: FakeAws | None = None, **changes: str) -> subprocess.Popen[str]:
    """The command line in a process of its own, which has just started."""
    return subprocess.Popen(
        [sys.executable, "-m", "collector", *args],
        env=environment(aws, **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def command(
    *args: str, aws: FakeAws | None = None, stdin: str | None = None, **changes: str
) -> Run:
    """The command line in a process of its own, to its end. Records are what stdout holds."""
    done = subprocess.run(
        [sys.executable, "-m", "collector", *args],
        env=environment(aws, **changes),
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=LONGEST,
        check=False,
    )
    lines = done.stdout.splitlines()
    return Run([], {}, done.returncode, done.stderr, lines)


def run_command(aws: FakeAws, folder: Path, *args: str, **changes: str) -> Run:
    """`collector run` over everything the stand-in has, with its records and its report."""
    report = folder / "report.json"
    given = "accounts" in " ".join(args)
    places = () if given else ("--accounts", ",".join(aws.estate.accounts), "--role-name", ROLE)
    regions = () if "--regions" in args else ("--regions", ",".join(aws.estate.regions))
    run = command("run", *places, *regions, "--report", str(report), *args, aws=aws, **changes)
    run.records = [json.loads(line) for line in run.lines]
    if report.exists():
        run.report = json.loads(report.read_text())
    return run


def is_one_sentence(stderr: str) -> bool:
    """Whether this is a plain error of the command line: one line and no traceback."""
    lines = [line for line in stderr.splitlines() if not line.startswith("{")]
    return len(lines) == 1 and lines[0].startswith("collector: ") and "Traceback" not in stderr


def identity(record: dict[str, Any]) -> tuple[str, str]:
    """What tells one job from every other."""
    return record["training_job_arn"], record["creation_time"]


def identities(
    estate: Estate, accounts: Iterable[str] | None = None, regions: Iterable[str] | None = None
) -> set[tuple[str, str]]:
    """The jobs there are, of some accounts and regions or of all."""
    return {
        (job.arn, moment(job.created / 1000))
        for account in (estate.accounts if accounts is None else accounts)
        for region in (estate.regions if regions is None else regions)
        for job in (estate.job(account, region, name) for name in estate.jobs(account, region))
    }


def assert_sums(run: Run) -> None:
    """Every listed job is in exactly one sum, in each target and in all; nothing came twice."""
    report = run.report
    for row in [*report["targets"], report["totals"]]:
        parts = row["emitted"] + row["unchanged"] + row["gone"] + row["failed"]
        assert row["listed"] == parts, row
    for name in SUMS:
        assert report["totals"][name] == sum(row[name] for row in report["targets"])
    assert report["totals"]["targets"] == len(report["targets"])
    assert report["totals"]["failed"] == len(report["failures"])
    emitted = Counter(
        (record["account_id"], record["training_job_arn"].split(":")[3]) for record in run.records
    )
    for row in report["targets"]:
        assert row["emitted"] == emitted[row["account_id"], row["region"]]
    doubled = [job for job, n in Counter(map(identity, run.records)).items() if n > 1]
    assert not doubled


def assert_accounted(run: Run, aws: FakeAws) -> None:
    """Sums hold, and each job of the estate is emitted, named as failed, or gone: one of them."""
    assert_sums(run)
    emitted = {record["training_job_arn"] for record in run.records}
    failed = {failure["arn"] for failure in run.report["failures"]}
    gone = {aws.estate.job(account, region, name).arn for account, region, name in aws.vanished}
    assert not emitted & failed
    assert not emitted & gone
    everything = {arn for arn, _ in identities(aws.estate)}
    assert emitted | failed | gone == everything
    assert run.report["totals"]["gone"] == len(gone - failed)


def assert_whole(run: Run, aws: FakeAws) -> None:
    """Every job of the estate was emitted, once, and everything says so."""
    assert_accounted(run, aws)
    assert set(map(identity, run.records)) == identities(aws.estate)
    assert set(run.outcomes.values()) == {"complete"}
    assert run.report["complete"] is True
    assert run.status == 0
