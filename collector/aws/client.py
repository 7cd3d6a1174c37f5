"""One AWS call as the rest of the collector makes it: paced, signed, sent, understood, retried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import random as system_random
from typing import Any, Literal

import orjson

from collector.aws.retry import (
    NETWORK_ERRORS,
    RETRYABLE,
    SIGNATURE,
    again,
    as_not_found,
    network_error,
    read_built,
    read_json,
)
from collector.aws.sessions import CredentialSource, Sdk
from collector.aws.sigv4 import Credentials
from collector.aws.throttle import Limits
from collector.aws.wire import Answer, Template, Wire
from collector.errors import (
    CallError,
    ClockError,
    DeniedError,
    ExpiredError,
    RejectedError,
    ThrottledError,
)
from collector.events import CallEnded, Observer, RateChanged
from collector.model import Wire as Members

_REPAIRS = 2
"""How often one call may find its credentials expired, or the clock wrong, before it is refused."""


_RENEW = (
    "the session's keys ran out and the SDK has no newer ones: renew them, as with `aws sso login` "
    "or new AWS_ variables, and run the same command again"
)


class Patience:
    """How long failures are borne: until ``give_up_after`` seconds pass without any success.

    Shared by the calls of one target, so that a job is tried as long as others get through.
    """

    def __init__(self, give_up_after: float, clock: Callable[[], float]) -> None:
        self._give_up_after = give_up_after
        self._clock = clock
        self._failing_since: float | None = None
        self._abandoned = False

    def success(self) -> None:
        self._failing_since = None

    def failure(self) -> None:
        if self._failing_since is None:
            self._failing_since = self._clock()

    def abandon(self) -> None:
        """Bear no failure from now on: the run is being stopped."""
        self._abandoned = True

    def another(self) -> Patience:
        """As much patience, for calls whose failures say nothing about the others'."""
        return Patience(self._give_up_after, self._clock)

    @property
    def remaining(self) -> float:
        """Seconds until it is time to give up, if nothing succeeds before."""
        if self._abandoned:
            return 0.0
        if self._failing_since is None:
            return self._give_up_after
        return max(0.0, self._give_up_after - (self._clock() - self._failing_since))

    @property
    def lost(self) -> bool:
        """True once it is time to give up."""
        return self._abandoned or (self._failing_since is not None and self.remaining <= 0.0)


@dataclass(frozen=True, slots=True)
class Access:
    """Who calls where: an account's keys, a region, and how long failures are borne there."""

    account_id: str
    region: str
    credentials: CredentialSource
    patience: Patience


class AwsClient:
    """Makes calls for any account, region and service over one wire.

    ``slots`` bounds the calls in flight over all of them. `json` and `built` raise CallError (see
    `errors.py`) once a call has failed for good.
    """

    def __init__(
        self,
        sdk: Sdk,
        wire: Wire,
        limits: Limits,
        *,
        slots: asyncio.Semaphore,
        observe: Observer,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = system_random,
    ) -> None:
        self.sdk = sdk
        self.wire = wire
        self.limits = limits
        self.clock = clock
        self.sleep = sleep
        self.observe = observe
        self.random = random
        self._slots = slots

    async def admit(self, access: Access, operation: str) -> None:
        """Wait for the limit's permit and a free slot; pass ``admitted=True`` to the call then."""
        await self.limits.of((access.account_id, access.region, operation)).acquire()
        await self._slots.acquire()

    def release(self) -> None:
        """Give back the slot of an admitted call."""
        self._slots.release()

    async def json(
        self,
        access: Access,
        service: str,
        operation: str,
        params: Mapping[str, Any],
        *,
        required: tuple[str, ...] = (),
        not_found: tuple[tuple[str, str], ...] = (),
        attempts: int | None = None,
        admitted: bool = False,
    ) -> Members:
        """A JSON-protocol call: the hot path.

        ``attempts`` bounds the attempts made here; None tries until the patience is lost.
        """

        def read(answer: Answer) -> Members:
            try:
                return read_json(operation, answer, required)
            except CallError as error:
                raise as_not_found(error, not_found) from None

        try:
            template = await self.sdk.template(service, access.region, operation)
            body = orjson.dumps(params)
        except BaseException:
            if admitted:
                self.release()
            raise
        return await _Call(self, access, template, body, read).make(attempts, admitted=admitted)

    async def built(
        self,
        access: Access,
        service: str,
        operation: str,
        params: Mapping[str, Any],
        *,
        required: tuple[str, ...] = (),
    ) -> Members:
        """A call of any protocol, its request built and its answer parsed by the SDK."""
        built = await self.sdk.build(service, access.region, operation, params)

        def read(answer: Answer) -> Members:
            return read_built(built, answer, required)

        return await _Call(self, access, built.template, built.body, read).make(None)


@dataclass(slots=True)
class _Call:
    """One call and its attempts."""

    client: AwsClient
    access: Access
    template: Template
    body: bytes
    read: Callable[[Answer], Members]
    started: float = 0.0
    attempts: int = 0
    repairs: int = 0
    expired: Credentials | None = None
    no_newer: bool = False

    async def make(self, most: int | None, *, admitted: bool = False) -> Members:
        try:
            return await self._make(most, admitted=admitted)
        except _NoKeysError as error:
            # It has been retried, and is no answer to this call: not to be retried or counted here.
            raise _final(error.cause) from error

    async def _make(self, most: int | None, *, admitted: bool) -> Members:
        try:
            return await self._attempt(admitted=admitted)
        except RETRYABLE as error:
            failed: list[CallError] = [error]
        except CallError as error:
            self._report(error)
            raise

        # tenacity is only set up for the few calls that need it; it is told of the failure above.
        async def attempt() -> Members:
            if failed:
                raise failed.pop()
            return await self._attempt(admitted=False)

        try:
            return await again(
                attempt,
                may_retry=lambda error: self._may_retry(error, most),
                on_retry=lambda error: self._report(error, retried=True),
                longest=lambda: self.access.patience.remaining,
                sleep=self.client.sleep,
                random=self.client.random,
            )
        except CallError as error:
            self._report(error)
            final = error
            if isinstance(error, ExpiredError | ClockError):
                final = _final(error, no_newer=self.no_newer)
            final.attempts = self.attempts
            raise final from error.__cause__

    def _may_retry(self, error: CallError, most: int | None) -> bool:
        if isinstance(error, ExpiredError | ClockError):
            self.repairs += 1
            return self.repairs <= _REPAIRS
        return not self.access.patience.lost and (most is None or self.attempts < most)

    async def _attempt(self, *, admitted: bool) -> Members:
        """One attempt, admitted, sent and read; tells the limit and the patience how it went."""
        client, access, operation = self.client, self.access, self.template.operation
        if not admitted:
            await client.admit(access, operation)
        limit = client.limits.of((access.account_id, access.region, operation))
        self.started = client.clock()
        self.attempts += 1
        try:
            answer = await self._send()
        except CallError as error:
            if isinstance(error, ThrottledError):
                known = limit.measured
                limit.throttled(self.started)
                self._report_rate(known, limit.measured)
            elif error.status:
                limit.accepted(self.started)
            if isinstance(error, RETRYABLE):
                access.patience.failure()
            else:
                access.patience.success()  # a definite answer, if not the one hoped for
            raise
        finally:
            client.release()
        limit.accepted(self.started)
        access.patience.success()
        self._report(None)
        return answer

    async def _send(self) -> Members:
        """Raises CallError, whatever went wrong with the call, and _NoKeysError."""
        try:
            keys = await self.access.credentials.get()
        except CallError as error:
            raise _NoKeysError(error) from error
        wire = self.client.wire
        try:
            answer = await wire.send(self.template, self.body, keys)
        except NETWORK_ERRORS as error:
            raise network_error(self.template.operation, error) from error
        try:
            return self.read(answer)
        except ExpiredError:
            self.no_newer, self.expired = keys == self.expired, keys
            self.access.credentials.expire(keys)
            raise
        except ClockError as error:
            if wire.correct_clock(answer) or error.code not in SIGNATURE:
                raise
            # The clock was right, so the signature itself is wrong: the secret key, most likely.
            raise _final(error) from error

    def _report_rate(self, known: float | None, found: float | None) -> None:
        if found is not None and found != known:
            place = self.access.account_id, self.access.region, self.template.operation
            self.client.observe(RateChanged(*place, round(found, 2)))

    def _report(self, error: CallError | None, *, retried: bool = False) -> None:
        result: Literal["ok", "throttled", "faulted", "refused"] = "ok"
        if isinstance(error, ThrottledError):
            result = "throttled"
        elif isinstance(error, RETRYABLE):
            result = "faulted"
        elif error is not None:
            result = "refused"
        self.client.observe(
            CallEnded(
                self.access.account_id,
                self.access.region,
                self.template.operation,
                result,
                retried,
                self.client.clock() - self.started,
            )
        )


class _NoKeysError(Exception):
    """There are no keys to sign the call with; ``cause`` is the call for keys that failed."""

    def __init__(self, cause: CallError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _final(error: CallError, *, no_newer: bool = False) -> CallError:
    """``error`` as one that is not tried again: a repair that did not help, or has been retried.

    ``no_newer`` says that keys which ran out were looked for anew, and the same ones found.
    """
    if not isinstance(error, RETRYABLE):
        return error
    kind = DeniedError if isinstance(error, ExpiredError) else RejectedError
    return kind(
        error.operation,
        error.code,
        _RENEW if no_newer and kind is DeniedError else error.message,
        status=error.status,
        request_id=error.request_id,
    )
