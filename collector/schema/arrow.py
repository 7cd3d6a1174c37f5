"""Apache Arrow: the schema as text, and as a ``pyarrow.Schema`` where pyarrow is installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from collector.errors import ConfigurationError
from collector.model import Column, Table, Type
from collector.schema.columns import all_columns, is_free_form

_SIMPLE = {
    Type.STRING: "string",
    Type.INT32: "int32",
    Type.INT64: "int64",
    Type.FLOAT: "double",
    Type.BOOLEAN: "bool",
    Type.TIMESTAMP: "timestamp[ms, tz=UTC]",
}


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    type: str
    children: tuple[_Node, ...] = ()
    nullable: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {self.type}" + ("" if self.nullable else " not null")


def render(_name: str, columns: tuple[Column, ...]) -> str:
    """The text of ``pyarrow.Schema.to_string()``, with no long type cut short.

    ``_extra`` is a string that holds JSON: Arrow has no type for an object of any shape.
    """
    return "\n".join(line for column in columns for line in _lines(_node(column)))


def _lines(node: _Node, depth: int = 0, prefix: str = "") -> Iterator[str]:
    yield f"{prefix}{node}"
    indent = " " * (4 * depth + 2)
    for index, child in enumerate(node.children):
        yield from _lines(child, depth + 1, f"{indent}child {index}, ")


def _node(column: Column) -> _Node:
    name = column.name
    match column.type:
        case Type.STRUCT if is_free_form(column):
            return _Node(name, "string")
        case Type.STRUCT:
            return _struct(name, tuple(map(_node, column.fields)))
        case Type.LIST_STRUCT:
            return _list(name, _struct("item", tuple(map(_node, column.fields))))
        case Type.LIST_STRING:
            return _list(name, _Node("item", "string"))
        case Type.MAP_STRING_STRING:
            pair = (_Node("key", "string", nullable=False), _Node("value", "string"))
            entries = _struct("entries", pair, nullable=False)
            return _Node(name, "map<string, string>", (entries,))
        case simple:
            return _Node(name, _SIMPLE[simple])


def _struct(name: str, members: tuple[_Node, ...], *, nullable: bool = True) -> _Node:
    return _Node(name, f"struct<{', '.join(map(str, members))}>", members, nullable)


def _list(name: str, item: _Node) -> _Node:
    return _Node(name, f"list<{item}>", (item,))


def arrow_schema(table: Table, *, extra: bool = False, meta: bool = False) -> Any:
    """The ``pyarrow.Schema`` of a record, times being UTC instants and ``_extra`` JSON text.

    Raises ConfigurationError if pyarrow is not installed.
    """
    return columns_schema(all_columns(table, extra=extra, meta=meta))


def columns_schema(columns: tuple[Column, ...], unit: str = "ms") -> Any:
    """As `arrow_schema`, of any columns, with times in ``unit``."""
    try:
        pa = import_module("pyarrow")
    except ImportError as error:
        raise ConfigurationError(
            "An Arrow schema object needs pyarrow: install it with `pip install pyarrow`."
        ) from error
    return pa.schema(_fields(pa, columns, unit))


def _fields(pa: ModuleType, columns: tuple[Column, ...], unit: str) -> list[Any]:
    return [pa.field(column.name, _type(pa, column, unit)) for column in columns]


def _type(pa: ModuleType, column: Column, unit: str) -> Any:
    if column.fields:
        struct = pa.struct(_fields(pa, column.fields, unit))
        return struct if column.type is Type.STRUCT else pa.list_(struct)
    simple = {
        Type.INT32: pa.int32(),
        Type.INT64: pa.int64(),
        Type.FLOAT: pa.float64(),
        Type.BOOLEAN: pa.bool_(),
        Type.TIMESTAMP: pa.timestamp(unit, tz="UTC"),
        Type.LIST_STRING: pa.list_(pa.string()),
        Type.MAP_STRING_STRING: pa.map_(pa.string(), pa.string()),
    }
    return simple.get(column.type, pa.string())
