"""Organizations, as seen from the management account."""

from __future__ import annotations

from collections.abc import Callable

from collector.model import Wire
from collector.testing import pages
from collector.testing.organization import ROOT, UNITS
from collector.testing.rules import Rule, check
from collector.testing.world import AwsError, Call, World

_CODE = "InvalidInputException"
_PAGE = {"MaxResults": Rule(int, low=1, high=20), "NextToken": Rule(str, high=100_000)}
_PARENT = {
    "ParentId": Rule(
        str,
        high=100,
        pattern=r"(r-[0-9a-z]{4,32})|(ou-[0-9a-z]{4,32}-[a-z0-9]{8,32})",
        required=True,
    ),
    **_PAGE,
}


def describe_organization(world: World, _: Call) -> Wire:
    _member(world)
    return {"Organization": world.estate.organization.describe()}


def list_accounts(world: World, call: Call) -> Wire:
    return _listed(world, call, "Accounts", lambda _: world.estate.organization.accounts())


def list_accounts_for_parent(world: World, call: Call) -> Wire:
    return _listed(world, call, "Accounts", world.estate.organization.accounts, children=True)


def list_units(world: World, call: Call) -> Wire:
    units = world.estate.organization.units
    return _listed(world, call, "OrganizationalUnits", units, children=True)


def list_roots(world: World, call: Call) -> Wire:
    return _listed(world, call, "Roots", lambda _: world.estate.organization.roots())


def _listed(
    world: World,
    call: Call,
    name: str,
    items: Callable[[str], list[Wire]],
    *,
    children: bool = False,
) -> Wire:
    check(call.params, _PARENT if children else _PAGE, _CODE)
    _manager(world, call)
    parent = call.params.get("ParentId", "")
    if children and parent != ROOT and parent not in UNITS:
        raise AwsError(
            "ParentNotFoundException",
            "You specified parent that doesn't exist.",
        )
    size = call.params.get("MaxResults", 20)
    return pages.page(world, call, items(parent), size, name=name, code=_CODE)


def _member(world: World) -> None:
    if not world.policy.organization:
        raise AwsError(
            "AWSOrganizationsNotInUseException", "Your account is not a member of an organization."
        )


def _manager(world: World, call: Call) -> None:
    _member(world)
    if call.account != world.estate.management_account:
        raise AwsError(
            "AccessDeniedException", "You don't have permissions to access this resource."
        )
