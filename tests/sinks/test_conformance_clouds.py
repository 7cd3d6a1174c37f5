"""The sinks of the cloud keep the promises of `check_sink`, too, over real HTTP."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import cycle
from pathlib import Path

import boto3
import pytest
from flaky import flaky
from stream_server import Fault, StreamServer, caller, moto_server

from collector import Collector, Settings, objects
from collector.aws import retry, throttle
from collector.aws.sessions import Sdk
from collector.sinks.base import Sink, open_sink
from collector.sinks.firehose import MOST_RECORD
from collector.sinks.kinesis import DEFAULT_RECORD
from collector.testing import Estate, FakeAws, check_sink, credentials_for

BUCKET = "lake"
PARTITION_KEY = 256
FAULTS = (Fault("InternalFailure", 500), Fault("ThrottlingException"), Fault("", 502))


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """What is tried again is tried again at once; the caller has keys."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.0)
    soon = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2)}
    monkeypatch.setitem(objects._RETRIES, "backoff", {**soon, "base": 2})
    caller(monkeypatch)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with moto_server() as server:
        url = server.replace("0.0.0.0", "127.0.0.1")
        keys = {"aws_access_key_id": "moto", "aws_secret_access_key": "moto"}
        boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(
            Bucket=BUCKET
        )
        yield url


class Lake:
    """What is below a prefix of the bucket. What was read once is kept: objects do not change."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client = boto3.client("s3", endpoint_url=url)
        self._prefix = prefix
        self._read: dict[str, bytes] = {}

    def _content(self, key: str) -> bytes:
        if key not in self._read:
            self._read[key] = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return self._read[key]

    def lines(self) -> list[bytes]:
        """The records of all manifests, the oldest run first."""
        found = self._client.list_objects_v2(Bucket=BUCKET, Prefix=self._prefix)
        manifests = sorted(
            (item["LastModified"], item["Key"])
            for item in found.get("Contents", ())
            if "_manifest" in item["Key"]
        )
        return [
            line
            for _, key in manifests
            for part in json.loads(self._content(key))["parts"]
            for line in gzip.decompress(self._content(f"{self._prefix}/{part['path']}")).splitlines(
                keepends=True
            )
        ]


def folder_lines(folder: Path) -> list[bytes]:
    manifests = sorted(folder.rglob("_manifest*"), key=lambda path: path.stat().st_mtime_ns)
    parts = [part["path"] for path in manifests for part in json.loads(path.read_bytes())["parts"]]
    return [
        line
        for path in parts
        for line in gzip.decompress((folder / path).read_bytes()).splitlines(keepends=True)
    ]


async def test_a_bucket_keeps_the_promises(s3, monkeypatch):
    """Hidden until the manifest, exactly once, also when requests fail on their way."""
    async with flaky(s3) as proxy:

        async def endpoint(*_):
            return proxy.url  # what the SDK says as well, and takes a while to say each time

        monkeypatch.setattr(Sdk, "endpoint", endpoint)
        await check_sink(
            partial(open_sink, f"s3://{BUCKET}/suite?part_bytes=64KB"),
            Lake(s3, "suite").lines,
            settings=Settings(endpoint_url=proxy.url),
            hides=True,
            exactly_once=True,
            fail_next=proxy.fail_next,
            unreachable=partial(open_sink, "s3://no-such-bucket/x"),
        )


async def test_a_folder_keeps_the_promises(tmp_path):
    """The same layout in a folder."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    await check_sink(
        partial(open_sink, f"file://{tmp_path}/out?part_bytes=64KB"),
        lambda: folder_lines(tmp_path / "out"),
        hides=True,
        exactly_once=True,
        unreachable=partial(open_sink, f"file://{blocked}/x"),
    )


@pytest.mark.parametrize(
    ("uri", "limit"),
    [("firehose://jobs", MOST_RECORD), ("kinesis://jobs", DEFAULT_RECORD - PARTITION_KEY)],
)
async def test_a_stream_keeps_the_promises(uri, limit):
    """At least once; what is too long is named."""
    async with StreamServer() as server:
        faults = cycle(FAULTS)

        def fail_next(requests: int) -> None:
            server.answers = iter([*(next(faults) for _ in range(requests)), *[None] * 10_000])

        async def kill(sink: Sink) -> None:
            await sink._held.aclose()

        await check_sink(
            partial(open_sink, uri),
            lambda: server.data,
            settings=Settings(endpoint_url=server.url),
            ordered=False,
            limit=limit if "firehose" in uri else None,
            fail_next=fail_next,
            kill=kill,
        )


@pytest.mark.parametrize("every", [0, 4], ids=["without-faults", "with-faults"])
async def test_a_crawl_into_a_bucket_is_there_exactly_once(s3, every, monkeypatch):
    """1,800 jobs, in parts that their manifest names; one request in four fails, or none."""
    monkeypatch.setattr(throttle, "INITIAL_RATE", 5_000.0)
    prefix = f"crawl-{every}"
    estate = Estate.generate(2, ("us-east-1", "eu-west-1"), 450)
    keys = credentials_for("111111111111")
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys, strict=True):
        monkeypatch.setenv(name, value)
    async with flaky(s3) as proxy, FakeAws(estate) as aws:
        proxy.every = every
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        settings = Settings(
            accounts=estate.accounts,
            role_name="InventoryReader",
            regions=estate.regions,
            sink=f"s3://{BUCKET}/{prefix}?part_bytes=20KB",
        )
        async with Collector(settings) as collector:
            report = await collector.run()
    assert (report["complete"], report["totals"]["emitted"]) == (True, 1800)
    assert bool(proxy.failed) is bool(every)
    lines = Lake(s3, prefix).lines()
    assert report["totals"]["bytes"] == sum(map(len, lines))
    times = Counter(json.loads(line)["training_job_arn"] for line in lines)
    assert len(times) == 1800
    assert set(times.values()) == {1}
