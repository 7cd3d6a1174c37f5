"""One run over all targets: who to ask, what to read, how much at once, and in what order.

Targets.find ─> biggest first ─> TargetCrawl (at most ACTIVE_TARGETS) ─> deliver
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from collector.aws.client import Access, AwsClient, Patience
from collector.aws.sessions import Sdk
from collector.aws.targets import Targets, Unreachable
from collector.aws.throttle import Limits
from collector.aws.wire import Timeouts, Wire
from collector.events import (
    DiscoveryEnded,
    Event,
    Observer,
    RunStarted,
    TargetEnded,
    TargetFound,
)
from collector.extract import Deliver, Plan, TargetCrawl, first_error
from collector.flatten import Flattener
from collector.model import Start, Table, Target
from collector.parse import parse_time
from collector.settings import Settings
from collector.tables import load_table

ACTIVE_TARGETS = 1_000
"""Targets crawled at once; the others wait without a task, a client or a connection."""

CONTROL_CALLS = 16
"""Calls to STS, Organizations, Account and EC2 in flight at once, beside the crawl's own."""

ROOM = 4
"""Jobs in the making for each call that may be in flight."""


class History(Protocol):
    """What is known from earlier runs. ``started_at`` is in epoch seconds."""

    run_id: str
    started_at: float

    def replay(self) -> Iterable[Event]:
        """What had happened in this run before it was cut off, for those who watch."""

    def start(self, target: Target, plan: Plan) -> Start | None:
        """Where the crawl of a target begins; None if nothing of it is to be read."""

    def size(self, target: Target) -> int:
        """How many jobs were listed in a target the last time."""

    def rates(self, target: Target) -> Mapping[str, float]:
        """Calls a second that were found to be allowed the last time, by operation."""


def run_started(history: History, settings: Settings) -> RunStarted:
    """The first event of a run."""
    shard = None if settings.shard is None else str(settings.shard)
    return RunStarted(history.run_id, settings.table, history.started_at, shard)


@dataclass(frozen=True, slots=True)
class Aws:
    """What a run talks to AWS with."""

    table: Table
    targets: Targets
    client: AwsClient


@asynccontextmanager
async def open_aws(
    settings: Settings,
    observe: Observer,
    *,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Aws]:
    """The wire, and on it a client for the crawl and another, with slots of its own, for the rest.

    Keys are renewed in the middle of the crawl's calls: they must not wait for the crawl's slots.
    """
    sdk = Sdk(profile=settings.profile, endpoint_url=settings.endpoint_url)
    wire = Wire(
        ssl_context=sdk.ssl_context(),
        timeouts=Timeouts(settings.connect_timeout, settings.read_timeout, settings.call_timeout),
        connections=settings.max_in_flight + CONTROL_CALLS,
        clock=now,
    )

    def client(slots: int) -> AwsClient:
        limits = Limits(
            clock=clock, sleep=sleep, caps=settings.max_rate, headroom=settings.headroom
        )
        return AwsClient(
            sdk,
            wire,
            limits,
            slots=asyncio.Semaphore(slots),
            observe=observe,
            clock=clock,
            sleep=sleep,
        )

    table = load_table(settings.table)
    async with wire:
        targets = Targets(settings, table, client(CONTROL_CALLS), observe)
        yield Aws(table, targets, client(settings.max_in_flight))


_Found = asyncio.PriorityQueue[tuple[int, int, tuple[Target, Start] | None]]
"""Targets by size, biggest first: as many as there are, a few words each."""


class Crawl:
    """One run over all targets, from credentials to records."""

    def __init__(
        self,
        settings: Settings,
        observe: Observer,
        history: History,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._observe = observe
        self._history = history
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._crawls: set[TargetCrawl] = set()
        self._halted = asyncio.Event()
        self._left: Counter[str] = Counter()

    def halt(self) -> None:
        """Start nothing more; `run` returns once what is under way is finished."""
        self._halted.set()
        for crawl in self._crawls:
            crawl.halt()

    @property
    def busy(self) -> bool:
        """Whether any target is being crawled right now."""
        return bool(self._crawls)

    async def run(self, deliver: Deliver) -> None:
        """Crawl every target. Raises CredentialsError, DiscoveryError or ConfigurationError.

        What goes wrong in a target alone is its outcome, told to the observers.
        """
        history = self._history
        self._observe(run_started(history, self._settings))
        for event in history.replay():
            self._observe(event)
        async with open_aws(
            self._settings, self._observe, clock=self._clock, now=self._now, sleep=self._sleep
        ) as aws:
            await self._crawl_all(aws.targets, aws.client, deliver)

    async def _crawl_all(self, targets: Targets, client: AwsClient, deliver: Deliver) -> None:
        plan = await self._plan(targets)
        flatten = Flattener(plan.table, keep_extra=plan.keep_extra)
        room = asyncio.Semaphore(ROOM * self._settings.max_in_flight)

        def make(target: Target, start: Start) -> TargetCrawl:
            for operation, rate in self._history.rates(target).items():
                client.limits.expect((*target.key, operation), rate)
            patience = Patience(self._settings.give_up_after, self._clock)
            source = targets.credentials(target.account)
            return TargetCrawl(
                target,
                plan,
                client=client,
                access=Access(target.account.id, target.region, source, patience),
                room=room,
                flatten=flatten,
                deliver=deliver,
                observe=self._observe,
                works=lambda: targets.works(target.account),
                enabled=targets.called_enabled(target),
                start=start,
            )

        found: _Found = asyncio.PriorityQueue()
        active = asyncio.Semaphore(ACTIVE_TARGETS)
        try:
            async with asyncio.TaskGroup() as group:
                finder = group.create_task(self._find(targets, plan, found))
                halting = group.create_task(self._cancel_when_halted(finder))
                while True:
                    # Only then taken: the biggest of those found by the time there is room.
                    await active.acquire()
                    next_one = (await found.get())[-1]
                    if next_one is None or self._halted.is_set():
                        break
                    crawl = make(*next_one)
                    self._crawls.add(crawl)
                    group.create_task(self._crawl_one(crawl, next_one[0], targets, active))
                halting.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    async def _cancel_when_halted(self, finder: asyncio.Task[None]) -> None:
        await self._halted.wait()
        finder.cancel()

    async def _find(self, targets: Targets, plan: Plan, found: _Found) -> None:
        count = 0
        try:
            async for target in targets.find():
                if isinstance(target, Unreachable):
                    self._observe(TargetFound(target.target))
                    self._observe(TargetEnded(target.target, target.outcome, 0.0, (), target.error))
                elif (start := self._history.start(target, plan)) is not None:
                    self._observe(TargetFound(target))
                    self._left[target.account.id] += 1
                    count += 1
                    found.put_nowait((-self._history.size(target), count, (target, start)))
            self._observe(DiscoveryEnded())
        finally:
            found.put_nowait((1, 0, None))  # after all the others

    async def _crawl_one(
        self, crawl: TargetCrawl, target: Target, targets: Targets, active: asyncio.Semaphore
    ) -> None:
        try:
            await crawl.run()
        finally:
            self._crawls.discard(crawl)
            active.release()
            self._left[target.account.id] -= 1
            if not self._left[target.account.id]:
                # All targets of an account are found at once: these were all.
                targets.forget(target.account.id)

    async def _plan(self, targets: Targets) -> Plan:
        settings, now = self._settings, self._history.started_at
        after, before = settings.created_after, settings.created_before
        return Plan(
            table=load_table(settings.table),
            run_id=self._history.run_id,
            tags=settings.tags,
            created_after=parse_time(after, now) if after else None,
            created_before=parse_time(before, now) if before else None,
            status=settings.status,
            horizon=settings.horizon,
            overlap=settings.overlap,
            redact=settings.redact,
            keep_extra=settings.extra == "keep",
            meta=settings.meta,
            known_regions=frozenset(await targets.service_regions()),
        )
