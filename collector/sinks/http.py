"""HTTP: NDJSON posted to one address, a batch at a time and in order; any 2xx acknowledges it.

At least once: a batch whose answer was lost is sent again, under the same ``Idempotency-Key``, by
which an endpoint may tell that it has it already.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import random as draw
from secrets import token_hex
from typing import Literal
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from collector.aws.retry import NETWORK_ERRORS, again, network_error, service_error
from collector.aws.wire import Answer
from collector.errors import (
    CallError,
    ConfigurationError,
    SinkError,
    ThrottledError,
    TransientError,
)
from collector.events import CallEnded
from collector.model import Wire
from collector.sinks.base import Kept, Position, Refusal, Row, Run, shown
from collector.text import clean

SCHEMES = ("https", "http")

MOST_ROWS = 500
MOST_BYTES = 1 << 20
"""Records and their bytes, before compression, in one request; a longer record goes alone."""

MOST_RECORD = 10 << 20
"""Bytes of the longest record that is sent at all."""

_MOST_ANSWER = 8_192
"""Bytes of an answer that are read: its first line is shown, the rest is nobody's."""

_MOST_HEADER = 65_536
"""Bytes of the longest file that a header is read from."""

_SECRET, _SECRET_WORD = 4, 8
"""Characters from which on a header's value, and a word of it, are kept out of every message."""

_GZIP_LEVEL = 6
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ASCII = re.compile(r"[\x21-\x7e]+")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_HEADERS = {
    "Content-Type": "application/x-ndjson",
    "Content-Encoding": "gzip",
    "User-Agent": "aws-resource-collector",
}
_OURS = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "host",
        "idempotency-key",
        "transfer-encoding",
    }
)


def open_sink(uri: str, run: Run) -> HttpSink:
    return HttpSink(uri, run)


class HttpSink:
    """One request at a time: `write` returns when all that it was given is acknowledged.

    A request is made again after 408, 429, 5xx and faults of the network, until nothing has been
    acknowledged for ``give_up_after``. ``clock`` gives seconds, ``random`` numbers from 0 to 1.
    """

    def __init__(
        self,
        uri: str,
        run: Run,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = draw,
    ) -> None:
        self._url = _url(uri)
        self._name = shown(uri)
        self._settings, self._observe = run.settings, run.observe
        # A run that is gone on with keeps its id and counts from 1 again, and its batches hold
        # other records: under a key that was used before they would pass for repeats.
        self._keys = f"{run.run_id}-{token_hex(4)}"
        self._batches = 0
        self._clock, self._sleep, self._random = clock, sleep, random
        self._mask = _mask([])
        self._proxy: URL | None = None
        self._session: aiohttp.ClientSession | None = None

    async def open(self, position: Position | None = None) -> Kept:  # noqa: ARG002
        """Nothing is sent, since whatever is posted is delivered; the rest is found out here."""
        await self.close(whole=False)  # one of several sinks may be opened a second time
        settings = self._settings
        given = await asyncio.to_thread(_headers, settings.sink_header)
        headers = CIMultiDict(_HEADERS)
        headers.update(given)
        query = self._url.query
        self._mask = _mask([*given.values(), *query.values(), self._url.raw_query_string])
        # Found out here: aiohttp's trust_env would also read passwords from ~/.netrc, and fail
        # where they meet a header of the settings.
        self._proxy = _proxy_for(self._url)
        tls: ssl.SSLContext | bool = True
        if "https" in {self._url.scheme, self._proxy.scheme if self._proxy else ""}:
            tls = await asyncio.to_thread(ssl.create_default_context)
        await self._reach(tls)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=tls),
            timeout=aiohttp.ClientTimeout(
                total=settings.call_timeout,
                sock_connect=settings.connect_timeout,
                sock_read=settings.read_timeout,
            ),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding",),
            proxy=self._proxy,
        )
        return Kept.NOTHING

    async def _reach(self, tls: ssl.SSLContext | bool) -> None:
        """Connect to the address, or to the proxy before it, and hang up."""
        target = self._proxy or self._url
        place = f"{target.raw_host}:{target.port}"
        wait = self._settings.connect_timeout
        try:
            async with asyncio.timeout(wait):
                _, writer = await asyncio.open_connection(
                    target.raw_host, target.port, ssl=tls if target.scheme == "https" else None
                )
        except socket.gaierror:
            why = f"no address is found for {target.raw_host}"
        except TimeoutError:
            why = f"{place} does not answer within {wait:g} s"
        except ConnectionRefusedError:
            why = f"{place} refuses connections"
        except ssl.SSLCertVerificationError as error:
            why = f"the certificate of {place} is not trusted ({clean(error.verify_message)})"
        except OSError as error:
            why = f"{place}: {clean(error.strerror or error)}"
        else:
            writer.transport.abort()
            return
        raise SinkError(f"{self._name} cannot be reached: {why}.")

    async def write(self, rows: Sequence[Row]) -> Sequence[Refusal]:
        if self._session is None:
            raise SinkError(f"The sink {self._name} is not open.")
        lines = (row.line for row in rows if len(row.line) <= MOST_RECORD)
        for batch in _batches(lines):
            await self._deliver(self._session, b"".join(batch))
        return [
            Refusal(row, self._name, _too_long(row)) for row in rows if len(row.line) > MOST_RECORD
        ]

    async def _deliver(self, session: aiohttp.ClientSession, batch: bytes) -> None:
        """Post a batch until it is acknowledged. Raises SinkError."""
        self._batches += 1
        headers = {"Idempotency-Key": f"{self._keys}-{self._batches}"}
        body = await asyncio.to_thread(gzip.compress, batch, _GZIP_LEVEL, mtime=0)
        began, attempts, asked = self._clock(), 0, 0.0

        def left() -> float:
            return began + self._settings.give_up_after - self._clock()

        def tell(error: CallError | None, *, retried: bool) -> None:
            self._observe(CallEnded("", "", "POST", _result(error), retried, self._clock() - asked))

        async def attempt() -> Wire:
            nonlocal attempts, asked
            attempts, asked = attempts + 1, self._clock()
            return await self._post(session, body, headers)

        try:
            await again(
                attempt,
                may_retry=lambda _: left() > 0,
                on_retry=partial(tell, retried=True),
                longest=lambda: max(left(), 0.0),
                sleep=self._sleep,
                random=self._random,
            )
        except CallError as error:
            tell(error, retried=False)
            status = f"status {error.status}" if error.status else ""
            said = ", ".join(filter(None, (status, error.message.rstrip("."))))
            tried = f"; tried {attempts} times in {self._clock() - began:.0f} s"
            failure = SinkError(
                f"{self._name} takes no records: {said}{tried if attempts > 1 else ''}."
            )
        else:
            tell(None, retried=False)
            return
        raise failure

    async def _post(
        self, session: aiohttp.ClientSession, body: bytes, headers: Mapping[str, str]
    ) -> Wire:
        """One request. Raises the CallError that says whether another one may help.

        Errors are raised without what led to them: aiohttp's show the URL with its query.
        """
        try:
            async with session.post(
                self._url, data=io.BytesIO(body), headers=headers, allow_redirects=False
            ) as response:
                said = await _beginning(response)
                answer = Answer(0.0, response.status, response.headers, said)
        except aiohttp.ClientHttpProxyError as error:
            answer = Answer(0.0, error.status, error.headers or {}, b"said by the proxy")
            fault = self._refused(answer)
        except aiohttp.ClientResponseError as error:
            fault = TransientError("POST", "BadAnswer", clean(self._mask(error.message)))
        except NETWORK_ERRORS as error:
            fault = network_error("POST", error)
        else:
            if 200 <= answer.status < 300:  # noqa: PLR2004
                return {}
            fault = self._refused(answer)
        raise fault

    def _refused(self, answer: Answer) -> CallError:
        """What an answer other than 2xx means; its text without what is secret."""
        location = answer.headers.get("Location", "")
        if 300 <= answer.status < 400 and location:  # noqa: PLR2004
            with suppress(ValueError):
                location = shown(urljoin(str(self._url), location))
            words = f"a redirection to {location}, which is not followed"
        else:
            words = answer.body.decode(errors="replace").strip().partition("\n")[0]
        return service_error("POST", answer, f"HTTP{answer.status}", self._mask(words))

    async def flush(self) -> Position | None:
        """Nothing is held back, and nothing can be taken back."""
        return None

    async def close(self, *, whole: bool) -> str | None:  # noqa: ARG002
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()
            await asyncio.sleep(0)  # transports close in the loop's next round
        return None


def _url(uri: str) -> URL:
    """The address as it was given, escapes and all. Raises ConfigurationError."""
    try:
        parts = urlsplit(uri)
        url = URL(uri, encoded=_ASCII.fullmatch(uri) is not None)
        usable = bool(url.raw_host and url.port) and not _BLANK.search(uri)
    except ValueError:
        usable = False
    if not usable:
        # Not repeated: without its parts, nobody can tell which of them is secret.
        raise ConfigurationError("A sink's address is not a URL: give https://host/path.")
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"The sink {shown(uri)} has a name or password in its URL, where others may see them: "
            "give a header in place of it, such as --sink-header Authorization=env:NAME."
        )
    return url.with_fragment(None)


def _proxy_for(url: URL) -> URL | None:
    """The proxy that the environment names for ``url``. Raises ConfigurationError."""
    given = getproxies().get(url.scheme)
    if not given or proxy_bypass(f"{url.raw_host}:{url.port}"):
        return None
    with suppress(ValueError):
        proxy = URL(given if "://" in given else f"http://{given}")
        if proxy.scheme in SCHEMES and proxy.raw_host and proxy.port:
            return proxy
    # Not repeated: it may hold a password.
    raise ConfigurationError(
        f"The proxy that the environment names for {url.scheme}:// is not a URL of http:// or "
        "https://."
    )


def _headers(given: Mapping[str, str]) -> dict[str, str]:
    """The headers of the settings, their values read. Raises ConfigurationError."""
    headers = {}
    for name, value in given.items():
        if not _NAME.fullmatch(name):
            # Not repeated: it may hold what nobody is to see.
            raise ConfigurationError("A name in sink_header is not the name of a header.")
        if name.lower() in _OURS:
            raise ConfigurationError(
                f"The header {name} is for the sink to set: leave it out of sink_header."
            )
        headers[name] = _value(name, value)
        if _CONTROL.search(headers[name]):
            raise ConfigurationError(
                f"The value of the header {name} has a line break or another control character."
            )
    return headers


def _value(name: str, value: str) -> str:
    """What a header's value stands for."""
    kind, _, place = value.partition(":")
    if kind == "env":
        found, what = os.environ.get(place), f"the environment variable {place}"
        if found is None:
            raise ConfigurationError(f"The header {name} wants {what}, which is not set.")
    elif kind == "file":
        found, what = _content(name, place), f"the file {place}"
    else:
        return value
    if not found.strip():
        raise ConfigurationError(f"The header {name} wants {what}, which is empty.")
    return found.strip()


def _content(name: str, place: str) -> str:
    why = "holds more than a header can"
    try:
        with Path(place).expanduser().open("rb") as file:
            content = file.read(_MOST_HEADER + 1)
        if len(content) <= _MOST_HEADER:
            return content.decode()
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    except (UnicodeDecodeError, RuntimeError, ValueError):
        why = "is not text"
    raise ConfigurationError(f"The header {name} wants the file {place}, which {why}.")


def _mask(values: Iterable[str]) -> Callable[[str], str]:
    """What replaces each of ``values``, and each long word of them, in a text by ``***``."""
    values = list(values)
    secret = {value for value in values if len(value) >= _SECRET}
    secret |= {word for value in values for word in value.split() if len(word) >= _SECRET_WORD}
    if not secret:
        return lambda text: text
    longest_first = sorted(secret, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: pattern.sub("***", text)


def _batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """``lines`` in order, as many together as a request may hold."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and (len(batch) == MOST_ROWS or size + len(line) > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield batch


def _too_long(row: Row) -> str:
    return f"the record has {len(row.line):,} bytes, more than the {MOST_RECORD:,} of a request"


def _result(error: CallError | None) -> Literal["ok", "throttled", "faulted", "refused"]:
    match error:
        case None:
            return "ok"
        case ThrottledError():
            return "throttled"
        case TransientError():
            return "faulted"
    return "refused"


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """The first bytes of an answer, as far as they can be read: its status says what counts."""
    body = bytearray()
    with suppress(*NETWORK_ERRORS):
        while left := _MOST_ANSWER - len(body):
            chunk = await response.content.read(left)
            if not chunk:
                break
            body += chunk
    return bytes(body)
