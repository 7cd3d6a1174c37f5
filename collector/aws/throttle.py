"""The rate limit of one operation in one account and region, found by trying.

AWS limits each of these with a token bucket (Amazon EC2 API Reference, "Request throttling"): it
holds up to B tokens, is filled at R a second, and a call that finds none is refused. Neither R nor
B is known. But a refusal tells when the bucket is empty, so between two refusals as many calls
were accepted as tokens came in: accepted / time is R exactly, whatever our pace was in between
(less, if the bucket overflowed: an error on the safe side). The law:

- Until the first refusal the pace grows with each call, exponentially in time, so the burst
  allowance is used and the limit found within seconds; the faster answers come, the steeper,
  since what overshoots is what is in flight.
- A refusal sets the estimate to accepted / time since the one before. One that comes too soon to
  measure cuts the pace at once, by QUICK_CUT, and leaves the measuring to the next.
- From a refusal on, the pace is the estimate times a cubic curve of the calls made since:
  1 + DIP * (calls / EPOCH - 1)^3. It starts DIP below the estimate, is flat around it, and steep
  beyond it, as in TCP CUBIC (RFC 9438), but counted in calls instead of seconds: so refusals stay
  a fixed small share of calls at any rate, while a limit that has risen is found in a few hundred.
- Only calls that had to wait for their turn count: a pace that is not used is not tried either.

A simulation compares it with AIMD and with CUBIC in seconds: python -m tests.benchmarks.throttle.
Clock and sleep are passed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

Scope = tuple[str, str, str]
"""(account id, region, operation): AWS limits each of these on its own."""

INITIAL_RATE = 20.0
GROWTH_A_TRIP, LEAST_GROWTH, MOST_GROWTH = 0.02, 0.35, 3.0
DIP = 0.03
EPOCH, SHORT_EPOCH = 50, 25
EPOCH_SECONDS, SHORT_EPOCH_SECONDS = 1.0, 0.5
QUICK_CUT = 0.7
LEAST_RATE = 0.2
MEASURE_SECONDS, MEASURE_CALLS = 0.5, 5
PROBE_AFTER = 300.0
"""Seconds after which a run that leaves headroom tries the whole limit once more."""

_SLACK = 0.002
"""Seconds: shorter waits are not worth a timer, and come out even over the next calls."""


class Law(Protocol):
    """A control law: told what happens, it says how many calls a second are allowed."""

    def rate(self, now: float) -> float: ...

    def sent(self, now: float, *, waited: bool) -> None: ...

    def accepted(self, now: float, sent_at: float) -> None: ...

    def throttled(self, now: float, sent_at: float) -> None: ...


class BucketEstimate:
    """The law above. Times are seconds of any clock, rates calls a second."""

    def __init__(self, now: float, *, headroom: float = 1.0) -> None:
        self._headroom = headroom
        self._pace = INITIAL_RATE
        self._estimate: float | None = None
        self._calls = 0
        self._epoch: float = EPOCH
        self._empty_at = now
        self._cut_at = now
        self._accepted = 0
        self._round_trip = 1.0

    def rate(self, now: float) -> float:
        if self._estimate is None:
            return self._pace
        x = self._calls / self._epoch - 1.0
        if self._headroom < 1.0:
            if now - self._cut_at < PROBE_AFTER:
                # A share of the limit never meets it: there is nothing to try above the estimate.
                return max(self._estimate * self._headroom, LEAST_RATE)
            x = max(x, 1.0)
        return max(self._estimate * (1.0 + DIP * x**3), LEAST_RATE)

    def sent(self, now: float, *, waited: bool) -> None:  # noqa: ARG002
        if waited:
            self._calls += 1
            if self._estimate is None:
                growth = GROWTH_A_TRIP / self._round_trip
                self._pace += min(max(growth, LEAST_GROWTH), MOST_GROWTH)

    def accepted(self, now: float, sent_at: float) -> None:
        self._accepted += 1
        self._round_trip = min(self._round_trip, max(now - sent_at, 1e-6))

    def throttled(self, now: float, sent_at: float) -> None:
        if sent_at <= self._cut_at and self._estimate is not None:
            return  # sent before the last cut, about which it says nothing
        seconds = now - self._empty_at
        measured = seconds >= MEASURE_SECONDS and self._accepted >= MEASURE_CALLS
        sure = measured and self._estimate is not None
        if self._estimate is None:
            # The first time the bucket had been full: taken as holding one second's tokens.
            estimate = self._accepted / (seconds + 1.0)
        elif measured:
            estimate = self._accepted / seconds
        else:
            estimate = self._estimate * QUICK_CUT
        if measured or self._estimate is None:
            self._empty_at = now
            self._accepted = 0
        self._estimate = max(estimate, LEAST_RATE)
        # What is not sure is soon tried; at high rates an epoch must outlast the calls in flight.
        calls, least = (EPOCH, EPOCH_SECONDS) if sure else (SHORT_EPOCH, SHORT_EPOCH_SECONDS)
        self._epoch = max(calls, self._estimate * least)
        self._cut_at = now
        self._calls = 0


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
            waited = self._next > now
            while (wait := self._next - now) > _SLACK:
                await self._sleep(wait)
                now = self._clock()
            self._law.sent(now, waited=waited)
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
