"""What goes wrong between us and AWS: every job still ends as emitted, gone or named as failed."""

from __future__ import annotations

import time

import pytest
from harness import (
    REGIONS,
    assert_accounted,
    assert_sums,
    assert_whole,
    crawl,
    identities,
    identity,
    run_command,
)
from reference import moment, record_of

from collector.aws.client import _REPAIRS
from collector.events import JobEmitted, PageListed
from collector.extract import DENIALS, WINDOW
from collector.testing import Estate, FakeAws, Faults, Limits

FIRST, SECOND = "111111111111", "222222222222"
HOME = "us-east-1"
JOBS = 60


def estate(jobs: int = JOBS, accounts: int = 2, regions: tuple[str, ...] = REGIONS) -> Estate:
    return Estate.generate(accounts, regions, jobs)


def assert_exact(run, aws):
    """Every record is what AWS said, tags included."""
    for record in run.records:
        region, account = record["training_job_arn"].split(":")[3:5]
        name = record["training_job_name"]
        assert record == record_of(aws.estate, account, region, name)


@pytest.mark.parametrize(
    ("rates", "http_429"),
    [
        ({"DescribeTrainingJob": (30, 30)}, 0.0),
        ({"DescribeTrainingJob": (30, 30)}, 1.0),
        ({"ListTrainingJobs": (2, 1), "GetResources": (2, 1), "AssumeRole": (2, 1)}, 0.3),
    ],
    ids=["describe", "describe-as-429", "the-others"],
)
async def test_rate_limits_lose_nothing(rates, http_429):
    """Refused for its rate, a call is made again: all jobs come, and throttles are all counted."""
    limits = Limits(rates, http_429=http_429)
    async with FakeAws(estate(accounts=1), limits=limits) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    assert_exact(run, aws)
    refused = sum(aws.throttled.values())
    counted = run.report["calls"].values()
    assert sum(counts["throttled"] for counts in counted) == refused


@pytest.mark.usefixtures("at_full_speed")
async def test_a_low_limit_met_at_full_speed_loses_nothing():
    """A rate far above the limit is cut down to it: throttles happen, and no job is lost."""
    async with FakeAws(estate(accounts=1), limits=Limits({"DescribeTrainingJob": (60, 20)})) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    assert sum(aws.throttled.values()) > 0


MATRIX = {
    "error_500": Faults(error_500=0.02),
    "error_503": Faults(error_503=0.02),
    "reset": Faults(reset=0.02),
    "truncated": Faults(truncated=0.02),
    "garbage": Faults(garbage=0.02),
    "emptied": Faults(emptied=0.02),
    "hang": Faults(hang=0.02, hang_seconds=1.0),
    "empty_pages": Faults(empty_pages=0.3, only=["ListTrainingJobs"], seed=3),
}


@pytest.mark.usefixtures("at_full_speed")
@pytest.mark.parametrize("name", MATRIX)
async def test_faults_of_two_in_a_hundred_calls_lose_nothing(name):
    """Each kind of fault, wherever it strikes, is survived: every job once, every record exact."""
    faults = MATRIX[name]
    jobs = 350 if name == "empty_pages" else JOBS
    async with FakeAws(estate(jobs, accounts=1), faults=faults) as aws:
        run = await crawl(aws, read_timeout=0.3)
    assert aws.faults_dealt[name] > 0
    assert_whole(run, aws)
    assert_exact(run, aws)
    retried = sum(counts["retried"] for counts in run.report["calls"].values())
    assert name == "empty_pages" or retried >= aws.faults_dealt[name]


@pytest.mark.usefixtures("at_full_speed")
@pytest.mark.parametrize("name", ["emptied", "truncated", "garbage", "error_500"])
async def test_a_list_that_fails_half_the_time_is_never_taken_for_an_end(name):
    """A page that comes damaged under status 200 is asked for again, not read as the last one."""
    faults = Faults(only=["ListTrainingJobs"], **{name: 0.5})
    async with FakeAws(estate(350, 1, (HOME,)), faults=faults) as aws:
        run = await crawl(aws)
    assert aws.faults_dealt[name] > 0
    assert_whole(run, aws)


@pytest.mark.usefixtures("at_full_speed")
@pytest.mark.parametrize("calls", [1, 3])
async def test_tokens_that_run_out_lose_and_double_nothing(calls):
    """A list whose token expires every few pages is taken up again where it stood."""
    async with FakeAws(estate(520, 1, (HOME,)), faults=Faults(token_calls=calls)) as aws:
        run = await crawl(aws)
    assert aws.faults_dealt["token_calls"] > 0
    assert_whole(run, aws)


@pytest.mark.usefixtures("at_full_speed")
async def test_jobs_deleted_between_list_and_describe_are_gone():
    """As gone count exactly the jobs that vanished, in each target; the run is complete."""
    async with FakeAws(estate(150), faults=Faults(vanish=0.03)) as aws:
        run = await crawl(aws)
    assert len(aws.vanished) > 3
    assert_accounted(run, aws)
    assert run.report["totals"]["gone"] == len(aws.vanished)
    for row in run.report["targets"]:
        there = [v for v in aws.vanished if v[:2] == (row["account_id"], row["region"])]
        assert row["gone"] == len(there)
    assert (run.status, run.report["failures"]) == (0, [])


@pytest.mark.usefixtures("at_full_speed")
async def test_jobs_created_during_the_crawl_come_at_most_once():
    """Jobs created while pages are read: those that a page shows are emitted, none is doubled."""
    async with FakeAws(estate(450, 1, (HOME,))) as aws:
        emitted = 0

        def create(event):
            nonlocal emitted
            if isinstance(event, JobEmitted):
                emitted += 1
                if emitted in {5, 440}:
                    for n in range(20):
                        aws.estate.add_job(
                            FIRST,
                            HOME,
                            name=f"new-{emitted}-{n}",
                            creation_time=aws.estate.now + emitted + n,
                        )

        before = identities(aws.estate)
        run = await crawl(aws, observers=[create])
    assert_sums(run)
    found = set(map(identity, run.records))
    assert before <= found <= identities(aws.estate)
    assert {f"new-5-{n}" for n in range(20)} <= set(run.names)
    assert run.report["totals"]["listed"] == run.report["totals"]["emitted"] == len(run.records)
    assert run.status == 0


@pytest.mark.usefixtures("at_full_speed")
@pytest.mark.parametrize("jobs", [60, 450], ids=["after-its-list", "before-its-last-page"])
async def test_a_name_deleted_and_given_again_is_two_jobs(jobs):
    """The listed job is gone and the new one of its name emitted once, whenever it is seen."""
    async with FakeAws(estate(jobs, 1, (HOME,))) as aws:
        name = list(aws.estate.jobs(FIRST, HOME))[10]
        old = aws.estate.job(FIRST, HOME, name)
        again = []

        def recreate(event):
            if isinstance(event, PageListed) and not again:
                again.append(name)
                aws.estate.delete_job(FIRST, HOME, name)
                aws.estate.add_job(FIRST, HOME, name=name, creation_time=aws.estate.now + 60)

        run = await crawl(aws, observers=[recreate])
    assert_sums(run)
    assert set(map(identity, run.records)) == identities(aws.estate)
    assert (old.arn, moment(old.created / 1000)) not in set(map(identity, run.records))
    assert run.names.count(name) == 1
    totals = run.report["totals"]
    assert (totals["listed"], totals["gone"]) == (jobs + 1, 1)
    assert run.status == 0


async def test_sessions_that_run_out_are_renewed():
    """Role sessions of two seconds in a run of more: renewed by account, nothing lost or failed."""
    async with FakeAws(estate(45), session_seconds=2, latency=0.02) as aws:
        run = await crawl(aws, max_rate={"DescribeTrainingJob": 15})
    assert_whole(run, aws)
    assert_exact(run, aws)
    assert 2 <= aws.calls["AssumeRole"] <= 12


@pytest.mark.usefixtures("at_full_speed")
async def test_sessions_that_end_before_their_time_are_renewed():
    """Keys that AWS calls expired though they should not be: assumed again, the call repeated."""
    ahead = 0.0
    async with FakeAws(
        estate(), session_seconds=120, clock=lambda: time.time() + ahead, latency=0.01
    ) as aws:
        emitted = 0

        def jump(event):
            nonlocal ahead, emitted
            if isinstance(event, JobEmitted):
                emitted += 1
                ahead = 200.0 if emitted > 40 else 0.0

        run = await crawl(aws, observers=[jump], max_in_flight=8)
    assert_whole(run, aws)
    assert aws.calls["AssumeRole"] == 2


@pytest.mark.usefixtures("at_full_speed")
async def test_a_role_revoked_midway_costs_its_account_alone():
    """After the revocation few calls are made; what was not read is named; exit 3."""
    async with FakeAws(estate(150)) as aws:
        emitted = 0
        until = {}

        def revoke(event):
            nonlocal emitted
            if isinstance(event, JobEmitted) and event.target.account.id == SECOND:
                emitted += 1
                if emitted == 60:
                    aws.revoke(SECOND)
                    until.update(aws.calls_by)

        run = await crawl(aws, observers=[revoke], max_in_flight=16)
    assert_accounted(run, aws)
    for region in REGIONS:
        assert run.outcomes[FIRST, region] == "complete"
        assert run.outcomes[SECOND, region] == "denied"
        place = (SECOND, region, "DescribeTrainingJob")
        assert aws.calls_by[place] - until[place] <= DENIALS + WINDOW
    wanted = identities(aws.estate, [FIRST])
    assert {identity(r) for r in run.records if r["account_id"] == FIRST} == wanted
    assert {identity(r) for r in run.records if r["account_id"] == SECOND} < identities(
        aws.estate, [SECOND]
    )
    assert run.status == 3


@pytest.mark.usefixtures("at_full_speed")
@pytest.mark.parametrize("minutes", [10, -10])
async def test_a_clock_that_is_minutes_off_is_put_right(minutes):
    """Ten minutes fast or slow: learned from the first answers, then every call is in time."""
    async with FakeAws(estate(), clock=lambda: time.time() + 60 * minutes) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    refused = sum(counts["retried"] for counts in run.report["calls"].values())
    assert 1 <= refused <= 10 * _REPAIRS


ALL_AT_ONCE = {
    "error_500": 0.02,
    "error_503": 0.02,
    "reset": 0.02,
    "truncated": 0.02,
    "garbage": 0.02,
    "emptied": 0.02,
    "hang": 0.01,
    "hang_seconds": 1.0,
    "empty_pages": 0.1,
    "token_calls": 3,
    "vanish": 0.03,
}


@pytest.mark.usefixtures("at_full_speed")
async def test_everything_at_once_loses_nothing():
    """Faults of all kinds, limits, short sessions and a wrong clock together: all accounted for."""
    async with FakeAws(
        estate(75),
        faults=Faults(**ALL_AT_ONCE, seed=5),
        limits=Limits({"DescribeTrainingJob": (200, 50), "*": (50, 20)}, http_429=0.3),
        session_seconds=3,
        clock=lambda: time.time() + 600,
    ) as aws:
        run = await crawl(aws, read_timeout=0.3)
    assert_accounted(run, aws)
    assert_exact(run, aws)
    assert set(run.outcomes.values()) == {"complete"}
    assert (run.status, run.report["failures"]) == (0, [])
    assert run.report["totals"]["gone"] == len(aws.vanished) > 0


@pytest.mark.usefixtures("at_full_speed")
async def test_a_region_that_never_answers_right_is_given_up_and_named():
    """No success in a target for give_up_after: its listed jobs are failed by name, exit 3."""
    faults = Faults(error_500=1.0, only=["DescribeTrainingJob"])
    async with FakeAws(estate(5, 1), faults=faults) as aws:
        run = await crawl(aws, give_up_after=0.2)
    assert_accounted(run, aws)
    assert set(run.outcomes.values()) == {"partial"}
    assert run.report["totals"]["failed"] == 10
    assert {failure["operation"] for failure in run.report["failures"]} == {"DescribeTrainingJob"}
    assert min(failure["attempts"] for failure in run.report["failures"]) >= 1
    assert run.status == 3


def test_a_process_survives_what_the_library_does(tmp_path):
    """`collector run` through faults: every job on a line once, exit status 0."""
    faults = Faults(error_500=0.05, reset=0.05, emptied=0.05, truncated=0.05, seed=1)
    with FakeAws(estate(10), faults=faults).in_thread() as aws:
        run = run_command(aws, tmp_path)
    assert sum(aws.faults_dealt.values()) > 0
    assert_whole(run, aws)
    assert_exact(run, aws)
