"""The reports that tasks leave, one object for each time a task has ended, and their rows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import obstore
import orjson

from collector import objects
from collector.errors import ConfigurationError, SinkError
from collector.model import Column, Record, float64, int64, string, strings, structs, timestamp
from collector.settings import Settings
from collector.spread.parts import Key

_SUFFIX = ".json"

COLUMNS: tuple[Column, ...] = (
    string("run_id", None, "The read; all its tasks have the same."),
    timestamp("started_at", "", "When the read began."),
    timestamp("finished_at", "", "When the task ended."),
    string("account_id", None, "The account."),
    string("region", None, "The region; * where an account as a whole is out of reach."),
    string("outcome", None, "complete, partial, denied, unavailable or failed."),
    int64("listed", "", "Jobs listed."),
    int64("emitted", "", "Jobs read."),
    int64("unchanged", "", "Jobs that belong to another batch of a stream."),
    int64("gone", "", "Jobs that were deleted between list and describe."),
    int64("failed", "", "Jobs that could not be read."),
    float64("seconds", "", "How long it took."),
    string("error", None, "What went wrong, in one sentence."),
    structs(
        "failures",
        "",
        "The jobs that could not be read, and why.",
        string("arn", None),
        string("operation", None),
        string("error", None),
        int64("attempts", ""),
    ),
    strings("warnings", None, "What the task warned of."),
)
"""One row is one target in one task."""


def leave_report(place: str, settings: Settings, report: dict[str, Any], name: str) -> None:
    """Write the ``report`` of a task below ``place``. Raises SinkError."""
    asyncio.run(_put(place, settings, f"{report['run_id']}/{name}{_SUFFIX}", orjson.dumps(report)))


async def _put(place: str, settings: Settings, path: str, data: bytes) -> None:
    try:
        store = await objects.open_objects(place, settings)
        await obstore.put_async(store, path, data)
    except (*objects.ERRORS, ConfigurationError) as error:
        why = objects.sentence(error)
        raise SinkError(f"The report {place}/{path} cannot be written: {why}.") from None


def read_reports(place: str, settings: Settings, *, last: bool = False) -> list[dict[str, Any]]:
    """The reports below ``place``, those of the earliest read first; of the ``last`` one only.

    Raises SinkError.
    """
    return asyncio.run(_get(place, settings, last=last))


async def _get(place: str, settings: Settings, *, last: bool) -> list[dict[str, Any]]:
    try:
        store = await objects.open_objects(place, settings)
        found = await obstore.list(store).collect_async()
        paths = sorted(each["path"] for each in found if each["path"].endswith(_SUFFIX))
        if last and paths:
            run = paths[-1].rpartition("/")[0]
            paths = [path for path in paths if path.rpartition("/")[0] == run]
        documents = []
        for path in paths:
            answer = await obstore.get_async(store, path)
            documents.append(orjson.loads(bytes(await answer.bytes_async())))
    except objects.ERRORS as error:
        why = objects.sentence(error)
        raise SinkError(f"The reports in {place} cannot be read: {why}.") from None
    except orjson.JSONDecodeError as error:
        raise SinkError(f"{place} holds what is no report: {path} ({error}).") from None
    return documents


def sizes(reports: list[dict[str, Any]]) -> dict[Key, int]:
    """Jobs listed in each target."""
    return {
        (row["account_id"], row["region"]): row["listed"]
        for report in reports
        for row in report["targets"]
    }


def rows(reports: list[dict[str, Any]]) -> Iterator[Record]:
    """A row for each target of each report."""
    for report in reports:
        for target in report["targets"]:
            place = f":{target['region']}:{target['account_id']}:"
            failures = [each for each in report["failures"] if place in each["arn"]]
            yield {**report, **target, "failures": failures}
