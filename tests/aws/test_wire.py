"""The wire against real sockets: whole answers, timeouts, proxies, certificates."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from contextlib import asynccontextmanager
from email.utils import formatdate

import pytest
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from collector.aws.retry import NETWORK_ERRORS, network_error
from collector.aws.sessions import Sdk
from collector.aws.sigv4 import Credentials
from collector.aws.wire import Answer, Template, Timeouts, Wire
from collector.errors import RejectedError, TransientError

KEYS = Credentials("AKIAEXAMPLEEXAMPLE00", "secret", "token")


def template(url: str) -> Template:
    target = URL(url)
    return Template(
        operation="ListTags",
        url=target,
        path="/",
        headers={"host": f"{target.host}:{target.port}", "x-amz-target": "SageMaker.ListTags"},
        unsigned={"user-agent": "ours", "accept": "*/*"},
        signing_name="sagemaker",
        signing_region="us-east-1",
    )


@asynccontextmanager
async def serving(handler, **options):
    """A server that answers every request with ``handler``; its URL."""
    runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, **options)
    await site.start()
    scheme = "https" if options.get("ssl_context") else "http"
    try:
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw(reply: bytes):
    """A server that reads a request, writes ``reply`` as it is, and hangs up; its URL."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_a_request_arrives_as_it_was_signed():
    """Body, signed and unsigned headers arrive; nothing that aiohttp would add by itself."""
    seen = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append((request.method, CIMultiDict(request.headers), await request.read()))
        return web.Response(body=b'{"a": 1}', headers={"x-amzn-RequestId": "r"})

    async with serving(handler) as url, Wire(clock=lambda: 1.7e9) as wire:
        answer = await wire.send(template(url), b'{"b": 2}', KEYS)
    method, headers, body = seen[0]
    assert (method, body) == ("POST", b'{"b": 2}')
    assert headers["x-amz-target"] == "SageMaker.ListTags"
    assert headers["x-amz-security-token"] == "token"
    assert headers["x-amz-date"] == "20231114T221320Z"
    assert headers["user-agent"] == "ours"
    assert "accept-encoding" not in headers
    assert (answer.status, answer.body, answer.signed_at) == (200, b'{"a": 1}', 1.7e9)
    assert answer.headers["X-AMZN-REQUESTID"] == "r"


async def test_redirects_are_not_followed():
    """A signed request is never sent on to another host."""

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})

    async with serving(handler) as url, Wire() as wire:
        assert (await wire.send(template(url), b"", KEYS)).status == 307


@pytest.mark.parametrize(
    "reply",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a": 1',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n',
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"",
        b"what is this\r\n\r\n",
    ],
    ids=["short body", "no last chunk", "half a head", "nothing", "not HTTP"],
)
async def test_a_cut_answer_is_a_fault(reply):
    """Fewer bytes than were announced are never an answer."""
    async with raw(reply) as url, Wire() as wire:
        with pytest.raises(NETWORK_ERRORS) as caught:
            await wire.send(template(url), b"", KEYS)
    error = network_error("ListTags", caught.value)
    assert type(error) is TransientError
    assert error.code == "ConnectionBroken"


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_an_answer_too_long_to_be_read_is_a_fault(coding, monkeypatch):
    """What counts are the bytes to be held, not those that a compressed answer announces."""
    monkeypatch.setattr("collector.aws.wire.MOST_BYTES", 100_000)
    plain = b" " * 10_000_000
    body = gzip.compress(plain) if coding == "gzip" else plain

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(body=body, headers={"Content-Encoding": coding})

    assert coding == "identity" or len(body) < 100_000
    async with serving(handler) as url, Wire() as wire:
        with pytest.raises(NETWORK_ERRORS, match="more than 100000 bytes"):
            await wire.send(template(url), b"", KEYS)


@pytest.mark.parametrize("timeouts", [Timeouts(read=0.1), Timeouts(total=0.1)])
async def test_silence_is_a_timeout(timeouts):
    """A server that never answers is left after the read or the total timeout."""
    started = time.monotonic()

    async def handler(_: web.BaseRequest) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with serving(handler, reuse_address=True) as url, Wire(timeouts=timeouts) as wire:
        with pytest.raises(NETWORK_ERRORS) as caught:
            await wire.send(template(url), b"", KEYS)
    assert network_error("ListTags", caught.value).code == "Timeout"
    assert time.monotonic() - started < 5


async def test_a_trickle_is_a_timeout():
    """A body that never ends is left after the total timeout, though it is never silent."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    async with serving(handler) as url, Wire(timeouts=Timeouts(read=5, total=0.2)) as wire:
        with pytest.raises(TimeoutError):
            await wire.send(template(url), b"", KEYS)


async def test_no_connection_is_a_fault(unused_tcp_port):
    """A refused connection is tried again."""
    async with Wire() as wire:
        with pytest.raises(NETWORK_ERRORS) as caught:
            await wire.send(template(f"http://127.0.0.1:{unused_tcp_port}/"), b"", KEYS)
    error = network_error("ListTags", caught.value)
    assert str(error) == f"ListTags: NoConnection: 127.0.0.1:{unused_tcp_port}: Connection refused"


async def test_an_unknown_host_is_told_by_name():
    """A name without an address says which."""
    async with Wire(timeouts=Timeouts(connect=5)) as wire:
        with pytest.raises(NETWORK_ERRORS) as caught:
            await wire.send(template("http://sagemaker.nowhere.invalid:80/"), b"", KEYS)
    error = network_error("ListTags", caught.value)
    assert (error.code, error.message) == (
        "NameNotFound",
        "no address found for sagemaker.nowhere.invalid",
    )


async def built(url: str) -> Template:
    """A template as the SDK makes it, with the proxy that the environment asks for."""
    return await Sdk(endpoint_url=url).template("sagemaker", "us-east-1", "ListTags")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
async def test_a_proxy_of_the_environment_is_used(variable, monkeypatch):
    """Requests go through the proxy that the environment names, with its user and password."""
    seen = []

    async def proxy(request: web.BaseRequest) -> web.Response:
        seen.append((request.raw_path, request.headers.get("Proxy-Authorization")))
        return web.Response(body=b"through the proxy")

    async with serving(proxy) as url, Wire() as wire:
        monkeypatch.setenv(variable, url)
        answer = await wire.send(await built("http://sagemaker.example.invalid"), b"", KEYS)
        assert answer.body == b"through the proxy"
        monkeypatch.setenv(variable, url.replace("//", "//user:pass@"))
        await wire.send(await built("http://sagemaker.example.invalid"), b"", KEYS)
    assert seen == [
        ("http://sagemaker.example.invalid/", None),
        ("http://sagemaker.example.invalid/", "Basic dXNlcjpwYXNz"),
    ]


async def test_hosts_without_a_proxy_are_asked_directly(monkeypatch):
    """A host that NO_PROXY names is not asked through the proxy."""

    async def direct(_: web.BaseRequest) -> web.Response:
        return web.Response(body=b"directly")

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    async with serving(direct) as url, Wire() as wire:
        assert (await wire.send(await built(url), b"", KEYS)).body == b"directly"


async def test_a_tunnel_is_asked_of_an_https_proxy(monkeypatch):
    """HTTPS goes through CONNECT, so that a proxy sees neither request nor signature."""
    lines = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    async with server, Wire() as wire:
        with pytest.raises(NETWORK_ERRORS):
            await wire.send(await built("https://sagemaker.example.invalid"), b"{}", KEYS)
    assert lines[0].startswith(b"CONNECT sagemaker.example.invalid:443 ")
    assert b"Signature" not in lines[0]


async def hello(_: web.BaseRequest) -> web.Response:
    return web.Response(body=b"hello")


async def test_a_bundle_of_the_environment_is_trusted(certificate, monkeypatch):
    """A certificate that AWS_CA_BUNDLE holds is good for TLS."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    async with (
        serving(hello, ssl_context=server) as url,
        Wire(ssl_context=Sdk().ssl_context()) as wire,
    ):
        assert (await wire.send(template(url), b"", KEYS)).body == b"hello"


async def test_an_untrusted_certificate_is_refused_for_good(certificate):
    """A certificate that nobody vouches for is an error that no second attempt mends."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    async with (
        serving(hello, ssl_context=server) as url,
        Wire(ssl_context=Sdk().ssl_context()) as wire,
    ):
        with pytest.raises(NETWORK_ERRORS) as caught:
            await wire.send(template(url), b"", KEYS)
    error = network_error("ListTags", caught.value)
    assert type(error) is RejectedError
    assert error.code == "UntrustedCertificate"


def dated(signed_at: float, **headers: str) -> Answer:
    return Answer(signed_at, 403, CIMultiDict(headers), b"")


async def test_the_clock_follows_the_servers_date():
    """A Date header far from ours corrects the clock; a near, broken or missing one does not."""
    wire = Wire(clock=lambda: 1000.0)
    assert not wire.correct_clock(dated(1000.0))
    assert not wire.correct_clock(dated(1000.0, Date="soon"))
    assert not wire.correct_clock(dated(1000.0, Date=formatdate(1030, usegmt=True)))
    assert wire.now() == 1000.0
    assert wire.correct_clock(dated(1000.0, Date=formatdate(1600, usegmt=True)))
    assert wire.now() == 1600.0
    # Another answer to a request that was signed before: the clock is right by now.
    assert wire.correct_clock(dated(1000.0, Date=formatdate(1600, usegmt=True)))
    assert wire.now() == 1600.0
    assert not wire.correct_clock(dated(1600.0, Date=formatdate(1600, usegmt=True)))


async def test_a_wire_works_inside_its_block_alone():
    """Outside `async with` there is no session to send with."""
    with pytest.raises(RuntimeError):
        await Wire().send(template("http://127.0.0.1:1/"), b"", KEYS)
