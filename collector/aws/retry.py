"""What an answer or a network fault means, and when a call is made again.

The only place that knows AWS's error codes, and the only use of tenacity.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson
from botocore.retries.standard import ThrottledRetryableChecker
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from collector.aws.mend import loads_leniently
from collector.aws.sessions import Built
from collector.aws.wire import Answer
from collector.errors import (
    CallError,
    ClockError,
    DeniedError,
    ExpiredError,
    NotEnabledError,
    NotFoundError,
    RejectedError,
    ThrottledError,
    TransientError,
)
from collector.model import Wire
from collector.text import clean

THROTTLED = frozenset(ThrottledRetryableChecker._THROTTLED_ERROR_CODES) | {  # noqa: SLF001
    "KMSThrottlingException",  # a Kinesis stream that is encrypted
    "ThrottledException",
}
TRANSIENT = frozenset(
    {
        "IDPCommunicationError",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServiceError",
        "InternalServiceException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
SIGNATURE = frozenset({"InvalidSignatureException", "SignatureDoesNotMatch"})
"""The clock, or the secret key: only the answer's own time tells."""

CLOCK = SIGNATURE | {"RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"}
DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "AuthorizationErrorException",
        "NotAuthorized",
        "NotAuthorizedException",
        "UnauthorizedException",
        "UnauthorizedOperation",
    }
)
NOT_ENABLED = frozenset(
    {
        "AuthFailure",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "NotSignedUp",
        "OptInRequired",
        "RegionDisabledException",
        "SubscriptionRequiredException",
        "UnrecognizedClient",
        "UnrecognizedClientException",
    }
)
_KINDS: tuple[tuple[frozenset[str], type[CallError]], ...] = (
    (THROTTLED, ThrottledError),
    (TRANSIENT, TransientError),
    (EXPIRED, ExpiredError),
    (CLOCK, ClockError),
    (DENIED, DeniedError),
    (NOT_ENABLED, NotEnabledError),
)
RETRYABLE = (ThrottledError, TransientError, ExpiredError, ClockError)


def read_json(operation: str, answer: Answer, required: Iterable[str] = ()) -> Wire:
    """The members of a JSON answer; raises the CallError that it means otherwise.

    An answer counts only if it parses and has every member of ``required``: a body that was cut
    or emptied on its way under status 200 is a fault, not an empty result.
    """
    try:
        content = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        try:
            content = loads_leniently(answer.body)
        except RecursionError:
            if answer.status == 200:  # noqa: PLR2004
                raise _too_deep(operation, answer) from None
            content = None
    if answer.status == 200:  # noqa: PLR2004
        if not isinstance(content, dict):
            raise _unreadable(operation, answer, "the answer is not JSON")
        return _complete(operation, answer, content, required)
    fields = content if isinstance(content, dict) else {}
    code = fields.get("__type") or fields.get("code") or answer.headers.get("x-amzn-ErrorType", "")
    code = code if isinstance(code, str) else clean(code)
    message = fields.get("message") or fields.get("Message") or fields.get("errorMessage") or ""
    # "com.amazonaws.sagemaker#ThrottlingException:http://..." is ThrottlingException.
    raise service_error(operation, answer, code.rpartition("#")[2].split(":")[0], message)


def read_built(built: Built, answer: Answer, required: Iterable[str] = ()) -> Wire:
    """The members of an answer in whatever protocol the SDK speaks with the service."""
    operation = built.template.operation
    try:
        parsed = built.parse(answer)
    except Exception as error:
        # botocore's parsers raise whatever a body they did not expect leads to.
        if answer.status == 200:  # noqa: PLR2004
            if isinstance(error, RecursionError):
                raise _too_deep(operation, answer) from None
            raise _unreadable(operation, answer, "the answer cannot be read") from error
        parsed = {}
    if answer.status == 200:  # noqa: PLR2004
        return _complete(operation, answer, parsed, required)
    fault = parsed.get("Error", {})
    code = str(fault.get("Code") or "").rpartition("#")[2]
    if code.isdigit():
        code = ""  # botocore puts the status there where the service gave no code
    raise service_error(operation, answer, code, fault.get("Message", ""))


def _complete(operation: str, answer: Answer, content: Wire, required: Iterable[str]) -> Wire:
    for member in required:
        if content.get(member) is None:
            raise _unreadable(operation, answer, f"the answer lacks {member}")
    return content


def _unreadable(operation: str, answer: Answer, why: str) -> TransientError:
    return TransientError(
        operation, "UnreadableAnswer", why, status=answer.status, request_id=_request_id(answer)
    )


def _too_deep(operation: str, answer: Answer) -> RejectedError:
    """Not a fault: the same answer would come again."""
    return RejectedError(
        operation,
        "TooDeep",
        "the answer is nested too deeply to be read",
        status=answer.status,
        request_id=_request_id(answer),
    )


def service_error(operation: str, answer: Answer, code: str, message: object) -> CallError:
    """The error that an answer other than 200 means."""
    kind: type[CallError] = RejectedError
    for codes, its_kind in _KINDS:
        if code in codes:
            kind = its_kind
            break
    else:
        if answer.status == 429:  # noqa: PLR2004
            kind = ThrottledError
        elif answer.status >= 500 or answer.status == 408:  # noqa: PLR2004
            kind = TransientError
        elif not code and answer.status in (401, 403):
            kind = DeniedError
        elif not code and answer.status not in (404, 407):
            kind = TransientError  # AWS names its errors: this came from something in between
    return kind(
        operation,
        clean(code) or f"HTTP{answer.status}",
        clean(message),
        status=answer.status,
        request_id=_request_id(answer),
        retry_after=_retry_after(answer),
    )


def network_error(operation: str, error: BaseException) -> CallError:
    """A fault on the way to or from AWS."""
    if isinstance(error, TimeoutError):
        return TransientError(operation, "Timeout", "no whole answer in time")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return TransientError(operation, "NameNotFound", f"no address found for {error.host}")
    if isinstance(error, aiohttp.InvalidURL):
        return RejectedError(operation, "InvalidUrl", clean(error))
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        # Trying again does not make a certificate trusted.
        return RejectedError(operation, "UntrustedCertificate", clean(error))
    if isinstance(error, aiohttp.ClientConnectorError):
        why = os.strerror(error.errno) if error.errno else clean(error.os_error)
        return TransientError(operation, "NoConnection", f"{error.host}:{error.port}: {why}")
    return TransientError(operation, "ConnectionBroken", clean(error) or type(error).__name__)


NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)


def as_not_found(error: CallError, codes: Iterable[tuple[str, str]]) -> CallError:
    """``error`` as NotFoundError where (code, part of the message) is one of ``codes``."""
    if any(error.code == code and part in error.message for code, part in codes):
        return NotFoundError(
            error.operation,
            error.code,
            error.message,
            status=error.status,
            request_id=error.request_id,
        )
    return error


def _request_id(answer: Answer) -> str:
    return clean(
        answer.headers.get("x-amzn-RequestId") or answer.headers.get("x-amz-request-id", "")
    )


def _retry_after(answer: Answer) -> float | None:
    value = answer.headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if math.isfinite(seconds) else None


MAX_RETRY_AFTER = 300.0
"""Seconds. A service that asks for more is asked again after these."""

FIRST_WAIT, LONGEST_WAIT = 0.2, 20.0
"""Seconds: bounds of the exponential that full jitter draws below."""


def backoff(attempt: int, random: Callable[[], float]) -> float:
    """Seconds to wait after failed attempt number ``attempt`` (1, 2, ...): full jitter."""
    return random() * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt - 1, 30))


async def again(
    attempt: Callable[[], Awaitable[Wire]],
    *,
    may_retry: Callable[[CallError], bool],
    on_retry: Callable[[CallError], None],
    longest: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
    random: Callable[[], float],
) -> Wire:
    """Make a call until it succeeds, fails for good, or ``may_retry(error)`` says no.

    ``longest()`` bounds the seconds waited before the next attempt, whatever the service asks for.
    """

    def wait(state: RetryCallState) -> float:
        error: Any = state.outcome.exception() if state.outcome else None
        if isinstance(error, ExpiredError | ClockError):
            return 0.0
        wanted = max(backoff(state.attempt_number, random), error.retry_after or 0.0)
        return min(wanted, longest())

    def stop(state: RetryCallState) -> bool:
        error: Any = state.outcome.exception() if state.outcome else None
        return not may_retry(error)

    def before_sleep(state: RetryCallState) -> None:
        error: Any = state.outcome.exception() if state.outcome else None
        on_retry(error)

    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, RETRYABLE)),
        wait=wait,
        stop=stop,
        sleep=sleep,
        before_sleep=before_sleep,
        reraise=True,
    )
    return await retrying(attempt)
