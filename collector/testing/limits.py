"""Request rates: a token bucket for each account, region and operation, as AWS keeps them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

Rate = tuple[float, float] | None
"""(requests a second, burst), or None for no limit."""


class Limits:
    """Rates by operation name; ``"*"`` stands for every operation that is not named.

    A rate is (calls a second, burst), kept for each account, region and operation by itself:
    ``Limits({"DescribeTrainingJob": (20, 40), "ListTrainingJobs": (2, 5)})``. None is no limit. A
    rate under (region, operation) is that region's own, in place of the one for all.
    ``http_429`` is the share of refusals that come as HTTP 429 TooManyRequestsException in place
    of the service's own throttling error. Rates may be changed while the server runs.
    """

    def __init__(
        self,
        rates: Mapping[str | tuple[str, str], Rate] | None = None,
        *,
        http_429: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._rates: dict[str | tuple[str, str], Rate] = dict(rates or {})
        self._buckets: dict[tuple[str, str, str], tuple[float, float]] = {}
        self._rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.http_429 = http_429

    def set(self, operation: str, rate: float | None, burst: float | None = None) -> None:
        """Limit ``operation`` to ``rate`` a second from now on; None lifts the limit.

        ``burst`` is the size of the bucket; by default what one second allows, at least 1.
        """
        self._rates[operation] = None if rate is None else (rate, burst or max(rate, 1.0))

    def rate(self, operation: str, region: str = "") -> Rate:
        """(calls a second, burst) of an operation in each account; None if it is not limited."""
        for key in ((region, operation), operation):
            if key in self._rates:
                return self._rates[key]
        return self._rates.get("*")

    def admit(self, key: tuple[str, str, str], clock: Callable[[], float]) -> bool:
        """Whether a call of ``key`` (account, region, operation) may pass now."""
        rate = self.rate(key[2], key[1])
        if rate is None:
            return True
        per_second, burst = rate
        now = clock()
        tokens, since = self._buckets.get(key, (burst, now))
        tokens = min(burst, tokens + max(0.0, now - since) * per_second)
        admitted = tokens >= 1.0
        self._buckets[key] = (tokens - 1.0 if admitted else tokens, now)
        return admitted

    def plain_429(self) -> bool:
        """Whether this refusal is to be a bare HTTP 429."""
        return self.http_429 > 0 and self._rng.random() < self.http_429
