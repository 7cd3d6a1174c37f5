"""AWS Signature Version 4, seen from the receiving side."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, quote

ALGORITHM = "AWS4-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    rf"{ALGORITHM} +Credential=(?P<key>[^/,]+)/(?P<date>\d{{8}})/(?P<region>[^/,]+)/"
    r"(?P<service>[^/,]+)/aws4_request, *SignedHeaders=(?P<headers>[^,]+), *"
    r"Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it was sent: ``path`` and ``query`` percent-encoded.

    ``headers`` looks names up without regard to case.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Authorization:
    """What the Authorization header says."""

    access_key: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def parse(header: str) -> Authorization | None:
    """The parts of an Authorization header; None if it is not one of this kind."""
    found = _AUTHORIZATION.fullmatch(header.strip())
    if found is None:
        return None
    return Authorization(
        access_key=found["key"],
        date=found["date"],
        region=found["region"],
        service=found["service"],
        headers=tuple(found["headers"].split(";")),
        signature=found["signature"],
    )


def signature(auth: Authorization, secret: str, sent: Sent) -> str:
    """The signature, in hex, that the holder of ``secret`` puts on this request."""
    headers = sent.headers
    canonical_headers = "".join(
        f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in auth.headers
    )
    canonical = "\n".join(
        (
            sent.method,
            quote(sent.path, safe="/~"),
            _canonical_query(sent.query) if sent.query else "",
            canonical_headers,
            ";".join(auth.headers),
            hashlib.sha256(sent.body).hexdigest(),
        )
    )
    text = "\n".join(
        (
            ALGORITHM,
            headers.get("x-amz-date", ""),
            auth.scope,
            hashlib.sha256(canonical.encode()).hexdigest(),
        )
    )
    key = _signing_key(secret, auth.date, auth.region, auth.service)
    return hmac.digest(key, text.encode(), hashlib.sha256).hex()


def unsigned(auth: Authorization, headers: Mapping[str, str]) -> list[str]:
    """Names of headers that AWS wants signed and that are not."""
    wanted = {"host", "x-amz-date"}
    wanted.update(name.lower() for name in headers if name.lower().startswith("x-amz-"))
    return sorted(wanted.difference(auth.headers))


def _canonical_query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    return "&".join(
        f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in sorted(pairs)
    )


@lru_cache(maxsize=4096)
def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return key
