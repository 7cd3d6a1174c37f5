"""The rate limit of one operation in one account and region, found by trying.

AWS limits each of these with a token bucket (Amazon EC2 API Reference, "Request throttling"): it
holds up to B tokens, is filled at R a second, and a call that finds none is refused. Neither R nor
B is known. But a refusal tells when the bucket is empty, so between two refusals as many calls
were accepted as tokens came in: accepted / time is R exactly, whatever our pace was in between
(less, if the bucket overflowed meanwhile: an error on the safe side). The law:

- Until the first refusal the pace grows with each call, exponentially in time, so the burst
  allowance is used and the limit found within seconds; the faster answers come, the steeper,
  since what overshoots is what is in flight.
- A refusal sets the estimate to accepted / time since the one before, or to KEPT of the pace if
  that is more, for a bucket so small that it always overflows. One that comes too soon to measure
  cuts the estimate at once, by QUICK_CUT, and leaves the measuring to the next. Idle time
  fills the bucket unseen: what would be measured across it is not.
- From a refusal on, the pace is the estimate times a cubic curve of the calls made since:
  1 + DIP * (calls / epoch - 1)^3. It starts DIP below the estimate, is flat around it, and steep
  beyond it, as in TCP CUBIC (RFC 9438), but counted in calls instead of seconds: so refusals stay
  a small share of calls at any rate. An epoch is shorter where the estimate is not sure, or far
  below what was once found, as after an outage; but the pace never grows faster than at first.
- Only calls that had to wait for their turn count: a pace that is not used is not tried either.
- With headroom, a share of a measured estimate is kept to; after PROBE_AFTER it is measured again.

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
DIP = 0.03
QUICK_CUT, KEPT = 0.7, 0.7
MEASURE_SECONDS, MEASURE_CALLS = 0.5, 5
IDLE_SECONDS = 0.5
PROBE_AFTER = 300.0

SURE, UNSURE = (50.0, 1.0), (25.0, 0.5)
"""Length of an epoch: calls, and seconds that it takes at least, to outlast what is in flight."""

EPOCH_SECONDS, LOW_EPOCH_SECONDS = 15.0, 2.0
"""Seconds that an epoch takes at most; the last where we are far below what was once found."""

_SLACK = 0.002
"""Seconds: shorter waits are not worth a timer, and come out even over the next calls."""


class Law(Protocol):
    """A control law: told what happens, it says how many calls a second are allowed."""

    def rate(self, now: float) -> float: ...

    def sent(self, now: float, idle: float) -> None:
        """A call goes out; its turn had come ``idle`` seconds before, or just now."""

    def accepted(self, now: float, sent_at: float) -> None: ...

    def throttled(self, now: float, sent_at: float) -> None: ...


class BucketEstimate:
    """The law above. Times are seconds of any clock, rates calls a second."""

    def __init__(self, now: float, *, headroom: float = 1.0) -> None:
        self._headroom = headroom
        self._pace = INITIAL_RATE
        self._round_trip = 1.0
        self._estimate: float | None = None
        self._sure = False
        self._most = 0.0
        self._calls = 0.0
        self._epoch = UNSURE[0]
        self._cut_at = now
        self._empty_at: float | None = now
        self._accepted = 0

    def rate(self, now: float) -> float:
        if self._estimate is None:
            return self._pace
        if self._keeps_share:
            return max(self._estimate * self._headroom, LEAST_RATE)
        curve = 1.0 + DIP * (self._calls / self._epoch - 1.0) ** 3
        if curve > 1.0:
            curve = min(curve, math.exp(self._growth * min(now - self._cut_at, 60.0)))
        return max(self._estimate * curve, LEAST_RATE)

    @property
    def _growth(self) -> float:
        """How fast the pace may grow, as an exponent a second."""
        return min(max(GROWTH_A_TRIP / self._round_trip, LEAST_GROWTH), MOST_GROWTH)

    @property
    def _keeps_share(self) -> bool:
        return self._sure and self._headroom < 1.0

    def sent(self, now: float, idle: float) -> None:
        if idle > IDLE_SECONDS:
            self._empty_at = None
        if idle > 0:
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

    def throttled(self, now: float, sent_at: float) -> None:
        if sent_at <= self._cut_at and self._estimate is not None:
            return  # sent before the last cut, about which it says nothing
        seconds = 0.0 if self._empty_at is None else now - self._empty_at
        enough = seconds >= MEASURE_SECONDS and self._accepted >= MEASURE_CALLS
        again = self._empty_at is not None and not enough
        if self._estimate is None:
            # The first time the bucket had been full: taken as holding one second's tokens.
            self._estimate = self._accepted / (seconds + 1.0) if seconds else self._pace * QUICK_CUT
            again = False
        elif enough:
            grown = self.rate(now) * KEPT if self._calls >= self._epoch else 0.0
            measured = self._accepted / seconds
            self._estimate = max(measured, grown)
            self._sure = measured >= grown
        elif again:
            self._estimate *= QUICK_CUT
            self._sure = False
        if not again:
            self._empty_at = now
            self._accepted = 0
        self._estimate = max(self._estimate, LEAST_RATE)
        self._most = max(self._most * 0.9, self._estimate) if self._sure else self._most
        self._start_epoch(now)

    def _start_epoch(self, now: float) -> None:
        estimate = self._estimate or LEAST_RATE
        calls, least = SURE if self._sure else UNSURE
        low = estimate < self._most / 2
        most, floor = (LOW_EPOCH_SECONDS, 1.0) if low else (EPOCH_SECONDS, 4.0)
        self._epoch = max(min(calls, estimate * most), estimate * least, floor)
        self._cut_at = now
        self._calls = 0.0


class Limit:
    """Paces the calls of one scope as its law says; a cap and a headroom are kept to."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        cap: float | None = None,
        headroom: float = 1.0,
        law: Law | None = None,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._cap = cap
        self._law = law or BucketEstimate(clock(), headroom=headroom)
        self._turn = asyncio.Lock()
        self._next = clock()

    @property
    def rate(self) -> float:
        """Calls a second allowed now."""
        rate = self._law.rate(self._clock())
        return rate if self._cap is None else min(rate, self._cap)

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

    def of(self, scope: Scope) -> Limit:
        limit = self._limits.get(scope)
        if limit is None:
            limit = self._limits[scope] = Limit(
                clock=self._clock,
                sleep=self._sleep,
                cap=self._caps.get(scope[2]),
                headroom=self._headroom,
            )
        return limit

    def forget(self, account_id: str, region: str, operations: tuple[str, ...]) -> dict[str, float]:
        """Drop the limits of a finished target; returns the rates that were found."""
        rates = {}
        for operation in operations:
            limit = self._limits.pop((account_id, region, operation), None)
            if limit is not None:
                rates[operation] = round(limit.rate, 2)
        return rates
