"""What goes wrong with one job, or with the tags, must not hold up or lose the others."""

from __future__ import annotations

import orjson
import pytest
from harness import crawl

from collector.aws.wire import Answer, Wire
from collector.testing import Estate, FakeAws, Faults

HOME = "us-east-1"


@pytest.fixture
def answers(monkeypatch):
    """Lets a test put its own answer in the way: a function of (operation, params), or None."""
    send = Wire.send
    ways = []

    async def sent(self, template, body, credentials):
        for way in ways:
            params = orjson.loads(body) if body.startswith(b"{") else {}
            status = way(template.operation, params)
            if status is not None:
                return Answer(self.now(), status, {}, b'{"__type":"InternalFailure"}')
        return await send(self, template, body, credentials)

    monkeypatch.setattr(Wire, "send", sent)
    return ways


@pytest.mark.usefixtures("at_full_speed")
async def test_a_job_that_never_answers_is_given_up_alone(answers):
    """One job that always fails is tried to the end, then named; all others are emitted."""
    estate = Estate.generate(1, (HOME,), 120)
    poison = list(estate.jobs("111111111111", HOME))[5]
    answers.append(lambda _, params: 500 if params.get("TrainingJobName") == poison else None)
    async with FakeAws(estate) as aws:
        run = await crawl(aws, give_up_after=2)
    (failure,) = run.report["failures"]
    assert failure["arn"].endswith(poison)
    assert failure["operation"] == "DescribeTrainingJob"
    assert "InternalFailure" in failure["error"]
    assert failure["attempts"] >= 4
    assert sorted(run.names) == sorted(set(estate.jobs("111111111111", HOME)) - {poison})
    assert run.outcomes == {("111111111111", HOME): "partial"}
    assert run.status == 3


@pytest.mark.usefixtures("at_full_speed")
async def test_a_bulk_call_that_never_answers_is_done_without(answers):
    """Where GetResources fails for good, tags come one by one and the crawl goes on."""
    answers.append(lambda operation, _: 503 if operation == "GetResources" else None)
    estate = Estate.generate(1, (HOME,), 450)
    async with FakeAws(estate) as aws:
        run = await crawl(aws)
    assert run.status == 0
    assert len(set(run.names)) == 450
    for record in run.records:
        known = estate.tags("111111111111", HOME, record["training_job_name"])
        assert record["tags"] == sorted(f"{key}:{value}" for key, value in known.items())
    assert run.report["calls"]["GetResources"]["calls"] == 2 * 4
    assert "GetResources" in run.report["warnings"][0]


@pytest.mark.usefixtures("at_full_speed")
async def test_tags_that_never_come_are_null_in_the_end(answers):
    """Where ListTags of one job always fails, its record comes without tags, and with a warning."""
    estate = Estate.generate(1, (HOME,), 40)
    names = list(estate.jobs("111111111111", HOME))
    untagged = names[3]
    answers.append(
        lambda operation, params: (
            500 if operation == "ListTags" and params["ResourceArn"].endswith(untagged) else None
        )
    )
    async with FakeAws(estate) as aws:
        run = await crawl(aws, tags="each")
    assert run.status == 0
    assert sorted(run.names) == sorted(names)
    assert [record["training_job_name"] for record in run.records if record["tags"] is None] == [
        untagged
    ]
    assert any("ListTags failed" in warning for warning in run.report["warnings"])


@pytest.mark.usefixtures("at_full_speed")
async def test_tags_with_faults_are_read_all_the_same():
    """ListTags that fails every other time costs calls, not tags."""
    estate = Estate.generate(1, (HOME,), 60)
    async with FakeAws(estate, faults=Faults(error_500=0.5, only={"ListTags"})) as aws:
        run = await crawl(aws, tags="each")
    assert run.status == 0
    assert [record for record in run.records if record["tags"] is None] == []


@pytest.mark.usefixtures("at_full_speed")
async def test_keys_that_are_not_known_at_once_do_not_cost_a_region(monkeypatch):
    """One refusal of fresh keys is doubted; a region that is not enabled refuses twice."""
    send = Wire.send
    refused = []

    async def sent(self, template, body, credentials):
        if template.operation == "ListTrainingJobs" and not refused:
            refused.append(template.signing_region)
            return Answer(self.now(), 400, {}, b'{"__type":"UnrecognizedClientException"}')
        return await send(self, template, body, credentials)

    monkeypatch.setattr(Wire, "send", sent)
    async with FakeAws(Estate.generate(1, (HOME,), 10)) as aws:
        run = await crawl(aws)
    assert refused == [HOME]
    assert run.outcomes == {("111111111111", HOME): "complete"}
    assert len(run.names) == 10
