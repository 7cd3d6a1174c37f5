"""JSON that orjson refuses, read all the same where it can be: half characters, huge numbers."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from collector.model import Wire

DEEPEST = 1024
"""Levels of objects and lists within each other; as many as orjson reads."""

_NAMED_LEVELS = 32
"""Levels to which a mended string's place is told: more than any table has."""

_HALF = re.compile("[\ud800-\udfff]")


class Mended(dict[str, Any]):
    """An answer with text that is none, read as U+FFFD, or numbers beyond float, read as infinite.

    ``places`` leads to each value that this befell, or whose key: the names of members and the
    indices in lists on the way to it, the outermost ones where there are very many.
    """

    def __init__(self, content: Wire, places: list[tuple[str | int, ...]]) -> None:
        super().__init__(content)
        self.places = places


def loads_leniently(body: bytes) -> Any:
    """JSON that orjson refuses: half a surrogate pair (read as U+FFFD), numbers beyond float.

    None for what is no JSON at all; RecursionError for what is nested too deeply.
    """
    try:
        content = json.loads(body, parse_int=_integer)
    except ValueError:
        return None
    places = _mend(content)
    return Mended(content, places) if places and isinstance(content, dict) else content


def _integer(digits: str) -> int | float:
    """An integer of 64 bits, or a float, as orjson reads it."""
    if len(digits) <= len("-9223372036854775808"):
        value = int(digits)
        if -(2**63) <= value < 2**64:
            return value
    return float(digits)


def _mend(content: Any) -> list[tuple[str | int, ...]]:
    """Make ``content`` fit for JSON, in place; returns the places, as `Mended` has them.

    Without recursion: how deep that may go differs from one Python to the next.
    """
    places: list[tuple[str | int, ...]] = []
    path: list[str | int] = []
    stack = [_Entered(content)]
    while stack:
        inside = stack[-1]
        for key, value in inside.items:
            kind = type(value)
            times = inside.mended.get(key, 0)
            if kind is str and not value.isascii() and _HALF.search(value):
                inside.container[key] = _whole(value)
                times = times or 1
            elif kind is float and not math.isfinite(value):
                times = times or 1
            if times:
                places += [(*path[:_NAMED_LEVELS], key)] * times
            if (kind is dict or kind is list) and value:
                if len(stack) == DEEPEST:
                    raise RecursionError
                path.append(key)
                stack.append(_Entered(value))
                break
        else:
            stack.pop()
            del path[-1:]
    return places


class _Entered:
    """A list or an object on the way through an answer; ``mended`` counts keys that were."""

    __slots__ = ("container", "items", "mended")

    def __init__(self, container: Any) -> None:
        self.container = container
        self.mended: dict[str, int] = {}
        if type(container) is dict:
            if not all(map(str.isascii, container)):
                self.mended = _mend_keys(container)
            self.items: Iterator[tuple[Any, Any]] = iter(container.items())
        else:
            self.items = enumerate(container if type(container) is list else ())


def _mend_keys(container: Wire) -> Counter[str]:
    """Of keys that become the same one, the last keeps its value."""
    entries = list(container.items())
    mended = Counter(_whole(key) for key, _ in entries if _HALF.search(key))
    if mended:
        container.clear()
        container.update((_whole(key), value) for key, value in entries)
    return mended


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
