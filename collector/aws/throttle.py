"""The rate limit of one operation in one account and region, found by trying.

AWS limits each of these with a token bucket (Amazon EC2 API Reference, "Request throttling"): it
holds up to B tokens, is filled at R a second, and a call that finds none is refused. Neither R nor
B is known. But a refusal tells when the bucket is empty, so between two refusals as many calls
were accepted as tokens came in: accepted / time is R exactly, whatever our pace was in between
(less, if the bucket overflowed meanwhile: an error on the safe side). The law:

- Until the first refusal the pace grows with each call, exponentially in time, so the burst
  allowance is used and the limit found within seconds; the faster answers come, the steeper,
  since what overshoots is what is in flight. One refusal among the very first calls is let pass.
- A refusal that counts sets the estimate to accepted / time since the one before, or to KEPT of
  the pace if that is more, for a bucket so small that it always overflows. Where that is too
  short to measure, the estimate is cut to what cannot be passed, (accepted + 1) / time, and the
  measuring goes on. Idle time fills the bucket unseen: what would be measured across it is not.
- From then on, the pace is the estimate times a cubic curve of the calls made since:
  1 + DIP * (calls / epoch - 1)^3. It starts DIP below the estimate, is flat around it, and steep
  beyond it, as in TCP CUBIC (RFC 9438), but counted in calls instead of seconds: so refusals stay
  a small share of calls at any rate. An epoch is shorter where the estimate is not sure, or far
  below what was once found; but the pace never grows faster than at first.
- While the pace is below a well measured estimate the bucket fills, so a refusal then is chance,
  or the limit has fallen. It is let pass, and the epoch goes on, as long as no more than about
  CHANCE of the calls are refused; and so are, for comparison, those beyond the estimate in that
  epoch: a bucket that is asked for more than it gets soon refuses more than that.
- Where nothing is accepted for OUTAGE_SECONDS, the refusals say nothing about the bucket. The next
  call accepted brings back the estimate of before, or the search, and the pace climbs there from
  where it fell to, a step for each call accepted.
- Only calls that had to wait for their turn count: a pace that is not used is not tried either.
- With headroom, a share of a measured estimate is kept to; after PROBE_AFTER, or a refusal that
  counts, it is measured again.

A simulation compares it with AIMD and with CUBIC in seconds: python -m tests.benchmarks.throttle.
Clock and sleep are passed in.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

Scope = tuple[str, str, str]
"""(account id, region, operation): AWS limits each of these on its own."""

INITIAL_RATE, LEAST_RATE = 20.0, 2.0
GROWTH_A_TRIP, LEAST_GROWTH, MOST_GROWTH = 0.02, 0.25, 3.0
DIP, KEPT = 0.03, 0.7
MEASURE_SECONDS, MEASURE_CALLS = 0.5, 5
IDLE_SECONDS = 0.5
PROBE_AFTER = 300.0

SURE, UNSURE = (50.0, 1.0), (25.0, 0.5)
"""Length of an epoch: calls, and seconds that it takes at least, to outlast what is in flight."""

EPOCH_SECONDS, LOW_EPOCH_SECONDS = 15.0, 2.0
"""Seconds that an epoch takes at most; the last where we are far below what was once found."""

CHANCE, DOUBTS = 0.1, 2.0
"""A refusal is a doubt, a call accepted takes away CHANCE of one; so many are borne at once."""

WELL_MEASURED_CALLS = 20
"""An estimate that so many accepted calls have shown is trusted more than a refusal."""

OUTAGE_SECONDS, OUTAGE_REFUSALS, CLIMB = 0.8, 3, 1.25
"""An outage lasts so long at least, longer than LEAST_RATE takes for a call, and has so many
refusals in a row. After it the pace grows so much for each call accepted."""

_SLACK = 0.002
"""Seconds: shorter waits are not worth a timer, and come out even over the next calls."""


class Law(Protocol):
    """A control law: told what happens, it says how many calls a second are allowed."""

    def rate(self, now: float) -> float: ...

    def sent(self, now: float, idle: float) -> None:
        """A call goes out; its turn had come ``idle`` seconds before, or just now."""

    def accepted(self, now: float, sent_at: float) -> None: ...

    def throttled(self, now: float, sent_at: float) -> None: ...

    @property
    def measured(self) -> float | None:
        """The limit, calls a second, if it has been found and we are sure of it."""


class BucketEstimate:
    """The law above. Times are seconds of any clock, rates calls a second.

    The search starts at ``pace``, or at INITIAL_RATE.
    """

    def __init__(self, now: float, *, headroom: float = 1.0, pace: float | None = None) -> None:
        self._headroom = headroom
        self._pace = max(INITIAL_RATE if pace is None else pace, LEAST_RATE)
        self._round_trip = 1.0
        self._estimate: float | None = None
        self._sure = False
        self._measured_calls = 0
        self._most = 0.0
        self._calls = 0.0
        self._epoch = UNSURE[0]
        self._cut_at = -math.inf
        self._empty_at: float | None = now
        self._accepted = 0
        self._doubts = 0.0
        self._let_pass = 0
        # Refusals with nothing accepted in between, and what was believed before them:
        self._refused_since: float | None = None
        self._in_a_row = 0
        self._before: tuple[float | None, bool] = (None, False)
        self._climb: float | None = None

    def rate(self, now: float) -> float:
        if self._climb is not None:
            return self._climb
        if self._estimate is None or self._keeps_share:
            return self._goal
        curve = 1.0 + DIP * (self._calls / self._epoch - 1.0) ** 3
        if curve > 1.0:
            curve = min(curve, math.exp(self._growth * min(now - self._cut_at, 60.0)))
        return max(self._estimate * curve, LEAST_RATE)

    @property
    def measured(self) -> float | None:
        return self._estimate if self._sure and not self._low else None

    @property
    def _goal(self) -> float:
        """The pace that we would keep to, were it not for the curve."""
        if self._estimate is None:
            return self._pace
        return max(self._estimate * (self._headroom if self._sure else 1.0), LEAST_RATE)

    @property
    def _growth(self) -> float:
        """How fast the pace may grow, as an exponent a second."""
        return min(max(GROWTH_A_TRIP / self._round_trip, LEAST_GROWTH), MOST_GROWTH)

    @property
    def _keeps_share(self) -> bool:
        return self._sure and self._headroom < 1.0

    @property
    def _low(self) -> bool:
        """Far below what was once found."""
        return self._estimate is not None and self._estimate < self._most / 2

    def sent(self, now: float, idle: float) -> None:
        if idle > IDLE_SECONDS:
            self._empty_at = None
        if idle > 0 or self._climb is not None:
            return
        self._calls += 1
        if self._estimate is None:
            self._pace += self._growth  # a call is 1 / pace seconds: this is exponential in time
        elif self._keeps_share and now - self._cut_at > PROBE_AFTER:
            self._sure = False
            self._empty_at = None
            self._start_epoch(now)

    def accepted(self, now: float, sent_at: float) -> None:
        self._accepted += 1
        self._round_trip = min(self._round_trip, max(now - sent_at, 1e-6))
        self._doubts = max(0.0, self._doubts - CHANCE)
        if self._refused_since is not None:
            if sent_at <= self._refused_since:
                return
            seconds = sent_at - self._refused_since
            if self._in_a_row >= OUTAGE_REFUSALS and seconds >= OUTAGE_SECONDS:
                self._climb = self.rate(now)
                self._estimate, self._sure = self._before
                self._doubts = 0.0
                self._cut_at = now
            self._refused_since = None
        if self._climb is not None:
            self._climb *= CLIMB
            if self._climb >= self._goal:
                # What the outage has left in the bucket is unknown; the search takes it for full.
                self._climb = None
                self._start_window(None if self._estimate else now)
                self._start_epoch(now)

    def throttled(self, now: float, sent_at: float) -> None:
        if self._refused_since is None:
            self._refused_since, self._in_a_row = sent_at, 0
            if self._climb is None:
                self._before = (self._estimate, self._sure)
        self._in_a_row += 1
        if sent_at <= self._cut_at:
            return  # sent before the last cut, about which it says nothing
        self._doubts += 1
        if self._may_be_chance:
            self._let_pass += 1
            return
        self._cut(now)
        self._most = max(self._most * 0.9, self._estimate or 0.0) if self._sure else self._most
        self._start_epoch(now)

    @property
    def _may_be_chance(self) -> bool:
        if self._climb is not None:
            return self._doubts <= 1.0
        if self._estimate is None:
            return self._doubts <= 1.0 and self._accepted < MEASURE_CALLS
        if not self._sure or self._empty_at is None or self._doubts > DOUBTS:
            return False
        below = self._keeps_share or self._calls < self._epoch
        return self._let_pass > 0 or (below and self._measured_calls >= WELL_MEASURED_CALLS)

    def _cut(self, now: float) -> None:
        """A refusal that counts: measure, or cut until there is enough to measure."""
        rate = self.rate(now)
        seconds = 0.0 if self._empty_at is None else now - self._empty_at
        estimate, sure, go_on = self._estimate, self._sure, False
        if self._climb is not None:
            estimate, sure = rate * KEPT, False
        elif estimate is None:
            # The first time the bucket had been full: taken as holding one second's tokens.
            estimate = self._accepted / (seconds + 1.0) if seconds else rate * KEPT
        elif self._keeps_share:
            sure = False  # below the estimate there is nothing to measure: go up to it, and see
        elif seconds >= MEASURE_SECONDS and self._accepted >= MEASURE_CALLS:
            grown = rate * KEPT if self._calls >= self._epoch else 0.0
            estimate = max(self._accepted / seconds, grown)
            sure = estimate > grown
            self._measured_calls = self._accepted
        elif self._empty_at is not None:
            estimate, sure, go_on = min(estimate, (self._accepted + 1) / seconds), False, True
        self._estimate, self._sure, self._climb = max(estimate, LEAST_RATE), sure, None
        if not go_on:
            self._start_window(now)
            self._doubts = 0.0

    def _start_window(self, empty_at: float | None) -> None:
        """Measure from here on, or from the next refusal."""
        self._empty_at = empty_at
        self._accepted = 0

    def _start_epoch(self, now: float) -> None:
        estimate = self._estimate or LEAST_RATE
        calls, least = SURE if self._sure else UNSURE
        most, floor = (LOW_EPOCH_SECONDS, 1.0) if self._low else (EPOCH_SECONDS, 4.0)
        self._epoch = max(min(calls, estimate * most), estimate * least, floor)
        self._cut_at = now
        self._calls = 0.0
        self._let_pass = 0


class Limit:
    """Paces the calls of one scope as its law says; a cap and a headroom are kept to."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        cap: float | None = None,
        headroom: float = 1.0,
        pace: float | None = None,
        law: Law | None = None,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._cap = cap
        self._law = law or BucketEstimate(clock(), headroom=headroom, pace=pace)
        self._turn = asyncio.Lock()
        self._next = clock()

    @property
    def rate(self) -> float:
        """Calls a second allowed now."""
        rate = self._law.rate(self._clock())
        return rate if self._cap is None else min(rate, self._cap)

    @property
    def measured(self) -> float | None:
        """Calls a second that AWS was found to allow, or None where none of them is sure."""
        return self._law.measured

    async def acquire(self) -> None:
        """Wait for this call's turn; turns come in the order they were asked for."""
        async with self._turn:
            now = self._clock()
            idle = max(0.0, now - self._next)
            while (wait := self._next - now) > _SLACK:
                await self._sleep(wait)
                now = self._clock()
            self._law.sent(now, idle)
            self._next = max(self._next, now) + 1.0 / self.rate

    def accepted(self, sent_at: float) -> None:
        """A call of this scope, sent at ``sent_at``, was let through, whatever its answer."""
        self._law.accepted(self._clock(), sent_at)

    def throttled(self, sent_at: float) -> None:
        """A call of this scope, sent at ``sent_at``, was refused for its rate."""
        now = self._clock()
        self._law.throttled(now, sent_at)
        self._next = max(self._next, now + 1.0 / self.rate)


class Limits:
    """The limits of all scopes, made when first asked for."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        caps: Mapping[str, float],
        headroom: float = 1.0,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._caps = caps
        self._headroom = headroom
        self._limits: dict[Scope, Limit] = {}
        self._expected: dict[Scope, float] = {}

    def expect(self, scope: Scope, rate: float) -> None:
        """A rate found in an earlier run, where the search for this scope starts.

        To be called before the scope's limit is made.
        """
        self._expected[scope] = rate

    def of(self, scope: Scope) -> Limit:
        limit = self._limits.get(scope)
        if limit is None:
            limit = self._limits[scope] = Limit(
                clock=self._clock,
                sleep=self._sleep,
                cap=self._caps.get(scope[2]),
                headroom=self._headroom,
                pace=self._expected.pop(scope, None),
            )
        return limit

    def measured(
        self, account_id: str, region: str, operations: tuple[str, ...]
    ) -> dict[str, float]:
        """The rates by operation that a target's refusals have shown; to be asked before `forget`.

        A limit that was never met, or not measured surely, has none.
        """
        rates = {}
        for operation in operations:
            limit = self._limits.get((account_id, region, operation))
            if limit is not None and limit.measured is not None:
                rates[operation] = round(limit.measured, 2)
        return rates

    def forget(self, account_id: str, region: str, operations: tuple[str, ...]) -> dict[str, float]:
        """Drop the limits of a finished target; returns the rates that were found."""
        rates = {}
        for operation in operations:
            scope = (account_id, region, operation)
            self._expected.pop(scope, None)
            limit = self._limits.pop(scope, None)
            if limit is not None:
                rates[operation] = round(limit.rate, 2)
        return rates
