"""Keys that a region does not recognize: not enabled, not yet, or not for a moment."""

from __future__ import annotations

import pytest
from harness import (
    REGIONS,
    assert_accounted,
    assert_sums,
    assert_whole,
    crawl,
    identities,
    identity,
)

from collector.events import CallEnded, PageListed, TargetFound
from collector.extract import ATTEMPTS_IN_PLACE, DENIALS, WINDOW
from collector.testing import Estate, FakeAws

FIRST = "111111111111"
AWAY = (FIRST, "eu-west-1")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Nobody waits for keys to spread."""
    monkeypatch.setattr("collector.extract.KEYS_SPREAD", 0.0)


@pytest.mark.usefixtures("at_full_speed")
async def test_an_enabled_region_that_knows_no_keys_has_failed():
    """ListRegions calls it enabled: then its refusal is trouble, not the absence of a region."""
    async with FakeAws(Estate.generate(1, REGIONS, 5)) as aws:

        def close(event):
            if isinstance(event, TargetFound):
                aws.policy.not_enabled = [AWAY]

        run = await crawl(aws, accounts="current", regions="all", observers=[close])
    assert_sums(run)
    assert set(map(identity, run.records)) == identities(aws.estate, [FIRST], ["us-east-1"])
    row = run.target(*AWAY)
    assert row["outcome"] == "failed"
    assert "UnrecognizedClientException" in row["error"]
    assert run.report["complete"] is False
    assert run.status == 3


@pytest.mark.usefixtures("at_full_speed")
async def test_keys_not_recognized_for_a_moment_cost_no_job():
    """A region that listed jobs does not know the keys for some calls: none of them is failed."""
    async with FakeAws(Estate.generate(1, REGIONS, 45)) as aws:
        refused = 0

        def flicker(event):
            nonlocal refused
            if isinstance(event, PageListed) and event.target.key == AWAY and not refused:
                aws.policy.not_enabled = [AWAY]
            if isinstance(event, CallEnded) and event.result == "refused":
                refused += 1
                if refused >= 8:
                    aws.policy.not_enabled = []

        run = await crawl(aws, accounts="current", observers=[flicker], max_in_flight=4)
    assert refused >= 8
    assert_whole(run, aws)


@pytest.mark.usefixtures("at_full_speed")
async def test_keys_that_stay_unknown_bring_no_storm():
    """A region that listed jobs and then knows no keys: given up after few calls, all named."""
    async with FakeAws(Estate.generate(1, REGIONS, 100)) as aws:

        def close(event):
            if isinstance(event, PageListed) and event.target.key == AWAY:
                aws.policy.not_enabled = [AWAY]

        run = await crawl(aws, accounts="current", observers=[close])
    assert_accounted(run, aws)
    assert run.target(*AWAY)["outcome"] == "failed"
    assert run.target(*AWAY)["failed"] == 100
    describes = aws.calls_by[(*AWAY, "DescribeTrainingJob")]
    assert describes <= (DENIALS + WINDOW) * ATTEMPTS_IN_PLACE
    assert run.status == 3
