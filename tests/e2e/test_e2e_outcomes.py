"""One bad account, region or permission: told for what it is, and it costs the others nothing.

`CELLS` is the half of the fault matrix in which AWS refuses; the other half, of what goes wrong on
the way, is in test_e2e_faults.py. Whatever hangs is here, too.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any

import botocore.session
import pytest
from harness import (
    ROLE,
    Run,
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
from yarl import URL

from collector import Collector, CredentialsError, DiscoveryError, Settings, extract
from collector.aws import retry, roles, targets
from collector.aws.sessions import Sdk
from collector.events import JobEmitted
from collector.extract import DENIALS, WINDOW
from collector.testing import Estate, FakeAws, Faults, credentials_for
from collector.testing.organization import TEAMS, WORKLOADS

FIRST, BAD, THIRD = ACCOUNTS = "111111111111", "222222222222", "333333333333"
REGIONS = HOME, AWAY = "us-east-1", "eu-west-1"
JOBS = 32
"""Of them, four are younger than an hour: two that have tags, and two that have none."""

pytestmark = pytest.mark.usefixtures("at_full_speed")


def estate(**changes: Any) -> Estate:
    return Estate.generate(3, REGIONS, JOBS, **changes)


# --- the matrix -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What AWS refuses, and what has to come of it. ``fake`` is how the stand-in refuses.

    ``bad`` has the outcome of each target that is not complete, and words of its error: no job
    of theirs is emitted. Each is named as failed if ``named``, else there was none to be listed.
    ``absent`` targets are not in the report. ``warned`` are words of each warning, and ``calls``
    how often operations were called in BAD.
    """

    fake: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    bad: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    absent: AbstractSet[tuple[str, str]] = frozenset()
    named: bool = False
    status: int = 0
    warned: tuple[tuple[str, ...], ...] = ()
    calls: Mapping[str, int] = field(default_factory=dict)


def both(outcome: str, words: str) -> dict[tuple[str, str], tuple[str, str]]:
    """The same for both regions of the bad account."""
    return {(BAD, region): (outcome, words) for region in REGIONS}


ALL = {"regions": "all"}
HALF_BAD = frozenset({(BAD, AWAY)})
NO_LIST_TAGS, NO_BULK = ("*", "sagemaker:ListTags"), ("*", "tag:GetResources")

CELLS: dict[str, Cell] = {
    # The account.
    "role-denied": Cell(
        {"denied": [(BAD, "sts:AssumeRole")]},
        bad=both("denied", "AssumeRole"),
        status=3,
        calls={"ListTrainingJobs": 0},
    ),
    "role-denied-regions-unknown": Cell(  # nobody can be asked which: one row for all of them
        {"denied": [(BAD, "sts:AssumeRole")]},
        ALL,
        bad={(BAD, "*"): ("denied", f"arn:aws:iam::{BAD}:role/{ROLE}")},
        absent={(BAD, region) for region in REGIONS},
        status=3,
        calls={"ListRegions": 0, "ListTrainingJobs": 0},
    ),
    "listing-denied": Cell(  # denied, not empty; asked once in each region
        {"denied": [(BAD, "sagemaker:ListTrainingJobs")]},
        bad=both("denied", "sagemaker:ListTrainingJobs"),
        status=3,
        calls={"ListTrainingJobs": 2, "DescribeTrainingJob": 0},
    ),
    "describing-denied": Cell(
        {"denied": [(BAD, "sagemaker:DescribeTrainingJob")]},
        bad=both("denied", "sagemaker:DescribeTrainingJob"),
        named=True,
        status=3,
    ),
    "describing-denied-in-one-region": Cell(
        {"denied": [(BAD, AWAY, "sagemaker:DescribeTrainingJob")]},
        bad={(BAD, AWAY): ("denied", "sagemaker:DescribeTrainingJob")},
        named=True,
        status=3,
    ),
    # The regions.
    "not-enabled": Cell(
        {"not_enabled": HALF_BAD}, bad={(BAD, AWAY): ("unavailable", "not enabled")}
    ),
    "not-enabled-for-the-caller": Cell(
        {"not_enabled": [(FIRST, AWAY)]}, bad={(FIRST, AWAY): ("unavailable", "not enabled")}
    ),
    "not-enabled-and-left-out": Cell(
        {"not_enabled": HALF_BAD}, ALL, absent=HALF_BAD, calls={"ListTrainingJobs": 1}
    ),
    "not-enabled-and-listed-so": Cell(
        {"not_enabled": HALF_BAD, "list_not_enabled": True},
        ALL,
        absent=HALF_BAD,
        calls={"ListTrainingJobs": 1},
    ),
    "list-regions-denied": Cell(
        {"denied": [("*", "account:ListRegions")]}, ALL, calls={"DescribeRegions": 1}
    ),
    # The tags: null where nothing that may be called tells them, see `is_told`.
    "bulk-tags-denied": Cell(
        {"denied": [(BAD, "tag:GetResources")]},
        warned=(("tag:GetResources", BAD),),
        calls={"ListTags": 2 * JOBS},
    ),
    "list-tags-denied": Cell({"denied": [NO_LIST_TAGS]}, warned=(("null", "ListTags"),)),
    "tags-denied": Cell(
        {"denied": [NO_LIST_TAGS, NO_BULK]},
        warned=(("one job at a time", "tag:GetResources"), ("null", "ListTags")),
    ),
    "list-tags-denied-and-tags-lag": Cell(
        {"denied": [NO_LIST_TAGS], "tag_index_lag": 3000}, warned=(("null", "ListTags"),)
    ),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
async def test_a_refusal_is_told_and_costs_the_others_nothing(cell):
    """What is refused is named, once asked for; all else is whole, exact and has its tags."""
    young = estate(now=time.time())
    async with FakeAws(young, **cell.fake) as aws:
        run = await crawl(aws, **cell.options)
    assert_sums(run)
    every = {(account, region) for account in ACCOUNTS for region in REGIONS} - cell.absent
    outcomes = dict.fromkeys(every, "complete") | {at: bad for at, (bad, _) in cell.bad.items()}
    assert run.outcomes == outcomes
    assert set(map(identity, run.records)) == {
        job
        for account, region in every - cell.bad.keys()
        for job in identities(young, [account], [region])
    }
    assert_records(run, aws)
    nulls = sum(record["tags"] is None for record in run.records)
    assert (nulls > 0) == (NO_LIST_TAGS in cell.fake.get("denied", ()))

    for place, (_, words) in cell.bad.items():
        row = run.target(*place)
        assert words in row["error"]
        assert row["listed"] == row["failed"] == (JOBS if cell.named else 0)
    failed = {failure["arn"] for failure in run.report["failures"]}
    assert failed == {
        arn
        for account, region in cell.bad
        if cell.named
        for arn, _ in identities(young, [account], [region])
    }
    assert (run.report["complete"], run.status) == (cell.status == 0, cell.status)
    assert len(run.report["warnings"]) == len(cell.warned)
    for words in cell.warned:
        assert any(all(word in told for word in words) for told in run.report["warnings"])
    for operation, count in cell.calls.items():
        assert sum(aws.calls_by[BAD, region, operation] for region in REGIONS) == count
    assert Counter(p["RoleArn"].split(":")[4] for p in aws.assumed) == {BAD: 1, THIRD: 1}


def is_told(aws: FakeAws, account: str, region: str, name: str) -> bool:
    """Whether a job's tags can be found out with what is allowed there."""
    if not aws.policy.denies(account, region, ["sagemaker:ListTags"]):
        return True
    if aws.policy.denies(account, region, ["tag:GetResources"]):
        return False
    age = aws.clock() - aws.estate.job(account, region, name).created / 1000
    shown = aws.estate.tags(account, region, name) and age >= aws.policy.tag_index_lag
    return bool(shown) or age > 3600  # an older job that is not shown has none


def assert_records(run: Run, aws: FakeAws) -> None:
    """Every record is exact, with the right tags, and null where nothing tells them."""
    for record in run.records:
        region, account = record["training_job_arn"].split(":")[3:5]
        name = record["training_job_name"]
        tagged = is_told(aws, account, region, name)
        assert record == record_of(aws.estate, account, region, name, tagged=tagged)


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


async def test_the_regions_of_an_account_share_one_session():
    """One AssumeRole, however many of an account's targets need its keys at the same moment."""
    regions = botocore.session.get_session().get_available_regions("sagemaker")
    assert len(regions) > 20
    async with FakeAws(Estate.generate(2, regions, 2)) as aws:
        run = await crawl(aws, accounts=[BAD])
    assert_sums(run)
    assert set(map(identity, run.records)) == identities(aws.estate, [BAD])
    assert run.outcomes == {(BAD, region): "complete" for region in regions}
    assert aws.calls["AssumeRole"] == 1


# --- sessions that end ---------------------------------------------------------------------------


async def test_sessions_that_run_out_are_renewed():
    """Sessions of two seconds of real time, in a run of more: renewed ahead, so no call is refused.

    One AssumeRole serves both regions of an account.
    """
    async with FakeAws(Estate.generate(2, REGIONS, 30), session_seconds=2, latency=0.02) as aws:
        run = await crawl(aws, max_rate={"DescribeTrainingJob": 12})
    assert_whole(run, aws)
    assert_records(run, aws)
    assert 2 <= aws.calls["AssumeRole"] <= 8
    assert sum(counts["retried"] for counts in run.report["calls"].values()) == 0


async def test_sessions_that_end_before_their_time_are_renewed():
    """Keys that AWS calls expired though they should not be: assumed again, the call repeated."""
    ahead = 0.0
    async with FakeAws(
        Estate.generate(2, REGIONS, 60),
        session_seconds=120,
        clock=lambda: time.time() + ahead,
        latency=0.01,
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


async def test_a_role_revoked_midway_costs_its_account_alone():
    """After the revocation few calls are made; what was not read is named; exit 3."""
    async with FakeAws(Estate.generate(2, REGIONS, 150)) as aws:
        emitted = 0
        until = {}

        def revoke(event):
            nonlocal emitted
            if isinstance(event, JobEmitted) and event.target.account.id == BAD:
                emitted += 1
                if emitted == 60:
                    aws.revoke(BAD)
                    until.update(aws.calls_by)

        run = await crawl(aws, observers=[revoke], max_in_flight=16)
    assert_accounted(run, aws)
    for region in REGIONS:
        assert run.outcomes[FIRST, region] == "complete"
        assert run.outcomes[BAD, region] == "denied"
        place = (BAD, region, "DescribeTrainingJob")
        assert aws.calls_by[place] - until[place] <= DENIALS + WINDOW
    wanted = identities(aws.estate, [FIRST])
    assert {identity(r) for r in run.records if r["account_id"] == FIRST} == wanted
    assert {identity(r) for r in run.records if r["account_id"] == BAD} < identities(
        aws.estate, [BAD]
    )
    assert run.status == 3


@pytest.mark.parametrize("left", [1, 5, 25])
@pytest.mark.parametrize("how", ["forbidden", "deleted"])
async def test_the_rest_of_a_revoked_account_is_denied_however_little_it_is(how, left, monkeypatch):
    """Whether its calls are refused or its keys unknown, from then on: denied, at one AssumeRole.

    AWS knows the keys no more of a role that was deleted. ``left`` jobs of a region are not read.
    """
    monkeypatch.setattr(extract, "KEYS_SPREAD", 0.0)
    monkeypatch.setattr(roles, "KEYS_SPREAD", 0.0)
    jobs = 30
    async with FakeAws(Estate.generate(2, REGIONS, {(BAD, HOME): jobs})) as aws:
        emitted = 0

        def revoke(event):
            nonlocal emitted
            emitted += isinstance(event, JobEmitted) and event.target.key == (BAD, HOME)
            if emitted == jobs - left and BAD not in aws.policy.revoked:
                aws.revoke(BAD)
                if how == "deleted":
                    aws.policy.not_enabled = [(BAD, region) for region in REGIONS]

        run = await crawl(aws, observers=[revoke], max_in_flight=1, regions=[HOME])
    assert_accounted(run, aws)
    row = run.target(BAD, HOME)
    assert row["outcome"] == "denied"
    asked_last = "ListTrainingJobs" if left < DENIALS else "DescribeTrainingJob"
    assert row["error"].startswith("AssumeRole" if how == "deleted" else asked_last)
    assert 0 < row["failed"] <= left
    assert run.outcomes[FIRST, HOME] == "complete"
    assert run.status == 3
    assert aws.calls["AssumeRole"] == (2 if how == "deleted" else 1)


async def test_a_few_jobs_that_may_not_be_described_are_a_denied_target():
    """None of them could be read: that is no target of which some jobs have failed."""
    denied = [(BAD, "sagemaker:DescribeTrainingJob")]
    async with FakeAws(Estate.generate(2, REGIONS, 3), denied=denied) as aws:
        run = await crawl(aws)
    assert_accounted(run, aws)
    assert [run.outcomes[BAD, region] for region in REGIONS] == ["denied", "denied"]
    assert aws.calls_by[BAD, HOME, "ListTrainingJobs"] == 1
    assert run.status == 3


# --- what hangs -----------------------------------------------------------------------------------


@pytest.fixture
def nowhere() -> Iterator[URL]:
    """A place where connections are never taken up."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        yield URL(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        for one in waiting:
            one.close()


@pytest.mark.parametrize(
    ("faults", "deadline"),
    [
        ({}, {"connect_timeout": 0.3}),
        ({"hang": 1.0}, {"read_timeout": 0.3}),
        ({"dribble": 1.0}, {"call_timeout": 1.1}),
    ],
    ids=["no-connection", "no-answer", "a-byte-a-second"],
)
async def test_a_region_that_hangs_is_cut_off_and_costs_the_others_nothing(
    faults, deadline, nowhere, monkeypatch
):
    """Not to connect, to send nothing and to send too slowly have a deadline each.

    The two others are as long as they are by default, beyond the time that this may take.
    """
    if not faults:
        template = Sdk.template

        async def misled(sdk, service, region, operation):
            found = await template(sdk, service, region, operation)
            return replace(found, url=nowhere) if region == AWAY else found

        monkeypatch.setattr(Sdk, "template", misled)
    began = time.monotonic()
    async with FakeAws(
        Estate.generate(2, REGIONS, JOBS), regional_faults={AWAY: Faults(**faults)}
    ) as aws:
        run = await crawl(aws, give_up_after=1.0, **deadline)
    assert time.monotonic() - began < 9
    assert_sums(run)
    assert_records(run, aws)
    assert set(map(identity, run.records)) == identities(aws.estate, regions=[HOME])
    for account in (FIRST, BAD):
        assert run.target(account, HOME)["outcome"] == "complete"
        row = run.target(account, AWAY)
        assert (row["outcome"], row["listed"]) == ("failed", 0)
        assert "Timeout" in row["error"]
    assert (run.report["complete"], run.status) == (False, 3)


HANGING_CALLS = {
    # operation: outcomes of the caller's account and of the other, or the error
    "GetCallerIdentity": CredentialsError,
    "ListAccounts": DiscoveryError,
    "AssumeRole": ("complete", "failed"),
    "ListRegions": ("complete", "complete"),
    "DescribeRegions": ("complete", "complete"),
    "ListTrainingJobs": ("failed", "failed"),
    "DescribeTrainingJob": ("partial", "partial"),
    "GetResources": ("complete", "complete"),
    "ListTags": ("complete", "complete"),
}


@pytest.mark.parametrize("operation", HANGING_CALLS)
async def test_no_operation_can_hold_up_a_run(operation, monkeypatch):
    """Whichever call is never answered, the run ends soon and says what is missing."""
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(targets, "_REGIONS_PATIENCE", 0.5)
    monkeypatch.setattr(extract, "ATTEMPTS_FOR_TAGS", 4)
    expected = HANGING_CALLS[operation]
    others_are_tried = {"DescribeRegions", "ListRegions", "ListTags"}
    patience = 3.0 if operation in others_are_tried else 1.0
    young = Estate.generate(2, REGIONS, JOBS, now=time.time())
    denied = [("*", "account:ListRegions")] if operation == "DescribeRegions" else []
    began = time.monotonic()
    async with FakeAws(young, faults=Faults(hang=1.0, only=[operation]), denied=denied) as aws:
        crawling = crawl(
            aws, accounts="organization", regions="all", read_timeout=0.2, give_up_after=patience
        )
        if not isinstance(expected, tuple):
            with pytest.raises(expected, match="Timeout"):
                await crawling
            return
        run = await crawling
    assert time.monotonic() - began < 15
    assert aws.faults_dealt["hang"] > 0
    assert_sums(run)
    for account, outcome in zip((FIRST, BAD), expected, strict=True):
        rows = [row for row in run.report["targets"] if row["account_id"] == account]
        assert {row["outcome"] for row in rows if row["region"] in {*REGIONS, "*"}} == {outcome}
        found = {identity(r) for r in run.records if r["account_id"] == account}
        assert found == (identities(young, [account]) if outcome == "complete" else set())
    named = {failure["arn"] for failure in run.report["failures"]}
    every = {arn for arn, _ in identities(young)}
    assert named == (every if operation == "DescribeTrainingJob" else set())
    whole = expected == ("complete", "complete")
    assert (run.report["complete"], run.status) == (whole, 0 if whole else 3)
    if operation == "ListTags":
        aws.policy.denied = [NO_LIST_TAGS]  # which would have told as much
    assert_records(run, aws)


# --- who calls ------------------------------------------------------------------------------------


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


# --- what is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "listed"), [("each", JOBS), ("none", 0)])
async def test_tags_as_they_are_asked_for(how, listed):
    """tags=each asks for every job's, tags=none for nobody's and leaves null."""
    async with FakeAws(Estate.generate(1, ("us-east-1",), JOBS)) as aws:
        run = await crawl(aws, tags=how)
    assert_whole(run, aws)
    assert aws.calls["GetResources"] == 0
    assert aws.calls["ListTags"] == listed
    for record in run.records:
        name, tagged = record["training_job_name"], how == "each"
        assert record == record_of(aws.estate, FIRST, "us-east-1", name, tagged=tagged)


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


# --- exit statuses of the process -----------------------------------------------------------------


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
