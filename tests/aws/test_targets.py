"""Accounts and regions, where the services that name them do not come to an end."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

import pytest

from collector.aws.targets import _MOST_REGION_PAGES, _PAGES_WITHOUT_NEWS, Targets
from collector.errors import CredentialsError, DeniedError, DiscoveryError, TransientError
from collector.events import Warned
from collector.model import Account
from collector.settings import Settings
from collector.tables import load_table

ME = "111111111111"
UNIT = "ou-abcd-11111111"


class Sdk:
    def home_region(self, _wanted: Any) -> str:
        return "us-east-1"


class Control:
    """Answers each operation by a function of the request's parameters."""

    def __init__(self, clock, **answers) -> None:
        self.clock = clock
        self.sdk = Sdk()
        self.calls: Counter[str] = Counter()
        self.answers = {
            "GetCallerIdentity": lambda _: {"Account": ME, "Arn": f"arn:aws:iam::{ME}:user/a"},
            "DescribeRegions": lambda _: {"Regions": [{"RegionName": "eu-west-1"}]},
            **answers,
        }

    async def built(self, _access, _service, operation, params, *, required=()):
        self.calls[operation] += 1
        answer = self.answers[operation](params)
        assert all(name in answer for name in required)
        return answer


def targets(control: Control, **options: Any) -> tuple[Targets, list[Warned]]:
    settings = Settings(role_name="Reader", **options)
    warnings: list[Warned] = []
    return Targets(settings, load_table(), control, warnings.append), warnings


def organization(control: Control, **options: Any) -> Targets:
    return targets(control, accounts="organization", **options)[0]


def account(number: int) -> dict[str, str]:
    return {"Id": f"{number:012d}", "Name": f"n{number}", "State": "ACTIVE"}


def region(name: str) -> dict[str, str]:
    return {"RegionName": name, "RegionOptStatus": "ENABLED"}


def endless(member: str, *items: dict[str, str]):
    """The same page for ever, each time with a token that was not there before."""
    tokens = count()
    return lambda _: {member: list(items), "NextToken": f"t{next(tokens)}"}


def pages(member: str, *contents: list[Any]):
    """Pages in turn."""

    def answer(params: dict[str, Any]) -> dict[str, Any]:
        number = int(params.get("NextToken", 0))
        more = {"NextToken": str(number + 1)} if number + 1 < len(contents) else {}
        return {member: contents[number], **more}

    return answer


@pytest.mark.parametrize("items", [[], [region("us-east-1")]], ids=["empty", "repeated"])
async def test_regions_without_end_are_asked_for_elsewhere(clock, items):
    """ListRegions with ever-new tokens is left after some pages: EC2 tells the regions instead."""
    control = Control(clock, ListRegions=endless("Regions", *items))
    found, warnings = targets(control)
    assert await found.enabled_regions(Account(ME)) == ["eu-west-1"]
    assert control.calls["ListRegions"] == _MOST_REGION_PAGES < 100
    assert warnings == []


async def test_regions_that_nobody_can_tell_are_warned_of(clock):
    """Where the other way fails as well, the warning names both by what was wrong."""
    control = Control(
        clock,
        ListRegions=endless("Regions"),
        DescribeRegions=lambda _: {"Regions": [{"RegionEndpoint": "x"}]},
    )
    found, warnings = targets(control)
    assert await found.enabled_regions(Account(ME)) is None
    (warning,) = warnings
    assert "ListRegions (EndlessList)" in warning.message
    assert "DescribeRegions (UnreadableAnswer)" in warning.message


async def test_regions_on_several_pages_are_all_found_once(clock):
    """A page may be empty, and a region may come twice: it is one target."""
    answers = pages("Regions", [region("b")], [], [region("a"), region("b")])
    control = Control(clock, ListRegions=answers)
    assert await targets(control)[0].enabled_regions(Account(ME)) == ["a", "b"]


@pytest.mark.parametrize("items", [[], [account(1), account(2)]], ids=["empty", "repeated"])
async def test_an_organization_without_end_is_one_sentence(clock, items):
    """ListAccounts with ever-new tokens and nothing new is given up, with what to do."""
    control = Control(clock, ListAccounts=endless("Accounts", *items))
    with pytest.raises(DiscoveryError, match=r"EndlessList.*--accounts"):
        await organization(control).accounts()
    assert control.calls["ListAccounts"] <= _PAGES_WITHOUT_NEWS + 2


@pytest.mark.parametrize("operation", ["ListOrganizationalUnitsForParent", "ListAccountsForParent"])
async def test_a_unit_without_end_is_one_sentence(clock, operation):
    """The same holds for the units below one, and for the accounts in one."""
    answers = {
        "ListOrganizationalUnitsForParent": lambda _: {"OrganizationalUnits": []},
        "ListAccountsForParent": lambda _: {"Accounts": []},
    }
    member = "Accounts" if "Accounts" in operation else "OrganizationalUnits"
    control = Control(clock, **{**answers, operation: endless(member)})
    with pytest.raises(DiscoveryError, match="EndlessList"):
        await organization(control, include_ou=[UNIT]).accounts()


async def test_an_organization_of_many_pages_is_read_to_its_end(clock):
    """Thousands of pages are no reason to stop, nor are some dozens of empty ones in between."""
    contents: list[list[Any]] = []
    for number in range(2_000):
        contents.append([account(1 + number)])
        if number % 500 == 0:
            contents.extend([[]] * (_PAGES_WITHOUT_NEWS - 10))
    control = Control(clock, ListAccounts=pages("Accounts", *contents))
    found = await organization(control).accounts()
    assert [one.id for one in found] == [f"{1 + number:012d}" for number in range(2_000)]


async def test_a_token_that_comes_again_ends_the_list(clock):
    """A circle of pages is seen at once."""
    control = Control(clock, ListAccounts=lambda _: {"Accounts": [account(1)], "NextToken": "t"})
    with pytest.raises(DiscoveryError, match="RepeatedToken"):
        await organization(control).accounts()
    assert control.calls["ListAccounts"] == 2


async def test_an_account_without_an_id_is_one_sentence(clock):
    """A member that cannot be named is not left out in silence."""
    control = Control(clock, ListAccounts=lambda _: {"Accounts": [{"State": "ACTIVE"}]})
    with pytest.raises(DiscoveryError, match="UnreadableAnswer"):
        await organization(control).accounts()


class Closed:
    """Credentials that are not to be had."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def get(self):
        raise self._error


OTHER = "222222222222"


@pytest.mark.parametrize(
    ("error", "outcome", "times"),
    [
        (DeniedError("AssumeRole", "AccessDenied"), "denied", 1),
        (DeniedError("AssumeRole", "ExpiredToken"), "denied", 4),
        (TransientError("AssumeRole", "ServiceUnavailable"), "failed", 4),
        (CredentialsError("no keys"), "failed", 4),
    ],
)
async def test_who_reports_an_account_that_cannot_be_entered(clock, error, outcome, times):
    """One shard where the account is closed; all that it happened to where that may pass."""
    reported, warned = [], []
    for k in range(1, 5):
        found, warnings = targets(Control(clock), accounts=[OTHER], shard=f"{k}/4")
        found._sources[OTHER] = Closed(error)
        reported += [each async for each in found.find()]
        warned += warnings
        assert OTHER not in found._sources
    assert [each.target.key for each in reported] == [(OTHER, "*")] * times
    assert {each.outcome for each in reported} == {outcome}
    assert {warning.account_id for warning in warned} <= {OTHER}
    assert len(warned) + times == 4
