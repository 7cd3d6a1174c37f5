"""`collector plan`: who is calling, what would be read, what is missing, how long it would take.

Looks and never touches: no job is described, nothing is written, and state is read without its
lease, so that it works beside a run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import click
import orjson

from collector import log
from collector.aws.targets import Targets, Unreachable
from collector.crawl import open_aws
from collector.errors import DeniedError, DiscoveryError
from collector.events import CallEnded, Event, Warned
from collector.extract import first_error
from collector.model import Outcome, Target
from collector.plan import grants, organization, places, show
from collector.plan.estimate import run_seconds
from collector.plan.grants import obstacle
from collector.plan.model import Lack, Preflight, TargetPlan
from collector.plan.probe import Probe, refuse
from collector.settings import Settings
from collector.signals import run_until_told
from collector.state import State, TargetState
from collector.tables import load_table

AT_ONCE = 64
"""Targets looked at side by side: one that hangs holds up few, and AWS notices nothing."""

PATIENCE = 30.0
"""Seconds that what does not answer is tried for: a person waits for it."""

COMPLETE, INCOMPLETE = 0, 3

_TELLERS = {"ListRegions": "account:ListRegions", "DescribeRegions": "ec2:DescribeRegions"}


def run(settings: Settings, *, as_json: bool) -> int:
    """Print the plan on stdout; returns the exit status. Raises CollectorError."""
    log.configure(settings.log_format, settings.log_level)
    impatient = {"give_up_after": min(PATIENCE, settings.give_up_after)}
    try:
        plan = run_until_told(look(settings.model_copy(update=impatient)))
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    if as_json:
        click.echo(orjson.dumps(asdict(plan), option=orjson.OPT_INDENT_2).decode())
    else:
        click.echo(show.render(plan, width=show.width()), nl=False)
    return COMPLETE if plan.complete else INCOMPLETE


class _Watch:
    """Keeps of what happens: warnings, each once, and how long calls take."""

    def __init__(self) -> None:
        self.warnings: dict[str, None] = {}
        self._calls = 0
        self._seconds = 0.0

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, Warned):
            self.warnings[event.message] = None
        elif isinstance(event, CallEnded) and event.result == "ok":
            self._calls += 1
            self._seconds += event.seconds

    @property
    def latency(self) -> float:
        """Seconds of a call, on average."""
        return self._seconds / self._calls if self._calls else 0.0


async def look(settings: Settings) -> Preflight:
    """The plan of a run with ``settings``. Raises CollectorError where there is none."""
    watch = _Watch()
    state, kept = await places.read_state(settings)
    found = [*([kept] if kept else []), *[place async for place in places.look(settings)]]
    async with open_aws(settings, watch) as aws:
        caller = await aws.targets.identity()
        lacks: list[Lack] = []
        plans: list[TargetPlan] = []
        try:
            await _look_at_all(Probe(aws, settings, caller.partition, _known(state)), plans.append)
        except DiscoveryError as error:
            if isinstance(error.__cause__, DeniedError):
                lacks += await organization.lacking(aws, settings, caller)
            if not lacks:
                raise
            watch.warnings[str(error)] = None
        told = _regions_told(aws.targets, plans, lacks)
    for plan in plans:
        lacks += [Lack(plan.account_id, a, plan.blocked.get(a)) for a in plan.missing]
    plans.sort(key=lambda plan: (plan.account_id, plan.region))
    missing = sorted({lack.action for lack in lacks if lack.needed})
    good = all(plan.outcome in {Outcome.COMPLETE, Outcome.UNAVAILABLE} for plan in plans)
    return Preflight(
        caller=asdict(caller),
        complete=good and not missing and all(place.outcome != "failed" for place in found),
        totals=_totals(plans, watch.latency, settings),
        regions_told_by=told,
        targets=plans,
        missing=missing,
        grants=grants.grants(lacks, load_table(settings.table), settings.role_name, caller),
        blocked=grants.blocked(lacks, settings.role_name, caller),
        places=found,
        warnings=list(watch.warnings),
    )


def _known(state: State) -> dict[str, TargetState]:
    """What is known of each target, also from a run that has not ended."""
    done = state.run.done if state.run is not None else {}
    return {**state.targets, **{key: target.state for key, target in done.items()}}


async def _look_at_all(probe: Probe, add: Callable[[TargetPlan], None]) -> None:
    """Look at every target there is. Raises what `Targets.find` raises."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def look_at(target: Target) -> None:
        try:
            add(await probe.look(target))
        finally:
            slots.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for found in probe.aws.targets.find():
                if isinstance(found, Unreachable):
                    plan = TargetPlan(*found.target.key)
                    refuse(plan, found.cause)
                    add(plan)
                else:
                    await slots.acquire()  # before there is a task: there may be many thousands
                    group.create_task(look_at(found))
    except BaseExceptionGroup as errors:
        error = first_error(errors)
        raise error from error.__cause__


def _regions_told(
    targets: Targets, plans: Sequence[TargetPlan], lacks: list[Lack]
) -> dict[str, int]:
    """In how many accounts which call told the regions; where both are denied, adds what lacks."""
    told: Counter[str] = Counter()
    for account_id in dict.fromkeys(plan.account_id for plan in plans):
        by = targets.regions_told_by(account_id)
        if isinstance(by, str):
            told[_TELLERS[by]] += 1
        elif by is not None:
            told["none"] += 1
            lacks += [
                Lack(account_id, action, obstacle(error.message), needed=False)
                for action, error in zip(_TELLERS.values(), by, strict=True)
                if isinstance(error, DeniedError)
            ]
    return dict(told)


def _totals(plans: Sequence[TargetPlan], latency: float, settings: Settings) -> dict[str, Any]:
    return {
        "targets": len(plans),
        "listed": sum(plan.listed for plan in plans),
        "described": sum(plan.described for plan in plans),
        "calls": sum(plan.calls for plan in plans),
        "seconds": run_seconds(plans, latency=latency, in_flight=settings.max_in_flight),
        "at_least": any(plan.at_least for plan in plans),
    }
