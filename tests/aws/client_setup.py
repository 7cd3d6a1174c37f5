"""A client in virtual time, over a wire that says what a test wants it to say."""

from __future__ import annotations

import asyncio

import orjson
from multidict import CIMultiDict

from collector.aws.client import Access, AwsClient, Patience
from collector.aws.sessions import Sdk
from collector.aws.sigv4 import Credentials
from collector.aws.throttle import Limits
from collector.aws.wire import Answer, Wire
from collector.events import CallEnded
from collector.testing import ManualClock

ACCOUNT, REGION = "111111111111", "us-east-1"
SLOTS = 3
GOOD = {"TrainingJobName": "a"}


class Keys:
    """A source of keys that counts; each `expire` of the present ones brings the next ones."""

    def __init__(self, *keys: Credentials) -> None:
        self.keys = list(keys) or [Credentials("AKIA", "secret")]
        self.expired: list[Credentials] = []

    async def get(self) -> Credentials:
        return self.keys[0]

    def expire(self, used: Credentials) -> None:
        self.expired.append(used)
        if used is self.keys[0] and len(self.keys) > 1:
            self.keys.pop(0)


class Script(Wire):
    """A wire that gives answers in turn (the last one for ever), or raises them."""

    def __init__(self, *answers) -> None:
        super().__init__()
        self.answers = list(answers)
        self.sent = 0

    async def send(self, *_):
        self.sent += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = await answer()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def answer(status: int = 200, body: object = None, **headers: str) -> Answer:
    content = orjson.dumps(GOOD if body is None else body)
    return Answer(0.0, status, CIMultiDict(headers), content)


def fault(code: str, status: int = 400, message: str = "") -> Answer:
    return answer(status, {"__type": code, "message": message})


THROTTLED = fault("ThrottlingException")
BROKEN = fault("InternalFailure", 500)
EXPIRED = fault("ExpiredTokenException")


class Setup:
    """A client over ``wire`` in virtual time, and all that its observers were told."""

    def __init__(self, clock: ManualClock, wire: Wire, **sdk: str) -> None:
        self.clock = clock
        self.slots = asyncio.Semaphore(SLOTS)
        self.events: list[CallEnded] = []
        self.patience = Patience(60.0, clock)
        self.limits = Limits(clock=clock, sleep=clock.sleep, caps={})
        self.client = AwsClient(
            Sdk(**sdk),
            wire,
            self.limits,
            slots=self.slots,
            observe=self.events.append,
            clock=clock,
            sleep=clock.sleep,
            random=lambda: 1.0,
        )
        self.access = Access(ACCOUNT, REGION, Keys(), self.patience)

    async def call(self, **options):
        return await self.client.json(
            self.access,
            "sagemaker",
            "DescribeTrainingJob",
            {"TrainingJobName": "a"},
            required=("TrainingJobName",),
            **options,
        )

    @property
    def results(self) -> list[tuple[str, bool]]:
        return [(event.result, event.retried) for event in self.events]

    @property
    def free(self) -> int:
        return self.slots._value


def script(clock: ManualClock, *answers) -> Setup:
    return Setup(clock, Script(*answers))
