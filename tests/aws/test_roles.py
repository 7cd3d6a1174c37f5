"""Assumed roles: how often AssumeRole is called, and what is remembered of it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from collector.aws.client import Access, AwsClient, Patience
from collector.aws.roles import KEYS_SPREAD, RoleCredentials
from collector.aws.sessions import Sdk
from collector.aws.sigv4 import Credentials
from collector.aws.throttle import Limits
from collector.aws.wire import Wire
from collector.errors import DeniedError, ExpiredError, RejectedError, TransientError
from collector.testing import Estate, FakeAws, ManualClock, credentials_for

ROLE = "arn:aws:iam::222222222222:role/Reader"
HOUR = 3600.0


class Sts:
    """Grants a session for each call; raises ``errors`` first. ``life`` is in seconds."""

    def __init__(self, clock: ManualClock, life: float = HOUR) -> None:
        self.clock = clock
        self.life = life
        self.errors: list[Exception] = []
        self.asked: list[dict[str, Any]] = []

    async def built(self, access, service, operation, params, *, required=()):
        assert (service, operation, required) == ("sts", "AssumeRole", ("Credentials",))
        self.asked.append(dict(params))
        self.access = access
        number = len(self.asked)
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        return {
            "Credentials": {
                "AccessKeyId": f"ASIA{number}",
                "SecretAccessKey": "s",
                "SessionToken": "t",
                "Expiration": datetime.fromtimestamp(self.clock() + self.life, UTC),
            }
        }


def role(sts: Sts, external_id: str | None = None) -> RoleCredentials:
    return RoleCredentials(
        sts,
        Access("222222222222", "us-east-1", None, Patience(600, sts.clock)),
        role_arn=ROLE,
        session_name="me",
        external_id=external_id,
        now=sts.clock,
    )


@pytest.fixture
def sts(clock) -> Sts:
    return Sts(clock)


async def test_many_regions_cost_one_call(sts):
    """Whoever asks at the same time is given the keys of one AssumeRole."""
    source = role(sts)
    keys = await asyncio.gather(*(source.get() for _ in range(50)))
    assert {key.access_key for key in keys} == {"ASIA1"}
    assert len(sts.asked) == 1
    assert keys[0] == Credentials("ASIA1", "s", "t", HOUR)


async def test_the_role_is_asked_for_as_it_is_set(sts):
    """Role, session name and external id go into the call; an unset external id does not."""
    await role(sts).get()
    await role(sts, "x-1").get()
    plain = {"RoleArn": ROLE, "RoleSessionName": "me"}
    assert sts.asked == [plain, plain | {"ExternalId": "x-1"}]


@pytest.mark.parametrize("life", [HOUR, 12 * HOUR, 900.0, 60.0])
async def test_keys_are_renewed_ahead_of_their_end(sts, clock, life):
    """Keys handed out are good for a while longer, and are used for most of their life."""
    sts.life = life
    source = role(sts)
    while clock() < 3 * life:
        keys = await source.get()
        assert keys.expires - clock() > min(60.0, life / 10)
        await clock.sleep(life / 50)
    assert 3 <= len(sts.asked) <= 5


async def test_expired_keys_lead_to_one_call(sts):
    """A thousand calls that report the same keys cost one new AssumeRole."""
    source = role(sts)
    old = await source.get()
    for _ in range(1000):
        source.expire(old)
    keys = await asyncio.gather(*(source.get() for _ in range(100)))
    assert {key.access_key for key in keys} == {"ASIA2"}
    source.expire(old)  # a late answer to the old keys does not cost the new ones
    assert (await source.get()).access_key == "ASIA2"
    assert len(sts.asked) == 2


async def test_a_refusal_is_remembered(sts):
    """A role that cannot be assumed is asked for once, however many regions wait for it."""
    sts.errors = [DeniedError("AssumeRole", "AccessDenied")]
    source = role(sts)
    results = await asyncio.gather(*(source.get() for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {DeniedError}
    with pytest.raises(DeniedError):
        await source.get()
    assert len(sts.asked) == 1


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("User: a is not authorized to perform: sts:AssumeRole on resource: b", "external id"),
        (
            "with an explicit deny in a service control policy: arn:aws:organizations::1:policy/p",
            "refused with an explicit deny in a service control policy: arn:aws:organizations::1",
        ),
        (
            "because no identity-based policy allows the sts:AssumeRole action",
            "refused because no identity-based policy allows the sts:AssumeRole action",
        ),
    ],
)
async def test_a_refusal_says_why(sts, message, told):
    """In AWS's words where it gives a reason, else with what may be behind it."""
    sts.errors = [DeniedError("AssumeRole", "AccessDenied", message)]
    with pytest.raises(DeniedError, match="cannot be assumed") as caught:
        await role(sts).get()
    assert told in str(caught.value)
    assert ("external id" in str(caught.value)) is (told == "external id")


async def test_a_fault_near_the_end_keeps_the_old_keys(sts, clock):
    """While the old keys are good, a failed renewal is tried again later and costs nobody."""
    source = role(sts)
    old = await source.get()
    await clock.sleep(HOUR - 200)
    sts.errors = [TransientError("AssumeRole", "Timeout")] * 2
    assert await source.get() is old
    assert await source.get() is old
    assert len(sts.asked) == 2  # one renewal, the next after a quarter of what is left
    await clock.sleep(49)
    assert await source.get() is old
    assert len(sts.asked) == 2
    await clock.sleep(2)
    assert await source.get() is old
    assert len(sts.asked) == 3
    await clock.sleep(60)
    assert (await source.get()).access_key == "ASIA4"


async def test_a_fault_past_the_end_is_raised(sts, clock):
    """Once the old keys are over, a failed renewal is an error."""
    source = role(sts)
    await source.get()
    await clock.sleep(HOUR + 1)
    sts.errors = [TransientError("AssumeRole", "Timeout")]
    with pytest.raises(TransientError):
        await source.get()


async def test_a_first_fault_is_raised(sts):
    """Without any keys a failed AssumeRole is an error at once."""
    sts.errors = [ExpiredError("AssumeRole", "ExpiredToken")]
    with pytest.raises(ExpiredError):
        await role(sts).get()


async def test_a_cancelled_wait_leaves_the_others_served(sts):
    """Who is cancelled while a role is being assumed takes the keys from nobody."""
    source = role(sts)
    tasks = [asyncio.create_task(source.get()) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert len({key.access_key for key in results[1:]}) == 1


async def test_a_denied_role_is_one_sentence(sts):
    """The sentence names the role and what to check, in one line."""
    sts.errors = [DeniedError("AssumeRole", "AccessDenied", "not authorized", status=403)]
    with pytest.raises(DeniedError) as caught:
        await role(sts).get()
    text = str(caught.value)
    assert ROLE in text
    assert "trust" in text
    assert "\n" not in text
    assert (caught.value.code, caught.value.status) == ("AccessDenied", 403)


async def test_a_role_is_assumed_from_sts():
    """Against the fake AWS: keys of the role's account, with their end, by one signed call."""
    access_key, secret = credentials_for("111111111111")

    class Caller:
        async def get(self) -> Credentials:
            return Credentials(access_key, secret)

        def expire(self, used: Credentials) -> None:
            raise AssertionError(used)

        def doubt(self) -> None:
            raise AssertionError

    async with FakeAws(Estate.generate(jobs=1), session_seconds=900) as aws, Wire() as wire:
        clock = time.monotonic
        client = AwsClient(
            Sdk(endpoint_url=aws.url),
            wire,
            Limits(clock=clock, sleep=asyncio.sleep, caps={}),
            slots=asyncio.Semaphore(4),
            observe=lambda _: None,
        )
        access = Access("222222222222", "us-east-1", Caller(), Patience(5, clock))
        source = RoleCredentials(
            client, access, role_arn=ROLE, session_name="me", external_id=None, now=wire.now
        )
        keys = await asyncio.gather(*(source.get() for _ in range(5)))
        assert len(set(keys)) == 1
        assert 0 < keys[0].expires - time.time() <= HOUR + 5
        mine = Access("222222222222", "us-east-1", source, Patience(5, clock))
        who = await client.built(mine, "sts", "GetCallerIdentity", {}, required=("Account",))
    assert who["Account"] == "222222222222"
    assert len(aws.assumed) == 1


async def test_a_renewal_is_given_up_while_the_old_keys_still_serve(sts, clock):
    """Renewing ahead of time has half of what is left to the old keys, not the run's patience."""
    source = role(sts)
    await source.get()
    clock.advance(HOUR - 300)
    await source.get()
    sts.access.patience.failure()
    clock.advance(149)
    assert not sts.access.patience.lost
    clock.advance(1)
    assert sts.access.patience.lost


async def test_others_do_not_wait_for_a_renewal(sts, clock):
    """While one call renews good keys, all others go on with them."""
    source = role(sts)
    old = await source.get()
    clock.advance(HOUR - 200)
    renewing = asyncio.create_task(source.get())
    await asyncio.sleep(0)
    assert await source.get() is old
    assert (await renewing).access_key == "ASIA2"


async def test_keys_in_doubt_are_renewed_unless_they_are_new(sts, clock):
    """Many regions may doubt the same keys at once: new ones are waited for, not thrown away."""
    source = role(sts)
    old = await source.get()
    source.doubt()
    assert await source.get() is old
    clock.advance(KEYS_SPREAD + 0.1)
    for _ in range(20):
        source.doubt()
        assert (await source.get()).access_key == "ASIA2"
    assert len(sts.asked) == 2


async def test_keys_that_are_not_whole_are_refused(sts, monkeypatch):
    """An answer without an expiration is an error of ours, and not asked for again."""

    async def built(*_, **__):
        return {"Credentials": {"AccessKeyId": "ASIA"}}

    monkeypatch.setattr(sts, "built", built)
    with pytest.raises(RejectedError, match="UnreadableAnswer"):
        await role(sts).get()
