"""Whether a file of records keeps every rule of the record format, line by line.

Memory is bounded by the longest line. No value is ever put into a message: it may be a secret.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from collector.errors import ConfigurationError
from collector.model import Table
from collector.schema.columns import EXTRA, META, all_columns
from collector.validate.checks import Found, column_check, kind_of
from collector.validate.lines import MAX_LINE, open_lines

__all__ = ["Problem", "open_lines", "validate_lines"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``line`` counts from 1; ``path`` is empty for the line itself."""

    line: int
    path: str
    message: str


def validate_lines(
    table: Table, lines: Iterable[bytes], *, extra: bool = False, meta: bool = False
) -> Iterator[Problem]:
    """Everything wrong in ``lines``, each given with its line end; nothing if all is well.

    ``_extra`` and the three columns of ``--meta`` may follow the table's columns, in this order;
    ``extra`` and ``meta`` demand them. If ``lines`` breaks off with a ConfigurationError, as a
    damaged file does, that is the last problem.
    """
    rules = _Rules(table, extra=extra, meta=meta)
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            for path, message in rules.broken_by(line).items():
                yield Problem(number, path, message)
    except ConfigurationError as error:
        yield Problem(number + 1, "", str(error))


class _Rules:
    def __init__(self, table: Table, *, extra: bool, meta: bool) -> None:
        columns = all_columns(table, extra=True, meta=True)
        self._checks = {column.name: column_check(column) for column in columns}
        self._extra = extra
        self._meta = meta
        self._names = {
            (with_extra, with_meta): tuple(
                column.name for column in all_columns(table, extra=with_extra, meta=with_meta)
            )
            for with_extra in (False, True)
            for with_meta in (False, True)
        }

    def broken_by(self, line: bytes) -> Found:
        if len(line) > MAX_LINE:
            return {"": f"is longer than {MAX_LINE >> 20} MiB"}
        text = line.removesuffix(b"\n")
        if not text.strip():
            return {"": "is blank"}
        unended = "" if line.endswith(b"\n") else "does not end with a newline"
        try:
            record = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return {"": "; ".join(filter(None, (_unreadable(text, error), unended)))}
        if not isinstance(record, dict):
            return {"": f"is {kind_of(record)}, not an object"}
        found = {"": unended} if unended else {}
        if text[:1] != b"{" or text[-1:] != b"}":
            found.setdefault("", "has something beside the object: blanks or a carriage return")
        found |= _repeated_keys(record, text)
        self._check_columns(record, found)
        for name, value in record.items():
            if check := self._checks.get(name):
                check(value, name, found)
        return found

    def _check_columns(self, record: dict[str, Any], found: Found) -> None:
        with_extra = self._extra or EXTRA.name in record
        with_meta = self._meta or any(column.name in record for column in META)
        expected = self._names[with_extra, with_meta]
        actual = tuple(record)
        if actual == expected:
            return
        wrong = {name: "is missing" for name in expected if name not in record}
        wrong |= {name: "is not a column of the table" for name in actual if name not in expected}
        if not wrong:
            pairs = zip(actual, expected, strict=True)
            name, instead = next(pair for pair in pairs if pair[0] != pair[1])
            wrong = {name: f"is out of order: {instead} belongs here"}
        for name, message in wrong.items():
            found.setdefault(name, message)


def _unreadable(text: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        text.decode()
    except UnicodeDecodeError as wrong:
        return f"is not UTF-8 at byte {wrong.start + 1}"
    return f"is not JSON: {error.msg} at character {error.colno}"


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with every key it was written with."""


def _repeated_keys(record: dict[str, Any], text: bytes) -> Found:
    # The fast reader keeps the last of equal keys and says nothing. But a line that it would
    # write again just as it is has none, and that holds for every line the collector wrote.
    with contextlib.suppress(orjson.JSONEncodeError):
        if orjson.dumps(record) == text:
            return {}
    try:
        # Numbers stay text: Python refuses to convert the longest ones.
        pairs = json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
        return dict.fromkeys(_repeats(pairs, ""), "is there more than once")
    except RecursionError:
        return {"": "is nested too deep"}


def _repeats(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Pairs):
        seen = set()
        for key, member in value:
            inner = f"{path}.{key}" if path else key
            if key in seen:
                yield inner
            seen.add(key)
            yield from _repeats(member, inner)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _repeats(item, f"{path}[{index}]")
