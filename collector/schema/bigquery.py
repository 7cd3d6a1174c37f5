"""Google BigQuery: the JSON schema file of ``bq load --source_format=NEWLINE_DELIMITED_JSON``."""

from __future__ import annotations

from typing import Any

import orjson

from collector.model import Column, Type
from collector.schema.columns import is_free_form

# BigQuery has no map type. A list of key and value records would be one, but not as our NDJSON
# spells it; a JSON column takes the object as it is, keys unchanged.
_TYPES = {
    Type.STRING: "STRING",
    Type.INT32: "INTEGER",
    Type.INT64: "INTEGER",
    Type.FLOAT: "FLOAT",
    Type.BOOLEAN: "BOOLEAN",
    Type.TIMESTAMP: "TIMESTAMP",
    Type.STRUCT: "RECORD",
    Type.LIST_STRING: "STRING",
    Type.LIST_STRUCT: "RECORD",
    Type.MAP_STRING_STRING: "JSON",
}
_LISTS = {Type.LIST_STRING, Type.LIST_STRUCT}


def render(_name: str, columns: tuple[Column, ...]) -> str:
    """An array of fields. A list that is null loads as an empty one: no array there is null."""
    fields = [_field(column) for column in columns]
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2).decode()


def _field(column: Column) -> dict[str, Any]:
    field: dict[str, Any] = {
        "name": column.name,
        "type": "JSON" if is_free_form(column) else _TYPES[column.type],
        "mode": "REPEATED" if column.type in _LISTS else "NULLABLE",
    }
    if column.description:
        field["description"] = column.description
    if column.fields:
        field["fields"] = [_field(member) for member in column.fields]
    return field
