"""One bad account, region or permission: told for what it is, and it costs the others nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest
from harness import (
    ROLE,
    assert_accounted,
    assert_sums,
    assert_whole,
    command,
    crawl,
    identities,
    identity,
    is_one_sentence,
    run_command,
)
from reference import record_of

from collector import Collector, CredentialsError, DiscoveryError, Settings
from collector.testing import Estate, FakeAws, credentials_for
from collector.testing.organization import TEAMS, WORKLOADS

FIRST, BAD, THIRD = "111111111111", "222222222222", "333333333333"
REGIONS = ("us-east-1", "eu-west-1")
JOBS = 30

pytestmark = pytest.mark.usefixtures("at_full_speed")


def estate(**changes: Any) -> Estate:
    return Estate.generate(3, REGIONS, JOBS, **changes)


def assert_others_whole(run, aws, bad=frozenset({(BAD, region) for region in REGIONS})):
    """Every target that is not bad is complete, with all its jobs and no other's."""
    good = {(a, r) for a in aws.estate.accounts for r in aws.estate.regions} - bad
    for account, region in good:
        assert run.outcomes[account, region] == "complete"
        wanted = identities(aws.estate, [account], [region])
        place = f":{region}:{account}:"
        assert {identity(r) for r in run.records if place in r["training_job_arn"]} == wanted
    return good


async def test_an_account_that_denies_the_role_is_denied_and_the_rest_complete():
    """AssumeRole refused in one account: its targets say denied, with a sentence; exit 3."""
    async with FakeAws(estate(), denied=[(BAD, "sts:AssumeRole")]) as aws:
        run = await crawl(aws)
    assert_sums(run)
    good = assert_others_whole(run, aws)
    assert len(run.records) == len(good) * JOBS
    for region in REGIONS:
        row = run.target(BAD, region)
        assert (row["outcome"], row["listed"]) == ("denied", 0)
        assert "AssumeRole" in row["error"]
    assert run.status == 3
    assert run.report["complete"] is False
    assert [p["Ok"] for p in aws.assumed if BAD in p["RoleArn"]] == [False]


async def test_an_account_that_denies_the_role_is_one_row_where_regions_are_not_known():
    """With regions=all nobody can ask a denying account for its regions: one row says denied."""
    async with FakeAws(estate(), denied=[(BAD, "sts:AssumeRole")]) as aws:
        run = await crawl(aws, regions="all")
    assert_sums(run)
    assert_others_whole(run, aws)
    rows = [row for row in run.report["targets"] if row["account_id"] == BAD]
    assert [(row["region"], row["outcome"]) for row in rows] == [("*", "denied")]
    assert f"arn:aws:iam::{BAD}:role/{ROLE}" in rows[0]["error"]
    assert run.status == 3


async def test_an_account_that_denies_listing_is_denied_and_not_empty():
    """ListTrainingJobs refused: denied, asked once in each region, and nothing described."""
    async with FakeAws(estate(), denied=[(BAD, "sagemaker:ListTrainingJobs")]) as aws:
        run = await crawl(aws)
    assert_sums(run)
    assert_others_whole(run, aws)
    for region in REGIONS:
        row = run.target(BAD, region)
        assert (row["outcome"], row["listed"]) == ("denied", 0)
        assert "sagemaker:ListTrainingJobs" in row["error"]
        assert aws.calls_by[BAD, region, "ListTrainingJobs"] == 1
        assert (BAD, region, "DescribeTrainingJob") not in aws.calls_by
    assert run.status == 3


async def test_an_account_that_denies_describing_names_every_job_it_listed():
    """DescribeTrainingJob refused: denied after some tries, every listed job named as failed."""
    async with FakeAws(estate(), denied=[(BAD, "sagemaker:DescribeTrainingJob")]) as aws:
        run = await crawl(aws)
    assert_accounted(run, aws)
    assert_others_whole(run, aws)
    wanted = {arn for arn, _ in identities(aws.estate, [BAD])}
    assert {failure["arn"] for failure in run.report["failures"]} == wanted
    for region in REGIONS:
        row = run.target(BAD, region)
        assert (row["outcome"], row["listed"], row["failed"]) == ("denied", JOBS, JOBS)
        assert "sagemaker:DescribeTrainingJob" in row["error"]
    assert run.status == 3


async def test_describing_denied_in_one_region_is_not_denied_in_the_next():
    """The regions of one account are judged apart."""
    denied = [(BAD, "eu-west-1", "sagemaker:DescribeTrainingJob")]
    async with FakeAws(estate(), denied=denied) as aws:
        run = await crawl(aws)
    assert_accounted(run, aws)
    assert_others_whole(run, aws, {(BAD, "eu-west-1")})
    assert run.target(BAD, "eu-west-1")["outcome"] == "denied"


async def test_a_region_that_is_not_enabled_is_unavailable_and_no_failure():
    """Named explicitly, such a region says unavailable; the run is complete, exit 0."""
    async with FakeAws(estate(), not_enabled=[(BAD, "eu-west-1")]) as aws:
        run = await crawl(aws)
    assert_sums(run)
    assert_others_whole(run, aws, {(BAD, "eu-west-1")})
    row = run.target(BAD, "eu-west-1")
    assert (row["outcome"], row["listed"]) == ("unavailable", 0)
    assert "not enabled" in row["error"]
    assert (run.status, run.report["complete"]) == (0, True)


async def test_a_region_not_enabled_for_the_caller_itself_is_unavailable_too():
    """The same holds for the caller's own account, whose keys are good elsewhere."""
    async with FakeAws(estate(), not_enabled=[(FIRST, "eu-west-1")]) as aws:
        run = await crawl(aws)
    assert_others_whole(run, aws, {(FIRST, "eu-west-1")})
    assert run.target(FIRST, "eu-west-1")["outcome"] == "unavailable"
    assert run.status == 0


@pytest.mark.parametrize("listed", [False, True], ids=["left-out", "as-disabled"])
async def test_all_regions_leaves_out_what_is_not_enabled(listed):
    """regions=all does not go where an account has no region, however AWS lists that."""
    not_enabled = [(BAD, "eu-west-1")]
    async with FakeAws(estate(), not_enabled=not_enabled, list_not_enabled=listed) as aws:
        run = await crawl(aws, regions="all")
    assert_others_whole(run, aws, {(BAD, "eu-west-1")})
    assert (BAD, "eu-west-1") not in run.outcomes
    assert (BAD, "eu-west-1", "ListTrainingJobs") not in aws.calls_by
    assert run.status == 0


async def test_all_regions_without_permission_to_ask_tries_those_the_sdk_knows():
    """ListRegions and DescribeRegions refused: every region of the SDK is tried, with a warning."""
    denied = [("*", "account:ListRegions"), ("*", "ec2:DescribeRegions")]
    not_enabled = [(FIRST, "ap-east-1")]
    async with FakeAws(estate(), denied=denied, not_enabled=not_enabled) as aws:
        run = await crawl(aws, accounts="current", regions="all")
    assert_sums(run)
    assert set(map(identity, run.records)) == identities(aws.estate, [FIRST])
    assert len(run.outcomes) > 20
    outcomes = run.outcomes
    assert outcomes.pop((FIRST, "ap-east-1")) == "unavailable"
    assert set(outcomes.values()) == {"complete"}
    assert run.status == 0
    (warning,) = run.report["warnings"]
    assert "ListRegions" in warning
    assert "DescribeRegions" in warning


async def test_all_regions_falls_back_to_ec2():
    """Where ListRegions alone is refused, DescribeRegions answers and nothing is warned of."""
    async with FakeAws(estate(), denied=[("*", "account:ListRegions")]) as aws:
        run = await crawl(aws, regions="all")
    assert_whole(run, aws)
    assert run.report["warnings"] == []
    assert aws.calls["DescribeRegions"] == 3


def is_error(run, *words: str) -> bool:
    return is_one_sentence(run.stderr) and all(word in run.stderr for word in words)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ((credentials_for(FIRST)[0], "A" * 40), "does not accept the credentials"),
        (("AKIAUNKNOWNUNKNOWN00", "A" * 40), "does not accept the credentials"),
        (credentials_for("999999999999"), "does not accept the credentials"),
    ],
    ids=["bad-secret", "unknown-key", "account-that-is-gone"],
)
def test_bad_credentials_are_one_sentence(aws, keys, words):
    """Keys that AWS does not accept end the run at once: exit 1, one sentence, no traceback."""
    run = command(
        "run",
        "--regions",
        "us-east-1",
        aws=aws,
        AWS_ACCESS_KEY_ID=keys[0],
        AWS_SECRET_ACCESS_KEY=keys[1],
    )
    assert (run.status, run.lines) == (1, [])
    assert is_error(run, words)
    assert aws.calls.total() == aws.calls["GetCallerIdentity"] <= 3


def test_no_credentials_are_one_sentence_within_seconds(aws, monkeypatch):
    """Without any credentials: exit 1, one sentence that says what to do, and no call."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    began = time.monotonic()
    run = command("run", aws=aws)
    assert time.monotonic() - began < 10
    assert (run.status, run.lines) == (1, [])
    assert is_error(run, "No AWS credentials were found", "AWS_PROFILE")
    assert aws.calls.total() == 0


def test_a_profile_that_is_not_there_is_one_sentence(aws):
    """A profile that no file has: exit 1 and its name."""
    run = command("run", "--profile", "nobody", aws=aws)
    assert run.status == 1
    assert is_error(run, "nobody")


async def test_credentials_errors_reach_a_library_caller():
    """records() raises CredentialsError where the command line exits 1."""
    async with FakeAws(estate()) as aws, Collector(Settings(endpoint_url=aws.url)) as collector:
        aws.estate.accounts = ()
        with pytest.raises(CredentialsError):
            await anext(collector.records())


def test_an_organization_that_cannot_be_listed_is_one_sentence():
    """organizations:ListAccounts refused: exit 1, one sentence that offers --accounts."""
    denied = [(FIRST, "organizations:ListAccounts")]
    with FakeAws(estate(), denied=denied).in_thread() as aws:
        run = command("run", "--accounts", "organization", "--role-name", ROLE, aws=aws)
    assert (run.status, run.lines) == (1, [])
    assert is_error(run, "organizations:ListAccounts", "--accounts")


async def test_no_organization_at_all():
    """An account outside of any organization gets a DiscoveryError that says so."""
    async with FakeAws(estate(), organization=False) as aws:
        with pytest.raises(DiscoveryError, match="not a member of an organization"):
            await crawl(aws, accounts="organization")


async def test_tags_one_by_one_where_the_bulk_call_is_denied():
    """GetResources refused in one account: the tags are the same, a warning tells."""
    async with FakeAws(estate(), denied=[(BAD, "tag:GetResources")]) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    assert_records(run, aws)
    (warning,) = run.report["warnings"]
    assert "tag:GetResources" in warning
    assert BAD in warning
    assert aws.calls["ListTags"] == 2 * JOBS


def assert_records(run, aws, *, untagged=frozenset()):
    """Every record is exact, with tags null for the names in ``untagged``."""
    for record in run.records:
        region, account = record["training_job_arn"].split(":")[3:5]
        name = record["training_job_name"]
        tagged = (account, region, name) not in untagged
        assert record == record_of(aws.estate, account, region, name, tagged=tagged)


async def test_tags_of_young_jobs_are_null_where_list_tags_is_denied():
    """ListTags refused: null where only it could tell, with a warning; the run is complete."""
    young = Estate.generate(1, REGIONS, 34, now=time.time())  # the last four have no tags
    async with FakeAws(young, denied=[("*", "sagemaker:ListTags")]) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    unknown = {
        (FIRST, region, job.name)
        for region in REGIONS
        for job in (young.job(FIRST, region, name) for name in young.jobs(FIRST, region))
        if job.created / 1000 > young.now - 3600 and not young.tags(FIRST, region, job.name)
    }
    assert unknown
    assert_records(run, aws, untagged=unknown)
    (warning,) = run.report["warnings"]
    assert "null" in warning
    assert "ListTags" in warning


async def test_tags_are_null_where_nothing_tells_them():
    """Both tag calls refused: every record is there with tags null, exit 0, both warned of."""
    denied = [("*", "sagemaker:ListTags"), ("*", "tag:GetResources")]
    async with FakeAws(estate(), denied=denied) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    assert {record["tags"] for record in run.records} == {None}
    told = " ".join(run.report["warnings"])
    assert "tag:GetResources" in told
    assert "ListTags" in told


async def test_tags_that_the_index_has_not_seen_yet_are_asked_for():
    """Jobs younger than the tag index is slow: GetResources omits the tags, records do not."""
    young = Estate.generate(2, REGIONS, JOBS, now=time.time())
    async with FakeAws(young, tag_index_lag=3000) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    assert_records(run, aws)
    assert 0 < aws.calls["ListTags"] <= 4 * 4


@pytest.mark.parametrize(("how", "described", "tags"), [("each", JOBS, 1), ("none", 0, None)])
async def test_tags_as_they_are_asked_for(how, described, tags):
    """tags=each asks for every job's, tags=none for nobody's and leaves null."""
    async with FakeAws(Estate.generate(1, ("us-east-1",), JOBS)) as aws:
        run = await crawl(aws, tags=how)
    assert_whole(run, aws)
    assert aws.calls["GetResources"] == 0
    assert aws.calls["ListTags"] == described
    nobody = {(FIRST, "us-east-1", name) for name in run.names}
    assert_records(run, aws, untagged=frozenset() if tags else nobody)


async def test_suspended_accounts_are_not_read():
    """An organization's suspended account is neither a target nor asked for its role."""
    members = Estate.generate(2, REGIONS, 5, suspended=2)
    async with FakeAws(members) as aws:
        run = await crawl(aws, accounts="organization")
    assert_whole(run, aws)
    assert {account for account, _ in run.outcomes} == set(members.accounts)
    assert len(aws.assumed) == 1


@pytest.mark.parametrize(
    ("unit", "members"),
    [(WORKLOADS, [1, 3, 4, 6]), (TEAMS, [3, 6]), ("r-abcd", range(7))],
    ids=["with-one-nested", "nested", "root"],
)
async def test_accounts_below_an_organizational_unit(unit, members):
    """include_ou takes in the units below; nobody outside is asked for anything."""
    async with FakeAws(Estate.generate(7, ("us-east-1",), 3)) as aws:
        run = await crawl(aws, accounts="organization", include_ou=[unit])
    wanted = {aws.estate.accounts[n] for n in members}
    assert {account for account, _ in run.outcomes} == wanted
    assert set(map(identity, run.records)) == identities(aws.estate, wanted)
    assert {p["RoleArn"].split(":")[4] for p in aws.assumed} == wanted - {FIRST}
    assert run.status == 0


async def test_excluded_accounts_are_not_touched():
    """exclude_accounts: no row, no role, no call there."""
    async with FakeAws(estate()) as aws:
        run = await crawl(aws, accounts="organization", exclude_accounts=[BAD])
    assert {account for account, _ in run.outcomes} == {FIRST, THIRD}
    assert set(map(identity, run.records)) == identities(aws.estate, [FIRST, THIRD])
    assert {p["RoleArn"].split(":")[4] for p in aws.assumed} == {THIRD}


async def test_an_external_id_is_given_and_its_lack_denied():
    """The external id reaches AssumeRole; without it the account is denied."""
    async with FakeAws(estate(), external_id="only-us-2") as aws:
        run = await crawl(aws, external_id="only-us-2")
        without = await crawl(aws)
    assert_whole(run, aws)
    assert {p.get("ExternalId") for p in aws.assumed if p["Ok"]} == {"only-us-2"}
    assert without.outcomes[FIRST, "us-east-1"] == "complete"
    assert {without.outcomes[a, r] for a in (BAD, THIRD) for r in REGIONS} == {"denied"}


@pytest.mark.parametrize("given", ["service/inventory/Reader", "/service/inventory/Reader"])
async def test_a_role_with_a_path_and_a_session_name(given):
    """A role's path is part of its ARN, and CloudTrail sees the session name that was asked for."""
    async with FakeAws(estate(), role_names={"service/inventory/Reader"}) as aws:
        run = await crawl(aws, role_name=given, role_session_name="nightly-inventory")
    assert_whole(run, aws)
    assert {p["RoleSessionName"] for p in aws.assumed} == {"nightly-inventory"}
    assert {p["RoleArn"] for p in aws.assumed} == {
        f"arn:aws:iam::{account}:role/service/inventory/Reader" for account in (BAD, THIRD)
    }


@pytest.mark.parametrize("partition", ["aws-cn", "aws-us-gov"])
async def test_other_partitions(partition):
    """The partition of the caller's ARN is that of every role."""
    region = {"aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}[partition]
    place = Estate.generate(2, (region,), 5, partition=partition)
    async with FakeAws(place) as aws:
        run = await crawl(aws, regions="all")
    assert_whole(run, aws)
    assert aws.assumed[0]["RoleArn"].startswith(f"arn:{partition}:iam::")


def test_the_exit_status_says_that_something_is_missing(tmp_path):
    """As a process: 3 with a denied account, 0 with --allow-incomplete, the records the same."""
    small = Estate.generate(2, REGIONS, 4)
    with FakeAws(small, denied=[(BAD, "sts:AssumeRole")]).in_thread() as aws:
        run = run_command(aws, tmp_path)
        allowed = run_command(aws, tmp_path, "--allow-incomplete")
    assert (run.status, allowed.status) == (3, 0)
    assert run.report["complete"] is allowed.report["complete"] is False
    for each in (run, allowed):
        assert set(map(identity, each.records)) == identities(small, [FIRST])
        assert "Traceback" not in each.stderr


def test_a_region_that_is_not_enabled_exits_0(tmp_path):
    """As a process: unavailable is no reason for another exit status than 0."""
    small = Estate.generate(1, REGIONS, 4)
    with FakeAws(small, not_enabled=[(FIRST, "eu-west-1")]).in_thread() as aws:
        run = run_command(aws, tmp_path)
    assert run.status == 0
    assert run.outcomes == {(FIRST, "us-east-1"): "complete", (FIRST, "eu-west-1"): "unavailable"}
