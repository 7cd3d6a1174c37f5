"""What the checks of `check_sink` are made of: runs, records, and what came of them."""

from __future__ import annotations

import gc
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from secrets import token_hex
from typing import Any, TypeAlias, TypeVar

import orjson

from collector.settings import Settings
from collector.sinks.base import Kept, Position, Refusal, Row, Run, Sink
from collector.tables import load_table

_T = TypeVar("_T")
Make: TypeAlias = Callable[[Run], Sink]
Seen: TypeAlias = Iterable[Mapping[str, Any] | bytes | str]
Read: TypeAlias = Callable[[], Seen | Awaitable[Seen]]
FailNext: TypeAlias = Callable[[int], Awaitable[None] | None]
Kill: TypeAlias = Callable[[Sink], Awaitable[None] | None]

_PLACES = (
    ("111111111111", "us-east-1"),
    ("111111111111", "eu-west-1"),
    ("222222222222", "us-east-1"),
)
_TEXT = "naïve – Ω≈ç√ – 訓練ジョブ – 🚂 – \u2028 – \\n\"'"  # noqa: RUF001


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What `check_sink` was given, and what its checks are made of."""

    make: Make
    read: Read
    settings: Settings
    hides: bool
    ordered: bool
    exactly_once: bool
    limit: int | None
    fail_next: FailNext | None
    kill: Kill | None
    unreachable: Make | None

    def run(self) -> Run:
        return Run(self.settings.table, f"check-{token_hex(6)}", time.time(), self.settings)

    @cached_property
    def _columns(self) -> tuple[dict[str, None], str]:
        """The table's columns, and the one that holds the ARN."""
        table = load_table(self.settings.table)
        (arn,) = (column.name for column in table.columns if column.provider == table.arn)
        return {column.name: None for column in table.columns}, arn

    def row(self, run: Run, number: int, *, attempt: int = 1, size: int = 0) -> Row:
        """A record of ``run``, padded to ``size`` bytes; each ``attempt`` at it looks different."""
        columns, key = self._columns
        account, region = _PLACES[number % len(_PLACES)]
        arn = f"arn:aws:sagemaker:{region}:{account}:training-job/{run.run_id}-{number:05}"
        tags = [f"attempt:{attempt}", f"note:{_TEXT}", "pad:"]
        record = {**columns, key: arn, "account_id": account, "tags": tags}
        padding = size - len(orjson.dumps(record)) - 1
        tags[-1] += "x" * max(0, padding)
        return Row(orjson.dumps(record) + b"\n", arn, account, region)

    def rows(self, run: Run, numbers: Iterable[int], *, attempt: int = 1) -> list[Row]:
        return [self.row(run, number, attempt=attempt) for number in numbers]

    @asynccontextmanager
    async def opened(self, run: Run, position: Position | None = None) -> AsyncIterator[Sink]:
        """A sink that is open, at ``position`` if one is given; closed here only after an error."""
        sink = self.make(run)
        hold(isinstance(sink, Sink), f"{type(sink).__name__} lacks a method of Sink")
        kept = await sink.open(position)
        try:
            wanted = Kept.NOTHING if position is None else Kept.PART
            hold(kept is wanted, f"open({position}) returned {kept} in place of {wanted}")
            yield sink
        except BaseException:
            with suppress(Exception):
                await sink.close(whole=False)
            raise

    async def put(self, sink: Sink, rows: Sequence[Row]) -> None:
        """Write rows none of which may be refused."""
        refused = list(await sink.write(rows) or ())
        hold(not refused, f"write refused records within its limit: {reasons(refused)}")

    async def flush(self, sink: Sink) -> Position | None:
        position = await sink.flush()
        try:
            kept: Position | None = orjson.loads(orjson.dumps(position))
        except orjson.JSONEncodeError as error:
            raise AssertionError(
                f"the position that flush returned is not JSON: {error}"
            ) from error
        hold(kept == position, f"the position {position} comes back from JSON as {kept}")
        return kept

    async def close(self, sink: Sink, *, whole: bool) -> None:
        note = await sink.close(whole=whole)
        told = note is None or (isinstance(note, str) and bool(note) and "\n" not in note)
        hold(told, f"close returned {note!r} in place of one sentence or None")

    async def deliver(self, run: Run, rows: Sequence[Row]) -> None:
        """A whole run."""
        async with self.opened(run) as sink:
            await self.put(sink, rows)
            await self.flush(sink)
            await self.close(sink, whole=True)

    async def end(self, sink: Sink) -> None:
        """The end of the sink's process, as far as it can be had in this one."""
        if self.kill is not None:
            await done(self.kill(sink))

    def forget(self) -> None:
        """A sink that was dropped does what it does then."""
        if self.kill is None:
            gc.collect()

    async def fail(self, requests: int) -> None:
        if self.fail_next is not None:
            await done(self.fail_next(requests))

    async def seen(self, run: Run) -> list[dict[str, Any]]:
        """The records of ``run`` at the destination."""
        mark = run.run_id
        coded = mark.encode()
        lines = [item for item in await done(self.read()) if _holds(item, mark, coded)]
        key = self._columns[1]
        records = map(_record, lines)
        return [record for record in records if f"/{mark}-" in str(record.get(key))]

    async def shows_nothing(self, run: Run) -> None:
        found = await self.seen(run)
        hold(not found, f"{len(found)} records are there")

    async def shows(
        self, run: Run, rows: Sequence[Row], *, once: bool | None = None, or_of: Sequence[Row] = ()
    ) -> None:
        """``rows`` are there, ``once`` as promised or as said; of ``or_of``, any may be."""
        key = self._columns[1]
        wanted = {row.arn: orjson.loads(row.line) for row in rows}
        found: dict[str, list[dict[str, Any]]] = {}
        for record in await self.seen(run):
            found.setdefault(record[key], []).append(record)
        none_are([arn for arn in wanted if arn not in found], wanted, "are missing")
        strange = found.keys() - wanted.keys() - {row.arn for row in or_of}
        none_are(strange, found, "should not be there")
        changed = [arn for arn, record in wanted.items() if record not in found[arn]]
        none_are(changed, wanted, "are not as they were last written")
        if self.exactly_once if once is None else once:
            twice = [arn for arn, copies in found.items() if len(copies) > 1]
            none_are(twice, wanted, "are there more than once")
        if self.ordered:
            came = [arn for arn in found if arn in wanted]
            moved = [arn for arn, other in zip(wanted, came, strict=True) if arn != other]
            none_are(moved, wanted, "are out of order")


def hold(kept: bool, found: str) -> None:
    """Raise AssertionError with what was ``found``, unless what was promised is ``kept``."""
    if not kept:
        raise AssertionError(found)


def none_are(arns: Collection[str], among: Collection[str], what: str) -> None:
    """Hold that no ARN is among those that ``what`` says something bad of."""
    if arns:
        first = min(arns).rpartition("/")[2]
        raise AssertionError(f"{len(arns)} of {len(among)} records {what}, such as {first}")


def reasons(refused: Sequence[Refusal]) -> str:
    return "; ".join(f"{refusal.sink!r}, {refusal.why!r}" for refusal in refused[:3])


def _holds(item: Mapping[str, Any] | bytes | str, mark: str, coded: bytes) -> bool:
    """Whether a record that was read may be of the run with this id: most are of others."""
    if isinstance(item, bytes):
        return coded in item
    return not isinstance(item, str) or mark in item


def _record(item: Mapping[str, Any] | bytes | str) -> dict[str, Any]:
    """A record as `read` gave it."""
    if isinstance(item, Mapping):
        return dict(item)
    try:
        record = orjson.loads(item)
    except orjson.JSONDecodeError as error:
        raise AssertionError(f"what was read is no record: {item[:100]!r}") from error
    hold(isinstance(record, dict), f"what was read is no record: {item[:100]!r}")
    return dict(record)


async def done(result: Awaitable[_T] | _T) -> _T:
    """The result of what may be a coroutine."""
    return await result if isinstance(result, Awaitable) else result
