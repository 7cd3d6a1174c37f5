"""A small and slow flattener, read off the table's schema file and nothing else."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from collector.flatten import Flattener, Notes
from collector.redact import redact
from collector.tables import load_table
from collector.validate import validate_lines

TABLE = load_table()
SCHEMA = json.loads((Path(__file__).parent / "data" / f"{TABLE.name}.json").read_text())["columns"]
FLATTEN = Flattener(TABLE)
KEEPING = Flattener(TABLE, keep_extra=True)
ACCOUNT = "123456789012"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OUT = object()
"""What the reference gives for a value that is kept out."""

LIMITS = {"INT32": 2**31, "INT64": 2**63}


def ref_time(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                return OUT
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return ref_text(moment - EPOCH)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return OUT
    try:
        return ref_text(timedelta(microseconds=round(Decimal(value) * 1_000_000)))
    except OverflowError:
        return OUT


def ref_text(since: timedelta) -> Any:
    try:
        moment = EPOCH + since
    except OverflowError:
        return OUT
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z".rjust(24, "0")


def ref_scalar(kind: str, value: Any) -> Any:
    if kind == "TIMESTAMP":
        return ref_time(value)
    if kind in ("STRING", "BOOLEAN"):
        wanted = {"STRING": str, "BOOLEAN": bool}[kind]
        return value if isinstance(value, wanted) else OUT
    if isinstance(value, bool):
        return OUT
    if kind == "FLOAT":
        nothing = None if value in ("NaN", "Infinity", "-Infinity") else OUT
        return float(value) if isinstance(value, int | float) else nothing
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    limit = LIMITS[kind]
    return value if isinstance(value, int) and -limit <= value < limit else OUT


def ref_value(field: dict[str, Any], value: Any, path: str, wrong: list[str]) -> Any:
    kind = field["type"]
    if kind == "STRUCT" and isinstance(value, dict):
        return ref_struct(field["fields"], value, f"{path}.", wrong)
    if kind.startswith("UNORDERED_LIST") and isinstance(value, list):
        inner = {"type": kind.removeprefix("UNORDERED_LIST_"), "fields": field.get("fields")}
        items = [ref_value(inner, item, f"{path}[]", wrong) for item in value]
        return [item for item in items if item is not OUT]
    if kind == "MAP_STRING_STRING" and isinstance(value, dict):
        wrong += [f"{path}{{}}" for item in value.values() if not isinstance(item, str)]
        return {key: item for key, item in value.items() if isinstance(item, str)}
    structured = ("STRUCT", "MAP_STRING_STRING", "UNORDERED_LIST_STRING", "UNORDERED_LIST_STRUCT")
    found = OUT if kind in structured else ref_scalar(kind, value)
    if found is OUT or found is None:
        wrong.append(path)
    return found


def ref_struct(
    fields: list[dict[str, Any]], wire: dict[str, Any], prefix: str, wrong: list[str]
) -> dict[str, Any]:
    record = {}
    for field in fields:
        value = wire.get(field["provider"])
        if field["provider"] is None or value is None:
            continue
        found = ref_value(field, value, prefix + field["name"], wrong)
        if found is not OUT:
            record[field["name"]] = found
    return record


def ref_extra(fields: list[dict[str, Any]], wire: Any, prefix: str, drift: list[str]) -> Any:
    """The unknown part of a structure, and the paths of its members."""
    if not isinstance(wire, dict):
        return {}
    extra: dict[str, Any] = {}
    known = {field["provider"]: field for field in fields if field["provider"]}
    for member, value in wire.items():
        path = prefix + member
        if member not in known:
            if value is not None:
                extra[member] = value
                drift.append(path)
            continue
        field = known[member]
        if field["type"] == "STRUCT":
            extra[member] = ref_extra(field["fields"], value, f"{path}.", drift)
        elif field["type"] == "UNORDERED_LIST_STRUCT" and isinstance(value, list):
            inner = [ref_extra(field["fields"], item, f"{path}[].", drift) for item in value]
            extra[member] = inner if any(inner) else {}
    return {key: value for key, value in extra.items() if value != {} or key not in known}


def check(wire: dict[str, Any], tags: list[str] | None = None) -> dict[str, Any]:
    """Flatten ``wire`` and compare everything with the reference; the record."""
    before = orjson.dumps(wire)
    notes = Notes()
    record = FLATTEN(wire, ACCOUNT, tags, notes)
    wrong: list[str] = []
    drift: list[str] = []
    expected = {field["name"]: None for field in SCHEMA} | ref_struct(SCHEMA, wire, "", wrong)
    expected |= {"account_id": ACCOUNT, "tags": tags}
    extra = ref_extra(SCHEMA, wire, "", drift)
    assert record == expected
    assert orjson.dumps(record) == orjson.dumps(expected)  # tells 1 from 1.0 and True, and order
    assert sorted(notes.coerced) == sorted(wrong)
    assert sorted(notes.drift) == sorted(drift)
    kept = KEEPING(wire, ACCOUNT, tags, Notes())
    assert kept.pop("_extra") == extra
    assert kept == record
    assert orjson.dumps(wire) == before
    assert len(record) == 45
    assert list(record) == [field["name"] for field in SCHEMA]
    valid(record)
    valid(record | {"_extra": extra})
    for rule in ("values", "matching"):
        masked = dict(record)
        redact(masked, dict.fromkeys(TABLE.sensitive, rule))
        valid(masked)
    return record


def valid(record: dict[str, Any]) -> None:
    line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    assert list(validate_lines(TABLE, [line])) == []
