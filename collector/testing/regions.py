"""Which regions an account has: Account Management's ListRegions, EC2's DescribeRegions."""

from __future__ import annotations

from collector.model import Wire
from collector.testing import pages
from collector.testing.rules import Rule, check
from collector.testing.world import AwsError, Call, World

BY_DEFAULT = frozenset(
    """
    ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-southeast-1 ap-southeast-2
    ca-central-1 cn-north-1 cn-northwest-1 eu-central-1 eu-north-1 eu-west-1 eu-west-2 eu-west-3
    sa-east-1 us-east-1 us-east-2 us-gov-east-1 us-gov-west-1 us-west-1 us-west-2
    """.split()  # noqa: SIM905 - a list would take a line for each
)
"""Regions that every account has without asking."""

_RULES = {
    "AccountId": Rule(str, pattern=r"\d{12}"),
    "MaxResults": Rule(int, low=1, high=50),
    "NextToken": Rule(str, high=1000),
    "RegionOptStatusContains": Rule(list),
}
_MANY = 1000


def list_regions(world: World, call: Call) -> Wire:
    check(call.params, _RULES)
    account = call.params.get("AccountId") or call.account
    if call.account not in {account, world.estate.management_account}:
        raise AwsError(
            "AccessDeniedException", "User doesn't have access to call the API on the resource", 403
        )
    wanted = call.params.get("RegionOptStatusContains")
    regions = [
        {"RegionName": region, "RegionOptStatus": status}
        for region, status in _regions(world, account)
        if wanted is None or status in wanted
    ]
    return pages.page(world, call, regions, call.params.get("MaxResults", 50), name="Regions")


def describe_regions(world: World, call: Call) -> str:
    params = call.params
    names = {value for name, value in params.items() if name.startswith("RegionName.")}
    known = dict(_regions(world, call.account))
    for name in sorted(names - known.keys()):
        raise AwsError("InvalidParameterValue", f"Invalid region name: {name}")
    everything = params.get("AllRegions", "false").lower() == "true"
    items = "".join(
        f"<item><regionName>{region}</regionName>"
        f"<regionEndpoint>ec2.{region}.amazonaws.com</regionEndpoint>"
        f"<optInStatus>{_OPT_IN[status]}</optInStatus></item>"
        for region, status in known.items()
        if (not names or region in names)
        and (everything or status != "DISABLED")
        and _passes(region, _OPT_IN[status], params)
    )
    return f"<regionInfo>{items}</regionInfo>"


_OPT_IN = {
    "ENABLED_BY_DEFAULT": "opt-in-not-required",
    "ENABLED": "opted-in",
    "DISABLED": "not-opted-in",
}


def _regions(world: World, account: str) -> list[tuple[str, str]]:
    """(region, status) of each region that ``account`` gets to see."""
    found = []
    for region in world.estate.regions:
        if (account, region) in world.policy.not_enabled:
            if world.policy.list_not_enabled:
                found.append((region, "DISABLED"))
        else:
            found.append((region, "ENABLED_BY_DEFAULT" if region in BY_DEFAULT else "ENABLED"))
    return found


def _passes(region: str, opt_in: str, params: Wire) -> bool:
    """EC2's Filter.N.Name, Filter.N.Value.M."""
    facts = {"region-name": region, "opt-in-status": opt_in}
    for number in range(1, _MANY):
        name = params.get(f"Filter.{number}.Name")
        if name is None:
            return True
        prefix = f"Filter.{number}.Value."
        values = {value for key, value in params.items() if key.startswith(prefix)}
        if name not in facts:
            raise AwsError("InvalidParameterValue", f"The filter '{name}' is invalid")
        if facts[name] not in values:
            return False
    return True
