"""What the caller lacks to list its organization, where that was refused."""

from __future__ import annotations

from collector.aws.client import Access, Patience
from collector.aws.targets import Identity
from collector.crawl import Aws
from collector.errors import CollectorError, DeniedError
from collector.model import Account
from collector.plan.grants import obstacle
from collector.plan.model import Lack
from collector.settings import Settings


async def lacking(aws: Aws, settings: Settings, caller: Identity) -> list[Lack]:
    """Each call that a run would find the accounts by and that is denied, asked for one page."""
    access = Access(
        caller.account_id,
        aws.client.sdk.home_region(),
        aws.targets.credentials(Account(caller.account_id)),
        Patience(settings.give_up_after, aws.client.clock),
    )
    asks: dict[str, dict[str, str]] = {"ListAccounts": {}}
    if settings.include_ou:
        below = {"ParentId": settings.include_ou[0]}
        asks = dict.fromkeys(("ListAccountsForParent", "ListOrganizationalUnitsForParent"), below)
    lacks = []
    for operation, params in asks.items():
        try:
            await aws.client.built(access, "organizations", operation, params)
        except DeniedError as error:
            action = f"organizations:{operation}"
            lacks.append(Lack(caller.account_id, action, obstacle(error.message)))
        except CollectorError:
            continue  # of no use here: what was refused is named
    return lacks
