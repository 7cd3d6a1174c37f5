"""The fake AWS: one HTTP server that answers for every service, account and region."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any, Self

from aiohttp import web

from collector.testing import protocols, sigv4
from collector.testing.estate import Estate
from collector.testing.faults import Faults
from collector.testing.gate import Gate
from collector.testing.limits import Limits
from collector.testing.protocols import Asked
from collector.testing.sigv4 import Sent
from collector.testing.world import AwsError, Call, Policy, World

_HTML = (
    b"<!DOCTYPE html><html><head><title>Bad Gateway</title></head>"
    b"<body><h1>The proxy could not reach the server</h1></body></html>"
)
_CUT = ("reset", "hang")
"""Faults after which there is no answer at all."""


_ROUNDS = 5
"""Turns of the loop in which a connection that was accepted is made."""


class FakeAws(World):
    """Serves ``estate`` on 127.0.0.1, as an async context manager or by ``in_thread``.

    ::

        async with FakeAws(Estate.generate()) as aws:
            client = session.create_client("sagemaker", endpoint_url=aws.url, ...)

    ``url`` is the endpoint of every service; which one is meant shows in the request. Callers are
    told apart by their access keys, see ``credentials_for``. ``clock`` gives epoch seconds, for
    the Date header, signatures, expiry and rates; ``latency`` is in seconds, waited for before
    each answer with ``sleep``. ``regional_faults`` are those of some regions, in place of
    ``faults``. ``denied``, ``not_enabled`` and what follows are as in Policy.

    While it runs, ``limits``, ``faults``, ``regional_faults`` and ``policy`` may be changed, and
    these tell what went on: ``calls`` by operation, ``calls_by`` and ``throttled`` by (account,
    region, operation), ``faults_dealt`` by name, ``vanished`` jobs, ``assumed`` roles, ``requests``
    (operation, account, region, parameters; the last 10,000), ``max_in_flight``.
    """

    def __init__(
        self,
        estate: Estate | None = None,
        *,
        limits: Limits | None = None,
        faults: Faults | None = None,
        regional_faults: Mapping[str, Faults] | None = None,
        latency: float = 0.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        check_signatures: bool = True,
        ssl_context: ssl.SSLContext | None = None,
        port: int = 0,
        not_enabled: Collection[tuple[str, str]] = (),
        list_not_enabled: bool = False,
        denied: Collection[tuple[str, ...]] = (),
        denied_by: str | None = None,
        external_id: str | None = None,
        role_names: Collection[str] | None = None,
        session_seconds: float = 3600,
        tag_index_lag: float = 0.0,
        organization: bool = True,
    ) -> None:
        policy = Policy(
            not_enabled=not_enabled,
            list_not_enabled=list_not_enabled,
            denied=denied,
            denied_by=denied_by,
            external_id=external_id,
            role_names=role_names,
            session_seconds=session_seconds,
            tag_index_lag=tag_index_lag,
            organization=organization,
        )
        super().__init__(
            estate or Estate.generate(),
            limits=limits,
            faults=faults,
            regional_faults=regional_faults,
            policy=policy,
            clock=clock,
        )
        self.latency = latency
        self.url = ""
        self._sleep = sleep
        self._gate = Gate(self, check_signatures=check_signatures)
        self._ssl = ssl_context
        self._port = port
        self._runner: web.ServerRunner | None = None
        self._in_flight = 0
        self._count = 0
        self._date = (0, "")

    async def __aenter__(self) -> Self:
        server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        listening = web.TCPSite(
            self._runner, "127.0.0.1", self._port, ssl_context=self._ssl, backlog=1024
        )
        await listening.start()
        port = self._runner.addresses[0][1]
        self.url = f"{'https' if self._ssl else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            # asyncio (3.11) drops connections that it has just accepted when their server closes.
            for _turn in range(_ROUNDS):
                await asyncio.sleep(0)
            await self._runner.cleanup()
            self._runner = None

    @contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Serve from a thread of its own, for callers that have no event loop."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="fake-aws", daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.__aenter__(), loop).result()
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self.__aexit__(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            body = await request.read()
            if self.latency:
                await self._sleep(self.latency)
            return await self._answer(request, body)
        finally:
            self._in_flight -= 1

    async def _answer(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        self._count += 1
        request_id = f"{self._count:08x}-0000-4000-8000-{id(self) & 0xFFFFFFFFFFFF:012x}"
        headers = {"Date": self._http_date(), "x-amzn-RequestId": request_id}
        path, _, query = request.raw_path.partition("?")
        asked = protocols.read(path, query, request.headers, body)
        self.calls[asked.operation] += 1
        faults = self._faults_of(request)
        fault = faults.draw(asked.operation)
        if fault in _CUT:
            return await self._hang_up(request, faults, fault)
        if fault in {"garbage", "emptied"}:
            self.faults_dealt[fault] += 1
            kind = "text/html" if fault == "garbage" else "application/x-amz-json-1.1"
            content = _HTML if fault == "garbage" else b""
            return web.Response(body=content, headers=headers | {"Content-Type": kind})
        try:
            sent = Sent(request.method, path, query, request.headers, body)
            who, region = self._gate.enter(asked, sent)
            result = self._dispatch(asked, who, region, fault)
        except AwsError as error:
            body, more = protocols.failure(asked, error, request_id)
            return web.Response(status=error.status, body=body, headers=headers | more)
        content, headers["Content-Type"] = protocols.answer(asked, result, request_id)
        if fault == "truncated":
            return await self._truncate(request, content, headers)
        if fault == "dribble":
            return await self._dribble(request, faults, content, headers)
        return web.Response(body=content, headers=headers)

    def _dispatch(self, asked: Asked, who: Any, region: str, fault: str | None) -> Any:
        """The result of a call by somebody known. Raises AwsError."""
        key = (who.account, region, asked.operation)
        self.calls_by[key] += 1
        if fault in {"error_500", "error_503"}:
            self.faults_dealt[fault] += 1
            raise _broken(asked, fault)
        handler = asked.handler()
        if not self.limits.admit(key, self.clock):
            self.throttled[key] += 1
            raise protocols.throttled(asked.service, plain_429=self.limits.plain_429())
        call = Call(asked.service, asked.operation, asked.protocol, region, asked.params(), who)
        self.requests.append((call.operation, call.account, call.region, call.params))
        self._gate.authorize(call)
        return handler(self, call)

    def _faults_of(self, request: web.BaseRequest) -> Faults:
        """The faults of the region that a request is signed for."""
        if not self.regional_faults:
            return self.faults
        auth = sigv4.parse(request.headers.get("authorization", ""))
        return self.faults_in(auth.region) if auth else self.faults

    async def _hang_up(
        self, request: web.BaseRequest, faults: Faults, fault: str
    ) -> web.StreamResponse:
        self.faults_dealt[fault] += 1
        if fault == "hang":
            await self._sleep(faults.hang_seconds)
        transport = request.transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            if sock is not None and fault == "reset":
                # Without lingering, closing sends a reset in place of a polite end.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        return web.Response()

    async def _truncate(
        self, request: web.BaseRequest, content: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        self.faults_dealt["truncated"] += 1
        response = web.StreamResponse(headers=headers | {"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        if request.transport is not None:
            request.transport.close()
        return response

    async def _dribble(
        self, request: web.BaseRequest, faults: Faults, content: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        self.faults_dealt["dribble"] += 1
        response = web.StreamResponse(headers=headers | {"Content-Length": str(len(content))})
        await response.prepare(request)
        for number in range(len(content)):
            await response.write(content[number : number + 1])
            await self._sleep(faults.dribble_seconds)
        return response

    def _http_date(self) -> str:
        now = int(self.clock())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]


def _broken(asked: Asked, fault: str) -> AwsError:
    if fault == "error_500":
        code = "InternalError" if asked.protocol == protocols.EC2 else "InternalFailure"
        return AwsError(code, "The request processing has failed because of an unknown error.", 500)
    code = "Unavailable" if asked.protocol == protocols.EC2 else "ServiceUnavailable"
    return AwsError(code, "The request has failed due to a temporary failure of the server.", 503)
