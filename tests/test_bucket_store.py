"""State in an object store: one holder at a time, whoever dies, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import socket

import boto3
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from collector import Settings
from collector.errors import ConfigurationError, StateError
from collector.store import LEASE_LASTS, RENEW_EVERY, BucketStore, open_store
from collector.testing import ManualClock

BUCKET = "inventory"


@pytest.fixture
def clock():
    """A clock that moves only when told to: what a store does in between takes no time."""
    return ManualClock()


@pytest.fixture
def bucket():
    return MemoryStore()


def opened(bucket, clock, told=None) -> BucketStore:
    """A store on ``bucket`` under the test's clock."""

    async def open_bucket():
        return bucket

    return BucketStore(
        open_bucket,
        "table",
        "s3://bucket/prefix/table",
        tell=(told if told is not None else []).append,
        clock=clock,
        now=clock,
        sleep=clock.sleep,
    )


async def lease_in(bucket) -> bytes:
    return bytes(await (await obstore.get_async(bucket, "table/lease.json")).bytes_async())


def die(store: BucketStore) -> None:
    """What a killed process does about its lease: nothing more."""
    store._renewing.cancel()


async def until_done(clock, task, sleepers: int) -> None:
    """Let time pass until ``task`` is done, while so many tasks at most sleep."""
    while not task.done():
        asleep = asyncio.create_task(clock.until_asleep(sleepers))
        await asyncio.wait({task, asleep}, return_when=asyncio.FIRST_COMPLETED)
        asleep.cancel()
        if not task.done():
            clock.advance(0.5)


async def test_a_document_is_written_and_read(bucket, clock):
    """Nothing at first, then what was saved last."""
    store = opened(bucket, clock)
    assert await store.acquire() is True
    assert await store.load() is None
    await store.save(b"one")
    await store.save(b"two")
    assert await store.load() == b"two"
    assert store.place == "s3://bucket/prefix/table/state.json"
    await store.release(ended=True)


async def test_a_document_can_be_looked_at_while_it_is_held(bucket, clock):
    """To read takes no lease, waits for nobody and leaves the lease as it was."""
    holder, looker = opened(bucket, clock), opened(bucket, clock)
    await holder.acquire()
    await holder.save(b"one")
    before = await lease_in(bucket)
    assert await looker.load() == b"one"
    assert await lease_in(bucket) == before
    await holder.release(ended=True)


@pytest.mark.parametrize("ended", [True, False])
async def test_a_lease_given_back_is_taken_at_once(bucket, clock, ended):
    """The next one need not wait, and learns whether the run had ended."""
    first, second = opened(bucket, clock), opened(bucket, clock)
    await first.acquire()
    await first.begin()
    await first.release(ended=ended)
    before = clock()
    assert await second.acquire() is ended
    assert clock() == before
    await second.release(ended=True)


@pytest.mark.parametrize("ended", [True, False])
async def test_a_lease_that_was_not_begun_stays_as_it_was(bucket, clock, ended):
    """Who takes the lease and finds that it cannot begin leaves what was known of the last run."""
    first, second = opened(bucket, clock), opened(bucket, clock)
    await first.acquire()
    await first.begin()
    await first.release(ended=ended)
    assert await second.acquire() is ended
    await second.release(ended=False)
    assert await opened(bucket, clock).acquire() is ended


async def test_a_living_holder_is_named(bucket, clock):
    """The second run says who holds the state, within a few seconds, and harms nothing."""
    first, told = opened(bucket, clock), []
    await first.acquire()
    second = asyncio.create_task(opened(bucket, clock, told).acquire())
    before = clock()
    await until_done(clock, second, 2)
    with pytest.raises(StateError, match=rf"in use by process \d+ on {socket.gethostname()}"):
        await second
    assert clock() - before <= RENEW_EVERY + 2
    assert len(told) == 1
    assert "sign of life" in told[0]
    await first.load()
    await first.save(b"mine")
    await first.release(ended=True)


async def test_the_lease_of_a_dead_holder_runs_out(bucket, clock):
    """After LEASE_LASTS seconds without a sign of life the next run has it, not ended."""
    first = opened(bucket, clock)
    await first.acquire()
    await first.load()
    await first.begin()
    await first.save(b"one")
    die(first)
    second = opened(bucket, clock)
    taking = asyncio.create_task(second.acquire())
    before = clock()
    await until_done(clock, taking, 1)
    assert await taking is False
    assert LEASE_LASTS - 1 <= clock() - before <= LEASE_LASTS + 2
    assert await second.load() == b"one"
    await second.save(b"two")
    with pytest.raises(StateError, match="taken over by another run"):
        await first.save(b"old")
    assert await second.load() == b"two"
    await second.release(ended=True)


async def test_who_lost_the_lease_does_not_give_it_back(bucket, clock):
    """A run that slept through its lease leaves the new holder's alone."""
    first, second = opened(bucket, clock), opened(bucket, clock)
    await first.acquire()
    die(first)
    taking = asyncio.create_task(second.acquire())
    await until_done(clock, taking, 1)
    await first.release(ended=True)
    third = asyncio.create_task(opened(bucket, clock).acquire())
    await until_done(clock, third, 2)
    with pytest.raises(StateError, match="in use"):
        await third
    await second.release(ended=True)


async def test_two_at_once_are_one_holder(bucket, clock, monkeypatch):
    """Of several that find no lease in the same moment, one takes it."""
    stores = [opened(bucket, clock) for _ in range(5)]
    put, ready = obstore.put_async, asyncio.Barrier(5)

    async def together(*args, **kwargs):
        async with ready:  # until all of them have looked
            return await put(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("obstore.put_async", together)
        results = await asyncio.gather(*(s.acquire() for s in stores), return_exceptions=True)
    assert [result for result in results if not isinstance(result, StateError)] == [True]
    for store in stores:
        await store.release(ended=True)


async def test_a_write_whose_answer_was_lost_is_known_again(bucket, clock, monkeypatch):
    """A conditional write that is made twice fails the second time: it is our own, and counts."""
    store = opened(bucket, clock)
    await store.acquire()
    await store.load()
    await store.save(b"one")
    put = obstore.put_async

    async def twice(*args, **kwargs):
        await put(*args, **kwargs)
        return await put(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("obstore.put_async", twice)
        await store.save(b"two")
    await store.save(b"three")
    assert await store.load() == b"three"
    await store.release(ended=True)


async def test_a_renewal_that_fails_is_made_again(bucket, clock, monkeypatch):
    """A store that is out of reach for a moment does not cost the lease."""
    store = opened(bucket, clock)
    await store.acquire()
    written = await lease_in(bucket)
    failed = []

    async def fails(*args, **_):
        failed.append(args)
        raise GenericError("out of reach")

    async def renewal():
        await clock.until_asleep()
        clock.advance(RENEW_EVERY)
        await asyncio.sleep(0)
        await clock.until_asleep()

    with monkeypatch.context() as patch:
        patch.setattr("obstore.put_async", fails)
        await renewal()
    assert len(failed) == 1
    assert await lease_in(bucket) == written
    await renewal()
    assert await lease_in(bucket) != written
    await store.release(ended=True)


@pytest.fixture(scope="module")
def s3():
    """An S3 by moto, with one bucket."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host if host != '0.0.0.0' else '127.0.0.1'}:{port}"
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(
        Bucket=BUCKET
    )
    yield url
    server.stop()


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.mark.usefixtures("keys")
async def test_s3_keeps_a_document(s3):
    """The same over HTTP, with the keys of the SDK's chain and the conditions of S3."""
    uri, settings = f"s3://{BUCKET}/a/prefix/?region=us-east-1", Settings(endpoint_url=s3)
    first, second = (open_store(uri, "table", settings) for _ in range(2))
    assert await first.acquire() is True
    await first.load()
    await first.begin()
    await first.save(b"one")
    await first.release(ended=False)
    assert await second.acquire() is False
    assert await second.load() == b"one"
    await second.save(b"two")
    with pytest.raises(StateError, match="taken over"):
        await first.save(b"three")
    await second.release(ended=True)
    objects = boto3.client("s3", endpoint_url=s3, region_name="us-east-1").list_objects_v2(
        Bucket=BUCKET
    )
    assert {item["Key"] for item in objects["Contents"]} == {
        "a/prefix/table/state.json",
        "a/prefix/table/lease.json",
    }


@pytest.mark.usefixtures("keys")
async def test_trouble_with_a_bucket_is_one_sentence(s3):
    """A bucket that is not there, a name that is missing, a scheme that is none."""
    settings = Settings(endpoint_url=s3)
    with pytest.raises(StateError) as raised:
        await open_store("s3://no-such-bucket/x", "table", settings).acquire()
    assert "no such bucket" in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigurationError, match="lacks the name of a bucket"):
        await open_store("s3:///x", "table", settings).acquire()
    with pytest.raises(ConfigurationError, match=r"ftp://.*s3://"):
        open_store("ftp://host/x", "table", settings)
