"""How much a run would read of a target, and how long that takes at the rates that are known.

Without state all there is to go by is the first page of the list. State knows how many jobs were
listed last, from when on the next run has to look, and what AWS allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from collector import incremental
from collector.journal import coverage_of
from collector.model import Coverage, Job, Table
from collector.parse import parse_time
from collector.plan.model import TargetPlan
from collector.settings import Settings
from collector.state import TargetState

DESCRIBES_A_SECOND = 10.0
"""A cautious guess at what AWS allows of most calls in one account and region."""

GUESSED_RATES = {"GetResources": 15.0}
"""Calls a second, where they are known better. Source: Tagging API, GetResources."""

LISTS_A_SECOND = 2.0


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a target's list that a run would read. Epoch seconds, None where it is open.

    ``coverage`` is what an incremental run need not read again.
    """

    after: float | None
    before: float | None
    status: str | None
    coverage: Coverage | None


def window(settings: Settings, known: TargetState | None, now: float) -> Window:
    """What a run with ``settings`` would list of a target of which ``known`` is known."""
    after = parse_time(settings.created_after, now) if settings.created_after else None
    before = parse_time(settings.created_before, now) if settings.created_before else None
    coverage = coverage_of(known, settings, after=after, status=settings.status, now=now)
    if coverage is not None:
        after = incremental.list_from(coverage, after=after, horizon=settings.horizon)
        if before is not None:
            after = min(after, before - incremental.MARGIN)
    return Window(after, before, settings.status, coverage)


def estimate(
    plan: TargetPlan,
    jobs: Sequence[Job],
    *,
    more: bool,
    part: Window,
    known: TargetState | None,
    table: Table,
    settings: Settings,
) -> None:
    """Fill in the figures of ``plan`` from its first page, ``jobs``, and what is known besides."""
    coverage = part.coverage
    changed = len(jobs)
    if coverage is not None:
        changed -= sum(
            incremental.unchanged(job, coverage, terminal=table.terminal, overlap=settings.overlap)
            for job in jobs
        )
    plan.incremental = coverage is not None
    plan.listed, plan.described, plan.basis = len(jobs), changed, "first page"
    plan.at_least = more
    if more and known is not None and known.listed > len(jobs):
        _count_as_last_time(plan, part, known)
    calls = _calls(plan.listed, plan.described, table, settings)
    rates = _rates(known, table, settings)
    plan.calls = sum(calls.values())
    plan.seconds = round(max(count / rates[name] for name, count in calls.items()), 1)


def _count_as_last_time(plan: TargetPlan, part: Window, known: TargetState) -> None:
    """Take the last count where it was of the part of the list that is read now."""
    was, was_incremental = known.coverage, known.coverage.watermark > known.full_at
    if part.coverage is not None and was_incremental:
        plan.listed, plan.basis = known.listed, "state"
    elif part.coverage is None and (was.after, was.before, was.status) == (
        part.after,
        part.before,
        part.status,
    ):
        plan.listed = plan.described = known.listed
        plan.basis = "state"
        plan.at_least = was_incremental  # and so of the latest jobs alone


def _calls(listed: int, described: int, table: Table, settings: Settings) -> dict[str, int]:
    """Calls by operation; the lowest number, as where every tag comes with its page."""
    pages = max(1, math.ceil(listed / table.list.page_size))
    bulk = settings.tags == "bulk"
    return {
        table.list.name: pages,
        table.describe.name: described,
        table.tags.name: described if settings.tags == "each" else 0,
        "GetResources": min(pages, described) if bulk else 0,
    }


def _rates(known: TargetState | None, table: Table, settings: Settings) -> dict[str, float]:
    """Calls a second by operation: those found, else guessed, under what the settings allow."""
    found = known.rates if known is not None else {}
    guessed = {table.list.name: LISTS_A_SECOND, **GUESSED_RATES}
    rates = {}
    for name in table.operations:
        rate = (found.get(name) or guessed.get(name, DESCRIBES_A_SECOND)) * settings.headroom
        rates[name] = min(rate, settings.max_rate.get(name, math.inf))
    return rates


def run_seconds(plans: Sequence[TargetPlan], *, latency: float, in_flight: int) -> float:
    """How long all targets take together: as the slowest, or as the calls that fit in flight."""
    longest = max((plan.seconds for plan in plans), default=0.0)
    calls = sum(plan.calls for plan in plans)
    return round(max(longest, calls * latency / in_flight), 1)
