"""Which accounts and which regions: the targets of a run.

Sources: Organizations API reference (ListAccounts, ListAccountsForParent,
ListOrganizationalUnitsForParent), Account Management (ListRegions), EC2 (DescribeRegions).
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from collector.aws.client import Access, AwsClient, Patience
from collector.aws.retry import EXPIRED, RETRYABLE
from collector.aws.roles import RoleCredentials
from collector.aws.sessions import CallerCredentials, CredentialSource
from collector.errors import (
    CallError,
    CollectorError,
    ConfigurationError,
    CredentialsError,
    DeniedError,
    DiscoveryError,
    RejectedError,
)
from collector.events import Observer, Warned
from collector.model import Account, Outcome, Table, Target
from collector.settings import Settings
from collector.shards import CLOSED

EVERY_REGION = "*"
"""Region of the one target that stands for an account whose regions could not be found out."""

_ACCOUNTS_AT_ONCE = 16
_STARTUP_PATIENCE = 60.0
"""Seconds: a person waits at the start, so the first calls give up sooner than the crawl."""

_REGIONS_PATIENCE = 20.0
"""Seconds: there are two other ways to find regions, so a service that fails is soon left."""

_LIST_REGIONS_PAGE, _MOST_REGION_PAGES = 50, 20
"""AWS has some forty regions: more pages than this are no list of them."""

_PAGES_WITHOUT_NEWS = 100
"""How many pages in a row of an organization may hold nothing that was not seen before. Empty ones
are normal, and an organization may have thousands of full ones, so not all pages count."""

_ENABLED = ("ENABLED", "ENABLED_BY_DEFAULT")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the caller is: account id, ARN and the partition that the ARN names."""

    account_id: str
    arn: str
    partition: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """An account none of whose regions can be read, and why."""

    target: Target
    outcome: Outcome
    cause: CallError | CredentialsError

    @property
    def error(self) -> str:
        """The cause in one sentence."""
        return str(self.cause)


class Targets:
    """Finds accounts and regions, and holds the credentials of each account."""

    def __init__(
        self, settings: Settings, table: Table, control: AwsClient, observe: Observer
    ) -> None:
        self._settings = settings
        self._table = table
        self._client = control
        self._observe = observe
        self._home = control.sdk.home_region(() if settings.regions == "all" else settings.regions)
        self._caller = CallerCredentials(control.sdk)
        self._sources: dict[str, CredentialSource] = {}
        self._identity: Identity | None = None
        self._told: dict[str, str | tuple[CallError, ...]] = {}

    def _access(self, account_id: str, source: CredentialSource, give_up_after: float) -> Access:
        patience = Patience(give_up_after, self._client.clock)
        return Access(account_id, self._home, source, patience)

    async def identity(self) -> Identity:
        """The caller. Raises CredentialsError, with one sentence, if there are no good keys."""
        if self._identity is None:
            give_up = min(_STARTUP_PATIENCE, self._settings.give_up_after)
            access = self._access("", self._caller, give_up)
            try:
                answer = await self._client.built(
                    access, "sts", "GetCallerIdentity", {}, required=("Account", "Arn")
                )
            except RETRYABLE as error:
                raise CredentialsError(f"AWS cannot be reached: {error}") from error
            except CallError as error:
                raise CredentialsError(
                    f"AWS does not accept the credentials it was given: {error}"
                ) from error
            arn = str(answer["Arn"])
            self._identity = Identity(str(answer["Account"]), arn, arn.split(":")[1])
        return self._identity

    async def accounts(self) -> list[Account]:
        """The accounts to read. Raises ConfigurationError or DiscoveryError."""
        settings, caller = self._settings, await self.identity()
        if settings.accounts == "current":
            found = {caller.account_id: ""}
        elif settings.accounts == "organization":
            found = await self._organization()
        else:
            found = dict.fromkeys(settings.accounts, "")
        accounts = []
        for account_id, name in found.items():
            if account_id in settings.exclude_accounts:
                continue
            role = None if account_id == caller.account_id else settings.role_name
            if role is None and account_id != caller.account_id:
                raise ConfigurationError(
                    f"Account {account_id} is not the caller's own ({caller.account_id}): "
                    "give role_name, the role to assume there."
                )
            arn = f"arn:{caller.partition}:iam::{account_id}:role/{role}" if role else None
            accounts.append(Account(account_id, arn, name))
        if not accounts:
            why = "every one found is excluded" if found else "none that is ACTIVE was found"
            raise DiscoveryError(f"There is no account to read: {why}.")
        return accounts

    async def _organization(self) -> dict[str, str]:
        caller = await self.identity()
        access = self._access(caller.account_id, self._caller, self._settings.give_up_after)
        found: dict[str, str] = {}
        try:
            if self._settings.include_ou:
                for parent in await self._units_below(access, self._settings.include_ou):
                    async for member in self._pages(
                        access, "ListAccountsForParent", "Accounts", ParentId=parent
                    ):
                        _add_active(found, member)
            else:
                async for member in self._pages(access, "ListAccounts", "Accounts"):
                    _add_active(found, member)
        except CallError as error:
            raise DiscoveryError(
                f"The organization's accounts cannot be listed ({error}): run this in the "
                "management or a delegated administrator account with organizations:ListAccounts, "
                "or name the accounts with --accounts ID,ID."
            ) from error
        return found

    async def _units_below(self, access: Access, roots: tuple[str, ...]) -> list[str]:
        units: list[str] = []
        waiting = list(dict.fromkeys(roots))
        while waiting:
            parent = waiting.pop()
            if parent in units:
                continue
            units.append(parent)
            below = self._pages(
                access, "ListOrganizationalUnitsForParent", "OrganizationalUnits", ParentId=parent
            )
            waiting += [unit["Id"] async for unit in below]
        return units

    async def _pages(
        self, access: Access, operation: str, items: str, **params: str
    ) -> AsyncIterator[dict[str, str]]:
        """Everything on all pages that has an id, once."""
        token: str | None = None
        tokens: set[str] = set()
        ids: set[str] = set()
        without_news = 0
        while without_news <= _PAGES_WITHOUT_NEWS:
            page = {**params, "NextToken": token} if token else dict(params)
            answer = await self._client.built(
                access, "organizations", operation, page, required=(items,)
            )
            without_news += 1
            for item in answer[items]:
                item_id = _member(operation, item, "Id")
                if item_id not in ids:
                    ids.add(item_id)
                    without_news = 0
                    yield item
            token = answer.get("NextToken")
            if not token:
                return
            if token in tokens:
                raise RejectedError(operation, "RepeatedToken", "the same page came twice")
            tokens.add(token)
        raise RejectedError(operation, "EndlessList", "page after page brings nothing new")

    def credentials(self, account: Account) -> CredentialSource:
        """The one source of an account's keys, shared by all its regions."""
        if account.role_arn is None:
            return self._caller
        source = self._sources.get(account.id)
        if source is None:
            access = self._access(account.id, self._caller, self._settings.give_up_after)
            source = self._sources[account.id] = RoleCredentials(
                self._client,
                access,
                role_arn=account.role_arn,
                session_name=self._settings.role_session_name,
                external_id=self._settings.external_id,
                now=self._client.wire.now,
            )
        return source

    def forget(self, account_id: str) -> None:
        """Drop an account's keys: none of its targets is left."""
        self._sources.pop(account_id, None)

    async def works(self, account: Account) -> bool:
        """Whether an account's credentials are good, asked where every account can be asked."""
        access = self._access(account.id, self.credentials(account), _STARTUP_PATIENCE)
        try:
            await self._client.built(access, "sts", "GetCallerIdentity", {}, required=("Account",))
        except DeniedError:
            return True  # known, if not allowed
        except CollectorError:
            return False  # bad, or not known to be good: not to be taken for a region's fault
        return True

    async def find(self) -> AsyncIterator[Target | Unreachable]:
        """Every target, account by account, as soon as an account's regions are known.

        Of a shard, its own: where the regions are given, no account is entered for nothing.
        """
        accounts = await self.accounts()
        if self._settings.regions != "all":
            await self._warn_of_unknown_regions(self._settings.regions)
            for region in self._settings.regions:
                for account in accounts:
                    if self._is_ours(one := Target(account, region)):
                        yield one
            return
        slots = asyncio.Semaphore(_ACCOUNTS_AT_ONCE)

        async def regions(account: Account) -> list[Target | Unreachable]:
            async with slots:
                return await self._targets_of(account)

        tasks = [asyncio.create_task(regions(account)) for account in accounts]
        try:
            for done in asyncio.as_completed(tasks):
                for target in await done:
                    yield target
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _is_ours(self, target: Target) -> bool:
        shard = self._settings.shard
        return shard is None or shard.holds(*target.key)

    async def _targets_of(self, account: Account) -> list[Target | Unreachable]:
        try:
            await self.credentials(account).get()
        except (CredentialsError, CallError) as error:
            return self._unreachable(account, error)
        with_service = await self.service_regions()
        known = set(await self._client.sdk.regions("ec2", (await self.identity()).partition))
        enabled = await self.enabled_regions(account)
        # A region newer than the installed SDK is tried: better unavailable than left out.
        found = [
            Target(account, region)
            for region in (with_service if enabled is None else enabled)
            if region in with_service or region not in known
        ]
        ours: list[Target | Unreachable] = [target for target in found if self._is_ours(target)]
        if not ours:
            self.forget(account.id)
        return ours

    def _unreachable(
        self, account: Account, error: CallError | CredentialsError
    ) -> list[Target | Unreachable]:
        """An account that is closed is so for all shards, and one of them reports it.

        One that could not be entered for another reason is reported by each that it happened to:
        the others may have come in, and have all but what falls to this one.
        """
        self.forget(account.id)
        target = Target(account, EVERY_REGION)
        if not isinstance(error, DeniedError):
            return [Unreachable(target, Outcome.FAILED, error)]
        if error.code in EXPIRED or self._is_ours(target):
            return [Unreachable(target, Outcome.DENIED, error)]
        self._observe(Warned(CLOSED, account.id))
        return []

    def called_enabled(self, target: Target) -> bool:
        """Whether AWS itself has said that the target's region is enabled for its account."""
        return isinstance(self.regions_told_by(target.account.id), str)

    def regions_told_by(self, account_id: str) -> str | tuple[CallError, ...] | None:
        """The operation that told an account's regions, or how all refused; None if not asked."""
        return self._told.get(account_id)

    async def service_regions(self) -> list[str]:
        """Regions of the caller's partition that the SDK knows the table's service in."""
        partition = (await self.identity()).partition
        return await self._client.sdk.regions(self._table.service, partition)

    async def enabled_regions(self, account: Account) -> list[str] | None:
        """Regions enabled in an account, sorted; None, with a warning, where nobody tells."""
        access = self._access(account.id, self.credentials(account), _REGIONS_PATIENCE)
        refusals: list[CallError] = []
        asks = {"ListRegions": self._list_regions, "DescribeRegions": self._describe_regions}
        for operation, ask in asks.items():
            try:
                regions = sorted(set(await ask(access)))
            except CallError as error:
                refusals.append(error)
            else:
                self._told[account.id] = operation
                return regions
        self._told[account.id] = tuple(refusals)
        tried = " or ".join(f"{error.operation} ({error.code})" for error in refusals)
        self._observe(
            Warned(
                f"The enabled regions could not be read by {tried}: "
                "every region that the SDK knows is tried",
                account.id,
            )
        )
        return None

    async def _list_regions(self, access: Access) -> list[str]:
        regions: list[str] = []
        token: str | None = None
        for _ in range(_MOST_REGION_PAGES):
            params = {"MaxResults": _LIST_REGIONS_PAGE, "RegionOptStatusContains": list(_ENABLED)}
            if token:
                params["NextToken"] = token
            answer = await self._client.built(
                access, "account", "ListRegions", params, required=("Regions",)
            )
            regions += [
                _member("ListRegions", item, "RegionName")
                for item in answer["Regions"]
                if item.get("RegionOptStatus") in _ENABLED
            ]
            previous, token = token, answer.get("NextToken")
            if not token:
                return regions
            if token == previous:
                raise RejectedError("ListRegions", "RepeatedToken", "the same page came twice")
        raise RejectedError("ListRegions", "EndlessList", "the NextTokens never end")

    async def _describe_regions(self, access: Access) -> list[str]:
        answer = await self._client.built(
            access, "ec2", "DescribeRegions", {}, required=("Regions",)
        )
        return [
            _member("DescribeRegions", item, "RegionName")
            for item in answer["Regions"]
            if item.get("OptInStatus") != "not-opted-in"
        ]

    async def _warn_of_unknown_regions(self, regions: tuple[str, ...] | str) -> None:
        known = await self.service_regions()
        for region in regions:
            if region not in known:
                near = difflib.get_close_matches(region, known, 1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                self._observe(
                    Warned(
                        f"The SDK knows no {self._table.service} in {region}{hint}", region=region
                    )
                )


def _member(operation: str, item: dict[str, str], name: str) -> str:
    """The member that an item is known by. Raises RejectedError where it has none."""
    value = item.get(name)
    if not value:
        raise RejectedError(operation, "UnreadableAnswer", f"an item has no {name}")
    return value


def _add_active(found: dict[str, str], member: dict[str, str]) -> None:
    # State has taken the place of Status, which AWS retired in September 2026.
    if (member.get("State") or member.get("Status")) == "ACTIVE":
        found[member["Id"]] = member.get("Name", "")
