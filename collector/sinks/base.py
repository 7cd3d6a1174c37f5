"""What a sink is, and how one is found by the scheme of its URI.

A module of this package (or an entry point in the group ``collector.sinks``) offers sinks by

    SCHEMES: tuple[str, ...]                 # "s3", ...; "" for a path, "-" for stdout
    def open_sink(uri: str, ...) -> Sink     # checks the URI, opens nothing yet
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from collector import sinks
from collector.errors import ConfigurationError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")


@runtime_checkable
class Sink(Protocol):
    """Where records go. Calls come one at a time, in this order: open, write and flush, close.

    Every method raises SinkError, with one sentence, when records cannot be delivered.
    """

    async def open(self) -> None:
        """Make sure that records can be written; called before anything is asked of AWS."""

    async def write(self, lines: Sequence[bytes]) -> None:
        """Take over some records, each a line of NDJSON with its newline, in order.

        Returns when the sink is ready for more: a slow sink slows the crawl.
        """

    async def flush(self) -> None:
        """Return once everything written so far is durable: it is acknowledged then."""

    async def close(self, *, whole: bool) -> str | None:
        """End; a second call does nothing.

        With ``whole`` what was written appears under its final name; without, it must not, and
        the sentence returned says where it was left instead, if anywhere.
        """


def open_sink(uri: str) -> Sink:
    """The sink that ``uri`` names, not yet opened. Raises ConfigurationError."""
    scheme = "-" if uri == "-" else _scheme(uri)
    known: list[str] = []
    for module in _modules():
        if scheme in module.SCHEMES:
            sink: Sink = module.open_sink(uri)
            return sink
        known += [f"{name}://" for name in module.SCHEMES if name not in {"", "-"}]
    choices = ", ".join(["- (stdout)", "a path", *sorted(known)])
    raise ConfigurationError(f"There is no sink for {scheme}:// in this release; use {choices}.")


def _scheme(uri: str) -> str:
    match = _SCHEME.match(uri)
    return match[1] if match else ""


def _modules() -> list[ModuleType | Any]:
    own = [
        import_module(f"{sinks.__name__}.{module.name}")
        for module in pkgutil.iter_modules(sinks.__path__)
    ]
    others = [point.load() for point in entry_points(group="collector.sinks")]
    return [module for module in (*own, *others) if hasattr(module, "SCHEMES")]
