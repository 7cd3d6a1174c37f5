"""A destination in memory, and sinks that keep every promise to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from collector.sinks.base import Kept, Position, Refusal, Row, Run


class Shop:
    """A destination in memory: what is for all to see, and what sinks have put away for it."""

    def __init__(self) -> None:
        self.shown: list[bytes] = []
        self.kept: dict[str, list[bytes]] = {}
        self.whole: set[str] = set()
        self.faults = 0

    def fail_next(self, requests: int) -> None:
        self.faults = requests


class Good:
    """A sink that keeps every promise; with ``hides`` it has a position."""

    hides = True
    limit = 50_000

    def __init__(self, shop: Shop, run: Run) -> None:
        self.shop, self.run = shop, run.run_id
        self.lines: list[bytes] = []
        self.is_open = False

    async def open(self, position: Position | None = None) -> Kept:
        self.is_open = True
        if position is None or not self.hides:
            return Kept.NOTHING
        if self.run in self.shop.whole:
            return Kept.WHOLE
        self.lines = self.shop.kept[self.run][: position["rows"]]
        return Kept.PART

    async def write(self, rows: Sequence[Row]) -> Sequence[Refusal] | None:
        lines = [row.line for row in rows if len(row.line) <= self.limit]
        await self.request(lines)
        return [
            Refusal(row, "shop", f"has {len(row.line)} bytes")
            for row in rows
            if len(row.line) > self.limit
        ]

    async def request(self, lines: list[bytes]) -> None:
        while self.shop.faults:
            self.shop.faults -= 1
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.take(lines)

    def take(self, lines: list[bytes]) -> None:
        if self.hides:
            self.lines += lines
        else:
            self.shop.shown += lines

    async def flush(self) -> Position | None:
        if not self.hides:
            return None
        self.shop.kept[self.run] = list(self.lines)
        return {"rows": len(self.lines)}

    async def close(self, *, whole: bool) -> str | None:
        if not self.is_open:
            return None
        self.is_open = False
        if whole and self.hides and self.run not in self.shop.whole:
            self.shop.shown += self.lines
            self.shop.whole.add(self.run)
        return None if whole else "What was read is put away"


class Plain(Good):
    hides = False
