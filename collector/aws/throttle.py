"""The rate limit of one operation in one account and region, found by trying.

Law: calls are paced at ``rate`` a second. A throttled answer cuts the rate to BACKOFF of what was
really served in the last second, and growth starts again from there: a cubic curve that is flat
around the rate that was last too much and steep far from it (TCP CUBIC, RFC 9438, as botocore's
adaptive mode also uses it). Before the first throttle the rate doubles every second, so a burst
allowance is used and the limit found within seconds. Clock and sleep are passed in.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

Scope = tuple[str, str, str]
"""(account id, region, operation): AWS limits each of these on its own."""

INITIAL_RATE = 10.0
BACKOFF = 0.9
CUBIC = 0.05
DOUBLING = 1.0
LEAST_RATE = 0.1
WINDOW = 1.0


class Limit:
    """The adaptive limit of one scope. Rates are calls a second, times are seconds."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        cap: float | None = None,
        headroom: float = 1.0,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._cap = cap
        self._headroom = headroom
        self._turn = asyncio.Lock()
        self._started = clock()
        self._next = self._started
        self._found: float | None = None
        self._plateau = 0.0
        self._cut_at = 0.0
        self._sent: deque[float] = deque(maxlen=1024)

    @property
    def rate(self) -> float:
        """Calls a second allowed now, headroom and cap included."""
        now = self._clock()
        rate: float
        if self._found is None:
            rate = INITIAL_RATE * 2.0 ** min((now - self._started) / DOUBLING, 20.0)
        else:
            # The curve passes through _found at the cut and is flat at _plateau.
            knee = math.cbrt((self._plateau - self._found) / CUBIC)
            age = now - self._cut_at - knee
            rate = self._plateau + CUBIC * age**3
            rate = max(rate, LEAST_RATE) * self._headroom
        return rate if self._cap is None else min(rate, self._cap)

    async def acquire(self) -> None:
        """Wait for this call's turn; turns come in the order they were asked for."""
        async with self._turn:
            while (wait := self._next - self._clock()) > 0:
                await self._sleep(wait)
            now = self._clock()
            self._next = now + 1.0 / self.rate
            self._sent.append(now)

    def throttled(self) -> None:
        """A call of this scope was refused for its rate."""
        now = self._clock()
        if self._found is not None and now - self._cut_at < WINDOW:
            return  # still answers to calls that were sent before the last cut
        served = sum(1 for sent in self._sent if sent > now - WINDOW) / WINDOW
        too_much = min(self.rate / self._headroom, max(served, LEAST_RATE))
        self._plateau = too_much
        self._found = max(too_much * BACKOFF, LEAST_RATE)
        self._cut_at = now
        self._next = max(self._next, now + 1.0 / self._found)


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
