import asyncio

import aiohttp
import orjson
import pytest
from botocore.exceptions import ClientError
from fake_clients import ACCOUNT, REGION, Connect

from collector.testing import Estate, FakeAws, Faults, ManualClock

HEADERS = {
    "X-Amz-Target": "SageMaker.ListTrainingJobs",
    "Content-Type": "application/x-amz-json-1.1",
}


def fake(faults: Faults, **options) -> FakeAws:
    return FakeAws(Estate.generate(jobs=250), faults=faults, check_signatures=False, **options)


async def ask(aws: FakeAws) -> tuple[int, bytes]:
    """(status, body) of a plain request, with a connection of its own."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(aws.url, data=b"{}", headers=HEADERS) as response,
    ):
        return response.status, await response.read()


async def test_a_reset_ends_the_connection_without_an_answer():
    """The client sees its connection reset, not a status."""
    async with fake(Faults(reset=1)) as aws:
        with pytest.raises(aiohttp.ClientConnectionError):
            await ask(aws)
        assert aws.faults_dealt == {"reset": 1}


async def test_a_truncated_body_is_shorter_than_its_length_says():
    """Status 200 and the full length are announced, and half of it comes."""
    async with fake(Faults(truncated=1)) as aws:
        with pytest.raises(aiohttp.ClientPayloadError):
            await ask(aws)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(aws.url.rpartition(":")[2]))
        lines = ["POST / HTTP/1.1", "Host: x", "Content-Length: 2"]
        lines += [f"{name}: {value}" for name, value in HEADERS.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n{}")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        assert 0 < len(body) < length
        assert aws.faults_dealt == {"truncated": 2}


async def test_garbage_and_emptied_bodies_come_with_status_200():
    """A page of HTML, or nothing at all, under a status that promises success."""
    async with fake(Faults(garbage=1)) as aws:
        status, body = await ask(aws)
        assert status == 200
        assert body.startswith(b"<!DOCTYPE html>")
        aws.faults = Faults(emptied=1)
        assert await ask(aws) == (200, b"")
        assert aws.faults_dealt == {"garbage": 1, "emptied": 1}


@pytest.mark.parametrize(("name", "status"), [("error_500", 500), ("error_503", 503)])
async def test_server_errors_are_real_error_answers(name, status):
    """They carry the status and a JSON body with the type of the error."""
    async with fake(Faults(**{name: 1})) as aws:
        got, body = await ask(aws)
        assert got == status
        assert "__type" in orjson.loads(body)


async def test_a_hanging_call_is_cut_off_in_the_end():
    """Nothing comes for hang_seconds; then the connection closes."""
    clock = ManualClock()
    async with fake(Faults(hang=1, hang_seconds=30), sleep=clock.sleep) as aws:
        call = asyncio.create_task(ask(aws))
        await clock.until_asleep()
        clock.advance(29)
        await asyncio.sleep(0)
        assert not call.done()
        clock.advance(1)
        with pytest.raises(aiohttp.ClientConnectionError):
            await call


async def test_a_dribbling_answer_comes_byte_by_byte():
    """Status and length come at once, the body a byte at a time, whole in the end."""
    clock = ManualClock()
    async with fake(Faults(dribble=1), sleep=clock.sleep) as aws:
        async with (
            aiohttp.ClientSession() as http,
            http.post(aws.url, data=b"{}", headers=HEADERS) as response,
        ):
            assert response.status == 200
            body = b""
            while len(body) < response.content_length:
                body += await response.content.readexactly(1)
                assert not response.content.total_bytes > len(body)
                await clock.until_asleep()
                clock.advance(1)
        assert orjson.loads(body)["TrainingJobSummaries"]
        assert aws.faults_dealt == {"dribble": 1}


async def test_faults_can_be_a_regions_own(connect: Connect):
    """What is given for one region takes the place of the rest there, pages and jobs included."""
    own = {REGION: Faults(vanish=1.0, empty_pages=1.0)}
    async with FakeAws(Estate.generate(jobs=3), faults=Faults(), regional_faults=own) as aws:
        for region, jobs in ((REGION, 0), ("us-east-1", 3)):
            client = await connect(aws, region=region)
            page = await client.list_training_jobs()
            assert len(page["TrainingJobSummaries"]) == jobs
        name = next(iter(aws.estate.jobs(ACCOUNT, "us-east-1")))
        await client.describe_training_job(TrainingJobName=name)
        client = await connect(aws)
        name = next(iter(aws.estate.jobs(ACCOUNT, REGION)))
        with pytest.raises(ClientError, match="not found"):
            await client.describe_training_job(TrainingJobName=name)
        aws.regional_faults = {REGION: Faults(error_503=1)}
        with pytest.raises(ClientError, match="ServiceUnavailable"):
            await client.describe_training_job(TrainingJobName=name)
        assert aws.vanished == {(ACCOUNT, REGION, name)}


async def test_faults_strike_at_their_rates_and_repeatably():
    """Two runs with one seed deal the same faults, at about the rates that were asked for."""
    seen = []
    for _ in range(2):
        faults = Faults(error_500=0.1, reset=0.2, emptied=0.05, seed=3)
        seen.append([faults.draw("DescribeTrainingJob") for _ in range(4000)])
    assert seen[0] == seen[1]
    assert abs(seen[0].count("error_500") / 4000 - 0.1) < 0.02
    assert abs(seen[0].count("reset") / 4000 - 0.2) < 0.02
    assert abs(seen[0].count(None) / 4000 - 0.65) < 0.03


async def test_faults_can_be_kept_to_some_operations():
    """An operation that is not in ``only`` works as ever."""
    async with fake(Faults(reset=1, empty_pages=1, only={"DescribeTrainingJob"})) as aws:
        status, body = await ask(aws)
        assert status == 200
        assert orjson.loads(body)["TrainingJobSummaries"]
        assert not aws.faults_dealt


async def test_empty_pages_hide_nothing(connect: Connect):
    """Pages without items carry a NextToken, and behind them every job is found once."""
    async with FakeAws(Estate.generate(jobs=250), faults=Faults(empty_pages=0.5)) as aws:
        client = await connect(aws)
        names, empty, params = [], 0, {"MaxResults": 10}
        while True:
            page = await client.list_training_jobs(**params)
            names += [item["TrainingJobName"] for item in page["TrainingJobSummaries"]]
            empty += not page["TrainingJobSummaries"]
            if "NextToken" not in page:
                break
            params["NextToken"] = page["NextToken"]
        assert names == list(aws.estate.jobs(ACCOUNT, REGION))
        assert empty == aws.faults_dealt["empty_pages"] > 5


async def test_tokens_expire_after_so_many_calls(connect: Connect):
    """The third token of a listing is refused by name; a new listing starts afresh."""
    async with FakeAws(Estate.generate(jobs=250), faults=Faults(token_calls=3)) as aws:
        client = await connect(aws)
        for _ in range(2):
            page = await client.list_training_jobs()
            for _ in range(2):
                page = await client.list_training_jobs(NextToken=page["NextToken"])
            with pytest.raises(ClientError, match="NextToken") as caught:
                await client.list_training_jobs(NextToken=page["NextToken"])
            assert caught.value.response["Error"]["Code"] == "ValidationException"
        assert aws.faults_dealt == {"token_calls": 2}


async def test_vanished_jobs_are_listed_and_then_gone_for_good(connect: Connect):
    """A share of the listed jobs cannot be described, then is neither listed nor has tags."""
    async with FakeAws(Estate.generate(jobs=250), faults=Faults(vanish=0.1)) as aws:
        client = await connect(aws)

        async def summaries() -> dict[str, str]:
            pages = client.get_paginator("list_training_jobs").paginate(MaxResults=100)
            return {
                item["TrainingJobName"]: item["TrainingJobArn"]
                async for page in pages
                for item in page["TrainingJobSummaries"]
            }

        listed, gone = await summaries(), set()
        for name in listed:
            try:
                await client.describe_training_job(TrainingJobName=name)
            except ClientError:
                gone.add(name)
        assert len(listed) == 250
        assert 10 < len(gone) < 45
        assert aws.vanished == {(ACCOUNT, REGION, name) for name in gone}
        assert set(await summaries()) == set(listed) - gone
        name = gone.pop()
        for call in (
            client.describe_training_job(TrainingJobName=name),
            client.list_tags(ResourceArn=listed[name]),
        ):
            with pytest.raises(ClientError, match="not found"):
                await call
