"""One target, looked at: a call of each kind that a run would make, none of which reads a job.

The first page of the list is read as a run would read it. The others ask for what cannot exist:
AWS says no to those who may not ask before it looks. Source: IAM User Guide, policy evaluation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from collector.aws.client import Access, Patience
from collector.aws.retry import EXPIRED
from collector.aws.tags import TAGGING
from collector.crawl import Aws
from collector.errors import (
    CallError,
    CollectorError,
    DeniedError,
    NotEnabledError,
    NotFoundError,
    RejectedError,
)
from collector.listing import Listing
from collector.model import Outcome, Target
from collector.plan.estimate import estimate, window
from collector.plan.grants import obstacle
from collector.plan.model import TargetPlan
from collector.settings import Settings
from collector.state import TargetState

ABSENT = "collector-plan-no-such-name"


@dataclass(frozen=True, slots=True)
class Probe:
    """Looks at targets. ``known`` is what state knows of them, by account id/region."""

    aws: Aws
    settings: Settings
    partition: str
    known: Mapping[str, TargetState]
    now: Callable[[], float] = time.time

    async def look(self, target: Target) -> TargetPlan:
        """What a run would find in ``target``; never raises CollectorError."""
        plan = TargetPlan(*target.key)
        access = Access(
            *target.key,
            self.aws.targets.credentials(target.account),
            Patience(self.settings.give_up_after, self.aws.client.clock),
        )
        try:
            await access.credentials.get()
        except CollectorError as error:
            refuse(plan, error)
            return plan
        try:
            return await self._ask(plan, target, access)
        finally:
            # Limits are of use while their target is looked at, and there may be many thousands.
            self.aws.client.limits.forget(*target.key, self.aws.table.operations)

    async def _ask(self, plan: TargetPlan, target: Target, access: Access) -> TargetPlan:
        try:
            await self._first_page(plan, access)
        except NotEnabledError as error:
            await self._not_enabled(plan, target, error)
            return plan
        except DeniedError as error:
            _deny(plan, f"{self.aws.table.service}:{self.aws.table.list.name}", error)
        except CollectorError as error:
            plan.outcome, plan.error = Outcome.FAILED, str(error)
            return plan
        await self._other_calls(plan, access)
        return plan

    async def _not_enabled(self, plan: TargetPlan, target: Target, error: CallError) -> None:
        targets = self.aws.targets
        off = not targets.called_enabled(target) and await targets.works(target.account)
        plan.outcome = Outcome.UNAVAILABLE if off else Outcome.FAILED
        plan.error = str(error)

    async def _first_page(self, plan: TargetPlan, access: Access) -> None:
        table, settings = self.aws.table, self.settings
        known = self.known.get(f"{access.account_id}/{access.region}")
        part = window(settings, known, self.now())

        async def call(params: dict[str, Any]) -> Any:
            return await self.aws.client.json(
                access, table.service, table.list.name, params, required=(table.list.items,)
            )

        listing = Listing(
            table,
            call,
            created_after=part.after,
            created_before=part.before,
            status=part.status,
        )
        pages = aiter(listing)
        jobs = await anext(pages)
        more = not listing.cursor.ended
        estimate(plan, jobs, more=more, part=part, known=known, table=table, settings=settings)

    async def _other_calls(self, plan: TargetPlan, access: Access) -> None:
        """Calls of the other kinds, side by side: each has a limit of its own."""
        table = self.aws.table
        arn = table.arn_format.format(
            partition=self.partition,
            region=access.region,
            account_id=access.account_id,
            name=ABSENT,
        )
        absent: dict[str, Any] = dict.fromkeys(table.describe.params, ABSENT)
        asks = [(table.service, table.describe.name, absent)]
        if self.settings.tags != "none":
            asks.append((table.service, table.tags.name, {table.tags.arn_param: arn}))
        if self.settings.tags == "bulk":
            asks.append((TAGGING, "GetResources", {"ResourceARNList": [arn]}))

        async def ask(service: str, operation: str, params: dict[str, Any]) -> CallError | None:
            try:
                await self.aws.client.json(access, service, operation, params)
            except (NotFoundError, RejectedError):
                return None  # there is none, as was to be expected: it was allowed to ask
            except CallError as error:
                return error
            return None

        for (service, operation, _), error in zip(
            asks, await asyncio.gather(*(ask(*each) for each in asks)), strict=True
        ):
            if isinstance(error, DeniedError):
                prefix = "tag" if service == TAGGING else service
                _deny(plan, f"{prefix}:{operation}", error)
            elif error is not None and plan.outcome is not Outcome.DENIED:
                plan.outcome, plan.error = Outcome.FAILED, f"cannot be told: {error}"


def refuse(plan: TargetPlan, error: CollectorError) -> None:
    """The keys of an account cannot be had."""
    if isinstance(error, DeniedError) and error.operation == "AssumeRole":
        _deny(plan, "sts:AssumeRole", error)
    else:
        plan.outcome, plan.error = Outcome.FAILED, str(error)


def _deny(plan: TargetPlan, action: str, error: DeniedError) -> None:
    if error.code in EXPIRED:
        plan.outcome, plan.error = Outcome.FAILED, str(error)
        return
    plan.outcome, plan.error = Outcome.DENIED, plan.error or str(error)
    plan.missing.append(action)
    if (what := obstacle(error.message)) is not None:
        plan.blocked[action] = what
