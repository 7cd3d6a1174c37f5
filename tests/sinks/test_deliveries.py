"""Whole crawls into the sinks: what arrives, what slows them down, what is too long, what fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import orjson
import pytest
from flaky import flaky
from lake import BUCKET, Lake, azure, blob_lines, folder_lines, google, s3_server
from shop import Plain, Shop
from stream_server import Alone, Fault, StreamServer
from test_http_sink import Endpoint, serving

from collector import Collector, Settings, objects, pipeline
from collector.aws import retry, throttle
from collector.crawl import ROOM
from collector.errors import SinkError
from collector.events import JobEmitted
from collector.sinks import http
from collector.sinks.base import Run, Sink
from collector.testing import Estate, FakeAws, credentials_for

JOBS = 1_800
ONE_IN = 20
"""Of the sinks' own requests, so many fail where any does; the second is the first of them."""

STREAM_FAULTS = (
    Fault("InternalFailure", 500),
    Alone("ServiceUnavailableException", range(0, 500, 2)),
    Fault("ServiceUnavailableException", 503, taken=True),
    Alone("InternalFailure", range(3)),
)
HTTP_FAULTS = (503, "lost", 429, "reset", 408)
AT_LEAST_ONCE = ("firehose", "kinesis")
"""Where a request fails; the endpoint of the HTTP sink knows by its key a batch that came again."""


@pytest.fixture(autouse=True)
def caller(monkeypatch):
    """A caller that the stand-in knows, a crawl that knows its rate, and no waits."""
    access_key, secret_key = credentials_for("111111111111")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(throttle, "INITIAL_RATE", 5_000.0)
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.0)
    soon = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2)}
    monkeypatch.setitem(objects._RETRIES, "backoff", {**soon, "base": 2})


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


def everything(aws: FakeAws, **changes: Any) -> Settings:
    return Settings(
        accounts=aws.estate.accounts,
        role_name="InventoryReader",
        regions=aws.estate.regions,
        **changes,
    )


def one_in_twenty(faults: Iterable[Any]) -> Iterator[Any]:
    """One in twenty is the next of ``faults``, and so is the second; the others are none."""
    faults = cycle(faults)
    for number in range(1, 1_000_000):
        yield next(faults) if number == 2 or number % ONE_IN == 0 else None


Places = dict[str, tuple[str, Callable[[], Sequence[bytes]]]]
"""By name: a sink's URI, and what reads the lines that are there."""


@asynccontextmanager
async def everywhere(s3: str, folder: Path, patch: Any, *, failing: bool) -> AsyncIterator[Places]:
    """A place for each of the sinks, on this machine; ``failing`` ones fail as often as said."""
    async with (
        flaky(s3) as bucket,
        google(s3, patch) as googles,
        azure(patch) as blobs,
        StreamServer() as firehose,
        StreamServer() as kinesis,
        serving(Endpoint()) as endpoint,
    ):
        patch.setenv("AWS_ENDPOINT_URL_S3", bucket.url)
        patch.setenv("AWS_ENDPOINT_URL_FIREHOSE", firehose.url)
        patch.setenv("AWS_ENDPOINT_URL_KINESIS", kinesis.url)
        if failing:
            bucket.every = googles.every = 4  # of the few requests that parts take
            blobs.answers = one_in_twenty([503])
            firehose.answers, kinesis.answers = (one_in_twenty(STREAM_FAULTS) for _ in range(2))
            answers = one_in_twenty(HTTP_FAULTS)
            endpoint.answers.extend(next(answers) or 200 for _ in range(10_000))
        mark = f"{'failing' if failing else 'good'}?part_bytes=20KB"
        prefix = mark.partition("?")[0]
        yield {
            "file": (f"{folder}/jobs.ndjson", lambda: lines_of(folder / "jobs.ndjson")),
            "folder": (f"file://{folder}/{mark}", lambda: folder_lines(folder / prefix)),
            "s3": (f"s3://{BUCKET}/s3/{mark}", Lake(s3, f"s3/{prefix}").lines),
            "gs": (f"gs://{BUCKET}/gs/{mark}", Lake(s3, f"gs/{prefix}").lines),
            "az": (f"az://{BUCKET}/{mark}", lambda: blob_lines(blobs.blobs, f"{BUCKET}/{prefix}")),
            "firehose": ("firehose://jobs", lambda: firehose.data),
            "kinesis": ("kinesis://jobs", lambda: kinesis.data),
            "http": (endpoint.url, lambda: endpoint.lines),
        }
        if failing:
            assert bucket.failed
            assert googles.failed
            assert len(firehose.calls) > len(set(map(tuple, firehose.calls)))


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("failing", [False, True], ids=["without-faults", "with-faults"])
async def test_a_crawl_is_delivered_to_every_sink(s3, tmp_path, monkeypatch, capfd, failing):
    """1,800 jobs into all sinks at once: each there once, and after faults at least once."""
    estate = Estate.generate(3, ("us-east-1", "eu-west-1"), JOBS // 6)
    async with (
        FakeAws(estate) as aws,
        everywhere(s3, tmp_path, monkeypatch, failing=failing) as places,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        sinks = [*(uri for uri, _ in places.values()), "-"]
        report = await Collector(everything(aws, sink=sinks)).run()
        found = {name: read() for name, (_, read) in places.items()}
    found["stdout"] = capfd.readouterr().out.encode().splitlines(keepends=True)
    assert (report["complete"], report["totals"]["emitted"]) == (True, JOBS)
    wanted = Counter(found["stdout"])
    assert len({orjson.loads(line)["training_job_arn"] for line in wanted}) == JOBS
    assert report["totals"]["bytes"] == sum(map(len, wanted))
    for name, lines in found.items():
        if failing and name in AT_LEAST_ONCE:
            assert set(lines) == set(wanted), name
        else:
            assert Counter(lines) == wanted, name
    calls = report["calls"]
    for operation in ("POST", "PutRecordBatch", "PutRecords"):
        assert (calls[operation]["retried"] > 0) is failing, operation


class Stuck(Plain):
    """Takes the first records, and then none until it is let go."""

    def __init__(self, shop: Shop, run: Run) -> None:
        super().__init__(shop, run)
        self.go = asyncio.Event()

    async def request(self, lines: list[bytes]) -> None:
        if self.shop.shown:
            await self.go.wait()
        await super().request(lines)


async def still(count: Callable[[], int]) -> int:
    """What a count comes to rest at."""
    last, same = -1, 0
    while same < 10:
        same = same + 1 if count() == last else 0
        last = count()
        await asyncio.sleep(0.02)
    return last


async def test_a_slow_sink_slows_the_crawl(monkeypatch):
    """With a sink that stands still, what is read ahead stays within the bounds of the settings."""
    stuck: list[Stuck] = []

    def opened(_: Sequence[str], run: Run) -> Sink:
        stuck.append(Stuck(Shop(), run))
        return stuck[0]

    monkeypatch.setattr(pipeline, "open_sinks", opened)
    monkeypatch.setattr(pipeline, "QUEUE", 40)
    monkeypatch.setattr(pipeline, "BATCH", 20)
    emitted = 0

    def count(event: object) -> None:
        nonlocal emitted
        emitted += isinstance(event, JobEmitted)

    in_flight, jobs = 8, 1_200
    bound = 2 * 20 + 40 + ROOM * in_flight
    async with FakeAws(Estate.generate(2, ("us-east-1", "eu-west-1"), jobs // 4)) as aws:
        collector = Collector(
            everything(aws, endpoint_url=aws.url, max_in_flight=in_flight), observers=[count]
        )
        async with collector:
            running = asyncio.create_task(collector.run())
            assert 0 < await still(lambda: aws.calls["DescribeTrainingJob"]) <= bound
            assert emitted <= bound
            stuck[0].go.set()
            report = await running
    assert len(stuck[0].shop.shown) == emitted == report["totals"]["emitted"] == jobs


async def test_a_record_that_no_request_holds_is_named(monkeypatch, tmp_path):
    """Too long for one of two sinks: in the other all the same, named, and its target partial."""
    monkeypatch.setattr(http, "MOST_RECORD", 5_200)
    estate = Estate.generate(1, ("us-east-1", "eu-west-1"), 40)
    path = tmp_path / "jobs.ndjson"
    async with FakeAws(estate) as aws, serving(Endpoint()) as endpoint:
        settings = everything(aws, endpoint_url=aws.url, sink=[endpoint.url, str(path)])
        report = await Collector(settings).run()
    lines = lines_of(path)
    long = [line for line in lines if len(line) > 5_200]
    assert len(lines) == 80
    assert 0 < len(long) < 80
    assert Counter(endpoint.lines) == Counter(lines) - Counter(long)
    arns = {orjson.loads(line)["training_job_arn"] for line in long}
    assert {failure["arn"] for failure in report["failures"]} == arns
    assert {failure["operation"] for failure in report["failures"]} == {endpoint.url}
    assert all("more than the 5,200 of a request" in one["error"] for one in report["failures"])
    assert report["complete"] is False
    assert report["totals"]["failed"] == len(long)
    assert report["totals"]["emitted"] == 80 - len(long)
    partial = {arn.split(":")[3] for arn in arns}
    for row in report["targets"]:
        assert row["outcome"] == ("partial" if row["region"] in partial else "complete")


async def test_one_of_two_sinks_that_fails_ends_the_run(tmp_path):
    """The state stands behind the slowest: what only the other has had is read and sent again."""
    estate = Estate.generate(1, ("us-east-1",), 300)
    path, state = tmp_path / "jobs.ndjson", str(tmp_path / "state")
    async with FakeAws(estate) as aws, serving(Endpoint()) as endpoint:
        settings = everything(
            aws, endpoint_url=aws.url, sink=[str(path), endpoint.url], state=state
        )
        endpoint.answers.extend([200, 400])
        failed = Collector(settings)
        with pytest.raises(SinkError, match="takes no records: status 400"):
            await failed.run()
        assert failed.report["complete"] is False
        assert not path.exists()
        first = len(endpoint.lines)
        report = await Collector(settings).run()
    assert 0 < first < 300
    assert report["complete"] is True
    assert Counter(Counter(lines_of(path)).values()) == {1: 300}
    assert set(endpoint.lines) == set(lines_of(path))
