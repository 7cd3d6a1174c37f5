"""What to add where: denied actions become statements of the policy of the one who lacks them.

Source of AWS's words: IAM User Guide, "Troubleshoot access denied error messages". A refusal
names the kind of policy that denies, or that allows nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from collector import iam
from collector.aws.targets import Identity
from collector.model import Table
from collector.plan.model import Lack

_EXPLICIT = re.compile(
    r"\bexplicit deny(?: in an? ([a-z -]+? policy|permissions boundary)\b)?", re.IGNORECASE
)
_ALLOWS_NOTHING = re.compile(
    r"\bbecause no ([a-z -]+? policy|permissions boundary) allows\b", re.IGNORECASE
)
_OURS = "identity-based policy"
"""The kind of policy that a statement is added to."""


def obstacle(refusal: str) -> str | None:
    """What stands against an action so that one more statement would not allow it, if anything.

    ``refusal`` is AWS's message. A deny wins over every allow, and a policy of the organization,
    a boundary or a session caps what the identity's own policy gives.
    """
    if found := _EXPLICIT.search(refusal):
        kind = (found[1] or "policy").lower()
        return f"an explicit deny in {'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    found = _ALLOWS_NOTHING.search(refusal)
    if found is None or found[1].lower() == _OURS:
        return None
    return f"no {found[1].lower()} that allows it"


def grants(
    lacks: Iterable[Lack], table: Table, role_name: str | None, caller: Identity
) -> list[dict[str, Any]]:
    """The policies to add, one for the caller and one for each set of actions that roles lack.

    {"identity": "caller" or "role", "name", "accounts", "needed", "actions", "policy"}
    """
    owners: dict[tuple[str, str, bool], set[str]] = defaultdict(set)
    for lack in lacks:
        if lack.obstacle is None:
            owners[(*_owner(lack, caller), lack.needed)].add(lack.action)
    groups: dict[tuple[str, bool, tuple[str, ...]], list[str]] = defaultdict(list)
    for (kind, account_id, needed), actions in sorted(owners.items()):
        groups[kind, needed, tuple(sorted(actions))].append(account_id)
    return [
        {
            "identity": kind,
            "name": caller.arn if kind == "caller" else role_name,
            "accounts": accounts,
            "needed": needed,
            "actions": list(actions),
            "policy": _policy(table, role_name, actions),
        }
        for (kind, needed, actions), accounts in groups.items()
    ]


def blocked(lacks: Iterable[Lack], role_name: str | None, caller: Identity) -> list[dict[str, Any]]:
    """Denied actions that no statement would allow, and what stands against them.

    {"identity": "caller" or "role", "name", "accounts", "actions", "by"}
    """
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for lack in lacks:
        if lack.obstacle is not None:
            kind, account_id = _owner(lack, caller)
            group = found.setdefault((kind, lack.obstacle), {"accounts": set(), "actions": set()})
            group["accounts"].add(account_id)
            group["actions"].add(lack.action)
    return [
        {
            "identity": kind,
            "name": caller.arn if kind == "caller" else role_name,
            "accounts": sorted(group["accounts"]),
            "actions": sorted(group["actions"]),
            "by": by,
        }
        for (kind, by), group in found.items()
    ]


def _owner(lack: Lack, caller: Identity) -> tuple[str, str]:
    """Whose policy it is about, and in which account that identity lives."""
    asked_by_caller = lack.action.startswith(("sts:", "organizations:"))
    if asked_by_caller or lack.account_id == caller.account_id:
        return "caller", caller.account_id
    return "role", lack.account_id


def _policy(table: Table, role_name: str | None, actions: Iterable[str]) -> dict[str, Any]:
    """The statements of the policies that we document, with no action but ``actions``."""
    whole = iam.caller_policy(table, role_name) if role_name else iam.policy(table)
    statements = []
    for statement in whole["Statement"]:
        wanted = [action for action in statement["Action"] if action in actions]
        if wanted:
            statements.append({**statement, "Action": wanted})
    return {**whole, "Statement": statements}
