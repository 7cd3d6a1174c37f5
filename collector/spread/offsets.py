"""Offsets of a stream: up to when each target has been read. Plain values, fit for JSON.

    {"until": epoch seconds,
     "read": {"eu-west-1,us-east-1": "111111111111,222222222222"},
     "away": {"333333333333/us-east-1": epoch seconds}}

``read`` are the targets read until then, accounts by their regions (thousands of targets are a few
kilobytes so). ``away`` are targets that are not found any more, and until when they were read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from collector.model import Span
from collector.spread.parts import Key

Offset = dict[str, Any]

BEGINNING: Offset = {"until": 0, "read": {}, "away": {}}


def advance(start: Offset, found: Iterable[Key], until: int) -> Offset:
    """The offset after ``start`` when what was ``found`` has been read ``until`` then."""
    if until <= start["until"]:
        return start
    keys = set(found)
    known = _known(start)
    away = {f"{key[0]}/{key[1]}": since for key, since in sorted(known.items()) if key not in keys}
    return {"until": until, "read": _packed(keys), "away": away}


def spans(start: Offset, end: Offset) -> dict[Key, Span | None]:
    """What lies between two offsets: everything of a target that was not read before."""
    until = end["until"]
    if until <= start["until"]:
        return {}
    known = _known(start)
    return {key: Span(known.get(key, 0), until) for key in sorted(_unpacked(end["read"]))}


def _packed(keys: Iterable[Key]) -> dict[str, str]:
    regions: dict[str, list[str]] = {}
    for account, region in sorted(keys):
        regions.setdefault(account, []).append(region)
    accounts: dict[str, list[str]] = {}
    for account, names in regions.items():
        accounts.setdefault(",".join(names), []).append(account)
    return {names: ",".join(ids) for names, ids in sorted(accounts.items())}


def _unpacked(read: dict[str, str]) -> list[Key]:
    return [
        (account, region)
        for regions, accounts in read.items()
        for account in accounts.split(",")
        for region in regions.split(",")
    ]


def _known(offset: Offset) -> dict[Key, int]:
    """Until when each target has been read."""
    until: int = offset["until"]
    known = dict.fromkeys(_unpacked(offset["read"]), until)
    for place, since in offset["away"].items():
        account, _, region = place.partition("/")
        known[account, region] = since
    return known
