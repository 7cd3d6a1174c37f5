"""What a record must be, said a second time and as plainly as possible.

Driven by the schema file of the tests, so it shares no line with the program's own flattening.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from collector.testing import Estate

SCHEMA = Path(__file__).parent.parent / "data" / "aws_sagemaker_trainingjob.json"
COLUMNS: list[dict[str, Any]] = json.loads(SCHEMA.read_text())["columns"]
NAMES = [column["name"] for column in COLUMNS]


def expected(answer: dict[str, Any], account: str, tags: dict[str, str] | None) -> dict[str, Any]:
    """The record of a job with this description and these tags; None for tags unread."""
    record: dict[str, Any] = {}
    for column in COLUMNS:
        if column["name"] == "account_id":
            record["account_id"] = account
        elif column["name"] == "tags":
            record["tags"] = tags and sorted(f"{key}:{value}" for key, value in tags.items())
            if tags == {}:
                record["tags"] = []
        elif column["provider"] in answer:
            record[column["name"]] = _value(column, answer[column["provider"]])
        else:
            record[column["name"]] = None
    return record


def record_of(
    estate: Estate, account: str, region: str, name: str, *, tagged: bool = True
) -> dict[str, Any]:
    """The record of a job of the estate; without ``tagged`` as if its tags could not be read."""
    tags = estate.tags(account, region, name) if tagged else None
    return expected(estate.describe(account, region, name), account, tags)


def _value(column: dict[str, Any], wire: Any) -> Any:
    kind = column["type"]
    if kind == "TIMESTAMP":
        return moment(wire)
    if kind == "FLOAT":
        return None if wire in ("NaN", "Infinity", "-Infinity") else float(wire)
    if kind == "STRUCT":
        return _struct(column, wire)
    if kind == "UNORDERED_LIST_STRUCT":
        return [_struct(column, item) for item in wire]
    return wire


def _struct(column: dict[str, Any], wire: dict[str, Any]) -> dict[str, Any]:
    return {
        field["name"]: _value(field, wire[field["provider"]])
        for field in column["fields"]
        if field["provider"] in wire
    }


def moment(seconds: float) -> str:
    """Epoch seconds as a record writes them."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def paths(columns: list[dict[str, Any]], prefix: str = "") -> Iterator[str]:
    """Every field of the schema, nested ones with dots."""
    for column in columns:
        yield prefix + column["name"]
        yield from paths(column.get("fields", []), f"{prefix}{column['name']}.")


def paths_in(value: Any, columns: list[dict[str, Any]], prefix: str = "") -> Iterator[str]:
    """The fields of the schema that a record, or a part of one, has a value for."""
    if isinstance(value, list):
        for item in value:
            yield from paths_in(item, columns, prefix)
        return
    for column in columns:
        found = value.get(column["name"])
        if found is not None:
            yield prefix + column["name"]
            if "fields" in column:
                yield from paths_in(found, column["fields"], f"{prefix}{column['name']}.")
