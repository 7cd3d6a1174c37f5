"""What a record holds: the table's columns, those that settings add, and the rules by name."""

from __future__ import annotations

from collector.model import Column, Table, Type

EXTRA = Column(
    "_extra",
    Type.STRUCT,
    None,
    "Members that AWS returned and the table does not have, as they came.",
)
"""A struct without members: a JSON object of any shape."""

META = (
    Column("_region", Type.STRING, None, "The region that the resource was read from."),
    Column("_collected_at", Type.TIMESTAMP, None, "When the resource was read."),
    Column("_run_id", Type.STRING, None, "The run that read it."),
)

NEVER_NULL = frozenset({"account_id", EXTRA.name, *(column.name for column in META)})
"""Columns that the collector itself fills in every record."""

# Unanchored: JSON Schema searches, Python's fullmatch does not need them.
ACCOUNT_ID_PATTERN = "[0-9]{12}"
TAG_PATTERN = r"[\s\S]+:[\s\S]*"
TIMESTAMP_PATTERN = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"

INT_BITS = {Type.INT32: 32, Type.INT64: 64}


def all_columns(table: Table, *, extra: bool = False, meta: bool = False) -> tuple[Column, ...]:
    """Columns of a record in their order: the table's, then ``_extra``, then META."""
    return (*table.columns, *((EXTRA,) if extra else ()), *(META if meta else ()))


def is_free_form(column: Column) -> bool:
    """Whether the column is a JSON object that no type system can describe further."""
    return column.type is Type.STRUCT and not column.fields


def int_range(bits: int) -> tuple[int, int]:
    """The smallest and the largest signed integer of ``bits`` bits."""
    return -(1 << bits - 1), (1 << bits - 1) - 1
