"""DuckDB: a table, and how NDJSON gets into it."""

from __future__ import annotations

from collector.model import Column, Type
from collector.schema.columns import is_free_form

_SIMPLE = {
    Type.STRING: "VARCHAR",
    Type.INT32: "INTEGER",
    Type.INT64: "BIGINT",
    Type.FLOAT: "DOUBLE",
    Type.BOOLEAN: "BOOLEAN",
    Type.TIMESTAMP: "TIMESTAMPTZ",
    Type.LIST_STRING: "VARCHAR[]",
    Type.MAP_STRING_STRING: "MAP(VARCHAR, VARCHAR)",
}


def render(name: str, columns: tuple[Column, ...]) -> str:
    declared = ",\n".join(f"  {_quoted(column.name)} {_type(column)}" for column in columns)
    return (
        f"CREATE TABLE {_quoted(name)} (\n{declared}\n);\n"
        f"-- COPY {_quoted(name)} FROM 'records.ndjson' (FORMAT json);"
    )


def _type(column: Column) -> str:
    if is_free_form(column):
        return "JSON"
    if column.type is Type.STRUCT:
        return _struct(column.fields)
    if column.type is Type.LIST_STRUCT:
        return f"{_struct(column.fields)}[]"
    return _SIMPLE[column.type]


def _struct(fields: tuple[Column, ...]) -> str:
    return f"STRUCT({', '.join(f'{_quoted(member.name)} {_type(member)}' for member in fields)})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
