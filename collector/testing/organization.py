"""An organization: one root, two units, a third inside the first, and accounts in all of them."""

from __future__ import annotations

from collections.abc import Sequence

from collector.model import Wire

ORGANIZATION = "o-fake123456"
ROOT = "r-abcd"
WORKLOADS = "ou-abcd-11111111"
SANDBOX = "ou-abcd-22222222"
TEAMS = "ou-abcd-33333333"
"""Lies inside ``WORKLOADS``."""

UNITS = {WORKLOADS: ("Workloads", ROOT), SANDBOX: ("Sandbox", ROOT), TEAMS: ("Teams", WORKLOADS)}
"""Unit: (name, parent)."""

_JOINED = 1_600_000_000.123


class Organization:
    """Accounts and where they are.

    The management account lies in the root; the others take their places in turn, in
    ``WORKLOADS``, ``SANDBOX`` and ``TEAMS``.
    """

    def __init__(self, accounts: Sequence[str], suspended: Sequence[str], partition: str) -> None:
        self.management = accounts[0]
        self._partition = partition
        self._states = dict.fromkeys(accounts, "ACTIVE") | dict.fromkeys(suspended, "SUSPENDED")
        units = (WORKLOADS, SANDBOX, TEAMS)
        self.parents = {
            account: units[(number - 1) % len(units)] if number else ROOT
            for number, account in enumerate(self._states)
        }

    def accounts(self, parent: str | None = None) -> list[Wire]:
        """All accounts, or those right under ``parent``, as ListAccounts shows them."""
        return [
            self._account(account)
            for account in self._states
            if parent is None or self.parents[account] == parent
        ]

    def units(self, parent: str) -> list[Wire]:
        """The units right under ``parent``."""
        return [
            {"Id": unit, "Arn": self._arn("ou", unit), "Name": name}
            for unit, (name, above) in UNITS.items()
            if above == parent
        ]

    def roots(self) -> list[Wire]:
        return [{"Id": ROOT, "Arn": self._arn("root", ROOT), "Name": "Root", "PolicyTypes": []}]

    def describe(self) -> Wire:
        return {
            "Id": ORGANIZATION,
            "Arn": self._arn("organization"),
            "FeatureSet": "ALL",
            "MasterAccountArn": self._arn("account", self.management),
            "MasterAccountId": self.management,
            "MasterAccountEmail": f"aws+{self.management}@example.com",
            "AvailablePolicyTypes": [{"Type": "SERVICE_CONTROL_POLICY", "Status": "ENABLED"}],
        }

    def _account(self, account: str) -> Wire:
        state = self._states[account]
        return {
            "Id": account,
            "Arn": self._arn("account", account),
            "Email": f"aws+{account}@example.com",
            "Name": "management" if account == self.management else f"member-{account[:4]}",
            "Status": state,
            "State": state,
            "JoinedMethod": "INVITED" if account == self.management else "CREATED",
            "JoinedTimestamp": _JOINED,
        }

    def _arn(self, kind: str, *parts: str) -> str:
        path = "/".join((kind, ORGANIZATION, *parts))
        return f"arn:{self._partition}:organizations::{self.management}:{path}"
