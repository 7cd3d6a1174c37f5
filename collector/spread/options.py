"""Options of a table that is read in parts: the settings in camelCase, and a few of its own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collector.errors import ConfigurationError
from collector.model import Column, Table
from collector.objects import SCHEMES
from collector.parse import parse_duration, parse_words
from collector.schema import all_columns
from collector.settings import Settings, setting_fields, settings_from

PARTS = 64
"""Parts by default: more of them than a cluster has cores cost little, fewer leave cores idle."""

MOST_PARTS = 10_000
FAILFAST, PERMISSIVE = "failfast", "permissive"

_OWN = ("columns", "mode", "numPartitions", "pollEvery", "reportPath")
_SHOWN = "the engine has its own log"
_WHOLE = "a batch reads everything, and a stream keeps its offsets in its checkpoint"
_MEASURED = "the engine has its own metrics"
_REFUSED = {
    "table": "the format's name is the table's",
    "sink": "the engine writes the records",
    "sink_header": "the engine writes the records",
    "report": "tasks leave their reports below reportPath",
    "grace": "the engine stops its tasks itself",
    "allow_incomplete": "use mode=permissive",
    "retry_failed": "the engine runs a task that failed again",
    "state": _WHOLE,
    "full": _WHOLE,
    "full_every": _WHOLE,
    "shard": "numPartitions spreads the targets",
    "metrics": _MEASURED,
    "metrics_file": _MEASURED,
    "progress": _SHOWN,
    "log_format": _SHOWN,
    "log_level": _SHOWN,
}
"""Settings that make no sense in an engine, and why."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to read, and how to spread it.

    ``columns`` are those of a row, in order; ``report_path`` is a folder or object-store prefix;
    ``poll_every`` are the least seconds between two offsets of a stream, if any are given.
    """

    settings: Settings
    columns: tuple[Column, ...]
    mode: str = FAILFAST
    parts: int = PARTS
    report_path: str | None = None
    poll_every: float | None = None

    def for_batch(self) -> Options:
        """Itself. Raises ConfigurationError where it is of no use to a batch."""
        if self.poll_every is not None:
            raise ConfigurationError("pollEvery is an option of streams.")
        if self.mode == PERMISSIVE and self.report_path is None:
            raise ConfigurationError(
                "mode=permissive needs reportPath, a folder or an object-store prefix: "
                "what could not be read is told there."
            )
        return self

    def for_stream(self) -> Options:
        """Itself. Raises ConfigurationError where it is of no use to a stream."""
        if self.mode == PERMISSIVE:
            raise ConfigurationError(
                "mode=permissive is for batches: what a stream passes over once, it never reads. "
                "Leave accounts that cannot be read out with excludeAccounts."
            )
        if self.settings.created_before is not None:
            raise ConfigurationError("createdBefore is for batches: a stream has no end.")
        return self


def read_options(table: Table, given: Mapping[str, str]) -> Options:
    """The options of one read of ``table``, whatever the case of their names.

    Raises ConfigurationError that names what is unknown, wrong or of no use here.
    """
    own, values = _sorted(given)
    settings = settings_from({**values, "table": table.name}, camel)
    columns = all_columns(table, extra=settings.extra == "keep", meta=settings.meta)
    return Options(
        settings,
        select(columns, parse_words(own.get("columns", ""))),
        mode=_mode(own.get("mode", FAILFAST)),
        parts=_parts(own.get("numPartitions", str(PARTS))),
        report_path=_place(own["reportPath"]) if "reportPath" in own else None,
        poll_every=_duration(own["pollEvery"]) if "pollEvery" in own else None,
    )


def report_options(given: Mapping[str, str]) -> tuple[str, Settings]:
    """Where reports are to be read, and the settings to read them with."""
    names = {"reportpath": "reportPath", "profile": "profile", "endpointurl": "endpointUrl"}
    for name in given:
        if name.lower() not in names:
            raise ConfigurationError(_unknown(name, list(names.values())))
    values = {names[name.lower()]: value for name, value in given.items()}
    if "reportPath" not in values:
        raise ConfigurationError("Give reportPath, where the reports were left.")
    own = {"profile": values.get("profile"), "endpoint_url": values.get("endpointUrl")}
    given_settings = {name: value for name, value in own.items() if value is not None}
    return _place(values["reportPath"]), settings_from(given_settings, camel)


def camel(name: str) -> str:
    """``role_name`` as ``roleName``; what follows a dot stays as it is."""
    head, dot, rest = name.partition(".")
    first, *others = head.split("_")
    return first + "".join(map(str.capitalize, others)) + dot + rest


def select(columns: tuple[Column, ...], names: tuple[str, ...]) -> tuple[Column, ...]:
    """Those of ``columns`` with these ``names``, in the names' order; all where none is given."""
    known = {column.name: column for column in columns}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "`collector schema` lists them."
            raise ConfigurationError(f"There is no column {name!r}; {hint}")
    return tuple(known[name] for name in dict.fromkeys(names)) or columns


def _sorted(given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Options of this module, and settings by their own names. Engines may change names' case."""
    settings = {camel(name).lower(): name for name in setting_fields()}
    ours = {name.lower(): name for name in _OWN}
    own: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, value in given.items():
        key = name.lower()
        if key in ours:
            own[ours[key]] = value
        elif settings.get(key) in _REFUSED:
            refused = settings[key]
            raise ConfigurationError(f"There is no option {camel(refused)}: {_REFUSED[refused]}.")
        elif key in settings:
            values[settings[key]] = value
        else:
            offered = [camel(each) for each in setting_fields() if each not in _REFUSED]
            raise ConfigurationError(_unknown(name, [*offered, *_OWN]))
    return own, values


def _unknown(name: str, known: list[str]) -> str:
    by_key = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower().replace("_", ""), by_key, 1)
    return f"There is no option {name}" + (f"; did you mean {by_key[near[0]]}?" if near else ".")


def _mode(value: str) -> str:
    if (mode := value.lower()) not in (FAILFAST, PERMISSIVE):
        raise ConfigurationError(f"mode: takes {FAILFAST} or {PERMISSIVE}, not {value!r}.")
    return mode


def _parts(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= MOST_PARTS):
        raise ConfigurationError(f"numPartitions: takes 1 to {MOST_PARTS}, not {value!r}.")
    return int(value)


def _duration(value: str) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ConfigurationError(f"pollEvery: {error}.") from None


def _place(value: str) -> str:
    scheme, separator, _ = value.partition("://")
    if not value or (separator and scheme not in ("file", *SCHEMES)):
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise ConfigurationError(
            f"reportPath: takes a folder that all machines see, or {known}, not {value!r}."
        )
    return value if separator else f"file://{value}"
