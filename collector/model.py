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


@dataclass(frozen=True, slots=True)
class Job:
    """A listed resource: what it takes to describe it, and its identity (ARN, creation time).

    ``created`` and ``modified`` are epoch seconds; ``modified`` is None where the list has none.
    A summary that names no resource is a job without ARN and ``params``.
    """

    arn: str
    created: float
    modified: float | None
    status: str
    params: dict[str, Any]

    @property
    def key(self) -> JobKey:
        return (self.arn, self.created)


JobKey = tuple[str, float]
"""ARN and creation time: what tells one job from every other."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a list has come: where it is taken up again, by creation time.

    ``seen`` are the jobs that the list may bring a second time then; ``ended`` that it is at its
    end.
    """

    last_created: float | None = None
    seen: tuple[JobKey, ...] = ()
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of a target was delivered: the jobs created in a span of time, as of ``watermark``.

    ``watermark`` is the service's clock when that crawl started. All in epoch seconds; ``after``
    and ``before`` are None where the span is open, ``status`` where jobs of any status were read.
    """

    watermark: float
    after: float | None = None
    before: float | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """From ``since`` to just before ``until``, in epoch seconds of the service's clock."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Start:
    """Where the crawl of a target begins; by default at the beginning.

    ``coverage`` need not be read again; of a crawl with ``span``, only what was created or changed
    in it is read. The others belong to a crawl that was cut off: when it had started by the
    service's clock, its cursor, and the jobs before that which are not settled.
    """

    coverage: Coverage | None = None
    as_of: float | None = None
    cursor: Cursor | None = None
    pending: tuple[Job, ...] = ()
    span: Span | None = None


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
