"""NextTokens: opaque, tied to the request they came from, refused when they are too old."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import orjson

from collector.model import Wire
from collector.testing.world import AwsError, Call, World

_SALT = b"collector.testing/pages"
_UNBOUND = {"NextToken", "MaxResults", "PaginationToken"}


def position(
    world: World, call: Call, *, param: str = "NextToken", code: str = "ValidationException"
) -> tuple[Any, int]:
    """(where the page starts, calls so far) from the request's token; (None, 0) without one."""
    token = call.params.get(param)
    if not token:
        return None, 0
    try:
        raw = base64.urlsafe_b64decode(token.encode())
    except ValueError:
        raw = b""
    if not hmac.compare_digest(raw[:16], _mac(call, raw[16:])):
        raise AwsError(code, f"Invalid {param}: it does not belong to this request.")
    place, calls = orjson.loads(raw[16:])
    if world.faults_in(call.region).expired(call.operation, calls):
        world.faults_dealt["token_calls"] += 1
        raise AwsError(code, f"The provided {param} has expired or is invalid.")
    return place, calls


def token(call: Call, place: Any, calls: int) -> str:
    """A token for the page that starts at ``place``, after ``calls`` calls."""
    payload = orjson.dumps((place, calls))
    return base64.urlsafe_b64encode(_mac(call, payload) + payload).decode()


def page(
    world: World,
    call: Call,
    items: Sequence[Any],
    size: int,
    *,
    name: str,
    param: str = "NextToken",
    code: str = "ValidationException",
) -> Wire:
    """One page of ``items`` under ``name``; the token counts items."""
    start, calls = position(world, call, param=param, code=code)
    start = start or 0
    if world.faults_in(call.region).empties(call.operation) and items:
        world.faults_dealt["empty_pages"] += 1
        return {name: [], param: token(call, start, calls + 1)}
    answer: Wire = {name: list(items[start : start + size])}
    if start + size < len(items):
        answer[param] = token(call, start + size, calls + 1)
    return answer


def _mac(call: Call, payload: bytes) -> bytes:
    bound = {name: value for name, value in call.params.items() if name not in _UNBOUND}
    scope = orjson.dumps(
        (call.operation, call.account, call.region, bound), option=orjson.OPT_SORT_KEYS
    )
    return hmac.digest(_SALT, scope + payload, hashlib.sha256)[:16]
