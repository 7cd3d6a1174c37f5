"""Control laws for the rate limit, against a token bucket, in virtual time.

    python -m tests.benchmarks.throttle

For each law and case: the share of calls refused, and the time taken over the least that the
bucket allows. Nothing is measured by a clock, so the figures are the same on every machine.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from collector.aws.throttle import BucketEstimate, Law

Rate = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Case:
    """``rate(t)`` tokens a second, ``burst`` at most; ``calls`` to make, ``latency`` seconds.

    Nothing is sent from ``idle[0]`` to ``idle[1]`` seconds, and all that is sent from
    ``outage[0]`` to ``outage[1]`` is refused; a share ``chance`` of calls is refused whatever the
    rate.
    """

    name: str
    rate: Rate
    burst: float
    calls: int
    latency: float = 0.05
    idle: tuple[float, float] = (0.0, 0.0)
    outage: tuple[float, float] = (0.0, 0.0)
    chance: float = 0.0


class Aimd:
    """Additive increase (2 a second), multiplicative decrease (0.7)."""

    measured: float | None = None

    def __init__(self, now: float) -> None:
        self._rate, self._at, self._cut = 20.0, now, now

    def rate(self, now: float) -> float:
        return self._rate + 2.0 * (now - self._at)

    def sent(self, now: float, idle: float) -> None: ...

    def accepted(self, now: float, sent_at: float) -> None: ...

    def throttled(self, now: float, sent_at: float) -> None:
        if sent_at > self._cut:
            self._rate, self._at, self._cut = max(self.rate(now) * 0.7, 0.2), now, now


class Cubic:
    """CUBIC in seconds, with the constants of botocore's adaptive mode (0.7 and 0.4)."""

    measured: float | None = None

    def __init__(self, now: float) -> None:
        self._max, self._at, self._low = 0.0, now, 20.0

    def rate(self, now: float) -> float:
        knee = math.cbrt(max(self._max - self._low, 0.0) / 0.4)
        if self._max:
            return float(self._max + 0.4 * (now - self._at - knee) ** 3)
        return float(self._low * 2 ** (now - self._at))

    def sent(self, now: float, idle: float) -> None: ...

    def accepted(self, now: float, sent_at: float) -> None: ...

    def throttled(self, now: float, sent_at: float) -> None:
        if sent_at > self._at:
            self._max = self.rate(now)
            self._low, self._at = max(self._max * 0.7, 0.2), now


def least_time(case: Case, step: float = 0.01) -> float:
    """Seconds in which the bucket lets all calls through, were it never empty nor full."""
    now = 0.0
    left = float(case.calls)
    tokens = case.burst
    while left > 0:
        tokens = min(tokens + case.rate(now) * step, case.burst + case.rate(now) * step)
        now += step
        if not any(start <= now < end for start, end in (case.idle, case.outage)):
            left -= tokens
            tokens = 0.0
    return now


def simulate(law: Law, case: Case, seed: int = 0) -> tuple[float, float]:
    """(seconds until the last call is through, share of refused calls), event by event."""
    rng = random.Random(seed)
    order = itertools.count()
    events: list[tuple[float, int, str, float]] = [(0.0, next(order), "send", 0.0)]
    waiting, done, refused, sent = case.calls, 0, 0, 0
    tokens, filled, next_turn = case.burst, 0.0, 0.0
    now = 0.0
    pending = True
    while done < case.calls:
        now, _, kind, sent_at = heapq.heappop(events)
        if kind == "send":
            pending = False
            if case.idle[0] <= now < case.idle[1]:
                heapq.heappush(events, (case.idle[1], next(order), "send", 0.0))
                pending = True
            elif waiting and next_turn <= now:
                waiting -= 1
                sent += 1
                law.sent(now, now - next_turn)
                tokens = min(case.burst, tokens + (now - filled) * case.rate(now))
                filled = now
                allowed = tokens >= 1.0 and rng.random() >= case.chance
                allowed = allowed and not case.outage[0] <= now < case.outage[1]
                tokens -= 1.0 if allowed else 0.0
                back = now + case.latency * rng.uniform(0.6, 1.4)
                heapq.heappush(events, (back, next(order), "ok" if allowed else "refused", now))
                next_turn = max(next_turn, now) + 1.0 / max(law.rate(now), 0.01)
        elif kind == "ok":
            done += 1
            law.accepted(now, sent_at)
        else:
            refused += 1
            waiting += 1
            law.throttled(now, sent_at)
            next_turn = max(next_turn, now + 1.0 / max(law.rate(now), 0.01))
        if waiting and not pending:
            heapq.heappush(events, (max(next_turn, now), next(order), "send", 0.0))
            pending = True
    return now, refused / sent


def steps(*parts: tuple[float, float]) -> Rate:
    """A rate that changes at given times: (from second, rate), ..."""

    def rate(now: float) -> float:
        return [value for start, value in parts if start <= now][-1]

    return rate


CASES = (
    Case("20/s, burst 40, 300 calls", steps((0, 20)), 40, 300),
    Case("20/s, burst 20, 2000 calls", steps((0, 20)), 20, 2000),
    Case("20/s, burst 40, latency 0.3 s", steps((0, 20)), 40, 1000, 0.3),
    Case("20/s, burst 40, latency 0.005 s", steps((0, 20)), 40, 300, 0.005),
    Case("5/s, burst 5, 300 calls", steps((0, 5)), 5, 300),
    Case("2/s, burst 2, 100 calls", steps((0, 2)), 2, 100),
    Case("100/s, burst 200", steps((0, 100)), 200, 5000),
    Case("1000/s, burst 1000", steps((0, 1000)), 1000, 30000),
    Case("20/s, halved at 30 s", steps((0, 20), (30, 10)), 20, 1500),
    Case("20/s, halved at 30 s, doubled at 60 s", steps((0, 20), (30, 10), (60, 20)), 20, 2000),
    Case("20/s, burst 2, 2000 calls", steps((0, 20)), 2, 2000),
    Case("20/s, idle from 20 s to 320 s", steps((0, 20)), 40, 2000, idle=(20, 320)),
    Case("20/s, 0.1/s from 30 s to 60 s", steps((0, 20), (30, 0.1), (60, 20)), 20, 3000),
    Case("20/s, all refused 30 s to 40 s", steps((0, 20)), 40, 2000, outage=(30, 40)),
    Case("20/s, all refused 1 s to 2 s, 200 calls", steps((0, 20)), 40, 200, outage=(1, 2)),
    Case("100/s, 2 % refused by chance", steps((0, 100)), 100, 10000, chance=0.02),
    Case("100/s, 5 % refused by chance", steps((0, 100)), 100, 2000, chance=0.05),
    Case("20/s, 18 after 30 s", steps((0, 20), (30, 18)), 20, 2500),
    Case("20/s, doubled at 30 s", steps((0, 20), (30, 40)), 20, 2500),
)
LAWS: dict[str, Callable[[float], Law]] = {
    "bucket estimate": BucketEstimate,
    "CUBIC, seconds": Cubic,
    "AIMD": Aimd,
}


def main() -> None:
    print(f"{'':40}" + "".join(f"{name:>26}" for name in LAWS))
    print(f"{'case':40}" + f"{'refused   time/least':>26}" * len(LAWS))
    for case in CASES:
        least = least_time(case)
        cells = []
        for make in LAWS.values():
            runs = [simulate(make(0.0), case, seed) for seed in range(5)]
            time = sum(run[0] for run in runs) / len(runs)
            refused = sum(run[1] for run in runs) / len(runs)
            cells.append(f"{refused:14.2%} {time / least:9.3f}x ")
        print(f"{case.name:40}" + "".join(cells))


if __name__ == "__main__":
    main()
