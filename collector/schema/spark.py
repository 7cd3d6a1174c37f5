"""Apache Spark: the JSON that ``StructType.fromJson`` reads."""

from __future__ import annotations

from typing import Any

import orjson

from collector.model import Column, Type
from collector.schema.columns import is_free_form

_SIMPLE: dict[Type, Any] = {
    Type.STRING: "string",
    Type.INT32: "integer",
    Type.INT64: "long",
    Type.FLOAT: "double",
    Type.BOOLEAN: "boolean",
    Type.TIMESTAMP: "timestamp",
    Type.MAP_STRING_STRING: {
        "type": "map",
        "keyType": "string",
        "valueType": "string",
        "valueContainsNull": True,
    },
}


def render(_name: str, columns: tuple[Column, ...]) -> str:
    """``_extra`` is a string: Spark's JSON reader puts an object's text into it."""
    return orjson.dumps(_struct(columns), option=orjson.OPT_INDENT_2).decode()


def _struct(columns: tuple[Column, ...]) -> dict[str, Any]:
    return {"type": "struct", "fields": [_field(column) for column in columns]}


def _field(column: Column) -> dict[str, Any]:
    # Spark keeps a column's comment in its metadata.
    metadata = {"comment": column.description} if column.description else {}
    return {"name": column.name, "type": _type(column), "nullable": True, "metadata": metadata}


def _type(column: Column) -> Any:
    if is_free_form(column):
        return "string"
    if column.type is Type.STRUCT:
        return _struct(column.fields)
    if column.type is Type.LIST_STRUCT:
        return _array(_struct(column.fields))
    if column.type is Type.LIST_STRING:
        return _array("string")
    return _SIMPLE[column.type]


def _array(element: Any) -> dict[str, Any]:
    return {"type": "array", "elementType": element, "containsNull": True}
