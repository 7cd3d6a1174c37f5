"""How a sink is found, and the sink that is standard output."""

from __future__ import annotations

import asyncio
import os
import threading
from types import SimpleNamespace

import pytest
from sink_rows import RUN, rows

from collector.errors import ConfigurationError, SinkClosedError, SinkError
from collector.sinks import base
from collector.sinks.base import Sink, open_sink
from collector.sinks.file import FileSink
from collector.sinks.stdout import StdoutSink

LINES = [b'{"a":1}\n', b'{"b":2}\n']


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("-", StdoutSink),
        ("out.ndjson", FileSink),
        ("./-", FileSink),
        ("/tmp/a:b.gz", FileSink),
        ("C:out", FileSink),
    ],
)
def test_a_sink_is_found_by_the_form_of_its_uri(uri, kind):
    """A dash is stdout, and what has no scheme is a path."""
    sink = open_sink(uri, RUN)
    assert type(sink) is kind
    assert isinstance(sink, Sink)


def test_an_unknown_scheme_lists_what_there_is():
    """The sentence says what was asked for and what may be asked for."""
    with pytest.raises(ConfigurationError) as caught:
        open_sink("carrier+pigeon://loft/1", RUN)
    text = str(caught.value)
    assert text.startswith("There is no sink for carrier+pigeon://")
    assert "- (stdout)" in text
    assert "a path" in text
    assert text.endswith(".")
    assert "\n" not in text


def test_others_add_sinks_by_an_entry_point(monkeypatch):
    """A module of another package is found by its schemes, and is listed with the rest."""
    pigeon = SimpleNamespace(SCHEMES=("pigeon",), open_sink=lambda uri, _: ("flies to", uri))
    point = SimpleNamespace(load=lambda: pigeon)
    groups = {"collector.sinks": [point]}
    monkeypatch.setattr(base, "entry_points", lambda *, group: groups.get(group, []))
    assert open_sink("pigeon://loft", RUN) == ("flies to", "pigeon://loft")
    assert type(open_sink("-", RUN)) is StdoutSink
    with pytest.raises(ConfigurationError, match="pigeon://"):
        open_sink("dove://loft", RUN)


@pytest.fixture
def pipe():
    """The two ends of a pipe: (read, write)."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


async def test_records_go_out_as_they_come(pipe):
    """Each write is in the pipe when it returns; flush and close hold nothing back."""
    read, write = pipe
    sink = StdoutSink(write)
    await sink.open()
    await sink.write(rows(LINES))
    assert os.read(read, 1000) == b"".join(LINES)
    await sink.flush()
    assert await sink.close(whole=True) is None
    assert await sink.close(whole=False) is None
    os.write(write, b"still open")


async def test_a_slow_reader_loses_nothing(pipe):
    """More than a pipe holds is written whole, without stopping the event loop."""
    read, write = pipe
    sink = StdoutSink(write)
    lines = [bytes([65 + index]) * 50_000 + b"\n" for index in range(20)]
    task = asyncio.create_task(sink.write(rows(lines)))
    got: list[bytes] = []

    def drain() -> None:
        while sum(map(len, got)) < sum(map(len, lines)):
            got.append(os.read(read, 7000))

    thread = threading.Thread(target=drain)
    thread.start()
    await task
    await asyncio.to_thread(thread.join)
    assert b"".join(got) == b"".join(lines)


async def test_a_short_write_is_gone_on_with(pipe, monkeypatch):
    """Where the system takes less than it was given, the rest follows."""
    read, write = pipe
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:3]))
    await StdoutSink(write).write(rows(LINES))
    assert os.read(read, 1000) == b"".join(LINES)


async def test_a_reader_that_leaves_ends_quietly(pipe):
    """A closed pipe is SinkClosedError, which is no failure."""
    read, write = pipe
    os.close(read)
    sink = StdoutSink(write)
    await sink.open()
    with pytest.raises(SinkClosedError) as caught:
        await sink.write(rows(LINES))
    assert caught.value.exit_status == 0
    await sink.close(whole=False)


async def test_a_closed_stdout_is_told_at_the_start(pipe):
    """Where there is no standard output, nothing is asked of AWS."""
    os.close(pipe[1])
    with pytest.raises(SinkError, match="Standard output is closed"):
        await StdoutSink(pipe[1]).open()


async def test_a_full_disk_behind_stdout_is_a_failure(tmp_path):
    """An error that is not a reader's leaving is a SinkError with the reason."""
    descriptor = os.open(tmp_path / "file", os.O_RDONLY | os.O_CREAT)
    try:
        with pytest.raises(SinkError, match="Cannot write to standard output: ") as caught:
            await StdoutSink(descriptor).write(rows(LINES))
    finally:
        os.close(descriptor)
    assert not isinstance(caught.value, SinkClosedError)
