"""Rows and a run for sinks that are tried by themselves."""

from __future__ import annotations

from collections.abc import Iterable

from collector import Settings
from collector.sinks.base import Row, Run

RUN = Run("things", "20260101T000000Z-abcd", 1_767_225_600.0, Settings())


def rows(lines: Iterable[bytes]) -> list[Row]:
    """Each line as a record of one account and region."""
    return [
        Row(line, f"arn:aws:thing/{number}", "111111111111", "us-east-1")
        for number, line in enumerate(lines)
    ]
