"""What a sink is, and how one is found by the scheme of its URI.

A module of this package (or an entry point in the group ``collector.sinks``) offers sinks by

    SCHEMES: tuple[str, ...]                          # "s3", ...; "" for a path, "-" for stdout
    def open_sink(uri: str, run: Run) -> Sink         # checks the URI, opens nothing yet
    def permissions(uri: str) -> list[Permission]     # if it needs any of AWS: for `iam-policy`
"""

from __future__ import annotations

import asyncio
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import urlsplit

from collector import sinks
from collector.errors import ConfigurationError, SinkError
from collector.events import Event, Observer
from collector.settings import Settings

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

Position = dict[str, Any]
"""Where an output goes on, as JSON: what a sink that can go on needs to know of what it wrote."""


class Kept(Enum):
    """What a sink still has of what an earlier run wrote, up to a position."""

    NOTHING = "nothing"
    PART = "part"
    """It goes on from there: what came after the position is cut off."""
    WHOLE = "whole"
    """All of it, under its final name already: there is nothing to write."""


class Row(NamedTuple):
    """A record as sinks get it: a line of NDJSON with its newline, and whose it is."""

    line: bytes
    arn: str
    account_id: str
    region: str


class Refusal(NamedTuple):
    """A record that a sink can never take, such as one above a service's limit."""

    row: Row
    sink: str
    why: str


class Permission(NamedTuple):
    """IAM actions that a sink needs, and the ARNs that it needs them on."""

    sid: str
    actions: list[str]
    resources: list[str]


def _nobody(_: Event, /) -> None:
    """The observer where nobody watches."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a sink may want to know of a run, and its observer; ``started_at`` in epoch seconds."""

    table: str
    run_id: str
    started_at: float
    settings: Settings
    observe: Observer = _nobody


@runtime_checkable
class Sink(Protocol):
    """Where records go. Calls come one at a time, in this order: open, write and flush, close.

    Every method raises SinkError, with one sentence, when records cannot be delivered. A sink for
    which each flush has a price may have an attribute ``flush_every``, in seconds: it is not asked
    more often then.
    """

    async def open(self, position: Position | None = None) -> Kept:
        """Make sure that records can be written; called before anything is asked of AWS.

        ``position`` is where a run that was cut off had come to, as `flush` gave it. A sink that
        no longer has what was written up to there begins anew, and says so.
        """

    async def write(self, rows: Sequence[Row]) -> Sequence[Refusal] | None:
        """Take over some records, in order; returns those that it can never take, if any.

        Returns when the sink is ready for more: a slow sink slows the crawl.
        """

    async def flush(self) -> Position | None:
        """Return once everything written so far is durable: it is acknowledged then.

        A sink whose output stays hidden until the end returns where it would go on from here. One
        that has handed its records on for good has no position: another run begins behind them.
        """

    async def close(self, *, whole: bool) -> str | None:
        """End; a second call does nothing.

        With ``whole`` what was written appears under its final name; without, it must not, and
        the sentence returned says where it was left instead, if anywhere.
        """


def open_sink(uri: str, run: Run) -> Sink:
    """The sink that ``uri`` names, not yet opened. Raises ConfigurationError."""
    sink: Sink = _module_for(uri).open_sink(uri, run)
    return sink


def permissions(uri: str) -> list[Permission]:
    """What the sink that ``uri`` names needs of IAM. Raises ConfigurationError."""
    module = _module_for(uri)
    found: list[Permission] = module.permissions(uri) if hasattr(module, "permissions") else []
    return found


def _module_for(uri: str) -> Any:
    scheme = "-" if uri == "-" else _scheme(uri)
    known: list[str] = []
    broken: list[str] = []
    for load in _modules():
        try:
            module = load()
            schemes = tuple(module.SCHEMES)
        except Exception as error:  # noqa: BLE001 - somebody else's code; it may not be wanted here
            broken.append(f"{type(error).__name__}: {error}")
            continue
        if scheme in schemes:
            return module
        known += [f"{name}://" for name in schemes if name not in {"", "-"}]
    choices = ", ".join(["- (stdout)", "a path", *sorted(known)])
    trouble = f" A plug-in could not be loaded ({'; '.join(broken)})." if broken else ""
    raise ConfigurationError(
        f"There is no sink for {scheme}:// in this release; use {choices}.{trouble}"
    )


def open_sinks(uris: Sequence[str], run: Run) -> Sink:
    """One sink for all of ``uris``."""
    make = [partial(open_sink, uri, run) for uri in uris]
    return make[0]() if len(make) == 1 else Several(make)


def shown(uri: str) -> str:
    """A sink's URI as reports and errors may show it: without what could be secret."""
    parts = urlsplit(uri)
    if not parts.scheme or "://" not in uri:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


class Several:
    """Each record goes to every sink; what is acknowledged is what all of them have."""

    def __init__(self, make: Sequence[Callable[[], Sink]]) -> None:
        self._make = make
        self._sinks = [each() for each in make]

    @property
    def flush_every(self) -> float:
        return max(getattr(sink, "flush_every", 0.0) for sink in self._sinks)

    async def open(self, position: Position | None = None) -> Kept:
        positions = position["sinks"] if position else [None] * len(self._sinks)
        kept = [await sink.open(place) for sink, place in zip(self._sinks, positions, strict=True)]
        going_on = [how for how, place in zip(kept, positions, strict=True) if place is not None]
        if Kept.NOTHING in going_on:
            # One of them has to begin anew, so all do.
            for sink in self._sinks:
                await sink.close(whole=False)
            self._sinks = [each() for each in self._make]
            for sink in self._sinks:
                await sink.open()
            return Kept.NOTHING
        if Kept.WHOLE in going_on:
            return Kept.WHOLE  # the others only have to be closed
        return Kept.PART if going_on else Kept.NOTHING

    async def write(self, rows: Sequence[Row]) -> Sequence[Refusal]:
        refused = await self._all(lambda sink: sink.write(rows))
        return [refusal for refusals in refused for refusal in refusals or ()]

    async def flush(self) -> Position | None:
        positions = await self._all(lambda sink: sink.flush())
        return None if all(place is None for place in positions) else {"sinks": positions}

    async def close(self, *, whole: bool) -> str | None:
        notes, errors = [], []
        for sink in self._sinks:
            try:
                notes.append(await sink.close(whole=whole))
            except SinkError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return "; ".join(note for note in notes if note) or None

    async def _all(self, action: Callable[[Sink], Any]) -> list[Any]:
        """Every sink at once; the first error, once all have come to an end."""
        results = await asyncio.gather(*map(action, self._sinks), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results


def _scheme(uri: str) -> str:
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def _modules() -> Iterator[Callable[[], Any]]:
    """What loads each module that offers sinks: ours first, base.py itself left out."""
    for module in pkgutil.iter_modules(sinks.__path__):
        if module.name != "base" and not module.name.startswith("_"):
            yield partial(import_module, f"{sinks.__name__}.{module.name}")
    for point in entry_points(group="collector.sinks"):
        yield point.load
