"""`collector plan`: who is calling, what would be read, what is missing, how long it would take.

Only harmless calls: one page of names, a describe of a name that cannot exist, tags of an ARN
that cannot exist. No job is read.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from collector import iam, log
from collector.aws.client import Access, AwsClient, Patience
from collector.aws.tags import TAGGING
from collector.aws.targets import Identity, Unreachable
from collector.crawl import Aws, open_aws
from collector.errors import CallError, CollectorError, DeniedError, NotEnabledError
from collector.events import Event, Warned
from collector.extract import first_error
from collector.model import Outcome, Table, Target
from collector.settings import Settings
from collector.tables import load_table

ABSENT = "collector-plan-no-such-name"
PATIENCE = 30.0
"""Seconds that a call of the plan is tried for."""

AT_ONCE = 32
DESCRIBES_A_SECOND = 10.0
"""A cautious guess at what AWS allows in one account and region."""

COMPLETE, INCOMPLETE = 0, 3


@dataclass(slots=True)
class TargetPlan:
    """One target: ``jobs`` on its first page (``more`` if there are others), what is ``missing``.

    ``calls`` and ``seconds`` are at least what a full crawl takes, by the first page alone.
    """

    account_id: str
    region: str
    outcome: str = Outcome.COMPLETE
    jobs: int = 0
    more: bool = False
    calls: int = 0
    seconds: float = 0.0
    missing: list[str] = field(default_factory=list)
    error: str | None = None


def run(settings: Settings, *, as_json: bool) -> int:
    """Print the plan on stdout; returns the exit status. Raises CollectorError."""
    log.configure(settings.log_format, settings.log_level)
    warnings: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Warned) and event.message not in warnings:
            warnings.append(event.message)

    try:
        identity, plans = asyncio.run(_plan(settings, observe))
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    table = load_table(settings.table)
    missing = sorted({action for plan in plans for action in plan.missing})
    document = {
        "caller": asdict(identity),
        "targets": [asdict(plan) for plan in plans],
        "missing": missing,
        "policy": _statement(table, missing),
        "warnings": warnings,
    }
    if as_json:
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(document)
    good = all(plan.outcome in {Outcome.COMPLETE, Outcome.UNAVAILABLE} for plan in plans)
    return COMPLETE if good and not missing else INCOMPLETE


async def _plan(
    settings: Settings, observe: Callable[[Event], None]
) -> tuple[Identity, list[TargetPlan]]:
    plans: list[TargetPlan] = []
    slots = asyncio.Semaphore(AT_ONCE)

    async with open_aws(settings, observe) as aws, asyncio.TaskGroup() as group:
        identity = await aws.targets.identity()
        partition = identity.partition

        async def look(target: Target) -> None:
            async with slots:
                plans.append(await _look(target, aws, partition))

        async for target in aws.targets.find():
            if isinstance(target, Unreachable):
                plans.append(
                    TargetPlan(
                        *target.target.key,
                        outcome=target.outcome,
                        missing=["sts:AssumeRole"] if target.outcome is Outcome.DENIED else [],
                        error=target.error,
                    )
                )
            else:
                group.create_task(look(target))
    return identity, sorted(plans, key=lambda plan: (plan.account_id, plan.region))


async def _look(target: Target, aws: Aws, partition: str) -> TargetPlan:
    client, targets, table = aws.client, aws.targets, aws.table
    access = Access(
        *target.key, targets.credentials(target.account), Patience(PATIENCE, time.monotonic)
    )
    plan = TargetPlan(*target.key)
    try:
        await access.credentials.get()
    except DeniedError as error:
        return TargetPlan(
            *target.key, outcome=Outcome.DENIED, missing=["sts:AssumeRole"], error=str(error)
        )
    except CollectorError as error:
        return TargetPlan(*target.key, outcome=Outcome.FAILED, error=str(error))
    params = {**table.list.params, table.list.page_size_param: table.list.page_size}
    try:
        page = await client.json(
            access, table.service, table.list.name, params, required=(table.list.items,)
        )
    except NotEnabledError as error:
        works = await targets.works(target.account)
        plan.outcome = Outcome.UNAVAILABLE if works else Outcome.FAILED
        plan.error = str(error)
        return plan
    except DeniedError as error:
        plan.outcome, plan.error = Outcome.DENIED, str(error)
        plan.missing.append(f"{table.service}:{table.list.name}")
    except CollectorError as error:
        plan.outcome, plan.error = Outcome.FAILED, str(error)
        return plan
    else:
        plan.jobs = len(page[table.list.items])
        plan.more = bool(page.get("NextToken"))
        plan.calls = 1 + bool(plan.jobs) + plan.jobs
        plan.seconds = round(plan.jobs / DESCRIBES_A_SECOND, 1)
    arn = table.arn_format.format(
        partition=partition, region=target.region, account_id=target.account.id, name=ABSENT
    )
    plan.missing += await _missing(arn, access, client, table)
    return plan


async def _missing(arn: str, access: Access, client: AwsClient, table: Table) -> list[str]:
    """Actions that are denied, each tried on something that does not exist."""
    absent = dict.fromkeys(table.describe.params, ABSENT)
    asks = (
        (table.service, table.describe.name, absent),
        (table.service, table.tags.name, {table.tags.arn_param: arn}),
        (TAGGING, "GetResources", {"ResourceARNList": [arn]}),
    )
    missing = []
    for service, operation, params in asks:
        try:
            await client.json(access, service, operation, params)
        except DeniedError:
            missing.append(f"{'tag' if service == TAGGING else service}:{operation}")
        except CallError:
            continue  # not found, or rejected: it was allowed
    return missing


def _statement(table: Table, missing: list[str]) -> dict[str, Any] | None:
    """The part of the reader's policy that grants what is missing."""
    policy = iam.policy(table)
    statements = []
    for statement in policy["Statement"]:
        actions = statement["Action"]
        wanted = [a for a in ([actions] if isinstance(actions, str) else actions) if a in missing]
        if wanted:
            statements.append({**statement, "Action": wanted})
    return {**policy, "Statement": statements} if statements else None


def _print(document: dict[str, Any]) -> None:
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    caller = document["caller"]
    console.print(Text(f"caller   {caller['arn']} (account {caller['account_id']})"))
    shown = RichTable(box=None, padding=(0, 2, 0, 0))
    for name in ("account", "region", "outcome", "jobs", "calls", "seconds", "missing"):
        shown.add_column(name)
    for plan in document["targets"]:
        more = "+" if plan["more"] else ""
        shown.add_row(
            plan["account_id"],
            plan["region"],
            plan["outcome"],
            f"{plan['jobs']}{more}",
            f"{plan['calls']}{more}",
            f"{plan['seconds']:g}{more}",
            Text(", ".join(plan["missing"]) or plan["error"] or ""),
        )
    console.print(shown)
    more = "+" if any(plan["more"] for plan in document["targets"]) else ""
    calls = sum(plan["calls"] for plan in document["targets"])
    longest = max((plan["seconds"] for plan in document["targets"]), default=0.0)
    console.print(
        Text(f"in all   {calls}{more} calls, {longest:g}{more} s at 10 describes a second")
    )
    for warning in document["warnings"]:
        console.print(Text(f"warning  {warning}"))
    if document["policy"]:
        console.print(Text("To grant what is missing, add to the role's policy:"))
        console.print(Text(orjson.dumps(document["policy"], option=orjson.OPT_INDENT_2).decode()))
