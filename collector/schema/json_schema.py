"""JSON Schema, draft 2020-12, of one record."""

from __future__ import annotations

from typing import Any

import orjson

from collector.model import Column, Type
from collector.schema.columns import (
    ACCOUNT_ID_PATTERN,
    INT_BITS,
    NEVER_NULL,
    TAG_PATTERN,
    TIMESTAMP_PATTERN,
    int_range,
    is_free_form,
)

_SIMPLE: dict[Type, dict[str, Any]] = {
    Type.STRING: {"type": "string"},
    Type.FLOAT: {"type": ["number", "null"]},  # null stands for NaN and the infinities
    Type.BOOLEAN: {"type": "boolean"},
    Type.TIMESTAMP: {
        "type": "string",
        "format": "date-time",
        "pattern": f"^{TIMESTAMP_PATTERN}$",
        "maxLength": 24,  # in some dialects of patterns, $ lets a line end pass
    },
    Type.LIST_STRING: {"type": "array", "items": {"type": "string"}},
    Type.MAP_STRING_STRING: {"type": "object", "additionalProperties": {"type": "string"}},
}

# What holds for a column of this name in every table.
_NAMED: dict[str, dict[str, Any]] = {
    "account_id": {"pattern": f"^{ACCOUNT_ID_PATTERN}$", "maxLength": 12},
    "tags": {"items": {"type": "string", "pattern": f"^{TAG_PATTERN}$"}},
}


def render(name: str, columns: tuple[Column, ...]) -> str:
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "description": "One record. Its members come in the order of `required`.",
        "type": "object",
        "properties": {column.name: _column(column) for column in columns},
        "required": [column.name for column in columns],
        "additionalProperties": False,
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def _column(column: Column) -> dict[str, Any]:
    schema = _field(column) | _NAMED.get(column.name, {})
    if column.name in NEVER_NULL:
        return schema
    if column.type is Type.FLOAT:
        return schema
    return schema | {"type": [schema["type"], "null"]}


def _field(column: Column) -> dict[str, Any]:
    described = {"description": column.description} if column.description else {}
    return _type(column) | described


def _type(column: Column) -> dict[str, Any]:
    if column.type in INT_BITS:
        low, high = int_range(INT_BITS[column.type])
        return {"type": "integer", "minimum": low, "maximum": high}
    if is_free_form(column):
        return {"type": "object"}
    if column.type is Type.STRUCT:
        return _object(column.fields)
    if column.type is Type.LIST_STRUCT:
        return {"type": "array", "items": _object(column.fields)}
    return _SIMPLE[column.type]


def _object(fields: tuple[Column, ...]) -> dict[str, Any]:
    """A struct: every member may be absent, none but a FLOAT may be null."""
    return {
        "type": "object",
        "properties": {member.name: _field(member) for member in fields},
        "additionalProperties": False,
    }
