"""Calls: slots, patience, attempts and what the observers are told."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from client_setup import (
    ACCOUNT,
    BROKEN,
    EXPIRED,
    GOOD,
    REGION,
    SLOTS,
    THROTTLED,
    Script,
    Setup,
    answer,
    fault,
    script,
)

from collector.aws.client import Patience
from collector.aws.wire import Answer
from collector.errors import (
    CredentialsError,
    DeniedError,
    NotFoundError,
    RejectedError,
    ThrottledError,
    TransientError,
)
from collector.events import CallEnded, RateChanged
from collector.report import Report
from collector.tables import load_table

TABLE = load_table()


# --- success, failure, slots --------------------------------------------------------------------


async def test_a_call_brings_its_members(clock):
    """One request, one answer, one event, and the slot is free again."""
    setup = script(clock, answer())
    assert await setup.call() == GOOD
    assert setup.results == [("ok", False)]
    event = setup.events[0]
    assert (event.account_id, event.region) == (ACCOUNT, REGION)
    assert event.operation == "DescribeTrainingJob"
    assert setup.free == SLOTS


@pytest.mark.parametrize(
    ("wire_answer", "error"),
    [
        (fault("AccessDeniedException"), DeniedError),
        (fault("ValidationException"), RejectedError),
        (THROTTLED, ThrottledError),
        (BROKEN, TransientError),
        (EXPIRED, DeniedError),
        (ConnectionResetError(), TransientError),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
@pytest.mark.parametrize("admitted", [False, True])
async def test_a_failed_call_frees_its_slot(clock, wire_answer, error, admitted):
    """However a call fails, at once or after attempts, its slot is free afterwards."""
    setup = script(clock, wire_answer)
    if admitted:
        await setup.client.admit(setup.access, "DescribeTrainingJob")
        assert setup.free == SLOTS - 1
    with pytest.raises(error):
        await setup.call(attempts=3, admitted=admitted)
    assert setup.free == SLOTS


async def test_a_call_without_credentials_frees_its_slot(clock):
    """A source that has no keys costs no slot either."""
    setup = script(clock, answer())

    async def get():
        raise CredentialsError("none")

    setup.access.credentials.get = get
    with pytest.raises(CredentialsError):
        await setup.call()
    assert setup.free == SLOTS


async def test_a_call_that_cannot_be_built_frees_its_slot(clock):
    """Parameters that are no JSON free the slot that was taken ahead."""
    setup = script(clock, answer())
    await setup.client.admit(setup.access, "DescribeTrainingJob")
    with pytest.raises(TypeError):
        await setup.client.json(
            setup.access, "sagemaker", "DescribeTrainingJob", {"a": object()}, admitted=True
        )
    assert setup.free == SLOTS


@pytest.mark.parametrize("admitted", [False, True])
async def test_a_cancelled_call_frees_its_slot(clock, admitted):
    """Cancelling while an answer is awaited frees the slot and tells of no end."""
    started = asyncio.Event()

    async def hang():
        started.set()
        await asyncio.Event().wait()

    setup = script(clock, hang)
    if admitted:
        await setup.client.admit(setup.access, "DescribeTrainingJob")
    task = asyncio.create_task(setup.call(admitted=admitted))
    await started.wait()
    assert setup.free == SLOTS - 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert setup.free == SLOTS
    assert setup.events == []


async def test_a_call_cancelled_in_its_wait_takes_no_slot(clock):
    """Cancelling while all slots are taken leaves them to those who have them."""
    setup = script(clock, answer())
    for _ in range(SLOTS):
        await setup.client.admit(setup.access, "DescribeTrainingJob")
    task = asyncio.create_task(setup.call())
    await clock.sleep(5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert setup.free == 0
    setup.client.release()
    assert await setup.call() == GOOD
    assert setup.free == 1


async def test_slots_bound_the_calls_in_flight(clock):
    """Never more calls are under way than there are slots."""
    flying = most = 0

    async def slow():
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await clock.sleep(10)
        flying -= 1
        return answer()

    setup = script(clock, slow)
    await asyncio.gather(*(setup.call() for _ in range(20)))
    assert most == SLOTS


async def test_no_slot_is_held_while_a_retry_waits(clock):
    """A call that waits to be made again leaves its slot to others."""
    setup, told = script(clock, BROKEN, answer()), asyncio.Event()
    setup.client.observe = lambda _: told.set()
    setup.client.random = lambda: 1000.0
    task = asyncio.create_task(setup.call())
    await told.wait()
    assert setup.free == SLOTS
    assert await task == GOOD


# --- attempts and events ------------------------------------------------------------------------


async def test_every_request_is_told_of(clock):
    """Each request is one event; only those that are made again say so."""
    setup = script(clock, THROTTLED, BROKEN, TimeoutError(), answer())
    assert await setup.call() == GOOD
    assert setup.results == [
        ("throttled", True),
        ("faulted", True),
        ("faulted", True),
        ("ok", False),
    ]
    assert setup.client.wire.sent == 4


async def test_the_report_counts_requests(clock):
    """Calls, throttled, retried and failed of the report add up to what was sent."""
    setup = script(clock, THROTTLED, THROTTLED, BROKEN, answer(), fault("ValidationException"))
    report = Report()
    await setup.call()
    with pytest.raises(RejectedError):
        await setup.call()
    for event in setup.events:
        report(event)
    assert report.as_dict()["calls"] == {
        "DescribeTrainingJob": {"calls": 5, "throttled": 2, "retried": 3, "failed": 1}
    }


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_attempts_are_bounded(clock, attempts):
    """A call is sent as often as allowed, and its error says how often that was."""
    setup = script(clock, BROKEN)
    with pytest.raises(TransientError) as caught:
        await setup.call(attempts=attempts)
    assert setup.client.wire.sent == caught.value.attempts == attempts
    assert setup.results == [("faulted", True)] * (attempts - 1) + [("faulted", False)]


async def test_without_a_bound_patience_decides(clock):
    """A call is tried until its target has had no success for as long as it may."""
    setup = script(clock, BROKEN)
    with pytest.raises(TransientError) as caught:
        await setup.call()
    assert 60 <= clock() < 60 + 1
    assert caught.value.attempts == setup.client.wire.sent > 5


async def test_no_wait_outlasts_the_patience(clock):
    """A service that asks for minutes is asked once more at the end of ours, and then given up."""
    setup = script(clock, answer(503, {"__type": "ServiceUnavailable"}, **{"Retry-After": "290"}))
    with pytest.raises(TransientError) as caught:
        await setup.call()
    assert 60 <= clock() < 60 + 1
    assert caught.value.attempts == setup.client.wire.sent == 2


async def test_a_wait_that_others_made_longer_is_worth_another(clock):
    """The success of another call during the wait restores the patience of the waiting one."""
    slow = answer(503, {"__type": "ServiceUnavailable"}, **{"Retry-After": "50"})
    setup = script(clock, slow, slow, answer())
    setup.patience.failure()
    await clock.sleep(30)
    task = asyncio.create_task(setup.call())
    await clock.sleep(20)
    setup.patience.success()
    assert await task == GOOD
    assert 60 + 50 <= clock() < 60 + 51


async def test_an_abandoned_run_starts_no_wait(clock):
    """Once the run is being stopped, a call that fails is not waited for, whatever it asks."""
    slow = answer(503, {"__type": "ServiceUnavailable"}, **{"Retry-After": "290"})
    setup = script(clock, slow)
    setup.patience.abandon()
    with pytest.raises(TransientError):
        await setup.call()
    assert clock() < 1
    assert setup.client.wire.sent == 1


async def test_the_success_of_others_keeps_a_call_alive(clock):
    """While other calls of the target succeed, a failing one is tried on."""
    setup = script(clock, BROKEN)
    task = asyncio.create_task(setup.call())
    while clock() < 600:
        await clock.sleep(30)
        setup.patience.success()
    assert not task.done()
    setup.patience.abandon()
    with pytest.raises(TransientError):
        await task


async def test_a_throttle_slows_its_own_operation(clock):
    """Throttled answers cut the rate of their account, region and operation alone."""
    setup = script(clock, THROTTLED)
    scope = (ACCOUNT, REGION, "DescribeTrainingJob")
    before = setup.limits.of(scope).rate
    with pytest.raises(ThrottledError):
        await setup.call(attempts=4)
    assert setup.limits.of(scope).rate < before
    assert setup.limits.of((ACCOUNT, REGION, "ListTags")).rate >= before


class Bucket(Script):
    """A wire behind a token bucket of ``rate`` a second, which holds as many."""

    def __init__(self, clock, rate: float) -> None:
        super().__init__(answer())
        self.clock, self.rate, self.tokens, self.filled = clock, rate, rate, clock()

    async def send(self, *arguments):
        now = self.clock()
        self.tokens = min(self.rate, self.tokens + (now - self.filled) * self.rate)
        self.filled = now
        if self.tokens < 1:
            self.sent += 1
            return THROTTLED
        self.tokens -= 1
        return await super().send(*arguments)


async def test_a_limit_that_is_found_is_told(clock):
    """Once refusals have shown what AWS allows, observers are told, and again when it changes."""
    setup = Setup(clock, Bucket(clock, 10.0))
    for _ in range(400):
        await setup.call()
    told = [event for event in setup.events if isinstance(event, RateChanged)]
    assert {event.operation for event in told} == {"DescribeTrainingJob"}
    assert told[-1].rate == pytest.approx(10.0, rel=0.1)
    assert all(one.rate != other.rate for one, other in pairwise(told))


async def test_a_refusal_by_chance_is_no_other_limit(clock):
    """A refusal that leaves the limit as it was known is not told as a change."""
    wire = Bucket(clock, 10.0)
    setup = Setup(clock, wire)
    for _ in range(400):
        await setup.call()
    found = len(setup.events)
    while RateChanged not in map(type, setup.events[found:]):
        await setup.call()
    for _ in range(5):  # what was just found is sure, and we keep below it
        await setup.call()
    before = len(setup.events)
    wire.tokens = -1.0
    await setup.call()
    assert [type(event) for event in setup.events[before:]] == [CallEnded, CallEnded]
    assert setup.events[before].result == "throttled"


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        ("ValidationException", "Requested resource not found.", NotFoundError),
        ("ResourceNotFound", "", NotFoundError),
        ("ValidationException", "1 validation error detected", RejectedError),
    ],
)
async def test_gone_is_told_from_refused(clock, code, message, error):
    """The table's own 'not found' answers are NotFoundError, and are not tried again."""
    setup = script(clock, fault(code, message=message))
    with pytest.raises(error) as caught:
        await setup.call(not_found=TABLE.describe.not_found)
    assert type(caught.value) is error
    assert setup.results == [("refused", False)]


async def test_an_answer_too_deep_to_read_is_asked_for_once(clock):
    """It would come again as it is: the call is refused by name after one request."""
    deep = b'{"TrainingJobName": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    setup = script(clock, Answer(0.0, 200, {}, deep))
    with pytest.raises(RejectedError) as caught:
        await setup.call()
    assert (caught.value.code, caught.value.attempts) == ("TooDeep", 1)
    assert setup.results == [("refused", False)]
    assert setup.client.wire.sent == 1


@pytest.mark.parametrize("last", [answer(), fault("ValidationException")])
async def test_a_definite_answer_restores_patience(clock, last):
    """Whether a call succeeds or is refused: the target answers, so others are tried on."""
    setup = script(clock, BROKEN, last)
    with pytest.raises(TransientError):
        await setup.call(attempts=1)
    await clock.sleep(100)
    assert setup.patience.lost
    await asyncio.gather(setup.call(), return_exceptions=True)
    assert not setup.patience.lost


async def test_patience_is_lost_after_a_time_without_success(clock):
    """Failures alone do not exhaust it, nor does time alone; both together do."""
    patience = Patience(10.0, clock)
    await clock.sleep(100)
    assert not patience.lost
    patience.failure()
    await clock.sleep(9)
    patience.failure()
    assert not patience.lost
    patience.success()
    patience.failure()
    await clock.sleep(9.5)
    assert not patience.lost
    await clock.sleep(0.5)
    assert patience.lost
    patience.success()
    assert not patience.lost
    patience.abandon()
    assert patience.lost


async def test_patience_knows_what_is_left_of_it(clock):
    """All of it while nothing fails, less from the first failure on, nothing when abandoned."""
    patience = Patience(10.0, clock)
    await clock.sleep(100)
    assert patience.remaining == 10.0
    patience.failure()
    await clock.sleep(4)
    assert patience.remaining == pytest.approx(6.0)
    await clock.sleep(60)
    assert patience.remaining == 0.0
    patience.success()
    assert patience.remaining == 10.0
    patience.abandon()
    assert patience.remaining == 0.0


async def test_no_patience_at_all_still_bears_no_failure_ahead(clock):
    """With nothing to give, a target is lost with its first failure and not before."""
    patience = Patience(0.0, clock)
    assert not patience.lost
    patience.failure()
    assert patience.lost
