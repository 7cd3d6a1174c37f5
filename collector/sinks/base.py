"""What a sink is, and how one is found by the scheme of its URI.

A module of this package (or an entry point in the group ``collector.sinks``) offers sinks by

    SCHEMES: tuple[str, ...]                 # "s3", ...; "" for a path, "-" for stdout
    def open_sink(uri: str, ...) -> Sink     # checks the URI, opens nothing yet
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from collector import sinks
from collector.errors import ConfigurationError

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


@runtime_checkable
class Sink(Protocol):
    """Where records go. Calls come one at a time, in this order: open, write and flush, close.

    Every method raises SinkError, with one sentence, when records cannot be delivered.
    """

    async def open(self, position: Position | None = None) -> Kept:
        """Make sure that records can be written; called before anything is asked of AWS.

        ``position`` is where a run that was cut off had come to, as `flush` gave it. A sink that
        no longer has what was written up to there begins anew, and says so.
        """

    async def write(self, lines: Sequence[bytes]) -> None:
        """Take over some records, each a line of NDJSON with its newline, in order.

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


def open_sink(uri: str) -> Sink:
    """The sink that ``uri`` names, not yet opened. Raises ConfigurationError."""
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
            sink: Sink = module.open_sink(uri)
            return sink
        known += [f"{name}://" for name in schemes if name not in {"", "-"}]
    choices = ", ".join(["- (stdout)", "a path", *sorted(known)])
    trouble = f" A plug-in could not be loaded ({'; '.join(broken)})." if broken else ""
    raise ConfigurationError(
        f"There is no sink for {scheme}:// in this release; use {choices}.{trouble}"
    )


def _scheme(uri: str) -> str:
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def _modules() -> Iterator[Callable[[], Any]]:
    """What loads each module that offers sinks: ours first, base.py itself left out."""
    for module in pkgutil.iter_modules(sinks.__path__):
        if module.name != "base":
            yield partial(import_module, f"{sinks.__name__}.{module.name}")
    for point in entry_points(group="collector.sinks"):
        yield point.load
