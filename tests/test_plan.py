"""What a plan makes of answers: obstacles, statements, estimates and the text for a person."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from collector import Settings, iam
from collector.aws.targets import Identity
from collector.journal import coverage_of
from collector.model import Coverage, Job, Outcome
from collector.plan.estimate import estimate, run_seconds, window
from collector.plan.grants import blocked, grants, obstacle
from collector.plan.model import Lack, Place, Preflight, TargetPlan
from collector.plan.show import MOST_ROWS, render, span
from collector.state import TargetState
from collector.tables import load_table

TABLE = load_table()
CALLER = Identity("111111111111", "arn:aws:iam::111111111111:user/ops", "aws")
NOW, DAY = 1.8e9, 86_400.0
ROLE = "audit/InventoryReader"


# --------------------------------------------------------------------- refusals and statements


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("because no identity-based policy allows the sagemaker:ListTags action", None),
        ("You don't have permissions to access this resource.", None),
        (
            "with an explicit deny in a service control policy",
            "an explicit deny in a service control policy",
        ),
        (
            "with an explicit deny in a service control policy: arn:aws:organizations::1:policy/p",
            "an explicit deny in a service control policy",
        ),
        (
            "with an explicit deny in an identity-based policy",
            "an explicit deny in an identity-based policy",
        ),
        (
            "with an explicit deny in a permissions boundary",
            "an explicit deny in a permissions boundary",
        ),
        ("with an explicit deny", "an explicit deny in a policy"),
        (
            "because no service control policy allows the sagemaker:ListTags action",
            "no service control policy that allows it",
        ),
        (
            "because no permissions boundary allows the tag:GetResources action",
            "no permissions boundary that allows it",
        ),
        (
            "because no VPC endpoint policy allows the tag:GetResources action",
            "no vpc endpoint policy that allows it",
        ),
    ],
)
def test_what_no_statement_would_help_is_told_apart(words, found):
    """A missing allow of the identity's own is; every other kind of refusal is not."""
    text = f"User: arn:aws:sts::1:assumed-role/R/s is not authorized to perform: a:B {words}"
    assert obstacle(text) == found


def actions(policy):
    return {action for statement in policy["Statement"] for action in statement["Action"]}


def test_each_statement_goes_to_the_one_who_lacks_it():
    """AssumeRole and Organizations belong to the caller; what a role lacks, to that role."""
    lacks = [
        Lack("222222222222", "sts:AssumeRole"),
        Lack("111111111111", "organizations:ListAccounts"),
        Lack("111111111111", "sagemaker:ListTags"),
        Lack("333333333333", "sagemaker:ListTags"),
        Lack("333333333333", "tag:GetResources"),
        Lack("444444444444", "tag:GetResources"),
        Lack("444444444444", "sagemaker:ListTags"),
        Lack("444444444444", "account:ListRegions", needed=False),
    ]
    caller, *roles = grants(lacks, TABLE, ROLE, CALLER)
    assert (caller["identity"], caller["name"]) == ("caller", CALLER.arn)
    assert caller["accounts"] == ["111111111111"]
    assert set(caller["actions"]) == actions(caller["policy"])
    assert set(caller["actions"]) == {
        "organizations:ListAccounts",
        "sagemaker:ListTags",
        "sts:AssumeRole",
    }
    by_need = {grant["needed"]: grant for grant in roles}
    assert by_need[True]["accounts"] == ["333333333333", "444444444444"]
    assert by_need[False]["actions"] == ["account:ListRegions"]
    assert {grant["name"] for grant in roles} == {ROLE}


@pytest.mark.parametrize("owner", ["111111111111", "222222222222"])
def test_all_that_can_lack_makes_the_policy_that_is_documented(owner):
    """Whoever lacks every action is told to add exactly what `iam-policy` prints."""
    whole = iam.policy(TABLE) if owner != CALLER.account_id else iam.caller_policy(TABLE, ROLE)
    lacks = [Lack(owner, action) for action in actions(whole)]
    (grant,) = grants(lacks, TABLE, ROLE, CALLER)
    assert grant["policy"] == whole
    assert json.loads(json.dumps(grant["policy"])) == whole


def test_what_stands_against_an_action_is_no_statement_to_add():
    """An action that a policy of the organization denies is under `blocked`, and in no grant."""
    lacks = [
        Lack("222222222222", "sagemaker:ListTags", "an explicit deny in a service control policy"),
        Lack("333333333333", "sagemaker:ListTags", "an explicit deny in a service control policy"),
    ]
    assert grants(lacks, TABLE, ROLE, CALLER) == []
    assert blocked(lacks, ROLE, CALLER) == [
        {
            "identity": "role",
            "name": ROLE,
            "accounts": ["222222222222", "333333333333"],
            "actions": ["sagemaker:ListTags"],
            "by": "an explicit deny in a service control policy",
        }
    ]


# ---------------------------------------------------------------------------------- estimates


def jobs(count, *, changed=0, status="Completed"):
    """Jobs of yesterday, the last few of which are still running."""
    done = count - changed
    return [
        Job(f"arn:{number}", NOW - DAY, NOW - DAY, status if number < done else "InProgress", {})
        for number in range(count)
    ]


def known(listed=0, *, incremental=False, rates=None):
    """A target whose last crawl was an hour ago."""
    watermark = NOW - 3600
    full_at = watermark - DAY if incremental else watermark
    return TargetState(Coverage(watermark), full_at, listed, rates or {})


def estimated(page, *, more=False, past=None, **options):
    settings = Settings(**options)
    part = window(settings, past, NOW)
    plan = TargetPlan("111111111111", "us-east-1")
    estimate(plan, page, more=more, part=part, known=past, table=TABLE, settings=settings)
    return plan


def figures(plan):
    return plan.listed, plan.described, plan.calls, plan.seconds, plan.at_least, plan.basis


def test_a_whole_first_page_is_the_count():
    """Without more pages the figures are exact: a list, a describe each, tags with the page."""
    assert figures(estimated(jobs(40))) == (40, 40, 42, 4.0, False, "first page")
    assert figures(estimated([])) == (0, 0, 1, 0.5, False, "first page")


@pytest.mark.parametrize(("tags", "calls"), [("bulk", 42), ("each", 81), ("none", 41)])
def test_tags_cost_what_they_cost(tags, calls):
    """A call for each page, one for each job, or none."""
    assert estimated(jobs(40), tags=tags).calls == calls


def test_a_first_page_with_others_behind_it_is_a_lower_bound():
    """Without state nothing but `at least` can be said."""
    assert figures(estimated(jobs(100), more=True)) == (100, 100, 102, 10.0, True, "first page")


def test_state_knows_how_many_there_were_and_how_fast_it_may_go():
    """A full run over again: the last count, at the rates that were found."""
    past = known(5000, rates={"DescribeTrainingJob": 50.0})
    plan = estimated(jobs(100), more=True, past=past, full=True)
    assert figures(plan) == (5000, 5000, 5100, 100.0, False, "state")
    slower = estimated(jobs(100), more=True, past=past, full=True, headroom=0.5)
    assert slower.seconds == 200.0
    capped = {"DescribeTrainingJob": 10}
    assert estimated(jobs(100), more=True, past=past, full=True, max_rate=capped).seconds == 500.0


def test_an_incremental_run_describes_what_has_changed():
    """Of a page of the window, only what is not known as it is counts as a describe."""
    past = known(5000, incremental=True)
    plan = estimated(jobs(90, changed=7), past=past)
    assert plan.incremental
    assert figures(plan) == (90, 7, 9, 0.7, False, "first page")
    longer = estimated(jobs(100, changed=7), more=True, past=past)
    assert figures(longer) == (5000, 7, 64, 25.0, True, "state")


def test_a_count_of_another_part_of_the_list_is_not_taken():
    """The last run was a full one, or of another window: only the first page is known."""
    page = jobs(100, changed=7)
    assert estimated(page, more=True, past=known(5000)).listed == 100
    narrow = estimated(page, more=True, past=known(5000), full=True, created_after="90d")
    assert (narrow.listed, narrow.at_least) == (100, True)
    latest = estimated(page, more=True, past=known(5000, incremental=True), full=True)
    assert (latest.listed, latest.at_least) == (5000, True)


@pytest.mark.parametrize("full_every", [None, 3600.0, 30 * DAY])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("created_after", [None, "90d"])
def test_the_window_is_that_of_a_run(full, full_every, created_after):
    """From the watermark less the horizon where a run would begin there, and only there."""
    past = replace(known(3), coverage=Coverage(NOW - 3600, after=NOW - 200 * DAY))
    settings = Settings(
        full=full, full_every=full_every, created_after=created_after, horizon=30 * DAY
    )
    part = window(settings, past, NOW)
    after = NOW - 90 * DAY if created_after else None
    assert part.coverage == coverage_of(past, settings, after=after, status=None, now=NOW)
    incremental = not full and full_every != 3600.0 and created_after is not None
    assert (part.coverage is not None) is incremental
    assert part.after == (NOW - 3600 - 30 * DAY if incremental else after)


def test_the_whole_takes_as_long_as_its_slowest_part():
    """The slowest target, or all calls through the slots that there are."""
    plans = [TargetPlan("1", "r", calls=1000, seconds=50.0), TargetPlan("2", "r", calls=1000)]
    assert run_seconds(plans, latency=0.1, in_flight=100) == 50.0
    assert run_seconds(plans, latency=0.1, in_flight=2) == 100.0
    assert run_seconds([], latency=0.1, in_flight=2) == 0.0


# --------------------------------------------------------------------------------------- text


def preflight(targets, **changes):
    lacks = [Lack(t.account_id, a, t.blocked.get(a)) for t in targets for a in t.missing]
    values = {
        "caller": {"account_id": "111111111111", "arn": CALLER.arn, "partition": "aws"},
        "complete": False,
        "totals": {"targets": len(targets), "listed": 4, "described": 3, "calls": 9,
                   "seconds": 2.0, "at_least": False},
        "regions_told_by": {"account:ListRegions": 2},
        "targets": targets,
        "missing": [],
        "grants": grants(lacks, TABLE, ROLE, CALLER),
        "blocked": blocked(lacks, ROLE, CALLER),
        "places": [Place("sink", "s3://lake/x/", "failed", "It cannot be listed: " + "x " * 60)],
        "warnings": ["Something " + "to know " * 20],
    }  # fmt: skip
    return Preflight(**values | changes)


def denied(account, region="us-east-1", **changes):
    return TargetPlan(
        account,
        region,
        Outcome.DENIED,
        missing=["sagemaker:DescribeTrainingJob", "tag:GetResources"],
        error="DescribeTrainingJob: AccessDeniedException: " + "a long story " * 20,
        **changes,
    )


@pytest.mark.parametrize("width", [80, 100])
def test_the_text_fits_the_terminal(width):
    """Every line but those of a policy keeps to the width, and long errors are wrapped."""
    targets = [denied("222222222222", "ap-southeast-2"), TargetPlan("333333333333", "us-gov-west-1",
               listed=1_234_567, calls=1_300_000, seconds=123_456.0, at_least=True)]  # fmt: skip
    text = render(preflight(targets), width=width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert text.count("a long story") > 10
    assert "1,234,567+" in text
    assert "…" not in text.replace("a long story", "").split("in all")[0].split("denied")[0]


def test_problems_come_first_and_policies_can_be_pasted():
    """The table begins with what is wrong, and what is printed last is JSON as it stands."""
    targets = [TargetPlan("111111111111", "us-east-1"), denied("222222222222")]
    text = render(preflight(targets), width=80)
    assert text.index("222222222222") < text.index("111111111111  us-east-1")
    head, _, rest = text.partition("Add this to the policy of the role audit/InventoryReader in ")
    assert head.count("sagemaker:DescribeTrainingJob") == 1
    policy = json.loads(rest[rest.index("{") :])
    assert actions(policy) == {"sagemaker:DescribeTrainingJob", "tag:GetResources"}


def test_an_explicit_deny_says_that_a_statement_does_not_help():
    """There is a sentence, and no policy to add."""
    by = "an explicit deny in a service control policy"
    both = {"sagemaker:DescribeTrainingJob": by, "tag:GetResources": by}
    text = render(preflight([denied("222222222222", blocked=both)]), width=500)
    assert f"{by} stands against the role {ROLE} in 222222222222" in text
    assert "will not help" in text
    assert '"Statement"' not in text


def test_thousands_of_targets_are_a_page():
    """More than a screenful is summed by region; accounts are counted."""
    accounts = [f"{number:012}" for number in range(1000)]
    regions = [f"xx-place-{number}" for number in range(17)]
    targets = [
        denied(account, region) if account < "000000000500" and region == regions[3] else
        TargetPlan(account, region, listed=2, calls=3)
        for account in accounts for region in regions
    ]  # fmt: skip
    lines = render(preflight(targets), width=80).splitlines()
    assert len(lines) < 80
    assert any(line.split()[:4] == ["500", "accounts", "xx-place-3", "denied"] for line in lines)
    assert any(line.split()[:5] == ["1,000", "accounts", "xx-place-1", "complete", "2,000"]
               for line in lines)  # fmt: skip
    assert any("and 494 more" in line for line in lines)
    few = render(preflight([denied(account) for account in accounts[:MOST_ROWS]]), width=80)
    assert all(few.count(account) for account in accounts[:MOST_ROWS])


def test_what_aws_answers_cannot_drive_the_terminal():
    """Escapes in an error are taken out."""
    text = render(preflight([replace(denied("222222222222"), error="\x1b[31mred\x07")]), width=80)
    assert "red" in text
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (4.0, "4 s"), (12.34, "12 s"), (90.0, "1.5 min"), (7200.0, "2.0 h"),
     (200_000.0, "2.3 d")],
)  # fmt: skip
def test_times_are_those_of_a_person(seconds, text):
    """Seconds, minutes, hours, days."""
    assert span(seconds) == text
