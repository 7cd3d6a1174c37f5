"""Descriptions of jobs: a table's columns, walked to give an answer such as AWS would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from collector.model import Column, Table, Type, Wire
from collector.testing.jobs import Job
from collector.testing.values import (
    ABSENT,
    INT64_MAX,
    LEFT_OUT,
    LIKELY,
    REQUIRED,
    UNKNOWN,
    VALUES,
    Context,
    Maker,
)

FULL, BARE = 7, 13
"""Of twenty jobs, the one with every member and the one with the required ones alone."""

_LIKELY = 0.85
_NESTED = 0.5
_RARE = 0.12
_EMPTY = 0.06


@dataclass(frozen=True, slots=True)
class _Node:
    """A column made ready: how likely it is and how its value is made."""

    member: str
    type: Type
    make: Maker | None
    share: float
    children: tuple[_Node, ...]


class Describer:
    """Makes the answers of a table's Describe operation."""

    def __init__(self, table: Table, *, unknown_members: bool = False) -> None:
        self._nodes = _nodes(table.columns, "")
        self._left_out = {path: LEFT_OUT[path] for path in table.left_out if path in LEFT_OUT}
        self._unknown = UNKNOWN if unknown_members else {}

    def describe(self, job: Job, context: Context) -> Wire:
        """The whole answer, timestamps as epoch seconds."""
        rng = context.rng
        rng.seed(job.chance)
        place = job.number % 20
        scale = 0.0 if place == BARE else 9.0 if place == FULL else 1.0
        answer = _fill(self._nodes, context, scale)
        if place == FULL or job.number % 9 == 4:  # noqa: PLR2004 - one in nine
            _graft(answer, self._left_out)
        if job.number % 3 == 0:
            _graft(answer, self._unknown)
        for member, value in job.changes.items():
            if value is None:
                answer.pop(member, None)
            else:
                answer[member] = value
        return answer


def _nodes(columns: tuple[Column, ...], prefix: str) -> tuple[_Node, ...]:
    found = []
    for column in columns:
        if column.provider is None:
            continue
        path = f"{prefix}{column.provider}"
        if path in REQUIRED:
            share = 1.0
        elif path in LIKELY:
            share = _LIKELY
        else:
            share = _NESTED if prefix else _RARE
        found.append(
            _Node(
                member=column.provider,
                type=column.type,
                make=VALUES.get(path) or VALUES.get(f"*.{column.provider}"),
                share=share,
                children=_nodes(column.fields, f"{path}."),
            )
        )
    return tuple(found)


def _fill(nodes: tuple[_Node, ...], context: Context, scale: float) -> Wire:
    chance = context.rng.random
    answer: Wire = {}
    for node in nodes:
        if node.share < 1.0 and chance() >= node.share * scale:
            continue
        value = node.make(context) if node.make else _value(node, context, scale)
        if value is not ABSENT:
            answer[node.member] = value
    return answer


def _value(node: _Node, context: Context, scale: float) -> Any:
    """A value by type alone, for members that nobody wrote one for."""
    rng, name = context.rng, node.member
    if node.type is Type.STRUCT:
        return _fill(node.children, context, scale)
    if node.type not in {Type.LIST_STRUCT, Type.LIST_STRING, Type.MAP_STRING_STRING}:
        return _SCALARS[node.type](name, context)
    empty = scale <= 1.0 and node.share < 1.0 and rng.random() < _EMPTY
    length = 0 if empty else 1 + int(rng.random() * 2)
    if node.type is Type.LIST_STRUCT:
        return [_fill(node.children, context, scale) for _ in range(length)]
    if node.type is Type.LIST_STRING:
        return [_text(name, context) for _ in range(length)]
    return {f"{name[:12]}{number}": _text(name, context) for number in range(length)}


def _text(member: str, context: Context) -> str:
    return f"{member}-{context.code(8)}"


_SCALARS: dict[Type, Callable[[str, Context], Any]] = {
    Type.STRING: _text,
    Type.BOOLEAN: lambda _, context: context.pick(True, False),
    Type.INT32: lambda _, context: int(context.rng.random() * 86_400),
    Type.INT64: lambda _, context: INT64_MAX - context.rng.getrandbits(60),
    Type.FLOAT: lambda _, context: context.rng.random(),
    Type.TIMESTAMP: lambda _, context: context.moment(),
}


def _graft(answer: Wire, members: Mapping[str, Any]) -> None:
    """Put members at their dotted paths, beside what is there."""
    for path, value in members.items():
        *parents, member = path.split(".")
        places: list[Wire] = [answer]
        for parent in parents:
            inner = [place.get(parent) for place in places]
            places = [
                item
                for value_ in inner
                for item in (value_ if isinstance(value_, list) else [value_])
                if isinstance(item, dict)
            ]
        for place in places:
            place[member] = value
