"""The sinks of this machine, alone and together, keep the promises of `check_sink`.

To hold another sink to them, write one more ``@place``: an async generator that makes a
destination in a folder of its own and yields what `check_sink` asks for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from test_http_sink import Answer, Endpoint, serving

from collector.aws import retry
from collector.sinks.base import Run, Sink, open_sinks
from collector.sinks.file import FileSink
from collector.sinks.http import MOST_RECORD, HttpSink, open_sink
from collector.sinks.stdout import StdoutSink
from collector.testing import check_sink
from collector.validate import open_lines


@dataclass
class Place:
    """What `check_sink` is given: make, read and the rest."""

    make: Callable[[Run], Sink]
    read: Callable[[], Iterable[bytes]]
    rest: dict[str, Any] = field(default_factory=dict)


PLACES: dict[str, Callable[[Path], AbstractAsyncContextManager[Place]]] = {}

WHOLE = {"hides": True, "exactly_once": True}
FAULTS: tuple[Answer, ...] = (503, "lost", 429, "reset", 408)


def place(offered: Callable[[Path], AsyncIterator[Place]]) -> None:
    PLACES[offered.__name__] = asynccontextmanager(offered)


async def kill(sink: Any) -> None:
    """What the death of its process would do to a sink of ours."""
    for one in getattr(sink, "_sinks", [sink]):
        if isinstance(one, FileSink):
            one._drop()
        elif isinstance(one, HttpSink) and one._session:
            await one._session.close()


def lines_of(path: Path) -> list[bytes]:
    return list(open_lines(str(path))) if path.exists() else []


def failing(endpoint: Endpoint) -> Callable[[int], None]:
    """Lets an endpoint fail, each time in another way."""
    faults = cycle(FAULTS)

    def fail_next(requests: int) -> None:
        endpoint.answers.clear()
        endpoint.answers.extend(next(faults) for _ in range(requests))

    return fail_next


@asynccontextmanager
async def closed_port() -> AsyncIterator[str]:
    """A URL at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


@place
async def stdout(folder: Path) -> AsyncIterator[Place]:
    """A descriptor that a write of a cancelled task may still go to: whole lines count."""
    path = folder / "out"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def read() -> list[bytes]:
        return [line for line in path.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"]

    try:
        yield Place(
            lambda _: StdoutSink(descriptor), read, {"unreachable": lambda _: StdoutSink(9999)}
        )
    finally:
        os.close(descriptor)


def to_a_file(name: str) -> Callable[[Path], AsyncIterator[Place]]:
    async def file(folder: Path) -> AsyncIterator[Place]:
        yield Place(
            partial(open_sinks, [str(folder / name)]),
            lambda: lines_of(folder / name),
            {**WHOLE, "kill": kill, "unreachable": partial(open_sinks, [f"{folder}/none/{name}"])},
        )

    file.__name__ = name
    return file


for ending in ("", ".gz", ".zst"):
    place(to_a_file(f"file.ndjson{ending}"))


@place
async def http(folder: Path) -> AsyncIterator[Place]:  # noqa: ARG001
    """The endpoint knows a batch by its key, so that none is there twice."""
    async with serving(Endpoint()) as endpoint, closed_port() as nowhere:
        yield Place(
            partial(open_sink, endpoint.url),
            lambda: endpoint.lines,
            {
                "exactly_once": True,
                "limit": MOST_RECORD,
                "fail_next": failing(endpoint),
                "kill": kill,
                "unreachable": partial(open_sink, nowhere),
            },
        )


@place
async def two_files(folder: Path) -> AsyncIterator[Place]:
    one, other = folder / "one.ndjson", folder / "other.ndjson.gz"

    def read() -> list[bytes]:
        lines = lines_of(one)
        assert lines_of(other) == lines
        return lines

    bad = partial(open_sinks, [str(one), f"{folder}/none/x"])
    make = partial(open_sinks, [str(one), str(other)])
    yield Place(make, read, {**WHOLE, "kill": kill, "unreachable": bad})


async def file_and_http(folder: Path, *, read_file: bool) -> AsyncIterator[Place]:
    path = folder / "one.ndjson"
    async with serving(Endpoint()) as endpoint, closed_port() as nowhere:
        yield Place(
            partial(open_sinks, [str(path), endpoint.url]),
            (lambda: lines_of(path)) if read_file else (lambda: endpoint.lines),
            {
                **(WHOLE if read_file else {}),
                "fail_next": failing(endpoint),
                "kill": kill,
                "unreachable": partial(open_sinks, [str(path), nowhere]),
            },
        )


@place
async def file_beside_http(folder: Path) -> AsyncIterator[Place]:
    async for one in file_and_http(folder, read_file=True):
        yield one


@place
async def http_beside_file(folder: Path) -> AsyncIterator[Place]:
    """What has a position goes on from it, and the endpoint gets what came after twice."""
    async for one in file_and_http(folder, read_file=False):
        yield one


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """What is tried again is tried again at once."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.0)


@pytest.mark.parametrize("name", PLACES)
async def test_a_sink_keeps_its_promises(name, tmp_path):
    """The whole suite, over real files and real HTTP."""
    async with PLACES[name](tmp_path) as it:
        await check_sink(it.make, it.read, **it.rest)
