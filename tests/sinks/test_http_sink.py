"""The HTTP sink against real sockets: what is posted, what is tried again, what is never shown."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import secrets
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from multidict import CIMultiDictProxy

from collector.errors import ConfigurationError, SinkError
from collector.settings import Settings
from collector.sinks import base
from collector.sinks.base import Kept, Row, Run, Sink
from collector.sinks.http import MOST_BYTES, MOST_RECORD, MOST_ROWS, HttpSink, open_sink

TOKEN = "tok3n-that-nobody-may-see"


class Posted(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def key(self) -> str:
        return self.headers["Idempotency-Key"]


Answer = int | str | Callable[[web.BaseRequest], Any]
"""A status, "lost" (kept, but never answered), "reset" (not even kept), or a handler."""


class Endpoint:
    """Keeps what is posted, each batch once by its key, and answers as it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Posted] = []
        self.batches: dict[str, list[bytes]] = {}
        self.answers: deque[Answer] = deque()

    @property
    def lines(self) -> list[bytes]:
        return [line for lines in self.batches.values() for line in lines]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        posted = Posted(request.method, request.raw_path, request.headers, body)
        self.requests.append(posted)
        answer = self.answers.popleft() if self.answers else 200
        if callable(answer):
            response: web.StreamResponse = await answer(request)
            return response
        if answer in (200, 201, 202, 204, "lost"):
            lines = gzip.decompress(body).splitlines(keepends=True)
            self.batches.setdefault(posted.key, lines)
        if isinstance(answer, str):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.Response(status=answer)


@asynccontextmanager
async def serving(endpoint: Endpoint, ssl_context: ssl.SSLContext | None = None):
    """``endpoint`` on a port of its own."""
    server = web.Server(
        endpoint.handle, access_log=None, auto_decompress=False, handler_cancellation=True
    )
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
    endpoint.url = f"http{'s' if ssl_context else ''}://127.0.0.1:{runner.addresses[0][1]}/in/jobs"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


@pytest.fixture
async def endpoint():
    async with serving(Endpoint()) as running:
        yield running


def rows(*lines: bytes) -> list[Row]:
    return [Row(line, f"arn:{number}", "1" * 12, "us-east-1") for number, line in enumerate(lines)]


def numbered(count: int, size: int = 0) -> list[Row]:
    return rows(
        *(b'{"n":%d,"x":"%b"}\n' % (n, secrets.token_hex(size // 2).encode()) for n in range(count))
    )


LINES = rows(b'{"a":1}\n', '{"b":"é"}\n'.encode())


def run(**settings: Any) -> Run:
    return Run("aws_sagemaker_trainingjob", "run-1", 1.7e9, Settings(**settings))


@pytest.fixture
def make(clock):
    """Sinks whose waits take no time and are as long as they can be."""

    def made(uri: str, **settings: Any) -> HttpSink:
        return HttpSink(uri, run(**settings), clock=clock, sleep=clock.sleep, random=lambda: 1.0)

    return made


async def post(sink: HttpSink, *batches: list[Row]) -> None:
    """A run, whole or not."""
    assert await sink.open() is Kept.NOTHING
    try:
        for batch in batches:
            assert not await sink.write(batch)
        assert await sink.flush() is None
    finally:
        assert await sink.close(whole=True) is None


async def failure(sink: HttpSink, *batches: list[Row]) -> str:
    """What a run that fails says: one sentence, and nothing else beside it."""
    with pytest.raises(SinkError) as caught:
        await post(sink, *batches)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    return text


async def test_a_batch_is_posted_as_compressed_ndjson(endpoint):
    """One POST for a batch: gzip, its type, a key of run and number, and the settings' headers."""
    sink = open_sink(endpoint.url + "?source=aws%2Fjobs", run(sink_header=["X-Team=ml"]))
    assert isinstance(sink, Sink)
    await post(sink, LINES, LINES[:1])
    first, second = endpoint.requests
    assert (first.method, first.path) == ("POST", "/in/jobs?source=aws%2Fjobs")
    assert first.headers["Content-Type"] == "application/x-ndjson"
    assert first.headers["Content-Encoding"] == "gzip"
    assert first.headers["X-Team"] == "ml"
    assert gzip.decompress(first.body) == b"".join(row.line for row in LINES)
    assert gzip.decompress(second.body) == LINES[0].line
    stem, _, number = first.key.rpartition("-")
    assert stem.startswith("run-1-")
    assert number == "1"
    assert second.key == f"{stem}-2"


async def test_both_schemes_lead_here():
    """http:// and https:// name this sink, in any case of letters."""
    for uri in ("http://h/x", "https://h/x", "HTTPS://H/x"):
        assert type(base.open_sink(uri, run())) is HttpSink


async def test_a_run_gone_on_with_uses_other_keys(endpoint):
    """Two processes with one run id never give one key to two batches."""
    await post(open_sink(endpoint.url, run()), LINES)
    await post(open_sink(endpoint.url, run()), LINES)
    assert len({posted.key for posted in endpoint.requests}) == 2


async def test_requests_stay_within_their_limits(make, endpoint):
    """Many and long records are split, in order; a record over a request's size goes alone."""
    batch = [*numbered(1_201), *numbered(30, 300_000), *numbered(1, 2 * MOST_BYTES), *numbered(2)]
    await post(make(endpoint.url), batch, [])
    assert endpoint.lines == [row.line for row in batch]
    sizes = [(len(lines), sum(map(len, lines))) for lines in endpoint.batches.values()]
    assert max(count for count, _ in sizes) == MOST_ROWS
    assert all(size <= MOST_BYTES or count == 1 for count, size in sizes)
    assert max(size for _, size in sizes) > 2 * MOST_BYTES
    assert sizes[0] == (MOST_ROWS, sum(len(row.line) for row in batch[:MOST_ROWS]))


async def test_a_record_that_no_request_holds_is_refused(make, endpoint):
    """A record over the limit is named with its size; the others go on as if it were not there."""
    long = rows(b"x" * (MOST_RECORD + 1))[0]
    sink = make(endpoint.url)
    await sink.open()
    (refusal,) = await sink.write([LINES[0], long, LINES[1]])
    await sink.close(whole=True)
    assert refusal.row is long
    assert refusal.sink == endpoint.url
    assert "10,485,761 bytes" in refusal.why
    assert endpoint.lines == [row.line for row in LINES]


@pytest.mark.parametrize("answer", [408, 429, 500, 502, 503, 504, 599, "lost", "reset"])
async def test_what_may_pass_is_tried_again(make, endpoint, answer):
    """The same batch under the same key, until it is acknowledged."""
    endpoint.answers.extend([answer, answer])
    await post(make(endpoint.url), LINES)
    assert len(endpoint.requests) == 3
    assert len({(posted.key, posted.body) for posted in endpoint.requests}) == 1
    assert endpoint.lines == [row.line for row in LINES]


async def test_requests_are_told_of(endpoint, clock):
    """The report counts each request, how it ended, and whether it was made again."""
    told: list[Any] = []
    endpoint.answers.extend([429, 500, 200, 400])
    watched = replace(run(), observe=told.append)
    sink = HttpSink(endpoint.url, watched, clock=clock, sleep=clock.sleep, random=lambda: 1.0)
    await failure(sink, LINES, LINES)
    assert {event.operation for event in told} == {"POST"}
    assert [(event.result, event.retried) for event in told] == [
        ("throttled", True),
        ("faulted", True),
        ("ok", False),
        ("refused", False),
    ]


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_2xx_acknowledges(make, endpoint, status):
    """Each of them is a yes."""
    endpoint.answers.append(status)
    await post(make(endpoint.url), LINES)
    assert len(endpoint.requests) == 1


async def test_waits_grow(make, endpoint, clock):
    """Each wait is up to twice the one before: 0.2, 0.4, 0.8 and 1.6 s here."""
    endpoint.answers.extend([503] * 4)
    await post(make(endpoint.url), LINES)
    assert clock() == pytest.approx(3.0)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("dated", [False, True])
async def test_retry_after_is_waited_for(make, endpoint, clock, status, dated):
    """Seconds or a date: no attempt is made before."""
    value = formatdate(time.time() + 100, usegmt=True) if dated else "100"

    async def later(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": value})

    endpoint.answers.append(later)
    await post(make(endpoint.url), LINES)
    assert clock() == pytest.approx(100, abs=2.5)


async def test_it_gives_up_in_the_end(make, endpoint, clock):
    """After so long without an acknowledgement the sink fails, and says how often it tried."""
    endpoint.answers.extend([200, *[503] * 1000])
    text = await failure(make(endpoint.url, give_up_after=60), LINES, LINES)
    tried = len(endpoint.requests) - 1
    assert clock() == pytest.approx(60)
    end = f"status 503; tried {tried} times in 60 s."
    assert text == f"{endpoint.url} takes no records: {end}"


async def test_each_batch_has_its_own_patience(make, endpoint, clock):
    """An outage before an acknowledgement does not count against the next batch."""
    endpoint.answers.extend([*[503] * 6, 200, *[503] * 6])
    await post(make(endpoint.url, give_up_after=15), LINES, LINES)
    assert clock() > 20


async def test_no_patience_is_one_attempt(make, endpoint):
    """With give_up_after=0 the first failure is the last."""
    endpoint.answers.append("reset")
    text = await failure(make(endpoint.url, give_up_after=0), LINES)
    assert text.startswith(f"{endpoint.url} takes no records: ")
    assert "tried" not in text
    assert len(endpoint.requests) == 1


def says(status: int, body: str, **headers: str) -> Answer:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=body, headers=headers)

    return answer


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 409, 410, 413, 415, 422, 451])
async def test_a_refusal_is_final(make, endpoint, status):
    """Any other 4xx ends the run at once, with the status and the first line of what was said."""
    endpoint.answers.append(says(status, "\n no such index.\nand so on\n" + "z" * 100_000))
    text = await failure(make(endpoint.url), LINES)
    assert text == f"{endpoint.url} takes no records: status {status}, no such index."
    assert len(endpoint.requests) == 1


async def test_what_was_said_is_made_fit_to_be_shown(make, endpoint):
    """No colours, no megabytes, no broken text."""
    endpoint.answers.append(says(400, "\x1b[31mbad\x07" + "é" * 1_000_000))
    text = await failure(make(endpoint.url), LINES)
    assert "bad é" in text
    assert text.isprintable()
    assert len(text) < 600


@pytest.mark.parametrize("location", ["https://else.where/x?token=abc", "//else.where/x"])
async def test_a_redirection_is_not_followed(make, endpoint, location):
    """Records go nowhere but to the address given; the sentence says where they were sent to."""
    endpoint.answers.append(says(307, "", Location=location))
    text = await failure(make(endpoint.url), LINES)
    assert "status 307, a redirection to http" in text
    assert "://else.where/x, which is not followed." in text
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("bound", ["call_timeout", "read_timeout"])
async def test_silence_is_a_fault(make, endpoint, bound):
    """An endpoint that does not answer is left after a while, and asked again."""

    async def silent(_: web.BaseRequest) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    endpoint.answers.append(silent)
    await post(make(endpoint.url, **{bound: 0.05}), LINES)
    assert len(endpoint.requests) == 2
    endpoint.answers.extend([silent] * 3)
    text = await failure(make(endpoint.url, give_up_after=0, **{bound: 0.05}), LINES)
    assert text.endswith("takes no records: no whole answer in time.")


@pytest.mark.parametrize("status", [200, 400])
async def test_an_endless_answer_is_not_read(make, endpoint, status):
    """The status is what counts: of the rest, a few thousand bytes are looked at."""
    sent = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65_536)
            sent += 65_536
            await asyncio.sleep(0)

    endpoint.answers.append(endless)
    sink = make(endpoint.url)
    if status == 200:
        await post(sink, LINES, LINES)
        assert len(endpoint.requests) == 2
    else:
        assert "status 400, xxx" in await failure(sink, LINES)
    assert sent < 50 << 20


async def test_what_is_not_http_is_a_fault(make):
    """A port that speaks something else fails in one sentence."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"220 mail.example.org ESMTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/?sig=s3cret-value"
        text = await failure(make(url, give_up_after=1), LINES)
    assert "takes no records: " in text
    assert "s3cret" not in text


async def test_headers_come_from_variables_and_files(endpoint, monkeypatch, tmp_path):
    """Read when the sink is opened, stripped; the sink's own type may be replaced."""
    monkeypatch.setenv("SINK_TOKEN", f" Bearer {TOKEN}\n")
    (tmp_path / "key").write_text("from a file\n")
    given = {
        "authorization": "env:SINK_TOKEN",
        "X-Key": f"file:{tmp_path}/key",
        "X-Plain": "env ironment",
        "content-type": "application/json",
    }
    await post(open_sink(endpoint.url, run(sink_header=given)), LINES)
    headers = endpoint.requests[0].headers
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["X-Key"] == "from a file"
    assert headers["X-Plain"] == "env ironment"
    assert headers.getall("Content-Type") == ["application/json"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"A": "env:NO_SUCH"}, "The header A wants the environment variable NO_SUCH, which is not"),
        ({"A": "env:EMPTY"}, "The header A wants the environment variable EMPTY, which is empty"),
        ({"A": "file:/no/such"}, "wants the file /no/such, which cannot be read: No such file"),
        ({"A": "file:/dev/zero"}, "wants the file /dev/zero, which holds more than a header can"),
        ({"A": "file:{bytes}"}, "which is not text"),
        ({"A": "file:{lines}"}, "The value of the header A has a line break"),
        ({"A": f"{TOKEN}\r\nB: c"}, "The value of the header A has a line break"),
        ({f"A: {TOKEN}": "x"}, "A name in sink_header is not the name of a header"),
        ({"idempotency-key": "x"}, "The header idempotency-key is for the sink to set"),
        ({"Content-Length": "1"}, "The header Content-Length is for the sink to set"),
    ],
)
async def test_a_bad_header_is_told_when_it_is_opened(
    endpoint, monkeypatch, tmp_path, header, words
):
    """Before anything is sent, in a sentence that holds no value."""
    monkeypatch.setenv("EMPTY", " ")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "lines").write_text(f"{TOKEN}\n{TOKEN}")
    files = {name: str(tmp_path / name) for name in ("bytes", "lines")}
    given = {name: value.format(**files) for name, value in header.items()}
    sink = open_sink(endpoint.url, run(sink_header=given))
    with pytest.raises(ConfigurationError) as caught:
        await sink.open()
    await sink.close(whole=False)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")
    assert TOKEN not in str(caught.value)
    assert not endpoint.requests


async def test_no_secret_is_ever_shown(make, endpoint, monkeypatch, caplog):
    """Not by an endpoint that repeats it, not in a refusal, a redirection or a log."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SINK_TOKEN", f"Bearer {TOKEN}")
    url = f"{endpoint.url}?code=qu3ry%2Fsecret"
    given = {"Authorization": "env:SINK_TOKEN", "X-Key": "an0ther secret"}
    texts = []
    for answer in (
        says(403, f"{TOKEN} is not known: Bearer {TOKEN}, an0ther secret, qu3ry/secret"),
        says(308, "", Location=f"/{TOKEN}/?code=qu3ry%2Fsecret"),
        says(400, f"no {url}"),
    ):
        endpoint.answers.append(answer)
        texts.append(await failure(make(url, sink_header=given), LINES))
    sink = make(url, sink_header=given)
    await sink.open()
    texts += map(str, await sink.write(rows(b"x" * (MOST_RECORD + 1))))
    await sink.close(whole=True)
    text = "\n".join([*(text[:2000] for text in texts), caplog.text, repr(sink)])
    for secret in (TOKEN, "an0ther", "qu3ry"):
        assert secret not in text
    assert "*** is not known: ***, ***, ***" in text


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("https://me:pa55word@h/x", "The sink https://h/x has a name or password in its URL"),
        ("http://pa55word@h/x", "--sink-header Authorization=env:NAME"),
        ("https://", "is not a URL"),
        ("https:///path", "is not a URL"),
        ("http://h:99999/", "is not a URL"),
        ("http://h:port/", "is not a URL"),
        ("http://[::1/", "is not a URL"),
        ("http://a b/", "is not a URL"),
        ("http://h/\n", "is not a URL"),
    ],
)
def test_a_bad_address_is_refused_before_it_is_opened(uri, words):
    """What cannot be an address, or holds a password, is a mistake of the settings."""
    with pytest.raises(ConfigurationError) as caught:
        open_sink(uri, run())
    assert words in str(caught.value)
    assert "pa55word" not in str(caught.value)


async def opening(uri: str, **settings: Any) -> str:
    """What a sink says that cannot be opened."""
    sink = open_sink(uri, run(**settings))
    with pytest.raises(SinkError) as caught:
        await sink.open()
    assert await sink.close(whole=False) is None
    return str(caught.value)


async def test_opening_sends_nothing(make, endpoint):
    """Whatever is posted is delivered, so a sink that is only opened posts nothing."""
    await post(make(endpoint.url), [])
    assert endpoint.requests == []


async def test_it_may_be_opened_again(make, endpoint):
    """Beside another sink it may have to begin anew: nothing of the first time is left behind."""
    sink = make(endpoint.url)
    await sink.open()
    await sink.write(LINES)
    first = sink._session
    await post(sink, LINES)
    assert first.closed
    assert len(endpoint.batches) == 2


async def test_a_closed_port_is_told_when_it_is_opened():
    """Nothing listens: said before anything is asked of AWS."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        said = await opening(f"http://{place}/x?token={TOKEN}")
    assert said == f"http://{place}/x cannot be reached: {place} refuses connections."


async def test_an_unknown_name_is_told_when_it_is_opened(monkeypatch):
    """So is a name that nobody knows."""

    async def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    said = await opening("https://nowhere.invalid/x")
    assert said.endswith("cannot be reached: no address is found for nowhere.invalid.")


async def test_a_place_that_does_not_answer_is_told_when_it_is_opened(monkeypatch):
    """A connection that never comes about is not waited for without end."""

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", never)
    said = await opening("https://h/x", connect_timeout=0.01)
    assert said == "https://h/x cannot be reached: h:443 does not answer within 0.01 s."


async def test_a_network_that_is_down_is_told_when_it_is_opened(monkeypatch):
    """Any other reason is the system's own."""

    async def down(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(asyncio, "open_connection", down)
    said = await opening("http://h:8080/x")
    assert said == "http://h:8080/x cannot be reached: h:8080: Network is unreachable."


async def test_a_certificate_is_checked_when_it_is_opened(certificate, monkeypatch):
    """One that nobody vouches for is refused; one that SSL_CERT_FILE holds is good."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with serving(Endpoint(), context) as endpoint:
        said = await opening(endpoint.url)
        assert "is not trusted (self-signed certificate)" in said
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        await post(open_sink(endpoint.url, run()), LINES)
        assert endpoint.lines == [row.line for row in LINES]


async def test_a_proxy_of_the_environment_is_used(endpoint, monkeypatch):
    """Requests go through it with its password; the name behind it is for the proxy to find."""
    monkeypatch.setenv("http_proxy", endpoint.url.replace("//", "//me:pa55word@"))
    await post(open_sink("http://nowhere.invalid/x", run()), LINES)
    (posted,) = endpoint.requests
    assert posted.headers["Host"] == "nowhere.invalid"
    assert posted.headers["Proxy-Authorization"].startswith("Basic ")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    await post(open_sink(endpoint.url, run()), LINES)
    assert "Proxy-Authorization" not in endpoint.requests[1].headers


async def test_a_proxy_that_refuses_is_told(endpoint, make, monkeypatch):
    """A proxy that does not let through ends the run, and its password is not shown."""
    endpoint.answers.append(407)
    monkeypatch.setenv("https_proxy", endpoint.url.replace("//", "//me:pa55word@"))

    async def open_connection(*_: object, **__: object) -> Any:
        return await whole("127.0.0.1", int(endpoint.url.split(":")[2].split("/")[0]))

    whole = asyncio.open_connection
    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    text = await failure(make("https://nowhere.invalid/x"), LINES)
    assert text == "https://nowhere.invalid/x takes no records: status 407, said by the proxy."


async def test_a_bad_proxy_is_told(monkeypatch):
    """A proxy's address that is none is a mistake of the environment."""
    monkeypatch.setenv("http_proxy", "http://[::1")
    with pytest.raises(ConfigurationError, match="The proxy that the environment names for http"):
        await open_sink("http://h/x", run()).open()


async def test_passwords_of_netrc_are_left_alone(endpoint, monkeypatch, tmp_path):
    """Nothing is taken from ~/.netrc, and it does not get in a header's way."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password pa55word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    await post(open_sink(endpoint.url, run()), LINES)
    await post(open_sink(endpoint.url, run(sink_header={"Authorization": TOKEN})), LINES)
    first, second = endpoint.requests
    assert "Authorization" not in first.headers
    assert second.headers["Authorization"] == TOKEN


async def test_a_sink_that_is_not_open_takes_nothing(make, endpoint):
    """Writing before open and after close is a SinkError, not a loss."""
    sink = make(endpoint.url)
    with pytest.raises(SinkError, match="is not open"):
        await sink.write(LINES)
    await sink.open()
    await sink.close(whole=False)
    await sink.close(whole=True)
    with pytest.raises(SinkError, match="is not open"):
        await sink.write(LINES)


async def test_a_write_returns_when_it_is_acknowledged(make, endpoint):
    """Until the endpoint has answered the crawl waits, and cancelled it leaves nothing behind."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.Response:
        asked.set()
        await go.wait()
        return web.Response()

    sink = make(endpoint.url)
    await sink.open()
    endpoint.answers.extend([slow, slow])
    for cancel in (False, True):
        writing = asyncio.create_task(sink.write(LINES))
        await asked.wait()
        assert not writing.done()
        if cancel:
            writing.cancel()
        go.set()
        await asyncio.wait([writing])
        assert writing.cancelled() is cancel
        asked.clear()
        go.clear()
    await sink.close(whole=False)


async def test_lines_are_json_to_the_endpoint(make, endpoint):
    """What arrives is one JSON object a line, in UTF-8."""
    await post(make(endpoint.url), LINES)
    assert [json.loads(line) for line in endpoint.lines] == [{"a": 1}, {"b": "é"}]
