"""Records as Arrow batches: the table's own types, times as UTC instants in microseconds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from typing import Any

import orjson

from collector.model import Column, Record, Type
from collector.schema.arrow import columns_schema
from collector.schema.columns import is_free_form

_Convert = Callable[[Any], Any]


class Rows:
    """Makes batches of records; the columns are chosen once."""

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self._pa = import_module("pyarrow")
        self.schema = columns_schema(columns, unit="us")
        self._columns = [(column.name, _converter(column)) for column in columns]

    def batch(self, records: list[Record]) -> Any:
        """A ``pyarrow.RecordBatch`` of these records, in their order."""
        arrays = [
            self._pa.array(_values(records, name, convert), field.type)
            for (name, convert), field in zip(self._columns, self.schema, strict=True)
        ]
        return self._pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _values(records: list[Record], name: str, convert: _Convert | None) -> list[Any]:
    if convert is None:
        return [record.get(name) for record in records]
    return [None if (value := record.get(name)) is None else convert(value) for record in records]


def _converter(column: Column) -> _Convert | None:
    """What makes of a record's value one that pyarrow takes; None where it takes it as it is."""
    if column.type is Type.TIMESTAMP:
        return datetime.fromisoformat
    if column.type is Type.MAP_STRING_STRING:
        return _pairs
    if is_free_form(column):
        return _json
    inner = [(field.name, convert) for field in column.fields if (convert := _converter(field))]
    if not inner:
        return None

    def struct(value: dict[str, Any]) -> dict[str, Any]:
        changed = dict(value)
        for name, convert in inner:
            if changed.get(name) is not None:
                changed[name] = convert(changed[name])
        return changed

    if column.type is Type.LIST_STRUCT:
        return lambda values: [struct(value) for value in values]
    return struct


def _pairs(value: dict[str, str]) -> list[tuple[str, str]]:
    return list(value.items())


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
