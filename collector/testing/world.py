"""What every service of the fake AWS shares: the estate, the settings, the statistics."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from collector.model import Wire
from collector.testing.estate import Estate
from collector.testing.faults import Faults
from collector.testing.jobs import Job
from collector.testing.keys import Principal
from collector.testing.limits import Limits

LOG_LENGTH = 10_000


@dataclass(slots=True)
class Call:
    """One request, read: who asks for what. ``params`` are as the protocol carries them."""

    service: str
    operation: str
    protocol: str
    region: str
    params: Wire
    principal: Principal

    @property
    def account(self) -> str:
        return self.principal.account


class AwsError(Exception):
    """An error answer, rendered in the protocol of the call."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass(slots=True)
class Policy:
    """Who may do what, and how sessions are made.

    not_enabled
        (account, region) pairs that refuse every key, as regions that were not opted in to do.
    list_not_enabled
        Whether those regions are listed, as DISABLED, where no filter asks for others.
    denied
        (account, action) or (account, region, action), where account and region may be ``"*"``
        and action ``"sagemaker:ListTrainingJobs"``, ``"ListTrainingJobs"`` or ``"*"``. For
        AssumeRole the account is the one whose role is assumed.
    denied_by
        How refusals end, in AWS's words, such as ``"with an explicit deny in a service control
        policy"``; by default no identity-based policy allows the action.
    external_id
        What AssumeRole must be given, if anything.
    role_names
        The roles, with path, that each account has; None for whatever is asked for.
    session_seconds
        The longest that a session's keys work.
    tag_index_lag
        Seconds until a new job's tags are found by GetResources.
    organization
        Whether the accounts form an organization at all.
    """

    not_enabled: Collection[tuple[str, str]] = ()
    list_not_enabled: bool = False
    denied: Collection[tuple[str, ...]] = ()
    denied_by: str | None = None
    external_id: str | None = None
    role_names: Collection[str] | None = None
    session_seconds: float = 3600
    tag_index_lag: float = 0.0
    organization: bool = True
    revoked: set[str] = field(default_factory=set)

    def denies(self, account: str, region: str, actions: Collection[str]) -> bool:
        """Whether ``denied`` has one of ``actions`` for this account and region."""
        return any(
            account_ in {account, "*"}
            and (not region_ or region_[0] in {region, "*"})
            and action in actions
            for account_, *region_, action in self.denied
        )


class World:
    """The state behind the services."""

    def __init__(
        self,
        estate: Estate,
        *,
        limits: Limits | None = None,
        faults: Faults | None = None,
        regional_faults: Mapping[str, Faults] | None = None,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.estate = estate
        self.limits = limits or Limits()
        self.faults = faults or Faults()
        self.regional_faults = dict(regional_faults or {})
        self.policy = policy or Policy()
        self.clock = clock
        self.calls: Counter[str] = Counter()
        self.calls_by: Counter[tuple[str, str, str]] = Counter()
        self.throttled: Counter[tuple[str, str, str]] = Counter()
        self.faults_dealt: Counter[str] = Counter()
        self.vanished: set[tuple[str, str, str]] = set()
        self.assumed: list[Wire] = []
        self.requests: deque[tuple[str, str, str, Any]] = deque(maxlen=LOG_LENGTH)
        self.max_in_flight = 0
        self._gone: set[tuple[str, int]] = set()

    def revoke(self, account: str) -> None:
        """Deny every later call of ``account``, and any new session in it."""
        self.policy.revoked.add(account)

    def restore(self, account: str) -> None:
        """Take back ``revoke``."""
        self.policy.revoked.discard(account)

    def faults_in(self, region: str) -> Faults:
        """What goes wrong in ``region``: its own faults, or else those of all."""
        return self.regional_faults.get(region, self.faults)

    def is_gone(self, job: Job) -> bool:
        """Whether ``job`` has vanished since it was listed."""
        return bool(self._gone) and (job.arn, job.created) in self._gone

    def take(self, call: Call, job: Job) -> bool:
        """Whether ``job`` is gone by now: the ``vanish`` fault strikes on Describe."""
        if self.is_gone(job):
            return True
        if not self.faults_in(call.region).takes(call.operation, f"{job.arn}/{job.created}"):
            return False
        self._gone.add((job.arn, job.created))
        self.vanished.add((call.account, call.region, job.name))
        self.faults_dealt["vanish"] += 1
        return True
