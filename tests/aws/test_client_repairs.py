"""Calls that mend what was wrong: keys that ran out, a wrong clock, a server full of faults."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from client_setup import ACCOUNT, EXPIRED, GOOD, REGION, SLOTS, Keys, Setup, answer, fault, script

from collector.aws.retry import CLOCK, SIGNATURE
from collector.aws.sessions import CallerCredentials, Sdk
from collector.aws.sigv4 import Credentials
from collector.aws.wire import Wire
from collector.errors import DeniedError, RejectedError
from collector.testing import Estate, FakeAws, ManualClock, credentials_for


async def test_expired_keys_are_renewed_once(clock):
    """A call whose keys ran out is made again at once with others."""
    setup = script(clock, EXPIRED, answer())
    old, new = Credentials("OLD", "s"), Credentials("NEW", "s")
    keys = Keys(old, new)
    setup.access = replace(setup.access, credentials=keys)
    assert await setup.call() == GOOD
    assert keys.expired == [old]
    assert setup.results == [("faulted", True), ("ok", False)]
    assert clock() < 1


async def test_keys_that_stay_expired_are_denied(clock):
    """Where renewal brings nothing, the call ends as denied after a few attempts, not minutes."""
    setup = script(clock, EXPIRED)
    with pytest.raises(DeniedError) as caught:
        await setup.call()
    assert caught.value.code == "ExpiredTokenException"
    assert caught.value.attempts == setup.client.wire.sent <= 3
    assert setup.free == SLOTS


async def test_keys_that_stay_expired_are_told_with_what_to_do(clock):
    """The error keeps AWS's code, and says that newer keys are needed and what then."""
    setup = script(clock, EXPIRED)
    with pytest.raises(DeniedError) as caught:
        await setup.call()
    text = str(caught.value)
    assert text.startswith("DescribeTrainingJob: ExpiredTokenException: the session's keys ran out")
    assert "renew them" in text
    assert "run the same command again" in text


async def test_new_keys_that_are_expired_too_are_another_matter(clock):
    """Where renewal did bring others, nobody is told to renew them."""
    setup = script(clock, fault("ExpiredTokenException", message="The token is expired"))
    keys = Keys(*(Credentials(f"K{number}", "s") for number in range(5)))
    setup.access = replace(setup.access, credentials=keys)
    with pytest.raises(DeniedError) as caught:
        await setup.call()
    assert caught.value.message == "The token is expired"


async def test_the_callers_own_keys_that_ran_out_are_told_at_the_start_too(clock, monkeypatch):
    """Static keys of the environment with a session that is over: the same advice."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAOLD")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    setup = script(clock, EXPIRED)
    setup.access = replace(setup.access, credentials=CallerCredentials(Sdk()))
    with pytest.raises(DeniedError, match="renew them"):
        await setup.call()
    assert setup.client.wire.sent <= 3


@asynccontextmanager
async def fake(clock: ManualClock, *, skew: float = 0.0, secret: str = "", **options):
    """A setup against the fake AWS, with a clock that is ``skew`` seconds behind."""
    access_key, good = credentials_for(ACCOUNT)
    estate = Estate.generate(accounts=1, regions=[REGION], jobs=3)
    async with (
        FakeAws(estate, **options) as aws,
        Wire(clock=lambda: time.time() - skew) as wire,
    ):
        setup = Setup(clock, wire, endpoint_url=aws.url)
        keys = Keys(Credentials(access_key, secret or good))
        setup.access = replace(setup.access, credentials=keys)
        yield setup, aws


async def listed(setup: Setup):
    return await setup.client.json(
        setup.access, "sagemaker", "ListTrainingJobs", {}, required=("TrainingJobSummaries",)
    )


@pytest.mark.parametrize("skew", [600.0, -600.0])
async def test_a_wrong_clock_is_corrected_once(clock, skew):
    """Ten minutes off, the first call is made again with the server's time, then on it is right."""
    async with fake(clock, skew=skew) as (setup, aws):
        for _ in range(3):
            assert len((await listed(setup))["TrainingJobSummaries"]) == 3
        assert setup.results == [("faulted", True)] + [("ok", False)] * 3
        assert aws.calls["ListTrainingJobs"] == 4
        assert abs(setup.client.wire.now() - time.time()) < 2


async def test_many_calls_of_a_wrong_clock_all_succeed(clock):
    """Calls that were signed before the correction are made again, each on its own."""
    async with fake(clock, skew=600.0) as (setup, _):
        await asyncio.gather(*(listed(setup) for _ in range(10)))
        assert Counter(event.result for event in setup.events)["ok"] == 10
        assert setup.free == SLOTS


async def test_a_wrong_secret_is_refused_at_once(clock):
    """A signature that is wrong at the right time is no question of clocks: one request."""
    async with fake(clock, secret="wrong") as (setup, aws):
        with pytest.raises(RejectedError) as caught:
            await listed(setup)
        assert caught.value.code in {"InvalidSignatureException", "SignatureDoesNotMatch"}
        assert aws.calls["ListTrainingJobs"] == 1
        assert setup.results == [("refused", False)]


@pytest.mark.parametrize("code", sorted(CLOCK - SIGNATURE))
async def test_a_clock_that_is_called_wrong_for_no_reason_is_a_fault(clock, code):
    """The answer's own time is ours, or not told: the call is made again, and not for ever."""
    setup = script(clock, fault(code), fault(code), answer())
    assert await setup.call() == GOOD
    setup = script(clock, fault(code))
    with pytest.raises(RejectedError):
        await setup.call()
    assert setup.client.wire.sent == 3


async def test_calls_in_other_protocols_are_built_by_the_sdk(clock):
    """STS and EC2 speak XML, Account REST: their answers come as the SDK's members."""
    async with fake(clock) as (setup, _):
        who = await setup.client.built(
            setup.access, "sts", "GetCallerIdentity", {}, required=("Account", "Arn")
        )
        assert who["Account"] == ACCOUNT
        regions = await setup.client.built(
            setup.access, "ec2", "DescribeRegions", {}, required=("Regions",)
        )
        assert REGION in {region["RegionName"] for region in regions["Regions"]}
        assert setup.free == SLOTS


@pytest.mark.parametrize("name", ["error_500", "reset", "truncated", "garbage", "emptied"])
async def test_faults_of_a_server_are_outlived(clock, name):
    """Two of three answers fail in one way or another, and every call succeeds all the same."""
    async with fake(clock) as (setup, aws):
        setattr(aws.faults, name, 0.67)
        for _ in range(5):
            assert len((await listed(setup))["TrainingJobSummaries"]) == 3
        assert aws.faults_dealt[name] > 0
        assert Counter(event.result for event in setup.events)["ok"] == 5
        assert sum(event.retried for event in setup.events) == aws.faults_dealt[name]
