"""The Kinesis sink: partition keys, order, and the stream's own limit for a record.

What both streams do alike is tested in test_firehose_sink.py.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict

import boto3
import pytest
from stream_server import (
    Alone,
    Fault,
    StreamServer,
    caller,
    crawled,
    lines,
    make,
    moto_server,
    opened,
    partly,
    rows,
    unlucky,
)

from collector.errors import ConfigurationError, SinkError
from collector.sinks.base import Kept, Sink, permissions

URI = "kinesis://jobs"
ARN = "arn:aws:kinesis:eu-west-1:123456789012:stream/{}"
OTHER = "210987654321"
ROLE = f"arn:aws:iam::{OTHER}:role/Writer"
TOO_FAST = "ProvisionedThroughputExceededException"


@pytest.fixture(autouse=True)
def keys(clean_environment, monkeypatch):  # noqa: ARG001
    caller(monkeypatch)


@pytest.fixture(scope="module")
def moto():
    with moto_server() as url:
        yield url


class Stream:
    """A stream of moto's with three shards, and what a consumer reads from it."""

    def __init__(self, url, name, region="us-east-1", role=None):
        keys = {"AccessKeyId": "moto", "SecretAccessKey": "moto", "SessionToken": None}
        common = {"endpoint_url": url, "region_name": region}
        if role:
            sts = boto3.client(
                "sts", **common, aws_access_key_id="moto", aws_secret_access_key="moto"
            )
            keys = sts.assume_role(RoleArn=role, RoleSessionName="setup")["Credentials"]
            sts.close()
        self._client = boto3.client(
            "kinesis",
            **common,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )
        self._name = name
        self._client.create_stream(StreamName=name, ShardCount=3)

    def read(self):
        """Lists of lines by partition key, each in the order of its shard."""
        found = defaultdict(list)
        for shard in self._client.list_shards(StreamName=self._name)["Shards"]:
            start = self._client.get_shard_iterator(
                StreamName=self._name,
                ShardId=shard["ShardId"],
                ShardIteratorType="TRIM_HORIZON",
            )
            for record in self._client.get_records(ShardIterator=start["ShardIterator"])["Records"]:
                found[record["PartitionKey"]].append(record["Data"])
        self._client.close()
        return found


async def test_a_consumer_finds_every_record_once_and_in_order(moto):
    """1,300 records of 100 jobs come out of moto's shards: each once, each job's in order."""
    stream = Stream(moto, "plain")
    sink = make("kinesis://plain", moto)
    assert isinstance(sink, Sink)
    assert await sink.open() is Kept.NOTHING
    sent = rows(1_300)
    sent = [row._replace(arn=f"job/{n % 100}") for n, row in enumerate(sent)]
    assert not await sink.write(sent)
    assert await sink.flush() is None
    assert await sink.close(whole=True) is None
    wanted = defaultdict(list)
    for row in sent:
        wanted[row.arn].append(row.line)
    assert stream.read() == wanted


async def test_a_crawl_is_delivered(moto, monkeypatch):
    """Each job of a crawl is in the stream once; AWS_ENDPOINT_URL_KINESIS leads there."""
    stream = Stream(moto, "crawl")
    found = await crawled("kinesis://crawl", "AWS_ENDPOINT_URL_KINESIS", moto, monkeypatch)
    read = stream.read()
    assert read.keys() == found
    for arn, (line,) in read.items():
        assert json.loads(line)["training_job_arn"] == arn


async def test_a_stream_is_named_by_its_arn(moto):
    """An ARN says the region as well; the request carries it as StreamARN."""
    stream = Stream(moto, "by-arn", "eu-west-1")
    sink = make(f"kinesis://{ARN.format('by-arn')}", moto)
    await sink.open()
    await sink.write(rows(2))
    await sink.close(whole=True)
    assert stream.read() == {row.arn: [row.line] for row in rows(2)}


async def test_a_role_in_another_account(moto):
    """With a role in the URI the records are in that account's stream."""
    stream = Stream(moto, "theirs", role=ROLE)
    sink = make(f"kinesis://theirs?role={ROLE}", moto)
    await sink.open()
    await sink.write(rows(2))
    await sink.close(whole=True)
    assert stream.read() == {row.arn: [row.line] for row in rows(2)}


@pytest.mark.parametrize("name", ["missing", ARN.format("missing")])
async def test_a_stream_that_is_not_there_is_found_out_at_once(moto, name):
    """open() says which stream is missing in which region."""
    with pytest.raises(SinkError) as caught:
        await make(f"kinesis://{name}", moto).open()
    region = "eu-west-1" if ":" in name else "us-east-1"
    assert str(caught.value).startswith(f"There is no Kinesis stream {name} in {region} (")


async def test_a_call_has_no_more_than_it_may():
    """Calls hold up to 500 records and 10 MiB, partition keys included."""
    async with StreamServer() as server, opened(URI, server) as sink:
        sent = rows(1_100) + rows(12, 1_000_000)
        await sink.write(sent)
        assert list(map(len, server.calls)) == [500, 500, 110, 2]
        assert server.data == lines(sent)


@pytest.mark.parametrize("known", [None, 1_024, 2_048, 10_240])
async def test_what_is_too_big_is_named_and_not_sent(known):
    """The limit is the stream's own, 1 MiB where it is not told; the key counts with the data."""
    limit = (known or 1_024) << 10
    row = rows(1, limit - 5, arn="12345")[0]
    too_big = row._replace(line=b"." + row.line)
    async with StreamServer(record=limit) as server:
        server.described = {"MaxRecordSizeInKiB": known} if known else {}
        async with opened(URI, server) as sink:
            (refusal,) = await sink.write([row, too_big])
        assert server.data == [row.line]
    assert refusal.row is too_big
    assert refusal.sink == URI
    assert refusal.why == (
        f"it has {limit + 1:,} bytes, and the Kinesis stream takes at most {limit:,} a record"
    )


async def test_the_key_is_the_arn_or_stands_for_it():
    """An ARN of up to 256 characters is the key; a longer one is hashed, always to the same key."""
    longest, longer = "a" * 256, "a" * 257
    sent = [
        row._replace(arn=arn) for row, arn in zip(rows(3), (longest, longer, longer), strict=True)
    ]
    async with StreamServer() as server, opened(URI, server) as sink:
        await sink.write(sent)
        first, second, third = (key for key, _ in server.taken)
    assert first == longest
    assert second == third
    assert len(second) == 64


async def test_records_of_one_job_stay_in_order(clock):
    """What failed is sent again before anything later of the same job is sent at all."""
    jobs = [row._replace(arn=f"job/{n % 2}") for n, row in enumerate(rows(6))]
    answers = [Alone(TOO_FAST, [0]), Alone("InternalFailure", [0]), None, Alone(TOO_FAST, [0, 1])]
    async with StreamServer(answers) as server, opened(URI, server, clock) as sink:
        await sink.write(jobs)
        for job in ("job/0", "job/1"):
            taken = [data for key, data in server.taken if key == job]
            assert taken == [row.line for row in jobs if row.arn == job]
        assert [len(call) for call in server.calls] == [2, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("seed", range(3))
async def test_with_failing_calls_each_record_arrives(clock, seed):
    """One call in twenty fails, some after the records were taken: each arrives at least once."""
    async with StreamServer(unlucky(seed)) as server, opened(URI, server, clock) as sink:
        sent = rows(5_000)
        for start in range(0, len(sent), 50):
            await sink.write(sent[start : start + 50])
        assert set(server.data) == set(lines(sent))


@pytest.mark.parametrize("seed", range(3))
async def test_with_failing_records_each_arrives_once(clock, seed):
    """One record in twenty fails, of those sent again as well: each arrives exactly once."""
    async with StreamServer(partly(seed, TOO_FAST)) as server, opened(URI, server, clock) as sink:
        await sink.write(rows(5_000))
        assert Counter(server.data) == Counter(lines(rows(5_000)))


async def test_it_says_which_permission_is_missing(clock):
    """Denied writing names the action and who needs it; denied describing is no failure."""
    async with StreamServer() as server:
        server.instead["DescribeStreamSummary"] = Fault("AccessDeniedException")
        async with opened(URI, server, clock) as sink:
            server.instead["PutRecords"] = Fault("AccessDeniedException")
            with pytest.raises(SinkError) as caught:
                await sink.write(rows(1))
    assert str(caught.value).endswith("allow the caller kinesis:PutRecords on it.")


@pytest.mark.parametrize(("status", "opens"), [("UPDATING", True), ("DELETING", False)])
async def test_a_stream_that_takes_nothing_is_found_out_at_once(status, opens):
    """A stream takes records while it is updated, and none while it comes or goes."""
    async with StreamServer() as server:
        server.described = {"StreamStatus": status}
        sink = make(URI, server.url)
        if opens:
            assert await sink.open() is Kept.NOTHING
            await sink.close(whole=True)
            return
        with pytest.raises(SinkError, match=r"cannot be written to: it is DELETING\.$"):
            await sink.open()


async def test_one_call_at_a_time():
    """A slow stream slows the writer; a write that is cancelled ends and can be closed."""
    async with StreamServer() as server, opened(URI, server) as sink:
        server.gate.clear()
        writing = asyncio.create_task(sink.write(rows(1_200)))
        await server.arrived.wait()
        assert not writing.done()
        assert server.operations["PutRecords"] == 1
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await sink.close(whole=False)


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("kinesis://", "lacks a stream: give its name or its ARN, as in kinesis://NAME."),
        ("kinesis://a/b", "lacks a stream"),
        ("kinesis://arn:aws:kinesis:eu-west-1:12:stream/a", "lacks a stream"),
        ("kinesis://a?Region=eu-west-1", "has no option 'Region'; did you mean region?"),
        (
            f"kinesis://{ARN.format('a')}?region=us-east-1",
            "is in eu-west-1 by its ARN, and in us-east-1 by its region: leave the region out.",
        ),
    ],
)
def test_a_bad_uri_is_one_sentence(uri, text):
    """What is wrong with the URI shows before anything is opened."""
    with pytest.raises(ConfigurationError) as caught:
        make(uri, None)
    assert text in str(caught.value)
    assert str(caught.value).startswith("The sink kinesis://")


def test_the_policy_names_the_stream_or_the_role():
    """The caller needs the stream's actions, on its ARN if that is known, or the role."""
    (write,) = permissions(URI)
    assert write.actions == ["kinesis:DescribeStreamSummary", "kinesis:PutRecords"]
    assert write.resources == ["arn:*:kinesis:*:*:stream/jobs"]
    (write,) = permissions(f"kinesis://{ARN.format('a')}")
    assert write.resources == [ARN.format("a")]
    (assume,) = permissions(f"{URI}?role={ROLE}")
    assert assume[1:] == (["sts:AssumeRole"], [ROLE])
