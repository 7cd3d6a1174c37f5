"""Requests out, answers in: every call goes through here, signed by us, sent by aiohttp.

The SDK builds a request once for each service, region and operation (`sessions.py`); from then on
only the body changes, and its serializer, hooks and parser are out of the way. Nothing here knows
what an answer means: `retry.py` does.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from collector.aws.sigv4 import Credentials, sign

_LARGE = 1 << 20
_SKEW_STEP = 60.0
"""Seconds. A smaller difference is the network's delay and the Date header's whole second."""


MOST_BYTES = 100 << 20
"""Longest answer that is read: what AWS sends is some thousand times smaller."""


@dataclass(frozen=True, slots=True)
class Template:
    """A request without its body: where one operation of a service goes in one region.

    ``headers`` are signed, in lower case, ``host`` among them; ``unsigned`` are only sent.
    ``proxy`` is the URL of the proxy to go through, or None.
    """

    operation: str
    url: URL
    path: str
    headers: Mapping[str, str]
    unsigned: Mapping[str, str]
    signing_name: str
    signing_region: str
    proxy: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, whole: aiohttp raises where fewer bytes came than were announced.

    ``signed_at`` is the epoch second that the request was signed for.
    """

    signed_at: float
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, between two reads, and for a call as a whole."""

    connect: float = 10.0
    read: float = 20.0
    total: float = 60.0


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The whole body; raises aiohttp.ClientPayloadError where it has no end worth waiting for."""
    announced = MOST_BYTES + 1 if response.content_length is None else response.content_length
    if announced <= MOST_BYTES and "Content-Encoding" not in response.headers:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MOST_BYTES:
            raise aiohttp.ClientPayloadError(f"the answer has more than {MOST_BYTES} bytes")
    return bytes(body)


class Wire:
    """One HTTP session for everything, and the clock that AWS goes by.

    Raises what aiohttp raises (aiohttp.ClientError, TimeoutError, OSError).
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        timeouts: Timeouts = Timeouts(),
        connections: int = 128,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ssl = ssl_context if ssl_context is not None else True
        self._timeouts = timeouts
        self._connections = connections
        self._clock = clock
        self._skew = 0.0
        self._last_date: tuple[str, float] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(
                total=self._timeouts.total,
                sock_connect=self._timeouts.connect,
                sock_read=self._timeouts.read,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("accept", "accept-encoding", "user-agent"),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
            await asyncio.sleep(0)  # transports close in the loop's next round

    def now(self) -> float:
        """Epoch seconds by AWS's clock, as far as it is known."""
        return self._clock() + self._skew

    def server_time(self) -> float:
        """Epoch seconds by the Date of the latest answer; `now` where there was none."""
        try:
            date, then = self._last_date or ("", 0.0)
            return parsedate_to_datetime(date).timestamp() + self._clock() - then
        except (ValueError, OverflowError):
            return self.now()

    def correct_clock(self, answer: Answer) -> bool:
        """Take over the time of ``answer``'s Date header; False if the request's was right."""
        try:
            theirs = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (KeyError, ValueError, OverflowError):
            return False
        if abs(theirs - answer.signed_at) < _SKEW_STEP:
            return False
        self._skew = theirs - self._clock()
        return True

    async def send(self, template: Template, body: bytes, credentials: Credentials) -> Answer:
        """Sign and send one request, and read the whole answer."""
        if self._session is None:
            raise RuntimeError("Wire is used outside its `async with`")
        now = self.now()
        headers = sign(
            credentials=credentials,
            service=template.signing_name,
            region=template.signing_region,
            path=template.path,
            headers=template.headers,
            body=body,
            now=now,
        )
        headers.update(template.unsigned)
        async with self._session.post(
            template.url,
            # As bytes, aiohttp would warn of a body that is sent by one write.
            data=io.BytesIO(body) if len(body) > _LARGE else body,
            headers=headers,
            proxy=template.proxy,
            ssl=self._ssl,
            allow_redirects=False,
        ) as response:
            if "Date" in response.headers:
                self._last_date = (response.headers["Date"], self._clock())
            return Answer(now, response.status, response.headers, await _body(response))
