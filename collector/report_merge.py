"""`collector report merge`: the reports of several runs, above all of shards, as one.

The report of a whole is as `collector.report` describes it, and complete only if nothing of the
whole is missing: every part complete, every shard there once, no target read by two.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from collector.errors import ConfigurationError
from collector.model import Outcome
from collector.shards import CLOSED, parse_shard

_EXACT = ConfigDict(extra="forbid")
_EVERY_REGION = "*"

Count = Annotated[int, Field(ge=0)]
Counts = dict[str, Count]
Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
"""A time as reports have it: in this form the earliest is the least."""


@dataclass(frozen=True, slots=True)
class Totals:
    __pydantic_config__ = _EXACT
    targets: Count
    listed: Count
    emitted: Count
    unchanged: Count
    gone: Count
    failed: Count
    bytes: Count


@dataclass(frozen=True, slots=True)
class Calls:
    __pydantic_config__ = _EXACT
    calls: Count
    throttled: Count
    retried: Count
    failed: Count


@dataclass(frozen=True, slots=True)
class Row:
    __pydantic_config__ = _EXACT
    account_id: str
    region: str
    outcome: Outcome
    listed: Count
    emitted: Count
    unchanged: Count
    gone: Count
    failed: Count
    seconds: float
    rate: dict[str, float]
    error: str | None

    @property
    def key(self) -> tuple[str, str]:
        return self.account_id, self.region


@dataclass(frozen=True, slots=True)
class Failure:
    __pydantic_config__ = _EXACT
    arn: str
    operation: str
    error: str
    attempts: Count


@dataclass(frozen=True, slots=True)
class Part:
    """One report, as `collector.report` writes it."""

    __pydantic_config__ = _EXACT
    run_id: str
    table: str
    started_at: Moment
    finished_at: Moment | None
    complete: bool
    mode: Literal["full", "incremental"]
    totals: Totals
    calls: dict[str, Calls]
    targets: list[Row]
    failures: list[Failure]
    schema_drift: Counts
    coerced: Counts
    warnings: list[str]
    shard: Annotated[str | None, Field(pattern=r"^[1-9]\d*/[1-9]\d*$")] = None


_PART = TypeAdapter(Part)
_KEPT_OUT = re.compile(re.escape(CLOSED) + r" \(in (\d{12})(?: and (\d+) more)?\)")


def merge(reports: Mapping[str, Any]) -> dict[str, Any]:
    """One report of all ``reports``, as JSON has them, each by the name it is known by.

    Raises ConfigurationError where one is none, or is of another table than the first.
    """
    parts = {name: _read(name, report) for name, report in reports.items()}
    first = next(iter(parts))
    for name, part in parts.items():
        if part.table != parts[first].table:
            raise ConfigurationError(
                f"{name} is of the table {part.table}, and {first} of {parts[first].table}: only "
                "reports of one table make one."
            )
    return _joined(sorted(parts.values(), key=lambda part: (part.started_at, part.run_id)))


def _read(name: str, report: Any) -> Part:
    try:
        part = _PART.validate_python(report)
        parse_shard(part.shard)
    except ValidationError as error:
        where = ".".join(str(step) for step in error.errors()[0]["loc"])
        at = f" ({where})" if where else ""
        raise ConfigurationError(f"{name} is not the report of a run{at}.") from error
    except ValueError as error:
        raise ConfigurationError(f"{name} is not the report of a run ({error}).") from error
    return part


def _joined(parts: Sequence[Part]) -> dict[str, Any]:
    trouble = [*_missing_shards(parts), *_read_twice(parts), *_unreported(parts)]
    rows = list(_rows(parts))
    ends = [part.finished_at for part in parts]
    totals = _sums(asdict(part.totals) for part in parts)
    operations = sorted({operation for part in parts for operation in part.calls})
    return {
        "run_id": "+".join(dict.fromkeys(part.run_id for part in parts)),
        "table": parts[0].table,
        "started_at": parts[0].started_at,
        "finished_at": None if None in ends else max(end for end in ends if end is not None),
        "complete": not trouble and all(part.complete for part in parts),
        "mode": "incremental" if any(part.mode == "incremental" for part in parts) else "full",
        "totals": {**totals, "targets": len(rows)},
        "calls": {
            operation: _sums(
                asdict(part.calls[operation]) for part in parts if operation in part.calls
            )
            for operation in operations
        },
        "targets": [asdict(row) for row in rows],
        "failures": [asdict(failure) for part in parts for failure in part.failures],
        "schema_drift": dict(sorted(_sums(part.schema_drift for part in parts).items())),
        "coerced": dict(sorted(_sums(part.coerced for part in parts).items())),
        "warnings": [
            *trouble,
            *dict.fromkeys(warning for part in parts for warning in part.warnings),
        ],
    }


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for each in counts:
        sums.update(each)
    return dict(sums)


def _rows(parts: Sequence[Part]) -> Iterator[Row]:
    """Every target's row, sorted; the row of a whole account once, whoever could not enter it."""
    seen: set[str] = set()
    rows = [row for part in parts for row in part.targets]
    for row in sorted(rows, key=lambda row: row.key):
        if row.region == _EVERY_REGION:
            if row.account_id in seen:
                continue
            seen.add(row.account_id)
        yield row


def _missing_shards(parts: Sequence[Part]) -> Iterator[str]:
    """What keeps shards from being the whole, a sentence each."""
    shards = [shard for part in parts if (shard := parse_shard(part.shard)) is not None]
    sizes = sorted({shard.of for shard in shards})
    if len(sizes) > 1:
        counts = " and ".join(f"of {size}" for size in sizes)
        yield f"These are shards {counts}: they are no parts of one whole"
        return
    there = Counter(shard.index for shard in shards)
    for size in sizes:
        if missing := [str(index) for index in range(1, size + 1) if index not in there]:
            yield f"Of the {size} shards there is no report of {', '.join(missing)}"
        if doubled := sorted(index for index, count in there.items() if count > 1):
            yield (
                f"Of the {size} shards there is more than one report of "
                f"{', '.join(map(str, doubled))}"
            )


def _read_twice(parts: Sequence[Part]) -> Iterator[str]:
    """Targets that stand in several reports: their jobs are counted that often."""
    times = Counter(
        row.key for part in parts for row in part.targets if row.region != _EVERY_REGION
    )
    doubled = sorted(key for key, count in times.items() if count > 1)
    if doubled:
        more = f" and {len(doubled) - 1} more" if len(doubled) > 1 else ""
        yield f"{'/'.join(doubled[0])}{more} stand in several of the reports, and count as often"


def _unreported(parts: Sequence[Part]) -> Iterator[str]:
    """A shard was kept out of an account, and the one that should say so had come in.

    The warning names one such account and counts them all.
    """
    closed = [
        {row.account_id for row in part.targets if row.region == _EVERY_REGION} for part in parts
    ]
    for part, own in zip(parts, closed, strict=True):
        others = set().union(*closed) - own
        for account_id, more in filter(None, map(_kept_out, part.warnings)):
            if account_id not in others or more >= len(others):
                yield (
                    f"Shard {part.shard} was kept out of accounts, such as {account_id}, that "
                    "another came into: what it would have read there is in no report"
                )


def _kept_out(warning: str) -> tuple[str, int] | None:
    """An account, and how many more there are, if this is what the warning is about."""
    match = _KEPT_OUT.fullmatch(warning)
    return (match[1], int(match[2] or 0)) if match else None


def summary(report: Mapping[str, Any], count: int) -> str:
    """One line for a person: what ``count`` reports came to."""
    totals = report["totals"]
    sums = ", ".join(
        f"{totals[name]} {name}" for name in ("emitted", "unchanged", "gone", "failed")
    )
    whole = "complete" if report["complete"] else "not complete"
    return f"{count} reports, {totals['targets']} targets, {sums}: {whole}."
