"""Which targets there are, and which of them go together: what is planned before any is read."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from secrets import token_hex

from collector.aws.targets import Unreachable
from collector.crawl import open_aws
from collector.events import Event, RunEnded, RunStarted, TargetEnded, TargetFound, Warned
from collector.extract import first_error
from collector.model import Span
from collector.settings import Settings

Key = tuple[str, str]
"""Account id and region."""

OVERHEAD = 1
"""What a target costs beside its jobs, in jobs: its list."""


@dataclass(frozen=True, slots=True)
class Run:
    """A read, which all its parts have in common. ``started_at`` is in epoch seconds."""

    id: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Part:
    """Some whole targets that one task reads. Pickled, shown in plans and logs: no secret in it.

    ``targets`` are account id, region, and the span of changes to read, None for everything.
    """

    number: int
    run: Run
    targets: tuple[tuple[str, str, Span | None], ...]

    @property
    def spans(self) -> dict[Key, Span | None]:
        return {(account, region): span for account, region, span in self.targets}


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to read: ``keys``, and the accounts that are out of reach.

    ``partition`` is the caller's, as in ARNs; ``now`` is the time by the service's clock.
    """

    keys: tuple[Key, ...]
    unreachable: tuple[Unreachable, ...]
    warnings: tuple[str, ...]
    partition: str
    now: float

    def only(self, wanted: Callable[[Key, str], bool]) -> Found:
        """Those that are ``wanted``, by account, region and the partition."""
        return replace(
            self,
            keys=tuple(key for key in self.keys if wanted(key, self.partition)),
            unreachable=tuple(
                each for each in self.unreachable if wanted(each.target.key, self.partition)
            ),
        )

    def events(self, run: Run, table: str) -> Iterable[Event]:
        """The search as a crawl tells of it: for those who want to know what is out of reach."""
        yield RunStarted(run.id, table, run.started_at)
        for each in self.unreachable:
            yield TargetFound(each.target)
            yield TargetEnded(each.target, each.outcome, 0.0, (), each.error)
        yield from map(Warned, self.warnings)
        yield RunEnded(run.started_at)


def find_targets(settings: Settings) -> Found:
    """Every account and region to read. Reads no job.

    Raises CredentialsError, DiscoveryError or ConfigurationError.
    """
    try:
        return asyncio.run(_find(settings))
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None


async def _find(settings: Settings) -> Found:
    keys: list[Key] = []
    unreachable: list[Unreachable] = []
    warnings: dict[str, None] = {}

    def observe(event: Event) -> None:
        if isinstance(event, Warned):
            warnings[event.message] = None

    async with open_aws(settings, observe) as aws:
        identity = await aws.targets.identity()
        now = aws.client.wire.server_time()
        async for target in aws.targets.find():
            if isinstance(target, Unreachable):
                unreachable.append(target)
            else:
                keys.append(target.key)
    return Found(tuple(sorted(keys)), tuple(unreachable), tuple(warnings), identity.partition, now)


def new_run() -> Run:
    """A read that begins now. Ids sort by time."""
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    return Run(f"{stamp}-{token_hex(4)}", now)


def make_parts(
    spans: Mapping[Key, Span | None], sizes: Mapping[Key, int], count: int, run: Run
) -> list[Part]:
    """At most ``count`` parts of about one size, the biggest first: engines start them in order.

    Each target, the biggest first, goes to the part that has least so far. So what is as big as
    a part's share, or bigger, is alone.
    """
    groups: list[tuple[int, int, list[Key]]] = [(0, n, []) for n in range(min(count, len(spans)))]
    for key in sorted(spans, key=lambda key: (-sizes.get(key, 0), key)):
        load, number, keys = groups[0]
        keys.append(key)
        heapq.heapreplace(groups, (load + sizes.get(key, 0) + OVERHEAD, number, keys))
    groups.sort(key=lambda group: (-group[0], group[1]))
    return [
        Part(number, run, tuple((*key, spans[key]) for key in keys))
        for number, (_, _, keys) in enumerate(groups)
    ]
