"""Where a run would write and remember, looked at without writing anything."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import obstore

from collector import objects
from collector.errors import CollectorError
from collector.plan.model import Place
from collector.report_file import check_report
from collector.settings import Settings
from collector.sinks.base import Run, open_sink, shown
from collector.state import State, load
from collector.store import name_of, open_store

_LOOKED_AT = ("firehose://", "kinesis://")
"""Sinks whose opening is a Describe of the stream, and nothing else."""


async def look(settings: Settings) -> AsyncIterator[Place]:
    """What can be told of the sinks and of the report; see `read_state` for the state."""
    for uri in settings.sink:
        if uri == "-":
            continue
        try:
            detail = await _look_at(uri, settings)
        except CollectorError as error:
            yield Place("sink", shown(uri), "failed", str(error))
        else:
            outcome = "not checked" if detail is None else "ok"
            yield Place("sink", shown(uri), outcome, detail or "it shows with the first record")
    if settings.report is not None:
        try:
            await check_report(settings.report, settings)
        except CollectorError as error:
            yield Place("report", shown(settings.report), "failed", str(error))
        else:
            yield Place("report", shown(settings.report), "ok", "can be written")


async def _look_at(uri: str, settings: Settings) -> str | None:
    """What was found in words; None where nothing harmless can be asked. Raises CollectorError."""
    sink = open_sink(uri, Run(settings.table, "plan", time.time(), settings))
    if "://" not in uri:
        return _look_at_file(Path(uri))
    if uri.startswith(_LOOKED_AT):
        await sink.open()
        await sink.close(whole=False)
        return "is there, as far as it may be described"
    if uri.startswith(tuple(f"{scheme}://" for scheme in objects.SCHEMES)):
        store = await objects.open_objects(uri, settings)
        try:
            await obstore.list_with_delimiter_async(store, "collector-plan-no-such-prefix")
        except objects.ERRORS as error:
            raise CollectorError(f"It cannot be listed: {objects.sentence(error)}.") from error
        return "can be listed"
    return None


def _look_at_file(path: Path) -> str:
    writable = os.access(path if path.exists() else path.parent, os.W_OK)
    if path.is_dir() or not writable:
        raise CollectorError("It is a folder, or there is no leave to write there.")
    return "can be written"


async def read_state(settings: Settings) -> tuple[State, Place | None]:
    """What state knows, read without its lease, and how that went."""
    nothing = State(settings.table)
    if settings.state is None:
        return nothing, None
    place = shown(settings.state)
    try:
        store = open_store(settings.state, name_of(settings), settings)
        data = await store.load()
        state = nothing if data is None else load(data, settings.table, store.place)
    except CollectorError as error:
        return nothing, Place("state", place, "failed", str(error))
    if data is None:
        return state, Place("state", place, "ok", "nothing is there yet: the run reads in full")
    when = datetime.fromtimestamp(state.saved_at, UTC).isoformat(timespec="seconds")
    detail = f"knows {len(state.targets)} targets, as of {when}"
    if state.run is not None and not state.run.delivered:
        detail += f"; a run has {len(state.run.done)} targets done and has not ended"
    return state, Place("state", place, "ok", detail)
