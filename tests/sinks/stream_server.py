"""A stand-in for both stream services: their limits, records that fail alone, calls that do."""

from __future__ import annotations

import asyncio
import itertools
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, Self

from aiohttp import web
from aiohttp.test_utils import TestServer
from moto.server import ThreadedMotoServer

from collector import Collector, Settings
from collector.aws import throttle
from collector.sinks._streams import StreamSink
from collector.sinks.base import Row, Run, open_sink
from collector.testing import Estate, FakeAws, credentials_for


class Fault(NamedTuple):
    """A whole call that fails; ``taken`` says that its records were taken all the same."""

    code: str
    status: int = 400
    taken: bool = False


class Alone(NamedTuple):
    """Records of a call that fail, by their place in it."""

    code: str
    places: Sequence[int]


@dataclass
class Service:
    """What differs between the two; sizes in bytes."""

    results: str
    failed: str
    receipt: str
    record: int
    call: int
    description: dict[str, Any]


SERVICES = {
    "Firehose_20150804": Service(
        "RequestResponses", "FailedPutCount", "RecordId", 1_024_000, 4 << 20,
        {"DeliveryStreamDescription": {
            "DeliveryStreamStatus": "ACTIVE", "DeliveryStreamType": "DirectPut"}},
    ),
    "Kinesis_20131202": Service(
        "Records", "FailedRecordCount", "SequenceNumber", 1 << 20, 10 << 20,
        {"StreamDescriptionSummary": {"StreamStatus": "ACTIVE"}},
    ),
}  # fmt: skip


class StreamServer:
    """An async context manager. ``answers`` are given to calls with records in turn, then None.

    ``taken`` are the records that were, as (partition key, data); ``calls`` all that were sent.
    ``instead`` has faults by operation. While ``gate`` is not set, calls with records wait.
    """

    def __init__(self, answers: Iterable[Fault | Alone | None] = (), *, record: int = 0) -> None:
        self.answers = itertools.chain(answers, itertools.repeat(None))
        self.record = record
        self.instead: dict[str, Fault] = {}
        self.taken: list[tuple[str, bytes]] = []
        self.calls: list[list[bytes]] = []
        self.operations: Counter[str] = Counter()
        self.described: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()
        self.in_flight = self.most_in_flight = 0
        app = web.Application(client_max_size=32 << 20)
        app.router.add_post("/", self._answer)
        self._server = TestServer(app)

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).rstrip("/")

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.taken]

    async def _answer(self, request: web.Request) -> web.Response:
        prefix, _, operation = request.headers["x-amz-target"].partition(".")
        service = SERVICES[prefix]
        asked = await request.json()
        self.operations[operation] += 1
        self.asked.append(asked)
        if fault := self.instead.get(operation):
            return _refused(fault)
        if operation.startswith("Describe"):
            (name, description), *_ = service.description.items()
            return web.json_response({name: {**description, **self.described}})
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.arrived.set()
        try:
            await self.gate.wait()
            return self._put(service, asked["Records"])
        finally:
            self.in_flight -= 1

    def _put(self, service: Service, records: list[dict[str, str]]) -> web.Response:
        rows = [(record.get("PartitionKey", ""), b64decode(record["Data"])) for record in records]
        self.calls.append([data for _, data in rows])
        sizes = [len(key.encode()) + len(data) for key, data in rows]
        assert 1 <= len(rows) <= 500
        assert sum(sizes) <= service.call
        assert max(sizes) <= (self.record or service.record)
        assert all(len(key) <= 256 for key, _ in rows)
        answer = next(self.answers)
        alone = answer if isinstance(answer, Alone) else Alone("", ())
        results = []
        for place, row in enumerate(rows):
            if place in alone.places:
                results.append({"ErrorCode": alone.code, "ErrorMessage": "not now"})
                continue
            if not isinstance(answer, Fault) or answer.taken:
                self.taken.append(row)
            results.append({service.receipt: str(len(self.taken))})
        if isinstance(answer, Fault):
            return _refused(answer)
        return web.json_response({service.failed: len(alone.places), service.results: results})


def _refused(fault: Fault) -> web.Response:
    body = {"__type": fault.code, "message": "said so"}
    return web.json_response(body, status=fault.status)


def rows(count: int, size: int = 100, arn: str = "arn:aws:sagemaker:r:1:training-job/{}") -> Any:
    """Lines of ``size`` bytes, each another job's unless ``arn`` has no place for a number."""
    return [
        Row(str(n).encode().ljust(size - 1, b".") + b"\n", arn.format(n), "1" * 12, "us-east-1")
        for n in range(count)
    ]


def lines(some: Sequence[Row]) -> list[bytes]:
    return [row.line for row in some]


def make(uri: str, url: str | None, clock: Any = None, **changes: Any) -> StreamSink:
    """A sink that is not open yet, in virtual time if there is a ``clock``."""
    settings = Settings(sink=[uri], endpoint_url=url, **changes)
    sink = open_sink(uri, Run("t", "r", 0.0, settings))
    assert isinstance(sink, StreamSink)
    if clock is None:
        return sink
    return type(sink)(sink.place, settings, clock=clock, sleep=clock.sleep)


@asynccontextmanager
async def opened(
    uri: str, server: StreamServer, clock: Any = None, **changes: Any
) -> AsyncIterator[StreamSink]:
    sink = make(uri, server.url, clock, **changes)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close(whole=True)


def unlucky(seed: int) -> Iterator[Fault | Alone | None]:
    """One call in twenty fails, in each of the ways there are."""
    random = Random(seed)
    faults = [
        Fault("InternalFailure", 500),
        Fault("ServiceUnavailableException", 503, taken=True),
        Fault("ThrottlingException"),
        Fault("", 502),
    ]
    while True:
        yield random.choice(faults) if random.random() < 0.05 else None


def partly(seed: int, code: str) -> Iterator[Alone]:
    """One record in twenty fails."""
    random = Random(seed)
    while True:
        yield Alone(code, [place for place in range(500) if random.random() < 0.05])


@contextmanager
def moto_server() -> Iterator[str]:
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def caller(monkeypatch: Any) -> None:
    """Keys that moto takes for its default account's, and a region."""
    monkeypatch.setattr(throttle, "INITIAL_RATE", 2_000.0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "moto")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


async def crawled(uri: str, variable: str, url: str, monkeypatch: Any) -> set[str]:
    """The ARNs of 200 jobs that a whole crawl has sent to ``uri``."""
    async with FakeAws(Estate.generate(1, ("us-east-1", "eu-west-1"), 100)) as aws:
        estate = aws.estate
        (account,) = estate.accounts
        access_key, secret_key = credentials_for(account)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        monkeypatch.setenv(variable, url)
        report = await Collector(Settings(sink=[uri], regions=list(estate.regions))).run()
    assert report["complete"] is True
    assert report["totals"]["emitted"] == 200
    return {
        estate.job(account, region, name).arn
        for region in estate.regions
        for name in estate.jobs(account, region)
    }
