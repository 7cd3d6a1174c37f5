"""The adaptive limit against a token bucket, as AWS keeps one, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from collector.aws.throttle import Limit, Limits
from collector.testing import ManualClock

SCOPE = ("111111111111", "us-east-1", "DescribeTrainingJob")


@dataclass
class Bucket:
    """A service that serves ``rate(now)`` calls a second after a burst.

    From ``outage[0]`` to ``outage[1]`` it refuses all, and at any time a share ``chance`` of calls.
    """

    clock: Callable[[], float]
    rate: Callable[[float], float]
    burst: float
    chance: float = 0.0
    outage: tuple[float, float] = (0.0, 0.0)
    tokens: float = 0.0
    since: float = 0.0
    served: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = self.burst
        self.random = random.Random(7)

    def ask(self) -> bool:
        now = self.clock()
        self.tokens = min(self.burst, self.tokens + (now - self.since) * self.rate(now))
        self.since = now
        refuses = self.outage[0] <= now < self.outage[1] or self.random.random() < self.chance
        if self.tokens >= 1.0 and not refuses:
            self.tokens -= 1.0
            self.served.append(now)
            return True
        self.refused.append(now)
        return False

    def per_second(self, start: float, end: float) -> float:
        return sum(start <= at < end for at in self.served) / (end - start)

    @property
    def asked(self) -> int:
        return len(self.served) + len(self.refused)


async def drive(clock: ManualClock, limit: Limit, bucket: Bucket, seconds: float) -> None:
    """Make calls that take no time, as fast as the limit allows."""
    while clock() < seconds:
        await limit.acquire()
        tell(limit, clock(), accepted=bucket.ask())


async def crowd(
    clock: ManualClock, limit: Limit, bucket: Bucket, seconds: float, latency: float = 0.05
) -> None:
    """Make calls that take ``latency`` seconds, up to 32 at a time."""

    async def work() -> None:
        while clock() < seconds:
            await limit.acquire()
            sent_at = clock()
            accepted = bucket.ask()
            await clock.sleep(latency)
            tell(limit, sent_at, accepted=accepted)

    await asyncio.gather(*(work() for _ in range(32)))


def tell(limit: Limit, sent_at: float, *, accepted: bool) -> None:
    if accepted:
        limit.accepted(sent_at)
    else:
        limit.throttled(sent_at)


def limit_of(clock: ManualClock, **options: float) -> Limit:
    return Limit(clock=clock, sleep=clock.sleep, **options)


@pytest.mark.parametrize(
    ("rate", "burst"), [(2.0, 2.0), (2.0, 10.0), (5.0, 5.0), (20.0, 40.0), (100.0, 200.0)]
)
async def test_the_limit_is_found_and_kept(clock, rate, burst):
    """Within a minute the allowed rate is used almost whole, and few calls are refused."""
    bucket = Bucket(clock, lambda _: rate, burst)
    await drive(clock, limit_of(clock), bucket, 300)
    assert bucket.per_second(60, 300) == pytest.approx(rate, rel=0.1)
    assert len(bucket.refused) < 0.03 * bucket.asked


async def test_the_limit_is_found_by_calls_that_take_time(clock):
    """The same with many calls under way, whose answers tell of the past."""
    limit, bucket = limit_of(clock), Bucket(clock, lambda _: 20.0, 40.0)

    await crowd(clock, limit, bucket, 300, 0.4)
    assert bucket.per_second(60, 300) == pytest.approx(20.0, rel=0.15)
    assert len(bucket.refused) < 0.05 * bucket.asked


async def test_without_refusals_the_rate_grows(clock):
    """A service without a limit gets hundreds of calls a second within seconds."""
    limit = limit_of(clock)
    await drive(clock, limit, Bucket(clock, lambda _: 1e6, 1e6), 4)
    assert limit.rate > 200


@pytest.mark.parametrize("factor", [0.5, 2.0])
async def test_a_changed_limit_is_followed(clock, factor):
    """When the service halves or doubles its rate, calls follow within a minute and a half."""
    bucket = Bucket(clock, lambda now: 20.0 if now < 120 else 20.0 * factor, 20.0)
    await drive(clock, limit_of(clock), bucket, 360)
    assert bucket.per_second(60, 120) == pytest.approx(20.0, rel=0.1)
    assert bucket.per_second(210, 360) == pytest.approx(20.0 * factor, rel=0.15)
    late = [at for at in bucket.refused if at > 210]
    assert len(late) < 0.05 * bucket.per_second(210, 360) * 150


async def test_a_cap_is_never_passed(clock):
    """With a cap, no second sees more calls than it, whatever the service would allow."""
    bucket = Bucket(clock, lambda _: 1e6, 1e6)
    limit = limit_of(clock, cap=5.0)
    await drive(clock, limit, bucket, 60)
    served = bucket.served
    assert limit.rate <= 5.0
    assert all(later - first >= 0.99 for first, later in zip(served, served[5:], strict=False))
    assert len(served) == pytest.approx(300, abs=2)


async def test_headroom_uses_less_than_the_whole():
    """With headroom fewer calls are made, and fewer of them refused, than without."""
    buckets = []
    for headroom in (1.0, 0.5):
        own = ManualClock(auto=True)
        buckets.append(Bucket(own, lambda _: 20.0, 40.0))
        await drive(own, limit_of(own, headroom=headroom), buckets[-1], 300)
    full, half = buckets
    assert half.per_second(60, 300) < full.per_second(60, 300)
    assert len(half.refused) < len(full.refused)


async def test_a_refusal_slows_the_next_calls(clock):
    """The pace after a refusal is below the pace before it."""
    limit, bucket = limit_of(clock), Bucket(clock, lambda _: 20.0, 40.0)
    while not bucket.refused:
        await limit.acquire()
        before, sent_at = limit.rate, clock()
        tell(limit, sent_at, accepted=bucket.ask())
    assert limit.rate < before
    await limit.acquire()
    assert clock() - sent_at >= 0.99 / before


async def test_late_answers_to_one_burst_count_once(clock):
    """Many refusals of calls that were sent before the last cut do not cut again."""
    limit = limit_of(clock)
    for _ in range(100):
        await limit.acquire()
        tell(limit, clock(), accepted=True)
    sent_at = clock()
    tell(limit, sent_at, accepted=False)
    rate = limit.rate
    for _ in range(50):
        tell(limit, sent_at, accepted=False)
    assert limit.rate == rate


async def test_turns_come_in_the_order_they_were_asked_for(clock):
    """Waiters are served first come, first served."""
    limit, order = limit_of(clock, cap=10.0), []

    async def wait(number: int) -> None:
        await limit.acquire()
        order.append((number, clock()))

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(wait(number))
    assert [number for number, _ in order] == list(range(20))
    assert order[-1][1] == pytest.approx(1.9)


async def test_nobody_jumps_the_queue():
    """Who asks at the very moment of a turn is served after those who have waited for it."""
    clock, order, moment = ManualClock(), [], asyncio.Event()
    limit = limit_of(clock, cap=1.0)

    async def wait(number: int) -> None:
        await limit.acquire()
        order.append(number)

    async def run_the_clock() -> None:
        await moment.wait()
        while len(order) < 4:
            clock.advance(1.0 if clock.sleepers else 0.0)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    tasks.append(asyncio.create_task(run_the_clock()))
    await clock.until_asleep()
    clock.advance(1.5)
    moment.set()
    await wait(3)  # runs before those that the clock has just woken
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]


@pytest.mark.parametrize("gone", [1, 2, 7])
async def test_a_cancelled_waiter_leaves_the_others_served(clock, gone):
    """Who is cancelled while sleeping or queueing costs the others neither turn nor order."""
    limit, order = limit_of(clock, cap=10.0), []

    async def wait(number: int) -> None:
        await limit.acquire()
        order.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(10)]
    await clock.sleep(0.05)
    tasks[gone].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [number for number in range(10) if number != gone]
    assert clock() <= 1.0


async def test_scopes_have_limits_of_their_own(clock):
    """A refusal in one account, region or operation slows no other; caps go by operation."""
    limits = Limits(clock=clock, sleep=clock.sleep, caps={"ListTrainingJobs": 2.0})
    other = limits.of(("222222222222", *SCOPE[1:]))
    listing = limits.of((*SCOPE[:2], "ListTrainingJobs"))
    before = other.rate
    for _ in range(2):  # the first may be chance
        tell(limits.of(SCOPE), clock(), accepted=False)
    assert limits.of(SCOPE).rate < before == other.rate
    assert listing.rate == 2.0
    assert limits.of(SCOPE) is limits.of(SCOPE)


async def test_forgotten_limits_tell_their_rate(clock):
    """A finished target's limits go, and say what they had found."""
    limits = Limits(clock=clock, sleep=clock.sleep, caps={SCOPE[2]: 3.0})
    first = limits.of(SCOPE)
    assert limits.forget(*SCOPE[:2], ("DescribeTrainingJob", "ListTags")) == {SCOPE[2]: 3.0}
    assert limits.of(SCOPE) is not first


async def test_an_idle_time_costs_no_rate(clock):
    """A sink that takes nothing for ten minutes does not pass for a limit that has fallen."""
    bucket, limit = Bucket(clock, lambda _: 20.0, 40.0), limit_of(clock)
    await drive(clock, limit, bucket, 100)
    await clock.sleep(600)
    await drive(clock, limit, bucket, 900)
    assert bucket.per_second(760, 900) == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize(("low", "seconds"), [(0.1, 30), (0.0, 3), (2.0, 60)])
async def test_an_outage_is_recovered_from(clock, low, seconds):
    """When others have taken all of the limit for a while, it is found again soon after."""
    end = 200 + seconds
    bucket = Bucket(clock, lambda now: low if 200 < now < end else 20.0, 20.0)
    await drive(clock, limit_of(clock), bucket, 600)
    assert bucket.per_second(end + 60, 600) == pytest.approx(20, rel=0.1)


async def test_a_bucket_that_holds_little_is_filled_all_the_same(clock):
    """Where two tokens are all the burst there is, most of the rate is still found and used."""
    bucket = Bucket(clock, lambda _: 20.0, 2.0)
    await drive(clock, limit_of(clock), bucket, 300)
    assert bucket.per_second(100, 300) > 0.85 * 20


@pytest.mark.parametrize("headroom", [0.5, 0.8])
async def test_headroom_is_left_of_what_was_found(clock, headroom):
    """The share is of the rate, not of the burst that came on top of it at the start."""
    bucket = Bucket(clock, lambda _: 20.0, 40.0)
    await drive(clock, limit_of(clock, headroom=headroom), bucket, 290)
    assert bucket.per_second(60, 290) == pytest.approx(20 * headroom, rel=0.1)


async def test_headroom_follows_a_limit_that_has_risen(clock):
    """The limit is measured again from time to time, and most of the time the share is kept."""
    bucket = Bucket(clock, lambda now: 10.0 if now < 200 else 40.0, 20.0)
    await drive(clock, limit_of(clock, headroom=0.5), bucket, 900)
    rates = sorted(bucket.per_second(at, at + 5) for at in range(600, 900, 5))
    assert rates[len(rates) // 2] == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("latency", [0.02, 0.2])
@pytest.mark.parametrize("seconds", [1.0, 10.0])
@pytest.mark.parametrize("rate", [5.0, 20.0, 100.0])
async def test_a_total_outage_costs_seconds(clock, rate, seconds, latency):
    """Four seconds after everything was refused, calls go out as fast as before."""
    end = 60 + seconds
    bucket = Bucket(clock, lambda _: rate, 2 * rate, outage=(60, end))
    await crowd(clock, limit_of(clock), bucket, end + 8, latency)
    assert bucket.per_second(end + 4, end + 8) >= 0.8 * rate
    assert len([at for at in bucket.refused if 60 < at < end]) < 10 + 2 * (seconds + rate * latency)


@pytest.mark.parametrize("start", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("seconds", [1.0, 10.0])
async def test_an_outage_of_an_unmet_limit_costs_seconds(clock, start, seconds):
    """Where no limit had been met before it, the search for one goes on after an outage."""
    end = start + seconds
    limit, bucket = limit_of(clock), Bucket(clock, lambda _: 1e6, 1e6, outage=(start, end))
    await crowd(clock, limit, bucket, end + 7)
    assert bucket.per_second(end + 4, end + 5) >= 20
    assert bucket.per_second(end + 6, end + 7) > 1.3 * bucket.per_second(end + 4, end + 5)
    assert limit.measured is None


async def test_refusals_by_chance_do_not_stop_growth(clock):
    """A service without a limit that refuses every fiftieth call is still used by all workers."""
    bucket = Bucket(clock, lambda _: 1e6, 1e6, chance=0.02)
    await crowd(clock, limit_of(clock), bucket, 90, 0.2)
    assert bucket.per_second(60, 90) > 0.8 * 32 / 0.2


async def test_refusals_by_chance_hide_no_limit(clock):
    """With such refusals on top of a limit, the limit is used and not run into all the time."""
    bucket = Bucket(clock, lambda _: 20.0, 40.0, chance=0.02)
    await crowd(clock, limit_of(clock), bucket, 300)
    assert bucket.per_second(60, 300) > 0.7 * 20
    assert len(bucket.refused) < 0.06 * bucket.asked


async def test_refusals_by_chance_leave_headroom_alone(clock):
    """The share that is kept to shrinks little by refusals that come by chance."""
    bucket = Bucket(clock, lambda _: 20.0, 40.0, chance=0.02)
    await drive(clock, limit_of(clock, headroom=0.5), bucket, 280)
    assert 0.7 * 10 < bucket.per_second(60, 280) < 1.15 * 10


async def test_one_refusal_of_the_first_calls_is_let_pass(clock):
    """The search goes on after one refusal at its start, and ends with the second."""
    limit = limit_of(clock)
    for accepted in (True, False, True):
        await limit.acquire()
        tell(limit, clock(), accepted=accepted)
    assert limit.rate >= 20
    await limit.acquire()
    tell(limit, clock(), accepted=False)
    assert limit.rate < 20


async def test_an_expected_rate_is_where_the_search_starts(clock):
    """A rate of an earlier run is the first pace; it is used once, and is no finding of this."""
    limits = Limits(clock=clock, sleep=clock.sleep, caps={"ListTags": 3.0})
    limits.expect(SCOPE, 70.0)
    limits.expect((*SCOPE[:2], "ListTags"), 70.0)
    limits.expect((*SCOPE[:2], "ListTrainingJobs"), 0.01)
    first = limits.of(SCOPE)
    assert (first.rate, first.measured) == (70.0, None)
    assert limits.of((*SCOPE[:2], "ListTags")).rate == 3.0
    assert limits.of((*SCOPE[:2], "ListTrainingJobs")).rate == 2.0
    assert limits.of(("222222222222", *SCOPE[1:])).rate == 20.0
    await drive(clock, first, Bucket(clock, lambda _: 1e6, 1e6), 2)
    assert first.rate > 100
    limits.forget(*SCOPE[:2], (SCOPE[2],))
    assert limits.of(SCOPE).rate == 20.0


async def test_an_expected_rate_is_forgotten_with_its_target(clock):
    """A rate that was never used does not outlive the target it was for."""
    limits = Limits(clock=clock, sleep=clock.sleep, caps={})
    other = ("222222222222", *SCOPE[1:])
    limits.expect(SCOPE, 70.0)
    limits.expect(other, 60.0)
    assert limits.forget(*SCOPE[:2], (SCOPE[2],)) == {}
    assert limits.of(SCOPE).rate == 20.0
    assert limits.of(other).rate == 60.0


async def test_an_expected_rate_that_is_too_high_is_corrected(clock):
    """A limit that has fallen since the earlier run is found all the same."""
    limit = Limit(clock=clock, sleep=clock.sleep, pace=200.0)
    bucket = Bucket(clock, lambda _: 20.0, 40.0)
    await crowd(clock, limit, bucket, 60)
    assert bucket.per_second(5, 60) == pytest.approx(20, rel=0.1)
    assert len(bucket.refused) < 0.04 * bucket.asked


async def test_measured_is_what_refusals_have_shown(clock):
    """Only a limit that was met and measured has a rate, by operation, in two digits."""
    limits = Limits(clock=clock, sleep=clock.sleep, caps={})
    unmet = limits.of((*SCOPE[:2], "ListTags"))
    await drive(clock, unmet, Bucket(clock, lambda _: 1e6, 1e6), 1)
    await drive(clock, limits.of(SCOPE), Bucket(clock, lambda _: 20.0, 20.0), 60)
    operations = (SCOPE[2], "ListTags", "ListTrainingJobs")
    found = limits.measured(*SCOPE[:2], operations)
    assert found == {SCOPE[2]: pytest.approx(20, rel=0.05)}
    assert found[SCOPE[2]] == round(found[SCOPE[2]], 2)
    assert limits.measured("222222222222", SCOPE[1], operations) == {}
    assert limits.forget(*SCOPE[:2], operations).keys() == {SCOPE[2], "ListTags"}
    assert limits.measured(*SCOPE[:2], operations) == {}


async def test_an_outage_is_not_measured(clock):
    """In an outage and just after it, nothing low passes for the limit."""
    bucket, limit = Bucket(clock, lambda _: 20.0, 40.0, outage=(60, 65)), limit_of(clock)
    rates = []
    for second in range(60, 75):
        await drive(clock, limit, bucket, second)
        rates.append(limit.measured)
    assert None in rates
    assert all(rate is None or rate > 15 for rate in rates)
