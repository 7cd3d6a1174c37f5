"""Filters of a query that spare calls: none of them is left to AWS alone.

They come as the engine's own values, of classes called EqualTo, In, GreaterThan and so on, with
``attribute`` (a path) and ``value``. Whatever is not understood here is passed over.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from collector.incremental import MARGIN
from collector.model import Table
from collector.parse import parse_time
from collector.settings import Settings
from collector.spread.parts import Key

_LOW, _HIGH = ("GreaterThan", "GreaterThanOrEqual"), ("LessThan", "LessThanOrEqual")
_EQUAL = ("EqualTo", "EqualNullSafe")


class Filters:
    """What is known of the rows that a query wants, all conditions taken together."""

    def __init__(self, table: Table) -> None:
        columns = {column.provider: column.name for column in table.columns}
        self._arn, self._created = columns[table.arn], columns[table.created]
        self._status = columns[table.status]
        self._arn_format, self._statuses = table.arn_format, table.statuses
        self.accounts: set[str] | None = None
        self.regions: set[str] | None = None
        self.arns: list[tuple[str, ...]] = []
        self.after: float | None = None
        self.before: float | None = None
        self.status: str | None = None

    def add(self, condition: Any) -> None:
        """Take one more condition into account."""
        path: tuple[str, ...] = getattr(condition, "attribute", ())
        value = getattr(condition, "value", None)
        if len(path) != 1 or value is None:
            return
        kind, name = type(condition).__name__, path[0]
        values = (value,) if kind in _EQUAL else tuple(value) if kind == "In" else ()
        if name == "account_id" and values:
            self.accounts = _both(self.accounts, values)
        elif name == "_region" and values:
            self.regions = _both(self.regions, values)
        elif name == self._arn and (values or kind == "StringStartsWith"):
            self.arns.append(values or (value,))
        elif name == self._status and kind in _EQUAL and value in self._statuses:
            self.status = value
        elif name == self._created and isinstance(value, datetime):
            self._add_time(kind, value)

    def _add_time(self, kind: str, value: datetime) -> None:
        moment = value.replace(tzinfo=value.tzinfo or UTC).timestamp()
        # AWS's own bounds are exclusive, and may see whole seconds only.
        if kind in (*_LOW, *_EQUAL):
            self.after = max(self.after or 0.0, moment - MARGIN)
        if kind in (*_HIGH, *_EQUAL):
            self.before = min(self.before or moment + MARGIN, moment + MARGIN)

    def wants(self, key: Key, partition: str) -> bool:
        """Whether a target may hold such rows; of region ``*`` nothing but the account counts."""
        account, region = key
        if self.accounts is not None and account not in self.accounts:
            return False
        if region == "*":
            return True
        if self.regions is not None and region not in self.regions:
            return False
        own = self._arn_format.format(
            partition=partition, region=region, account_id=account, name=""
        )
        return all(
            any(own.startswith(arn) or arn.startswith(own) for arn in group) for group in self.arns
        )

    def narrowed(self, settings: Settings, now: float) -> Settings | None:
        """The settings that list only such jobs; None if there can be none."""
        after, before = self.after, self.before
        if settings.created_after:
            after = max(after or 0.0, parse_time(settings.created_after, now))
        if settings.created_before:
            given = parse_time(settings.created_before, now)
            before = given if before is None else min(before, given)
        if after is not None and before is not None and after >= before:
            return None
        return settings.model_copy(
            update={
                "created_after": _iso(after),
                "created_before": _iso(before),
                "status": settings.status or self.status,
            }
        )


def _both(known: set[str] | None, values: tuple[str, ...]) -> set[str]:
    return set(values) if known is None else known & set(values)


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()
