"""Wire answer in, record out: a table is compiled once into plain functions.

The rules of a record are here and nowhere else: which members appear, how each type is written,
what happens to a value of the wrong type (it is kept out and noted, the record stays valid) and
to a member that the table does not know (it is noted, and kept under ``_extra`` on request).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from collector.model import Column, Record, Table, Type, Wire

INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_LONGEST_TIME = 64
"""Characters. A timestamp has some thirty: what is longer is none."""

_DEEPEST_EXTRA = 200
"""Levels of objects and lists within each other: orjson writes 254, some of them above these."""

_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
_DAY_MS = 86_400_000
_FAR = 1e12  # seconds; far outside every year that RFC 3339 can write
_FIRST_DAY, _LAST_DAY = date(1, 1, 1).toordinal(), date(9999, 12, 31).toordinal()
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MINUTES = tuple(f"{minute // 60:02}:{minute % 60:02}:" for minute in range(1440))
_SECONDS = tuple(f"{second:02}." for second in range(60))
_MILLISECONDS = tuple(f"{ms:03}Z" for ms in range(1000))
_TEXTS = frozenset({Type.STRING, Type.LIST_STRING, Type.MAP_STRING_STRING})
_AS_IT_IS: dict[Type, type] = {Type.STRING: str, Type.BOOLEAN: bool}
"""Types whose values go into the record unchanged, if they are of this Python type."""

_days: dict[int, str] = {}
"""Day since the epoch to ``YYYY-MM-DDT``: the jobs of a page share a few days."""


class _Missing:
    """What a converter returns for a value that must be kept out."""


_MISSING = _Missing()


@dataclass(slots=True)
class Notes:
    """What flattening had to leave out of one answer.

    ``drift`` holds the paths, in AWS's names, of members the table lacks; ``coerced`` the paths,
    in the table's names, of values that were not of their column's type, or that JSON cannot
    carry. A list is marked ``[]``, a map ``{}``; below ``_extra.`` names are AWS's.
    """

    drift: list[str] = field(default_factory=list)
    coerced: list[str] = field(default_factory=list)


Converter = Callable[[Any, Notes], Any]


class Flattener:
    """A compiled table.

    ``flatten(answer, account_id, tags, notes)`` returns the record: every column of the table, in
    order, None where AWS returned nothing. It raises nothing, whatever the answer holds.
    """

    def __init__(self, table: Table, *, keep_extra: bool = False) -> None:
        self._blank: Record = {column.name: None for column in table.columns}
        self._columns = tuple(column for column in table.columns if column.provider is not None)
        self._fill = _compile_members(self._columns, "", "")
        self._tree = _tree(self._columns)
        self._keep_extra = keep_extra

    def __call__(
        self, answer: Wire, account_id: str, tags: list[str] | None, notes: Notes
    ) -> Record:
        record = self._blank.copy()
        self._fill(answer, record, notes)
        if type(answer) is not dict:
            self._note_mended(answer, notes)
        record["account_id"] = account_id
        record["tags"] = tags
        if self._keep_extra:
            extra = extra_members(answer, self._columns, notes, "_extra.") if notes.drift else {}
            record["_extra"] = extra
        return record

    def _note_mended(self, answer: Wire, notes: Notes) -> None:
        """Note those of an answer's mended values that are in the record; see `aws.mend`."""
        for place in getattr(answer, "places", ()):
            path = _mended_path(answer, place, self._tree)
            if path is not None and (self._keep_extra or not path.startswith("_extra.")):
                notes.coerced.append(path)


_Tree = dict[str, tuple[Column, Any]]
"""Columns by AWS's name for them, each with the tree of its own fields."""


def _tree(columns: tuple[Column, ...]) -> _Tree:
    return {
        column.provider: (column, _tree(column.fields)) for column in columns if column.provider
    }


def _mended_path(value: Any, place: tuple[str | int, ...], tree: _Tree) -> str | None:
    """The path of the text that ``place`` leads to, below ``value``.

    None where it is no part of the record, being of a wrong type: that has been noted already.
    """
    path = wire_path = ""
    steps = list(reversed(place))
    while steps and isinstance(value, dict):
        member = str(steps.pop())
        if member not in tree:
            return f"_extra.{wire_path}{member}"
        column, tree = tree[member]
        value = value[member]
        path += column.name
        wire_path += member
        if column.type in (Type.LIST_STRUCT, Type.LIST_STRING):
            if type(value) is not list:
                return None
            value = value[int(steps.pop())]
            path += "[]"
            wire_path += "[]"
        if column.type is Type.MAP_STRING_STRING:
            if type(value) is not dict:
                return None
            value = value[steps.pop()]
            path += "{}"
        if column.type in _TEXTS:
            return path if type(value) is str else None
        path += "."
        wire_path += "."
    return None


def _compile_members(
    columns: tuple[Column, ...], prefix: str, wire_prefix: str
) -> Callable[[Wire, Record, Notes], None]:
    """A function that moves the known members of a wire structure into ``out``."""
    plan = tuple(
        (column.provider, column.name, _AS_IT_IS.get(column.type), convert)
        for column in columns
        if column.provider is not None
        for convert in (_compile(column, prefix + column.name, wire_prefix + column.provider),)
    )
    known = frozenset(provider for provider, *_ in plan)

    def fill(wire: Wire, out: Record, notes: Notes) -> None:
        found = 0
        for provider, name, plain, convert in plan:
            value = wire.get(provider)
            if value is None:
                continue
            found += 1
            if type(value) is plain:
                out[name] = value
                continue
            value = convert(value, notes)
            if value is not _MISSING:
                out[name] = value
        if found != len(wire):
            notes.drift.extend(
                wire_prefix + member
                for member, value in wire.items()
                if member not in known and value is not None
            )

    return fill


def _compile(column: Column, path: str, wire_path: str) -> Converter:
    if column.type is Type.STRUCT:
        return _struct(column, path, wire_path)
    if column.type is Type.LIST_STRUCT:
        return _list_of(_struct(column, path + "[]", wire_path + "[]"), path)
    if column.type is Type.LIST_STRING:
        return _list_of(_checked(_text, path + "[]"), path)
    if column.type is Type.MAP_STRING_STRING:
        return _string_map(path)
    if column.type is Type.TIMESTAMP:
        return _timestamp(path)
    return _checked(_SCALARS[column.type], path)


def _struct(column: Column, path: str, wire_path: str) -> Converter:
    fill = _compile_members(column.fields, path + ".", wire_path + ".")

    def convert(value: Any, notes: Notes) -> Any:
        if type(value) is not dict:
            notes.coerced.append(path)
            return _MISSING
        out: Record = {}
        fill(value, out, notes)
        return out

    return convert


def _list_of(element: Converter, path: str) -> Converter:
    def convert(value: Any, notes: Notes) -> Any:
        if type(value) is not list:
            notes.coerced.append(path)
            return _MISSING
        converted = [element(item, notes) for item in value]
        return [item for item in converted if item is not _MISSING]

    return convert


def _string_map(path: str) -> Converter:
    def convert(value: Any, notes: Notes) -> Any:
        if type(value) is not dict:
            notes.coerced.append(path)
            return _MISSING
        wrong = [key for key, item in value.items() if type(item) is not str]
        if not wrong:
            return value
        # The key is data, and may be a secret's name: only the column is noted.
        notes.coerced.extend([path + "{}"] * len(wrong))
        return {key: item for key, item in value.items() if type(item) is str}

    return convert


def _checked(scalar: Callable[[Any], Any], path: str) -> Converter:
    def convert(value: Any, notes: Notes) -> Any:
        converted = scalar(value)
        if converted is _MISSING or converted is None:
            notes.coerced.append(path)
        return converted

    return convert


def _text(value: Any) -> Any:
    return value if type(value) is str else _MISSING


def _boolean(value: Any) -> Any:
    return value if type(value) is bool else _MISSING


def _integer(value: Any, limit: int) -> Any:
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if type(value) is int and -limit - 1 <= value <= limit:
        return value
    return _MISSING


def _int32(value: Any) -> Any:
    return _integer(value, INT32_MAX)


def _int64(value: Any) -> Any:
    return _integer(value, INT64_MAX)


def _float(value: Any) -> Any:
    """A finite number; None for NaN and the infinities, which AWS writes as strings.

    AWS did return a value, so it is null rather than left out.
    """
    if type(value) is str:
        return None if value in _NOT_FINITE else _MISSING
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return None
    if type(value) is float:
        return value if math.isfinite(value) else None
    return _MISSING


def _timestamp(path: str) -> Converter:
    """RFC 3339 in UTC with milliseconds, from epoch seconds (number or digits) or ISO 8601.

    Most of the time of flattening is spent here: the text is put together from ready parts.
    """

    def convert(value: Any, notes: Notes) -> Any:
        ms: int | None = None
        if type(value) is float or type(value) is int:
            # Rounded to microseconds first: .123 must not become .122 for want of a binary digit.
            ms = round(value * 1_000_000) // 1000 if -_FAR < value < _FAR else None
        elif type(value) is str:
            ms = _milliseconds(value)
        if ms is None:
            notes.coerced.append(path)
            return _MISSING
        day, ms = divmod(ms, _DAY_MS)
        prefix = _days.get(day) or _day(day)
        if prefix is None:
            notes.coerced.append(path)
            return _MISSING
        minute, ms = divmod(ms, 60_000)
        return prefix + _MINUTES[minute] + _SECONDS[ms // 1000] + _MILLISECONDS[ms % 1000]

    return convert


def _day(day: int) -> str | None:
    """``YYYY-MM-DDT`` of a day since the epoch, kept; None outside the years 1 to 9999."""
    if not _FIRST_DAY <= day + _EPOCH_DAY <= _LAST_DAY:
        return None
    if len(_days) > 20_000:  # noqa: PLR2004 - 55 years; only nonsense dates come near
        _days.clear()
    prefix = _days[day] = date.fromordinal(day + _EPOCH_DAY).isoformat() + "T"
    return prefix


def _milliseconds(text: str) -> int | None:
    """Milliseconds since the epoch of a time that is written as text: exact, unlike a float."""
    time = _time(text)
    if isinstance(time, datetime):
        return (time - _EPOCH) // _MILLISECOND
    return None if time is None or not -_FAR < time < _FAR else round(time * 1_000_000) // 1000


def _time(text: str) -> float | datetime | None:
    """Epoch seconds or a moment with its time zone, whichever ``text`` holds."""
    if len(text) > _LONGEST_TIME:
        return None
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def epoch_seconds(value: Any) -> float | None:
    """Epoch seconds of a timestamp as the wire carries it, or None where it is none."""
    if type(value) is str:
        value = _time(value)
        if isinstance(value, datetime):
            value = (value - _EPOCH).total_seconds()
    is_number = type(value) is float or type(value) is int
    return float(value) if is_number and -_FAR < value < _FAR else None


def extra_members(
    wire: Wire, columns: tuple[Column, ...], notes: Notes, path: str
) -> dict[str, Any]:
    """The part of an answer that the table does not know, in the answer's own shape.

    Lists keep their length, so that an element's extra members stand at its index. A value nested
    more deeply than JSON can be written is kept out, and noted.
    """
    known = {column.provider: column for column in columns}
    extra: dict[str, Any] = {}
    for member, value in wire.items():
        column = known.get(member)
        if column is None:
            if _is_deep(value):
                notes.coerced.append(path + member)
            elif value is not None:
                extra[member] = value
        elif column.type is Type.STRUCT and type(value) is dict:
            if inner := extra_members(value, column.fields, notes, f"{path}{member}."):
                extra[member] = inner
        elif column.type is Type.LIST_STRUCT and type(value) is list:
            inners = [
                extra_members(item, column.fields, notes, f"{path}{member}[].")
                if type(item) is dict
                else {}
                for item in value
            ]
            if any(inners):
                extra[member] = inners
    return extra


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST_EXTRA):
        level = [
            inner
            for item in level
            if type(item) is dict or type(item) is list
            for inner in (item.values() if type(item) is dict else item)
        ]
        if not level:
            return False
    return True


_SCALARS: dict[Type, Callable[[Any], Any]] = {
    Type.STRING: _text,
    Type.INT32: _int32,
    Type.INT64: _int64,
    Type.FLOAT: _float,
    Type.BOOLEAN: _boolean,
}
