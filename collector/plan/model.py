"""What a plan finds: values, in the shape that `collector plan --json` prints them in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from collector.model import Outcome


@dataclass(slots=True)
class TargetPlan:
    """One account and region, as a run would find it now.

    ``missing`` are IAM actions that are denied; ``blocked`` names those of them that no further
    statement would allow, and what stands against them. ``listed`` jobs would be listed and
    ``described`` of them described, in ``calls`` calls and ``seconds``; ``at_least`` where more are
    to be expected. ``basis`` says what that was reckoned from: `first page` or `state`.
    """

    account_id: str
    region: str
    outcome: str = Outcome.COMPLETE
    incremental: bool = False
    listed: int = 0
    described: int = 0
    calls: int = 0
    seconds: float = 0.0
    at_least: bool = False
    basis: str | None = None
    missing: list[str] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)
    error: str | None = None


class Lack(NamedTuple):
    """An action that an account denies; ``obstacle`` as in `collector.plan.grants`.

    One that is not ``needed`` makes a run slower or its warnings longer, not incomplete.
    """

    account_id: str
    action: str
    obstacle: str | None = None
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run would write or remember: ``outcome`` is `ok`, `failed` or `not checked`."""

    kind: str
    place: str
    outcome: str
    detail: str


@dataclass(slots=True)
class Preflight:
    """The whole answer; see the README for what each key means."""

    caller: dict[str, str]
    complete: bool
    totals: dict[str, Any]
    regions_told_by: dict[str, int]
    targets: list[TargetPlan]
    missing: list[str]
    grants: list[dict[str, Any]]
    blocked: list[dict[str, Any]]
    places: list[Place]
    warnings: list[str]
