"""The sinks of the cloud keep the promises of `check_sink`, too, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import cycle

import pytest
from flaky import flaky
from lake import BUCKET, Lake, azure, blob_lines, folder_lines, google, s3_server
from stream_server import Alone, Fault, StreamServer, caller

from collector import Settings, objects
from collector.aws import retry
from collector.aws.sessions import Sdk
from collector.sinks import _streams
from collector.sinks.base import Run, Sink, open_sink
from collector.sinks.firehose import MOST_RECORD
from collector.sinks.kinesis import DEFAULT_RECORD
from collector.testing import check_sink

PARTITION_KEY = 256
FAULTS = (
    Fault("InternalFailure", 500),
    Alone("InternalFailure", range(0, 500, 3)),
    Fault("ThrottlingException"),
    Alone("ServiceUnavailableException", range(1, 500, 2)),
    Fault("", 502),
)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """What is tried again is tried again at once; the caller has keys."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.0)
    soon = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2)}
    monkeypatch.setitem(objects._RETRIES, "backoff", {**soon, "base": 2})
    caller(monkeypatch)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


async def test_a_bucket_keeps_the_promises(s3, monkeypatch):
    """Hidden until the manifest, exactly once, also when requests fail on their way."""
    async with flaky(s3) as proxy:
        sdk = Sdk(endpoint_url=proxy.url)
        keys = sdk.key_provider()

        async def endpoint(*_):
            return proxy.url  # what the SDK says as well, and takes a while to say each time

        monkeypatch.setattr(sdk, "endpoint", endpoint)
        monkeypatch.setattr(sdk, "key_provider", lambda: keys)
        monkeypatch.setattr(objects, "Sdk", lambda **_: sdk)
        await check_sink(
            partial(open_sink, f"s3://{BUCKET}/suite?part_bytes=64KB"),
            Lake(s3, "suite").lines,
            settings=Settings(endpoint_url=proxy.url),
            hides=True,
            exactly_once=True,
            fail_next=proxy.fail_next,
            unreachable=partial(open_sink, "s3://no-such-bucket/x"),
        )


async def test_a_bucket_of_googles_keeps_the_promises(s3, monkeypatch):
    """The same over Google's API, as far as it is S3's."""
    async with google(s3, monkeypatch) as proxy:
        await check_sink(
            partial(open_sink, f"gs://{BUCKET}/gs?part_bytes=64KB"),
            Lake(s3, "gs").lines,
            hides=True,
            exactly_once=True,
            fail_next=proxy.fail_next,
            unreachable=partial(open_sink, "gs://no-such-bucket/x"),
        )
        assert proxy.failed


async def test_a_container_of_azures_keeps_the_promises(monkeypatch):
    """The same over Azure's API: blocks, lists of them, deletions in bulk."""
    async with azure(monkeypatch) as server:
        await check_sink(
            partial(open_sink, f"az://{BUCKET}/az?part_bytes=64KB"),
            lambda: blob_lines(server.blobs, f"{BUCKET}/az"),
            hides=True,
            exactly_once=True,
            fail_next=server.fail_next,
            unreachable=partial(open_sink, "az://no-such-container/x"),
        )
        assert not server.staged


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
async def test_a_stream_keeps_the_promises(uri, limit, clock, monkeypatch):
    """At least once; what is too long is named; of a call that failed in part, the rest is."""
    async with StreamServer() as server:
        sdk = Sdk(endpoint_url=server.url)  # one for all sinks: it builds their requests once
        monkeypatch.setattr(_streams, "Sdk", lambda **_: sdk)
        faults = cycle(FAULTS)

        def fail_next(requests: int) -> None:
            server.answers = iter([*(next(faults) for _ in range(requests)), *[None] * 10_000])

        async def kill(sink: Sink) -> None:
            await sink._held.aclose()

        def make(run: Run) -> Sink:
            sink = open_sink(uri, run)
            return type(sink)(sink.place, run.settings, clock=clock, sleep=clock.sleep)

        await check_sink(
            make,
            lambda: server.data,
            settings=Settings(endpoint_url=server.url),
            ordered=False,
            limit=limit,
            fail_next=fail_next,
            kill=kill,
        )
