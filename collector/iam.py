"""The permissions that a crawl needs, as IAM policy documents.

Source of what can be scoped to which resource: the Service Authorization Reference, one page a
service. Every ARN has `*` for its partition, so one document serves aws, aws-cn and aws-us-gov.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from collector.errors import ConfigurationError
from collector.model import Table
from collector.shards import PLACE
from collector.sinks.base import Permission, permissions

Document = dict[str, Any]
"""An IAM policy document, ready for JSON."""

_VERSION = "2012-10-17"
_ACCOUNT_ID = re.compile("[0-9]{12}")
_PRINCIPAL_ARN = re.compile(r"arn:aws[a-z-]*:(iam|sts)::[0-9]{12}:[^*\s]+")
_ROLE_NAME = re.compile(r"([\w+=,.@-]+/)*[\w+=,.@-]{1,64}", re.ASCII)
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}", re.ASCII)
_ORGANIZATION_ID = re.compile("o-[a-z0-9]{10,32}")


def policy(table: Table, *, bulk_tags: bool = True, find_regions: bool = True) -> Document:
    """What the role in each account, or the caller in its own, may do: read this table.

    ``bulk_tags`` goes with `--tags bulk`, ``find_regions`` with `--regions all`.
    """
    # A list call names no resource, so IAM has nothing to scope it to.
    listing = [action for action in table.iam_actions if action.endswith(f":{table.list.name}")]
    reading = [action for action in table.iam_actions if action not in listing]
    statements = [
        _allow("ListResources", listing, "*"),
        _allow("ReadResources", reading, re.sub("{.*?}", "*", table.arn_format)),
    ]
    if bulk_tags:
        # Answers only with tags of resources; it has no resource type of its own.
        statements.append(_allow("ReadTagsInBulk", ["tag:GetResources"], "*"))
    if find_regions:
        statements += [
            _allow("FindRegions", ["account:ListRegions"], "arn:*:account::*:account"),
            _allow("FindRegionsOtherwise", ["ec2:DescribeRegions"], "*"),
        ]
    return _document(*statements)


def caller_policy(table: Table, role_name: str) -> Document:
    """All that the caller may do to read an organization.

    That is `policy` for its own account, which it reads without a role, then the organization's
    accounts, and the reader role in each. ``role_name`` is that role's, with its path if it has
    one. Raises ConfigurationError if it cannot be a role's name.
    """
    name = role_name.strip("/")
    if not _ROLE_NAME.fullmatch(name):
        raise ConfigurationError(f"{role_name!r} is not the name of a role, as Name or path/Name.")
    below = [
        "organizations:ListAccountsForParent",
        "organizations:ListOrganizationalUnitsForParent",
    ]
    parents = ["arn:*:organizations::*:ou/*", "arn:*:organizations::*:root/*"]
    return _document(
        *policy(table)["Statement"],
        _allow("AssumeReaderRole", ["sts:AssumeRole"], f"arn:*:iam::*:role/{name}"),
        _allow("ListAccounts", ["organizations:ListAccounts"], "*"),
        _allow("ListAccountsOfUnits", below, parents),
    )


def with_delivery(
    document: Document, sinks: Iterable[str], state: str | None, report: str | None = None
) -> Document:
    """``document`` with what the caller needs to write to ``sinks`` and to keep ``state``.

    And to write the ``report``. Whatever shard it is may do so. Raises ConfigurationError where a
    URI names no sink.
    """
    needed = [permission for uri in sinks for permission in permissions(uri.replace(PLACE, "*"))]
    if report is not None and report.startswith("s3://"):
        parts = urlsplit(report.replace(PLACE, "*"))
        key = f"arn:*:s3:::{parts.netloc}{parts.path}"
        needed.append(Permission("WriteReport", ["s3:PutObject"], [key]))
    if state is not None and state.startswith("s3://"):
        parts = urlsplit(state)
        bucket = f"arn:*:s3:::{parts.netloc}"
        below = f"{bucket}/{parts.path.strip('/')}".rstrip("/") + "/*"
        needed += [
            Permission("KeepState", ["s3:GetObject", "s3:PutObject"], [below]),
            # Without it an object that is not there yet is an access that is denied.
            Permission("FindState", ["s3:ListBucket"], [bucket]),
        ]
    sids = Counter(permission.sid for permission in needed)
    seen: Counter[str] = Counter()
    statements = []
    for permission in needed:
        seen[permission.sid] += 1
        number = str(seen[permission.sid]) if sids[permission.sid] > 1 else ""
        statements.append(_allow(permission.sid + number, permission.actions, permission.resources))
    return _document(*document["Statement"], *statements)


def trust_policy(
    principal: str, external_id: str | None = None, organization_id: str | None = None
) -> Document:
    """Who may assume the reader role.

    ``principal`` is an account id, the ARN of a role, user or account, or `*` for everybody in
    the organization ``organization_id``. Raises ConfigurationError where one of them is no such
    thing, or where the role would be open to everybody.
    """
    if principal == "*":
        if organization_id is None:
            raise ConfigurationError(
                "A role that trusts everybody needs an organization id to keep others out."
            )
    elif not (_ACCOUNT_ID.fullmatch(principal) or _PRINCIPAL_ARN.fullmatch(principal)):
        raise ConfigurationError(f"{principal!r} is neither an account id nor an IAM ARN.")
    conditions = {
        "sts:ExternalId": _checked(external_id, _EXTERNAL_ID, "an external id"),
        "aws:PrincipalOrgID": _checked(organization_id, _ORGANIZATION_ID, "an organization id"),
    }
    required = {key: value for key, value in conditions.items() if value is not None}
    statement: dict[str, Any] = {
        "Sid": "AssumeReaderRole",
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": "sts:AssumeRole",
    }
    if required:
        statement["Condition"] = {"StringEquals": required}
    return _document(statement)


def _checked(value: str | None, pattern: re.Pattern[str], what: str) -> str | None:
    if value is not None and not pattern.fullmatch(value):
        raise ConfigurationError(f"{value!r} is not {what}.")
    return value


def _allow(sid: str, actions: list[str], resource: str | list[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resource}


def _document(*statements: dict[str, Any]) -> Document:
    return {"Version": _VERSION, "Statement": [each for each in statements if each["Action"]]}
