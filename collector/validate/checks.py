"""Checks of values, made once for each column. They name kinds and paths, never a value."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

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

_ACCOUNT_ID = re.compile(ACCOUNT_ID_PATTERN)
_TAG = re.compile(TAG_PATTERN)
_TIMESTAMP = re.compile(TIMESTAMP_PATTERN)

Found = dict[str, str]
"""Path to what is wrong there: one message a path, the first."""

Check = Callable[[Any, str, Found], None]
"""Looks at (value, its path) and adds to what was found."""


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def column_check(column: Column) -> Check:
    """The check of a top-level column."""
    if column.name == "account_id":
        return _account_id
    check = _tags if column.name == "tags" else _check(column)
    return check if column.name in NEVER_NULL else _nullable(check)


def _check(column: Column) -> Check:
    if column.type in INT_BITS:
        return _integer(INT_BITS[column.type])
    if is_free_form(column):
        return _is(dict, "an object")
    if column.type is Type.STRUCT:
        return _struct(column.fields)
    if column.type is Type.LIST_STRUCT:
        return _list(_struct(column.fields))
    return _SIMPLE[column.type]


def _is(kind: type, name: str) -> Check:
    def check(value: Any, path: str, found: Found) -> None:
        if type(value) is not kind:
            found.setdefault(path, f"is {kind_of(value)}, not {name}")

    return check


_string = _is(str, "a string")


def _nullable(inner: Check) -> Check:
    def check(value: Any, path: str, found: Found) -> None:
        if value is not None:
            inner(value, path, found)

    return check


def _integer(bits: int) -> Check:
    low, high = int_range(bits)

    def check(value: Any, path: str, found: Found) -> None:
        # Numbers that do not fit 64 bits arrive as floats; bool is a kind of int to isinstance.
        if type(value) is not int:
            found.setdefault(path, f"is {kind_of(value)}, not an integer of {bits} bits")
        elif not low <= value <= high:
            found.setdefault(path, f"does not fit {bits} bits")

    return check


def _float(value: Any, path: str, found: Found) -> None:
    # The reader has refused NaN and infinities already; null stands for them, in structs too.
    if value is not None and type(value) not in (int, float):
        found.setdefault(path, f"is {kind_of(value)}, not a number")


def _timestamp(value: Any, path: str, found: Found) -> None:
    if type(value) is not str:
        found.setdefault(path, f"is {kind_of(value)}, not a timestamp")
    elif not _TIMESTAMP.fullmatch(value):
        found.setdefault(path, "is not a timestamp like 2023-11-14T22:13:20.123Z")
    else:
        try:
            datetime.fromisoformat(value)
        except ValueError:
            found.setdefault(path, "is not a date and time of the calendar")


def _account_id(value: Any, path: str, found: Found) -> None:
    if type(value) is not str or not _ACCOUNT_ID.fullmatch(value):
        found.setdefault(path, "is not a string of 12 digits")


def _list(item: Check) -> Check:
    def check(value: Any, path: str, found: Found) -> None:
        if type(value) is not list:
            found.setdefault(path, f"is {kind_of(value)}, not a list")
            return
        for index, element in enumerate(value):
            item(element, f"{path}[{index}]", found)

    return check


def _tag(value: Any, path: str, found: Found) -> None:
    if type(value) is not str or not _TAG.fullmatch(value):
        found.setdefault(path, "is not a string key:value")


def _tags(value: Any, path: str, found: Found) -> None:
    _list(_tag)(value, path, found)
    if type(value) is list and all(type(tag) is str for tag in value) and value != sorted(value):
        found.setdefault(path, "is not sorted")


def _map(value: Any, path: str, found: Found) -> None:
    if type(value) is not dict:
        found.setdefault(path, f"is {kind_of(value)}, not an object")
        return
    for key, member in value.items():
        if type(member) is not str:
            _string(member, f"{path}.{key}", found)


def _struct(fields: tuple[Column, ...]) -> Check:
    members = {member.name: _check(member) for member in fields}

    def check(value: Any, path: str, found: Found) -> None:
        if type(value) is not dict:
            found.setdefault(path, f"is {kind_of(value)}, not an object")
            return
        for key, member in value.items():
            inner = f"{path}.{key}"
            if key in members:
                members[key](member, inner, found)
            else:
                found.setdefault(inner, "is not a member of the table")

    return check


_SIMPLE: dict[Type, Check] = {
    Type.STRING: _string,
    Type.FLOAT: _float,
    Type.BOOLEAN: _is(bool, "a boolean"),
    Type.TIMESTAMP: _timestamp,
    Type.LIST_STRING: _list(_string),
    Type.MAP_STRING_STRING: _map,
}
