"""The file sink: whole under its name or not there at all, on good and on bad disks."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import ConfigurationError, SinkClosedError, SinkError
from collector.sinks.base import Sink
from collector.sinks.file import FileSink, open_sink
from collector.validate import open_lines

LINES = [b'{"a":1}\n', b'{"b":"\xc3\xa9"}\n']


def partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def content(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(raw)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    return raw


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


async def write(path: Path, *batches: list[bytes], whole: bool = True) -> str | None:
    sink = open_sink(str(path))
    await sink.open()
    for batch in batches:
        await sink.write(batch)
    await sink.flush()
    return await sink.close(whole=whole)


@pytest.fixture(params=["out.ndjson", "out.ndjson.gz", "out.ndjson.zst"])
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


async def test_what_is_written_is_read_again(path):
    """Records come back as they went in, plain or compressed, and nothing else is left."""
    assert isinstance(open_sink(str(path)), Sink)
    assert await write(path, LINES, [], LINES[:1]) is None
    assert content(path) == b"".join([*LINES, LINES[0]])
    assert list(open_lines(str(path))) == [*LINES, LINES[0]]
    assert names(path.parent) == [path.name]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=300), max_size=5), max_size=6))
async def test_any_bytes_are_read_again(tmp_path_factory, batches):
    """Whatever the batches, each form of file holds exactly their bytes."""
    folder = tmp_path_factory.mktemp("sink")
    for name in ("a.ndjson", "a.gz", "a.zst"):
        await write(folder / name, *batches)
        assert content(folder / name) == b"".join(b"".join(batch) for batch in batches)


async def test_nothing_appears_before_the_end(path):
    """Until it is closed as whole, a file is not there under its name, or is the old one."""
    sink = open_sink(str(path))
    await sink.open()
    await sink.write(LINES)
    await sink.flush()
    assert not path.exists()
    assert partial(path).exists()
    await sink.close(whole=True)
    assert content(path) == b"".join(LINES)
    first = path.read_bytes()
    again = open_sink(str(path))
    await again.open()
    await again.write(LINES[:1])
    await again.flush()
    assert path.read_bytes() == first
    await again.close(whole=True)
    assert content(path) == LINES[0]


async def test_an_unfinished_file_stays_beside_its_name(path):
    """Without ``whole`` the records are kept apart, readable, and the sentence says where."""
    note = await write(path, LINES, whole=False)
    assert str(partial(path)) in note
    assert not path.exists()
    partial(path).rename(path)
    assert content(path) == b"".join(LINES)


async def test_an_unfinished_file_leaves_the_old_one(path):
    """A run that fails does not touch what the last good one wrote."""
    await write(path, LINES)
    await write(path, LINES[:1], whole=False)
    assert content(path) == b"".join(LINES)


async def test_an_empty_unfinished_file_is_removed(path):
    """Where nothing was written nothing is left, and nothing is said."""
    assert await write(path, whole=False) is None
    assert names(path.parent) == []


async def test_a_run_without_records_gives_an_empty_file(path):
    """No records is a result: a whole file that holds none."""
    await write(path)
    assert content(path) == b""
    assert list(open_lines(str(path))) == []


async def test_an_old_partial_file_is_started_anew(path):
    """What a killed run left behind does not get into the next one's records."""
    partial(path).write_bytes(b"x" * 10_000)
    await write(path, LINES)
    assert content(path) == b"".join(LINES)
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize("whole", [True, False])
async def test_closing_twice_does_nothing(path, whole):
    """A second close is quiet, whatever it says, and does not undo the first."""
    sink = open_sink(str(path))
    await sink.open()
    await sink.write(LINES)
    await sink.close(whole=whole)
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
    assert await sink.close(whole=not whole) is None
    assert {entry.name: entry.read_bytes() for entry in path.parent.iterdir()} == before


async def test_a_closed_sink_takes_nothing(tmp_path):
    """Writing before open and after close is a SinkError, not a loss."""
    sink = open_sink(str(tmp_path / "out.ndjson"))
    with pytest.raises(SinkError, match="is not open"):
        await sink.write(LINES)
    await sink.open()
    await sink.close(whole=True)
    with pytest.raises(SinkError, match="is not open"):
        await sink.write(LINES)


async def test_a_second_run_on_the_same_file_is_refused(path):
    """Two runs never write one file: the second is told so and harms nothing."""
    first, second = open_sink(str(path)), open_sink(str(path))
    await first.open()
    await first.write(LINES)
    await first.flush()
    with pytest.raises(SinkError, match="Another run is writing"):
        await second.open()
    assert await second.close(whole=False) is None
    await first.write(LINES)
    await first.close(whole=True)
    assert content(path) == b"".join(LINES * 2)
    await write(path, LINES)
    assert content(path) == b"".join(LINES)


async def test_a_cancelled_write_is_finished_before_the_end(tmp_path, monkeypatch):
    """Cancelling a write leaves no half a batch: closing waits for the thread that writes it."""
    started, go, whole = threading.Event(), threading.Event(), os.write

    def slow(descriptor: int, data: bytes) -> int:
        started.set()
        go.wait(5)
        return whole(descriptor, data[:5])

    sink = open_sink(str(tmp_path / "out.ndjson"))
    await sink.open()
    monkeypatch.setattr(os, "write", slow)
    writing = asyncio.create_task(sink.write(LINES))
    await asyncio.to_thread(started.wait)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    closing = asyncio.create_task(sink.close(whole=True))
    done, _ = await asyncio.wait([closing], timeout=0.05)
    assert not done
    go.set()
    await closing
    assert content(tmp_path / "out.ndjson") == b"".join(LINES)


@pytest.mark.parametrize("name", [".", "sub/"])
def test_a_folder_is_no_file(name, tmp_path):
    """A folder is refused before anything is opened."""
    with pytest.raises(ConfigurationError, match="is a folder"):
        open_sink(f"{tmp_path}/{name}")


async def test_a_missing_folder_is_one_sentence(tmp_path):
    """A folder that does not exist is told of when the sink is opened."""
    with pytest.raises(SinkError, match=r"Cannot write to .*none/out\.ndjson: No such file"):
        await open_sink(str(tmp_path / "none" / "out.ndjson")).open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_what_may_not_be_written_is_told_at_once(tmp_path):
    """A folder or a file without permission is told of when the sink is opened."""
    path = tmp_path / "out.ndjson"
    path.touch(mode=0o400)
    with pytest.raises(SinkError, match="Cannot write to"):
        await open_sink(str(path)).open()
    path.unlink()
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SinkError, match="Permission denied"):
            await open_sink(str(path)).open()
    finally:
        tmp_path.chmod(0o700)


async def test_a_file_that_may_not_be_replaced_is_refused(tmp_path, monkeypatch):
    """A read-only file is refused at the start, not after the crawl."""
    path = tmp_path / "out.ndjson"
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SinkError, match="may not be replaced"):
        await open_sink(str(path)).open()
    assert names(tmp_path) == ["out.ndjson"]


FULL = """
import asyncio, resource, signal, sys
from collector.errors import SinkError
from collector.sinks.file import open_sink

async def main():
    sink = open_sink(sys.argv[1])
    await sink.open()
    try:
        for _ in range(100):
            await sink.write([bytes(range(256)) * 400])
    except SinkError as error:
        print(error)
    print(await sink.close(whole=True))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
asyncio.run(main())
"""


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """Where a file can grow no further, the sink fails, and nothing looks like a result."""
    path = tmp_path / "out.ndjson"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"Cannot write to {path}: File too large.", "None"]
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_device_is_one_sentence():
    """A device without room is told of by name."""
    sink = open_sink("/dev/full")
    await sink.open()
    with pytest.raises(SinkError, match="Cannot write to /dev/full: No space left"):
        await sink.write(LINES)
    await sink.close(whole=False)
    assert "full.partial" not in names(Path("/dev"))


async def test_devices_are_written_directly():
    """/dev/null takes everything and stays a device."""
    assert await write(Path("/dev/null"), LINES) is None
    assert await write(Path("/dev/null"), LINES, whole=False) is None
    assert "null.partial" not in names(Path("/dev"))
    assert "null" in names(Path("/dev"))


@pytest.mark.parametrize("name", ["pipe", "pipe.gz"])
async def test_a_fifo_is_written_directly(name, tmp_path):
    """A named pipe gets the records as they come, compressed if its name says so."""
    path = tmp_path / name
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    await write(path, LINES)
    await asyncio.to_thread(reader.join)
    received = gzip.decompress(got[0]) if name.endswith(".gz") else got[0]
    assert received == b"".join(LINES)
    assert names(tmp_path) == [name]


async def test_a_fifo_whose_reader_leaves_ends_quietly(tmp_path):
    """A reader that goes away is told apart from a disk that fails."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: os.close(os.open(path, os.O_RDONLY)))
    reader.start()
    sink = FileSink(path)
    await sink.open()
    await asyncio.to_thread(reader.join)
    with pytest.raises(SinkClosedError):
        await sink.write(LINES)
    assert await sink.close(whole=False) is None
