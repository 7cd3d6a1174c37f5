"""`collector plan` as a process, against a stand-in that lacks one thing or another."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import boto3
import orjson
import pytest
from harness import REGIONS, ROLE, command, environment, is_one_sentence, settings, start
from moto.server import ThreadedMotoServer
from state_setup import DAY, TABLE, arguments, filled, set_back

from collector import iam, plan
from collector.plan.model import Place, Preflight, TargetPlan
from collector.plan.show import render
from collector.state import State, dump
from collector.store import FolderStore
from collector.tables import load_table
from collector.testing import Estate, FakeAws, Faults, Limits

FIRST, SECOND = "111111111111", "222222222222"
PLAN = ("plan", "--accounts", f"{FIRST},{SECOND}", "--role-name", ROLE)
HERE = ("--regions", ",".join(REGIONS))
SCP = "with an explicit deny in a service control policy"


def planned(*args, aws, status, words=PLAN):
    """The document that `plan --json` prints, having ended with ``status``."""
    run = command(*words, *args, "--json", aws=aws)
    assert (run.status, run.stderr) == (status, "")
    return json.loads("\n".join(run.lines))


async def looked(aws, **changes):
    """The same document, without a process."""
    return json.loads(orjson.dumps(dataclasses.asdict(await plan.look(settings(aws, **changes)))))


def rows(document):
    return {(row["account_id"], row["region"]): row for row in document["targets"]}


def no_real_job_was_described(aws) -> bool:
    """Whether describes were made, and none of a job that there is."""
    asked = {p["TrainingJobName"] for op, _, _, p in aws.requests if op == "DescribeTrainingJob"}
    real = {
        name
        for account in aws.estate.accounts
        for region in aws.estate.regions
        for name in aws.estate.jobs(account, region)
    }
    return bool(asked) and not asked & real


def test_what_is_well(aws):
    """Caller, targets, calls and time; exit 0; no job that exists is described."""
    shown = command(*PLAN, *HERE, aws=aws)
    text = "\n".join(shown.lines)
    assert (shown.status, shown.stderr) == (0, "")
    assert f"arn:aws:iam::{FIRST}:user/" in text
    assert text.count("complete") == 4
    document = planned(*HERE, aws=aws, status=0)
    assert document["complete"] is True
    assert document["caller"]["account_id"] == FIRST
    assert [row["listed"] for row in document["targets"]] == [8] * 4
    assert document["totals"]["calls"] == 4 * (1 + 8 + 1)
    assert (document["missing"], document["grants"], document["blocked"]) == ([], [], [])
    assert no_real_job_was_described(aws)
    assert aws.calls["ListTrainingJobs"] == 2 * 4  # one call gives permission and page


def test_the_shape_of_the_json(aws):
    """The keys are those of the values, which the README documents."""
    document = planned(*HERE, "--sink", "https://host/x", aws=aws, status=0)
    for kind, value in ((Preflight, document), (TargetPlan, document["targets"][0]),
                        (Place, document["places"][0])):  # fmt: skip
        assert list(value) == [each.name for each in dataclasses.fields(kind)]
    assert list(document["totals"]) == [
        "targets", "listed", "described", "calls", "seconds", "at_least",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "action",
    [
        "sagemaker:ListTrainingJobs",
        "sagemaker:DescribeTrainingJob",
        "sagemaker:ListTags",
        "tag:GetResources",
    ],
)
async def test_each_action_is_missed_and_granted(action):
    """Denied in the role's account, it is named there alone, and what is printed grants it."""
    async with FakeAws(Estate.generate(2, REGIONS, 3), denied=[(SECOND, action)]) as aws:
        document = await looked(aws)
        assert document["complete"] is False
        assert no_real_job_was_described(aws)
        (grant,) = document["grants"]
        assert (grant["identity"], grant["name"]) == ("role", ROLE)
        assert (grant["accounts"], grant["needed"]) == ([SECOND], True)
        assert {key: row["missing"] for key, row in rows(document).items()} == {
            (account, region): [action] if account == SECOND else []
            for account in (FIRST, SECOND)
            for region in REGIONS
        }
        granted = [a for s in grant["policy"]["Statement"] for a in s["Action"]]
        assert granted == document["missing"] == [action]
        whole = iam.policy(load_table())["Statement"]
        assert all(
            any(s | {"Action": None} == w | {"Action": None} for w in whole)
            for s in grant["policy"]["Statement"]
        )
        # Pasted into the role's policy, it is what was missing.
        aws.policy.denied = [each for each in aws.policy.denied if each[-1] not in granted]
        assert (await looked(aws))["complete"] is True


def test_several_lacks_in_the_callers_account():
    """They are one policy, the caller's; a region that is not enabled is none of them."""
    denied = [(FIRST, "sagemaker:DescribeTrainingJob"), (FIRST, "tag:GetResources")]
    estate = Estate.generate(2, REGIONS, 3)
    place = [(FIRST, REGIONS[1])]
    with FakeAws(estate, denied=denied, not_enabled=place).in_thread() as aws:
        document = planned(*HERE, aws=aws, status=3)
        shown = command(*PLAN, *HERE, aws=aws)
    assert rows(document)[FIRST, REGIONS[1]]["outcome"] == "unavailable"
    assert rows(document)[FIRST, REGIONS[1]]["missing"] == []
    (grant,) = document["grants"]
    assert (grant["identity"], grant["accounts"]) == ("caller", [FIRST])
    assert grant["name"] == document["caller"]["arn"]
    assert grant["actions"] == ["sagemaker:DescribeTrainingJob", "tag:GetResources"]
    assert shown.status == 3
    assert json.loads("\n".join(shown.lines).partition("Add this to the policy of the caller")[2]
                      .partition(":\n")[2]) == grant["policy"]  # fmt: skip


@pytest.mark.parametrize("regions", ["all", ["us-east-1"]])
async def test_a_role_that_cannot_be_assumed(regions):
    """What is missing is the caller's leave to assume it, not the permissions behind it."""
    estate = Estate.generate(2, ("us-east-1",), 3)
    async with FakeAws(estate, denied=[(SECOND, "sts:AssumeRole")]) as aws:
        document = await looked(aws, regions=regions)
        assert [each["Ok"] for each in aws.assumed] == [False]  # asked for once
    assert {row["account_id"]: row["outcome"] for row in document["targets"]} == {
        FIRST: "complete",
        SECOND: "denied",
    }
    (grant,) = document["grants"]
    assert (grant["identity"], grant["actions"]) == ("caller", ["sts:AssumeRole"])
    (statement,) = grant["policy"]["Statement"]
    assert statement in iam.caller_policy(load_table(), ROLE)["Statement"]


@pytest.mark.parametrize("action", ["sagemaker:DescribeTrainingJob", "sts:AssumeRole"])
async def test_what_the_organization_denies_takes_no_statement(action):
    """An explicit deny by SCP is told from a missing allow, for the role's calls and the role."""
    estate = Estate.generate(2, ("us-east-1",), 3)
    async with FakeAws(estate, denied=[(SECOND, action)], denied_by=SCP) as aws:
        found = await plan.look(settings(aws))
    document = dataclasses.asdict(found)
    assert (document["missing"], document["grants"]) == ([action], [])
    (entry,) = document["blocked"]
    assert entry["by"] == "an explicit deny in a service control policy"
    assert rows(document)[SECOND, "us-east-1"]["blocked"] == {action: entry["by"]}
    assert "will not help" in render(found, width=200)
    assert found.complete is False


async def test_who_tells_the_regions():
    """ListRegions, or else DescribeRegions; where neither may be asked, a warning and how to."""
    denied = [
        (SECOND, "account:ListRegions"),
        ("333333333333", "account:ListRegions"),
        ("333333333333", "ec2:DescribeRegions"),
    ]
    async with FakeAws(Estate.generate(3, ("us-east-1",), 3), denied=denied) as aws:
        document = await looked(aws, accounts="organization", regions="all")
    assert document["complete"] is True
    told = {"account:ListRegions": 1, "ec2:DescribeRegions": 1, "none": 1}
    assert document["regions_told_by"] == told
    assert any("could not be read by ListRegions" in text for text in document["warnings"])
    (grant,) = document["grants"]
    assert (grant["needed"], grant["accounts"]) == (False, ["333333333333"])
    assert grant["actions"] == ["account:ListRegions", "ec2:DescribeRegions"]
    assert document["missing"] == []


@pytest.mark.parametrize(
    ("narrowed", "actions"),
    [
        ((), ["organizations:ListAccounts"]),
        (
            ("r-ab12",),
            ["organizations:ListAccountsForParent",
             "organizations:ListOrganizationalUnitsForParent"],
        ),
    ],
)  # fmt: skip
async def test_an_organization_that_may_not_be_listed(narrowed, actions):
    """All calls that it takes are named at once, and the statements belong to the caller."""
    denied = [(FIRST, action) for action in actions]
    async with FakeAws(Estate.generate(2, ("us-east-1",), 3), denied=denied) as aws:
        document = await looked(aws, accounts="organization", include_ou=narrowed)
    assert document["complete"] is False
    assert (document["missing"], document["targets"]) == (actions, [])
    (grant,) = document["grants"]
    assert (grant["identity"], grant["actions"]) == ("caller", actions)
    assert any("organization" in text for text in document["warnings"])


def test_no_organization_is_one_sentence():
    """What no statement would mend ends as it ends a run: exit 1."""
    with FakeAws(Estate.generate(1, ("us-east-1",), 3), organization=False).in_thread() as aws:
        run = command("plan", "--accounts", "organization", "--role-name", ROLE, aws=aws)
    assert (run.status, run.lines) == (1, [])
    assert is_one_sentence(run.stderr)


def test_without_credentials_is_one_sentence(aws, monkeypatch):
    """As `run`: exit 1, one sentence."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    run = command("plan", aws=aws)
    assert (run.status, run.lines) == (1, [])
    assert is_one_sentence(run.stderr)


def test_bad_usage_is_bad_usage(aws):
    """An option of `run` with a bad value: exit 2."""
    run = command("plan", "--tags", "some", aws=aws)
    assert (run.status, run.lines) == (2, [])
    assert aws.calls.total() == 0


# -------------------------------------------------------------------------------------- state


def digest(folder):
    """Every file below ``folder`` and what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_state_tells_what_the_next_run_takes(tmp_path):
    """The incremental window and the last count; state is read, not touched."""
    estate = filled((2, 3, 4, 100, 200))
    with FakeAws(estate).in_thread() as aws:
        assert command(*arguments(tmp_path), aws=aws).status == 0
        set_back(tmp_path / "state", DAY)
        before = digest(tmp_path)
        words = ["plan", *arguments(tmp_path)[1:]]
        document = planned(aws=aws, status=0, words=words)
        in_full = planned("--full", aws=aws, status=0, words=words)
    assert digest(tmp_path) == before
    (place,) = [place for place in document["places"] if place["kind"] == "state"]
    assert (place["outcome"], place["detail"].split(",")[0]) == ("ok", "knows 4 targets")
    for row in document["targets"]:
        assert row["incremental"]
        assert (row["listed"], row["described"]) == (3, 0)  # jobs of the last 60 days, unchanged
    assert [row["described"] for row in in_full["targets"]] == [5] * 4
    assert document["totals"]["calls"] == 4


async def test_state_is_read_beside_a_run_that_holds_it(aws, tmp_path):
    """No lease is taken or waited for."""
    store = FolderStore(tmp_path / "state" / TABLE)
    await store.acquire()
    await store.save(dump(State(TABLE)))
    try:
        run = await asyncio.to_thread(
            command, *PLAN, *HERE, "--state", str(tmp_path / "state"), "--json", aws=aws
        )
        assert (run.status, run.stderr) == (0, "")
        (place,) = json.loads("\n".join(run.lines))["places"]
        assert (place["kind"], place["outcome"]) == ("state", "ok")
        await store.save(dump(State(TABLE, 1.0)))  # it is still ours
    finally:
        await store.release(ended=True)


async def test_a_shard_plans_its_own(aws, tmp_path):
    """With --shard, only its targets are looked at, by the state that is its own."""
    whole = await plan.look(settings(aws))
    parts = [await plan.look(settings(aws, shard=f"{n}/2")) for n in (1, 2)]
    found = [(row.account_id, row.region) for part in parts for row in part.targets]
    assert sorted(found) == [(row.account_id, row.region) for row in whole.targets]
    store = FolderStore(tmp_path / TABLE / "shard-2-of-2")
    await store.acquire()
    await store.save(dump(State(TABLE, 1.0)))
    await store.release(ended=True)
    for shard, known in (("1/2", "nothing is there yet"), ("2/2", "knows 0 targets")):
        (place,) = (await plan.look(settings(aws, shard=shard, state=str(tmp_path)))).places
        assert place.detail.startswith(known)


def test_places_that_are_not_there_are_told(aws, tmp_path):
    """A damaged state, a folder that is missing; nothing is written. Exit 3."""
    state = tmp_path / "state" / "aws_sagemaker_trainingjob" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    before = digest(tmp_path)
    args = ("--state", str(tmp_path / "state"), "--sink", str(tmp_path / "no/jobs.ndjson"),
            "--sink", "https://127.0.0.1:9/x", "--report", str(tmp_path / "r.json"))  # fmt: skip
    document = planned(*HERE, *args, aws=aws, status=3)
    told = [(place["kind"], place["outcome"]) for place in document["places"]]
    assert told == [
        ("state", "failed"),
        ("sink", "failed"),
        ("sink", "not checked"),
        ("report", "ok"),
    ]
    assert document["complete"] is False
    assert digest(tmp_path) == before


async def test_buckets_and_streams_are_looked_at_and_left_alone(monkeypatch):
    """One that is there is `ok`, one that is not has failed, and nothing is written."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", url)
    s3, kinesis = boto3.client("s3"), boto3.client("kinesis")
    try:
        s3.create_bucket(Bucket="there")
        kinesis.create_stream(StreamName="there", ShardCount=1)
        sinks = ("s3://there/x/", "kinesis://there", "s3://not-there/x/", "kinesis://not-there")
        async with FakeAws(Estate.generate(1, REGIONS, 3)) as aws:
            monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
            found = await plan.look(settings(aws, endpoint_url=None, sink=sinks))
        assert [place.outcome for place in found.places] == ["ok", "ok", "failed", "failed"]
        assert s3.list_objects_v2(Bucket="there")["KeyCount"] == 0
    finally:
        s3.close()
        kinesis.close()
        server.stop()


# --------------------------------------------------------------------------------- politeness


class RefusesFirst(Limits):
    """Every account, region and operation is refused once."""

    def __init__(self):
        super().__init__()
        self._seen = set()

    def admit(self, key, clock):
        first = key not in self._seen
        self._seen.add(key)
        return not first and super().admit(key, clock)


async def test_throttled_calls_are_made_again():
    """A rate that is met costs time, and is not taken for a refusal."""
    async with FakeAws(Estate.generate(1, REGIONS, 3), limits=RefusesFirst()) as aws:
        found = await plan.look(settings(aws))
    operations = set(load_table().operations)
    assert {key for key in aws.throttled if key[2] in operations} == {
        (FIRST, region, operation) for region in REGIONS for operation in operations
    }
    assert found.complete


async def test_a_target_that_hangs_costs_the_others_nothing():
    """It is given up on by itself, named with what happened, and what hangs alone is named so."""
    estate = Estate.generate(2, (*REGIONS, "us-west-2"), 3)
    hang = {
        REGIONS[1]: Faults(hang=1.0, hang_seconds=60),
        "us-west-2": Faults(hang=1.0, hang_seconds=60, only={"GetResources"}),
    }
    async with FakeAws(estate, regional_faults=hang) as aws:
        began = time.monotonic()
        found = await plan.look(settings(aws, read_timeout=0.3, give_up_after=0.5))
        assert time.monotonic() - began < 15
    outcomes = {(row.account_id, row.region): row.outcome for row in found.targets}
    for account in (FIRST, SECOND):
        assert outcomes[account, REGIONS[0]] == "complete"
        assert outcomes[account, REGIONS[1]] == outcomes[account, "us-west-2"] == "failed"
    errors = {row.region: row.error for row in found.targets if row.outcome == "failed"}
    assert "ListTrainingJobs: Timeout" in errors[REGIONS[1]]
    assert "GetResources: Timeout" in errors["us-west-2"]
    assert found.missing == []


async def test_many_targets_are_looked_at_a_few_at_a_time():
    """However many there are, so many are under way and no limit of theirs is kept."""
    estate = Estate.generate(60, REGIONS, 0)
    async with FakeAws(estate, latency=0.005) as aws:
        found = await plan.look(settings(aws))
        assert 0 < aws.max_in_flight <= 3 * plan.AT_ONCE
    assert len(found.targets) == 120
    assert found.complete


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_plan_is_quiet(number):
    """Ctrl-C and SIGTERM end it with 130 and 143, without a word, whatever is under way."""
    with (
        FakeAws(Estate.generate(1, REGIONS, 5), latency=5.0).in_thread() as aws,
        start(*PLAN, *HERE, aws=aws) as process,
    ):
        until = time.monotonic() + 20
        while not aws._in_flight and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (128 + number, "", "")


def test_on_a_terminal_it_keeps_to_its_width(aws):
    """In a pseudo-terminal of 80 columns no line is longer, problems and all."""
    aws.policy.denied = [(SECOND, "sagemaker:DescribeTrainingJob")]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen(
        [sys.executable, "-m", "collector", *PLAN, *HERE],
        stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment(aws),
    ) as process:  # fmt: skip
        os.close(theirs)
        text = b""
        try:
            while chunk := os.read(ours, 65536):
                text += chunk
        except OSError:
            pass  # the terminal is closed: that is its end
        os.close(ours)
        assert process.wait(timeout=20) == 3
    lines = text.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("denied   sagemaker:DescribeTrainingJob") for line in lines)


def test_a_reader_that_goes_away_ends_it_quietly(aws):
    """`plan | head` is no error."""
    with start(*PLAN, *HERE, "--json", aws=aws) as process:
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=20)
    assert err == ""
