"""The values that the rest of the package passes around: tables, accounts, targets, jobs.

Frozen, and without imports from the rest of the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

Record = dict[str, Any]
"""One row: column name to JSON value, in the table's order."""

Wire = dict[str, Any]
"""One AWS answer (or a part of it) as it came over the wire, AWS's own member names."""


class Type(StrEnum):
    """Column types, named as the table's schema file names them."""

    STRING = "STRING"
    INT32 = "INT32"
    INT64 = "INT64"
    FLOAT = "FLOAT"
    BOOLEAN = "BOOLEAN"
    TIMESTAMP = "TIMESTAMP"
    STRUCT = "STRUCT"
    LIST_STRING = "UNORDERED_LIST_STRING"
    LIST_STRUCT = "UNORDERED_LIST_STRUCT"
    MAP_STRING_STRING = "MAP_STRING_STRING"


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a table, top-level or nested.

    ``provider`` is AWS's member name, or None for what the collector adds (account_id, tags).
    ``fields`` holds the members of a STRUCT or of the structs in a list.
    """

    name: str
    type: Type
    provider: str | None
    description: str = ""
    fields: tuple[Column, ...] = ()


def _frozen(**values: Any) -> Mapping[str, Any]:
    return MappingProxyType(values)


@dataclass(frozen=True, slots=True)
class ListOperation:
    """How the resources of one account and region are listed, oldest first.

    ``items`` is the answer's member that holds the summaries; ``params`` go with every call;
    the other members name request parameters.
    """

    name: str
    items: str
    params: Mapping[str, Any] = field(default_factory=_frozen)
    page_size: int = 100
    page_size_param: str = "MaxResults"
    created_after: str = "CreationTimeAfter"
    created_before: str = "CreationTimeBefore"
    status: str = "StatusEquals"


@dataclass(frozen=True, slots=True)
class DescribeOperation:
    """How one resource is read in full.

    ``params`` maps each request parameter to the summary's member that fills it. An answer
    without every member of ``required`` is not an answer. ``not_found`` lists the errors (code,
    part of the message) that mean the resource was deleted after it was listed.
    """

    name: str
    params: Mapping[str, str]
    required: tuple[str, ...]
    not_found: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TagsOperation:
    """How the tags of one resource are read, where the bulk call does not serve."""

    name: str
    arn_param: str = "ResourceArn"
    items: str = "Tags"
    page_size: int = 100
    page_size_param: str = "MaxResults"


@dataclass(frozen=True, slots=True)
class Table:
    """Everything the collector knows of one kind of resource: one value, one file.

    ``arn``, ``created``, ``modified`` and ``status`` name members of a summary and of a
    description. ``terminal`` holds the states a resource never leaves. ``sensitive`` names the
    columns that may carry secrets. ``left_out`` lists, as dotted provider paths, the members that
    the table leaves out on purpose. ``arn_format`` is the shape of an ARN of this kind.
    """

    name: str
    service: str
    list: ListOperation
    describe: DescribeOperation
    tags: TagsOperation
    arn: str
    created: str
    modified: str
    status: str
    statuses: tuple[str, ...]
    terminal: tuple[str, ...]
    arn_format: str
    iam_actions: tuple[str, ...]
    columns: tuple[Column, ...]
    sensitive: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the calls that read this table, the bulk tag call included."""
        return (self.list.name, self.describe.name, self.tags.name, "GetResources")


@dataclass(frozen=True, slots=True)
class Account:
    """An AWS account to read. ``role_arn`` is None for the caller's own credentials."""

    id: str
    role_arn: str | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """One account and region: the unit of isolation, of rate limits and of the report."""

    account: Account
    region: str

    @property
    def key(self) -> tuple[str, str]:
        """(account id, region)."""
        return (self.account.id, self.region)


class Outcome(StrEnum):
    """How a target ended."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


def string(name: str, provider: str | None, description: str = "") -> Column:
    return Column(name, Type.STRING, provider, description)


def int32(name: str, provider: str, description: str = "") -> Column:
    return Column(name, Type.INT32, provider, description)


def int64(name: str, provider: str, description: str = "") -> Column:
    return Column(name, Type.INT64, provider, description)


def float64(name: str, provider: str, description: str = "") -> Column:
    return Column(name, Type.FLOAT, provider, description)


def boolean(name: str, provider: str, description: str = "") -> Column:
    return Column(name, Type.BOOLEAN, provider, description)


def timestamp(name: str, provider: str, description: str = "") -> Column:
    return Column(name, Type.TIMESTAMP, provider, description)


def strings(name: str, provider: str | None, description: str = "") -> Column:
    return Column(name, Type.LIST_STRING, provider, description)


def string_map(name: str, provider: str, description: str = "") -> Column:
    return Column(name, Type.MAP_STRING_STRING, provider, description)


def struct(name: str, provider: str, description: str, *fields: Column) -> Column:
    return Column(name, Type.STRUCT, provider, description, fields)


def structs(name: str, provider: str, description: str, *fields: Column) -> Column:
    return Column(name, Type.LIST_STRUCT, provider, description, fields)
