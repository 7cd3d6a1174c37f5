"""What people write in flags, variables and YAML, as the values of settings.

Pure functions; each raises ValueError with what is wrong, for a person.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]i?B|B)?")
_BYTES = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20,
    "GiB": 1 << 30,
}  # fmt: skip
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ACCOUNT_ID = re.compile(r"\d{12}")
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d+")


def parse_duration(value: object) -> float:
    """Seconds from ``90s``, ``10m``, ``24h``, ``7d``, ``250ms`` or a number of seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value) and value >= 0:
            return float(value)
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        seconds = float(match[1]) * _SECONDS[match[2]]
        if math.isfinite(seconds):
            return seconds
    raise ValueError(f"{value!r} is not a duration such as 90s, 10m, 24h or 7d")


def parse_optional_duration(value: object) -> float | None:
    """As `parse_duration`; None stays None."""
    return None if value is None else parse_duration(value)


def parse_size(value: object) -> int:
    """Bytes from ``128MiB``, ``64KB``, ``1GiB`` or a number of bytes."""
    if isinstance(value, int):
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(float(match[1]) * _BYTES[match[2] or ""])
    raise ValueError(f"{value!r} is not a size such as 64MiB")


def parse_time(value: str, now: float) -> float:
    """Epoch seconds from a date, a timestamp (UTC unless it has an offset) or an age (90d)."""
    text = value.strip()
    if _DURATION.fullmatch(text) and not text.replace(".", "").isdigit():
        return now - parse_duration(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{value!r} is not a date (2026-01-31), a timestamp (2026-01-31T12:00:00Z) "
            "or an age (90d)"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_words(value: Any) -> Any:
    """A comma list (or a list of them) as a tuple of words; anything else as it is."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, list | tuple):
        return tuple(
            word
            for item in value
            for word in (
                [part.strip() for part in item.split(",")] if isinstance(item, str) else [item]
            )
            if word != ""
        )
    return value


def parse_pairs(value: Any) -> Any:
    """``OP=N`` items (a string, a comma list or a list of them) as a mapping."""
    if isinstance(value, Mapping) or not isinstance(value, str | list | tuple):
        return value
    pairs = {}
    for item in parse_words(value):
        key, equals, amount = str(item).partition("=")
        if not (equals and key.strip() and amount.strip()):
            raise ValueError(f"{item!r} is not of the form NAME=VALUE")
        pairs[key.strip()] = amount.strip()
    return pairs


def parse_uris(value: Any) -> Any:
    """URIs from a list, or one a line: they may hold commas and blanks."""
    return tuple(value.splitlines()) or ("",) if isinstance(value, str) else value


def parse_path(value: Any) -> Any:
    """A path of a program as the text that a person would write."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def parse_headers(value: Any) -> Any:
    """``NAME=VALUE`` items as a mapping; a value may hold commas."""
    if isinstance(value, Mapping) or not isinstance(value, str | list | tuple):
        return value
    pairs = {}
    for item in (value,) if isinstance(value, str) else value:
        name, equals, content = str(item).partition("=")
        if not (equals and _HEADER.fullmatch(name.strip()) and content.strip()):
            # Not repeated: it may hold what nobody is to see.
            raise ValueError("takes NAME=VALUE, NAME the name of a header")
        pairs[name.strip()] = content.strip()
    return pairs


def parse_account_ids(value: Any) -> Any:
    """Account ids from a comma list, a list, or what YAML makes of unquoted ones."""
    ids = (value,) if isinstance(value, int) else parse_words(value)
    if not isinstance(ids, tuple):
        raise ValueError(f"{value!r} is not a list of account ids")  # noqa: TRY004
    for item in ids:
        # YAML reads an unquoted id that starts with 0 as another number.
        if isinstance(item, bool) or not _ACCOUNT_ID.fullmatch(str(item)):
            raise ValueError(f"{item!r} is not a 12-digit account id (in YAML, quote account ids)")
    return tuple(dict.fromkeys(str(item) for item in ids))


def parse_on_or_off(value: Any) -> Any:
    """YAML reads an unquoted on or off as a boolean."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


def parse_accounts(value: Any) -> Any:
    if isinstance(value, str) and value.strip() in {"current", "organization"}:
        return value.strip()
    if not (ids := parse_account_ids(value)):
        raise ValueError("takes current, organization or a list of account ids")
    return ids


def parse_regions(value: Any) -> Any:
    if value == "all":
        return value
    names = parse_words(value)
    if not (isinstance(names, tuple) and names):
        raise ValueError("takes all or a list of regions")
    for name in names:
        if not (isinstance(name, str) and _REGION.fullmatch(name)):
            raise ValueError(f"{name!r} is not the name of a region, such as us-east-1")
    return tuple(dict.fromkeys(names))
