"""The Firehose sink, and what it shares with the other stream: limits, failures, order of events.

Over real HTTP: moto for what a reader of the stream sees, a stand-in for what goes wrong.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import cycle

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

from collector import Collector, Settings
from collector.errors import CallError, ConfigurationError, SinkError
from collector.sinks.base import Kept, Sink, permissions
from collector.testing import Estate, FakeAws

URI = "firehose://jobs"
OTHER = "210987654321"
ROLE = f"arn:aws:iam::{OTHER}:role/team/Writer+1"


@pytest.fixture(autouse=True)
def keys(clean_environment, monkeypatch):  # noqa: ARG001
    caller(monkeypatch)


@pytest.fixture(scope="module")
def moto():
    with moto_server() as url:
        yield url


def client(service, url, region="us-east-1", role=None):
    keys = {"AccessKeyId": "moto", "SecretAccessKey": "moto", "SessionToken": None}
    if role:
        sts = client("sts", url)
        keys = sts.assume_role(RoleArn=role, RoleSessionName="setup")["Credentials"]
        sts.close()
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=url,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )


class Delivered:
    """A Firehose stream of moto's, and the bucket that it delivers to."""

    def __init__(self, url, name, region="us-east-1", role=None):
        self._s3 = client("s3", url, role=role)
        self._bucket = f"bucket-{name}"
        self._s3.create_bucket(Bucket=self._bucket)
        firehose = client("firehose", url, region, role)
        firehose.create_delivery_stream(
            DeliveryStreamName=name,
            ExtendedS3DestinationConfiguration={
                "RoleARN": "arn:aws:iam::123456789012:role/Firehose",
                "BucketARN": f"arn:aws:s3:::{self._bucket}",
            },
        )
        firehose.close()

    def lines(self):
        found = []
        for item in self._s3.list_objects_v2(Bucket=self._bucket).get("Contents", []):
            body = self._s3.get_object(Bucket=self._bucket, Key=item["Key"])["Body"].read()
            found += body.splitlines(keepends=True)
        self._s3.close()
        return found


async def test_a_reader_finds_every_line_once(moto):
    """1,300 records go through moto's Firehose into its bucket: lines of NDJSON, each once."""
    stream = Delivered(moto, "plain")
    sink = make("firehose://plain", moto)
    assert isinstance(sink, Sink)
    assert await sink.open() is Kept.NOTHING
    sent = rows(1_300)
    assert not await sink.write(sent)
    assert await sink.flush() is None
    assert await sink.close(whole=True) is None
    assert Counter(stream.lines()) == Counter(lines(sent))


async def test_a_crawl_is_delivered(moto, monkeypatch):
    """Each job of a crawl is in the bucket once; AWS_ENDPOINT_URL_FIREHOSE leads there."""
    stream = Delivered(moto, "crawl")
    found = await crawled("firehose://crawl", "AWS_ENDPOINT_URL_FIREHOSE", moto, monkeypatch)
    assert sorted(json.loads(line)["training_job_arn"] for line in stream.lines()) == sorted(found)


async def test_a_role_in_another_account_and_region(moto):
    """With region and role in the URI, the records are in that account's stream there."""
    stream = Delivered(moto, "theirs", "eu-west-1", ROLE)
    sink = make(f"firehose://theirs?region=eu-west-1&role={ROLE}&external_id=x:1", moto)
    await sink.open()
    await sink.write(rows(3))
    await sink.close(whole=True)
    assert stream.lines() == lines(rows(3))


@pytest.mark.parametrize("options", ["", "?region=eu-west-1", f"?role={ROLE}"])
async def test_a_stream_that_is_not_there_is_found_out_at_once(moto, options):
    """open() says which stream is missing in which region."""
    with pytest.raises(SinkError) as caught:
        await make(f"firehose://missing{options}", moto).open()
    region = "eu-west-1" if "region" in options else "us-east-1"
    assert str(caught.value).startswith(f"There is no Firehose stream missing in {region} (")
    assert str(caught.value).endswith("create it, or see to the sink's URI.")


async def test_a_call_has_no_more_than_it_may():
    """Calls hold up to 500 records and 4 MiB, in the order in which the records came."""
    async with StreamServer() as server, opened(URI, server) as sink:
        sent = rows(1_100) + rows(6, 1_000_000)
        await sink.write(sent)
        assert list(map(len, server.calls)) == [500, 500, 104, 2]
        assert server.data == lines(sent)
        await sink.write([])
        assert len(server.calls) == 4


async def test_what_is_too_big_is_named_and_not_sent():
    """A record of 1,000 KiB goes out; one byte more is refused, and costs no other record."""
    fits, too_big = rows(1, 1_024_000)[0], rows(1, 1_024_001)[0]
    async with StreamServer() as server, opened(f"{URI}?region=us-east-1", server) as sink:
        (refusal,) = await sink.write([too_big, fits])
        assert server.data == [fits.line]
    assert refusal.row is too_big
    assert refusal.sink == URI
    assert refusal.why == (
        "it has 1,024,001 bytes, and the Firehose stream takes at most 1,024,000 a record"
    )


@pytest.mark.parametrize("code", ["ServiceUnavailableException", "InternalFailure", "Unheard"])
async def test_only_what_failed_is_sent_again(clock, code):
    """Records that failed in a call, and these alone, go again until none fails."""
    answers = [Alone(code, [1, 3]), Alone(code, [0, 1]), Alone(code, [1])]
    async with StreamServer(answers) as server, opened(URI, server, clock) as sink:
        sent = lines(rows(5))
        await sink.write(rows(5))
        bad = [sent[1], sent[3]]
        assert server.calls == [sent, bad, bad, [sent[3]]]
        assert Counter(server.data) == Counter(sent)


async def test_records_that_are_too_fast_slow_the_calls_down(clock):
    """The limiter hears of records that were throttled, and not of those that failed by a fault."""
    rates = {}
    for code in ("ServiceUnavailableException", "ThrottlingException", "InternalFailure"):
        async with (
            StreamServer([None] * 8 + [Alone(code, range(500))] * 2) as server,
            opened(URI, server, clock) as sink,
        ):
            await sink.write(rows(4_000))
            await sink.write(rows(500))
            scope = ("", "us-east-1", "PutRecordBatch")
            rates[code] = sink._client.limits.of(scope).rate
    assert rates["ServiceUnavailableException"] < rates["InternalFailure"] / 2
    assert rates["ThrottlingException"] < rates["InternalFailure"] / 2


async def test_an_answer_that_lacks_results_is_not_believed(clock):
    """Records that the answer says nothing of are sent again: at least once."""
    async with StreamServer() as server, opened(URI, server, clock) as sink:
        json, cut = sink._client.json, []

        async def shorter(*args, **options):
            answer = await json(*args, **options)
            if not cut:
                cut.append(answer["RequestResponses"].pop())
            return answer

        sink._client.json = shorter
        await sink.write(rows(3))
        assert server.calls == [lines(rows(3)), lines(rows(3))[2:]]


@pytest.mark.parametrize("seed", range(3))
async def test_with_failing_calls_each_record_arrives(clock, seed):
    """One call in twenty fails, some after the records were taken: each arrives at least once."""
    async with StreamServer(unlucky(seed)) as server, opened(URI, server, clock) as sink:
        sent = rows(5_000)
        for start in range(0, len(sent), 50):
            await sink.write(sent[start : start + 50])
        assert set(server.data) == set(lines(sent))
        assert len(server.calls) > 100


@pytest.mark.parametrize("seed", range(3))
async def test_with_failing_records_each_arrives_once(clock, seed):
    """One record in twenty fails, of those sent again as well: each arrives exactly once."""
    server = StreamServer(partly(seed, "ServiceUnavailableException"))
    async with server, opened(URI, server, clock) as sink:
        await sink.write(rows(5_000))
        assert Counter(server.data) == Counter(lines(rows(5_000)))


async def test_it_gives_up_when_nothing_gets_through(clock):
    """Records that fail for give_up_after end the run; as long as some get through, none does."""
    slow = [Alone("ServiceUnavailableException", range(1, 100))] * 40
    lost = cycle([Alone("ServiceUnavailableException", range(100))])
    async with StreamServer([*slow]) as server, opened(URI, server, clock, give_up_after=1) as sink:
        await sink.write(rows(41))
        assert len(server.calls) == 41
        assert clock.now() > 2
        server.answers = lost
        began = clock.now()
        with pytest.raises(SinkError) as caught:
            await sink.write(rows(5))
        assert 1 <= clock.now() - began < 2
    assert str(caught.value) == (
        "The Firehose stream jobs in us-east-1 took no record for 1 seconds "
        "(ServiceUnavailableException: not now): see to its capacity, and run the same command "
        "again."
    )


async def test_calls_that_are_answered_without_success_are_no_success(clock):
    """Faulted calls in between do not prolong the wait for a record to get through."""
    answers = cycle([Fault("InternalFailure", 500), Alone("InternalFailure", range(9))])
    async with (
        StreamServer(answers) as server,
        opened(URI, server, clock, give_up_after=30) as sink,
    ):
        with pytest.raises(SinkError):
            await sink.write(rows(9))
        assert 30 <= clock.now() < 60


STREAM = "Firehose stream jobs in us-east-1"
CANNOT = f"The {STREAM} cannot be written to"
BAD_KEYS = "the credentials are bad, or the region is not enabled for their account"
LATER = "see to its capacity or to the network, and run the same command again"


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (
            Fault("AccessDeniedException"),
            f"{CANNOT} ({{}}): allow the caller firehose:PutRecordBatch on it.",
        ),
        (
            Fault("ResourceNotFoundException"),
            f"There is no {STREAM} ({{}}): create it, or see to the sink's URI.",
        ),
        (Fault("UnrecognizedClientException"), f"{CANNOT} ({{}}): {BAD_KEYS}."),
        (Fault("ServiceUnavailableException", 503), f"{CANNOT} ({{}}): {LATER}."),
        (Fault("InvalidSourceException"), f"{CANNOT}: {{}}."),
    ],
)
async def test_a_call_that_fails_for_good_says_what_to_do(clock, fault, text):
    """Each kind of refusal is one sentence, and none is a CallError any more."""
    async with StreamServer() as server, opened(URI, server, clock) as sink:
        server.instead["PutRecordBatch"] = fault
        with pytest.raises(SinkError) as caught:
            await sink.write(rows(1))
    assert str(caught.value) == text.format(f"PutRecordBatch: {fault.code}: said so")
    assert not isinstance(caught.value, CallError)


async def test_who_may_not_describe_the_stream_may_write_to_it():
    """A denied description is no failure; only writing has to be allowed."""
    async with StreamServer() as server:
        server.instead["DescribeDeliveryStream"] = Fault("AccessDeniedException")
        async with opened(URI, server) as sink:
            await sink.write(rows(2))
        assert server.data == lines(rows(2))


FED = "its records come from elsewhere (MSKAsSource); use one whose source is Direct PUT"


@pytest.mark.parametrize(
    ("described", "why"),
    [
        ({"DeliveryStreamStatus": "CREATING"}, "it is CREATING"),
        ({"DeliveryStreamType": "MSKAsSource"}, FED),
    ],
)
async def test_a_stream_that_takes_nothing_is_found_out_at_once(described, why):
    """open() reads in the description that records would be refused."""
    async with StreamServer() as server:
        server.described = described
        with pytest.raises(SinkError) as caught:
            await make(URI, server.url).open()
    assert str(caught.value) == f"{CANNOT}: {why}."


async def test_a_failure_at_open_comes_before_any_call_to_aws(monkeypatch):
    """Where the stream is missing, the crawled accounts are not asked for anything."""
    async with StreamServer() as server, FakeAws(Estate.generate(1, ("us-east-1",), 5)) as aws:
        server.instead["DescribeDeliveryStream"] = Fault("ResourceNotFoundException")
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_FIREHOSE", server.url)
        with pytest.raises(SinkError, match="There is no Firehose stream"):
            await Collector(Settings(sink=[URI], regions=["us-east-1"])).run()
        assert not aws.calls


async def test_no_credentials_are_one_sentence(monkeypatch):
    """Without any keys, open() says so in the words of every other command."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with StreamServer() as server:
        with pytest.raises(SinkError, match=r"No AWS credentials were found: .+\.$"):
            await make(URI, server.url).open()
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(SinkError, match=r"cannot be opened: .+\(nobody\).+\.$"):
            await make(URI, server.url).open()
        assert not server.operations


async def test_a_slow_service_slows_the_writer():
    """A write returns only with the last record taken, and one call at a time is under way."""
    async with StreamServer() as server, opened(URI, server) as sink:
        server.gate.clear()
        writing = asyncio.create_task(sink.write(rows(1_200)))
        await server.arrived.wait()
        assert not writing.done()
        server.gate.set()
        await writing
        assert len(server.data) == 1_200
        assert server.most_in_flight == 1


async def test_a_write_that_is_cancelled_leaves_nothing_behind():
    """Cancelled in the middle of a call, it ends, and closing leaves no task."""
    async with StreamServer() as server:
        before = asyncio.all_tasks()
        async with opened(URI, server) as sink:
            server.gate.clear()
            writing = asyncio.create_task(sink.write(rows(3)))
            await server.arrived.wait()
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            await sink.close(whole=False)
        server.gate.set()
        left = [task.get_coro().__qualname__ for task in asyncio.all_tasks() - before]
        assert all(name.startswith("RequestHandler.") for name in left)  # the stand-in's


async def test_closing_twice_and_writing_afterwards(clock):
    """A second close does nothing, before open as well; what is closed takes no records."""
    async with StreamServer() as server:
        sink = make(URI, server.url, clock)
        assert await sink.close(whole=False) is None
        await sink.open()
        assert await sink.close(whole=True) is None
        assert await sink.close(whole=False) is None
        with pytest.raises(SinkError, match=r"^The sink firehose://jobs is not open\.$"):
            await sink.write(rows(1))
        assert await sink.open() is Kept.NOTHING  # and it can be opened again
        await sink.write(rows(1))
        await sink.close(whole=True)
        assert server.data == lines(rows(1))


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("firehose://", "lacks a stream: give its name, as in firehose://NAME, not its ARN."),
        ("firehose://a/b", "lacks a stream"),
        (f"firehose://{'a' * 65}", "lacks a stream"),
        ("firehose://arn:aws:firehose:eu-west-1:123456789012:deliverystream/a", "not its ARN"),
        ("firehose://a?regoin=eu-west-1", "has no option 'regoin'; did you mean region?"),
        ("firehose://a?x", "has no option 'x'; did you mean region, role, external_id?"),
        ("firehose://a?region=", "takes as region the code of a region, as eu-west-1 is."),
        ("firehose://a?region=EU (Ireland)", "takes as region the code of a region"),
        ("firehose://a?role=Writer", "takes as role the ARN of a role."),
        (f"firehose://a?role={ROLE}&external_id=%20", "takes as external_id 2 to 1224 letters"),
        ("firehose://a?external_id=abc", "has an external_id, but no role to assume."),
    ],
)
def test_a_bad_uri_is_one_sentence(uri, text):
    """What is wrong with the URI shows before anything is opened, and says what to give."""
    with pytest.raises(ConfigurationError) as caught:
        make(uri, None)
    assert text in str(caught.value)
    assert str(caught.value).startswith("The sink firehose://")
    assert str(caught.value).endswith((".", "?"))
    assert "\n" not in str(caught.value)


def test_options_are_read():
    """Each option of the URI is where it belongs, escaped or not."""
    sink = make(f"firehose://a.b-c_1/?role={ROLE}&external_id=x%3A1&region=us-gov-west-1", None)
    assert sink.place.stream == "a.b-c_1"
    assert sink.place.role == ROLE
    assert sink.place.external_id == "x:1"
    assert sink.place.region == "us-gov-west-1"


def test_the_policy_names_the_stream_or_the_role():
    """The caller needs the stream's actions, or the role that has them."""
    (write,) = permissions(f"{URI}?region=eu-west-1")
    assert write.actions == ["firehose:DescribeDeliveryStream", "firehose:PutRecordBatch"]
    assert write.resources == ["arn:*:firehose:eu-west-1:*:deliverystream/jobs"]
    (assume,) = permissions(f"{URI}?role={ROLE}")
    assert assume[1:] == (["sts:AssumeRole"], [ROLE])
