"""The file sink: whole under its name or not there at all, on good and on bad disks."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from sink_rows import RUN, rows

from collector.errors import ConfigurationError, SinkClosedError, SinkError
from collector.sinks.base import Kept, Position, Sink
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
    sink = open_sink(str(path), RUN)
    await sink.open()
    for batch in batches:
        await sink.write(rows(batch))
    await sink.flush()
    return await sink.close(whole=whole)


@pytest.fixture(params=["out.ndjson", "out.ndjson.gz", "out.ndjson.zst"])
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


async def test_what_is_written_is_read_again(path):
    """Records come back as they went in, plain or compressed, and nothing else is left."""
    assert isinstance(open_sink(str(path), RUN), Sink)
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
    sink = open_sink(str(path), RUN)
    await sink.open()
    await sink.write(rows(LINES))
    await sink.flush()
    assert not path.exists()
    assert partial(path).exists()
    await sink.close(whole=True)
    assert content(path) == b"".join(LINES)
    first = path.read_bytes()
    again = open_sink(str(path), RUN)
    await again.open()
    await again.write(rows(LINES[:1]))
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
    sink = open_sink(str(path), RUN)
    await sink.open()
    await sink.write(rows(LINES))
    await sink.close(whole=whole)
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
    assert await sink.close(whole=not whole) is None
    assert {entry.name: entry.read_bytes() for entry in path.parent.iterdir()} == before


async def test_a_closed_sink_takes_nothing(tmp_path):
    """Writing before open and after close is a SinkError, not a loss."""
    sink = open_sink(str(tmp_path / "out.ndjson"), RUN)
    with pytest.raises(SinkError, match="is not open"):
        await sink.write(rows(LINES))
    await sink.open()
    await sink.close(whole=True)
    with pytest.raises(SinkError, match="is not open"):
        await sink.write(rows(LINES))


async def test_a_second_run_on_the_same_file_is_refused(path):
    """Two runs never write one file: the second is told so and harms nothing."""
    first, second = open_sink(str(path), RUN), open_sink(str(path), RUN)
    await first.open()
    await first.write(rows(LINES))
    await first.flush()
    with pytest.raises(SinkError, match="Another run is writing"):
        await second.open()
    assert await second.close(whole=False) is None
    await first.write(rows(LINES))
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

    sink = open_sink(str(tmp_path / "out.ndjson"), RUN)
    await sink.open()
    monkeypatch.setattr(os, "write", slow)
    writing = asyncio.create_task(sink.write(rows(LINES)))
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
        open_sink(f"{tmp_path}/{name}", RUN)


async def test_a_missing_folder_is_one_sentence(tmp_path):
    """A folder that does not exist is told of when the sink is opened."""
    with pytest.raises(SinkError, match=r"Cannot write to .*none/out\.ndjson: No such file"):
        await open_sink(str(tmp_path / "none" / "out.ndjson"), RUN).open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_what_may_not_be_written_is_told_at_once(tmp_path):
    """A folder or a file without permission is told of when the sink is opened."""
    path = tmp_path / "out.ndjson"
    path.touch(mode=0o400)
    with pytest.raises(SinkError, match="Cannot write to"):
        await open_sink(str(path), RUN).open()
    path.unlink()
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SinkError, match="Permission denied"):
            await open_sink(str(path), RUN).open()
    finally:
        tmp_path.chmod(0o700)


async def test_a_file_that_may_not_be_replaced_is_refused(tmp_path, monkeypatch):
    """A read-only file is refused at the start, not after the crawl."""
    path = tmp_path / "out.ndjson"
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SinkError, match="may not be replaced"):
        await open_sink(str(path), RUN).open()
    assert names(tmp_path) == ["out.ndjson"]


HERE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from sink_rows import RUN, rows
"""


FULL = """
import asyncio, resource, signal, sys
from collector.errors import SinkError
from collector.sinks.file import open_sink

async def main():
    sink = open_sink(sys.argv[1], RUN)
    await sink.open()
    try:
        for _ in range(100):
            await sink.write(rows([bytes(range(256)) * 400]))
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
        [sys.executable, "-c", HERE + FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"Cannot write to {path}: File too large.", "None"]
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_device_is_one_sentence():
    """A device without room is told of by name."""
    sink = open_sink("/dev/full", RUN)
    await sink.open()
    with pytest.raises(SinkError, match="Cannot write to /dev/full: No space left"):
        await sink.write(rows(LINES))
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
        await sink.write(rows(LINES))
    assert await sink.close(whole=False) is None


# Going on with what a run that was cut off had written.


def crash(sink: FileSink) -> None:
    """What is left of a sink whose process was killed: its descriptor is closed, and no more."""
    os.close(sink._descriptor)
    sink._descriptor = None


async def begun(path: Path, *batches: list[bytes], more: list[bytes] = ()) -> Position:
    """A file that was cut off: ``batches`` were flushed, ``more`` only written; its position."""
    sink = open_sink(str(path), RUN)
    assert await sink.open() is Kept.NOTHING
    for batch in batches:
        await sink.write(rows(batch))
    position = await sink.flush()
    if more:
        await sink.write(rows(more))
        sink._put(sink._encoder.sync())
    crash(sink)
    return position


def in_one_piece(path: Path) -> bytes:
    """What a whole file holds, if it is one gzip member or one Zstandard frame."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        member = zlib.decompressobj(31)
        whole = member.decompress(raw)
        assert member.eof
        assert member.unused_data == b""
        return whole
    if path.suffix == ".zst":
        frame = zstandard.ZstdDecompressor().decompressobj()
        whole = frame.decompress(raw)
        assert frame.eof
        assert frame.unused_data == b""
        with path.open("rb") as file:  # by a reader that stops at the end of the first frame
            assert zstandard.ZstdDecompressor().stream_reader(file).read() == whole
        return whole
    return raw


MANY = [b'{"n":%d,"x":"%s"}\n' % (n, b"ab" * (n % 50)) for n in range(3000)]


async def test_a_flush_gives_a_position_in_json(path):
    """A position can be written down; it moves with what was flushed, and with nothing else."""
    sink = open_sink(str(path), RUN)
    await sink.open()
    positions = [await sink.flush(), await sink.flush()]
    await sink.write(rows(LINES))
    positions += [await sink.flush(), await sink.flush()]
    assert positions[0] == positions[1]
    assert positions[0] != positions[2]
    for position in positions:
        assert json.loads(json.dumps(position)) == position
    await sink.close(whole=False)


@pytest.mark.parametrize("more", [[], LINES, MANY])
@pytest.mark.parametrize("first", [[], LINES, MANY])
async def test_an_unfinished_file_is_gone_on_with(path, first, more):
    """What was written after the position is cut off; the end is one whole file, in one piece."""
    position = await begun(path, first, more=more)
    sink = open_sink(str(path), RUN)
    assert await sink.open(position) is Kept.PART
    assert not path.exists()
    await sink.write(rows([b"again\n"]))
    await sink.write(rows(MANY[:5]))
    await sink.close(whole=True)
    assert in_one_piece(path) == b"".join([*first, b"again\n", *MANY[:5]])
    assert content(path) == in_one_piece(path)
    assert names(path.parent) == [path.name]


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(
        st.tuples(
            st.lists(st.binary(max_size=2000), max_size=4),
            st.lists(st.binary(min_size=1, max_size=2000), max_size=3),
        ),
        min_size=1,
        max_size=5,
    )
)
async def test_a_file_may_be_cut_off_many_times(tmp_path_factory, parts):
    """However often it goes on, a file holds what was flushed, in order, and nothing else."""
    folder = tmp_path_factory.mktemp("sink")
    for name in ("a.ndjson", "a.ndjson.gz", "a.ndjson.zst"):
        path, position, kept = folder / name, None, b""
        for flushed, lost in parts:
            sink = open_sink(str(path), RUN)
            assert await sink.open(position) is (Kept.PART if position else Kept.NOTHING)
            await sink.write(rows(flushed))
            position = await sink.flush()
            kept += b"".join(flushed)
            await sink.write(rows(lost))
            sink._put(sink._encoder.sync())
            crash(sink)
        sink = open_sink(str(path), RUN)
        assert await sink.open(position) is Kept.PART
        await sink.close(whole=True)
        assert in_one_piece(path) == kept
        assert names(folder) == sorted(entry for entry in names(folder) if "partial" not in entry)


async def test_an_unfinished_file_that_was_closed_is_gone_on_with(path):
    """A run that was told to stop has ended its file; the next one takes the end off again."""
    sink = open_sink(str(path), RUN)
    await sink.open()
    await sink.write(rows(MANY))
    position = await sink.flush()
    assert "not whole" in await sink.close(whole=False)
    again = open_sink(str(path), RUN)
    assert await again.open(position) is Kept.PART
    await again.write(rows(LINES))
    await again.close(whole=True)
    assert in_one_piece(path) == b"".join([*MANY, *LINES])


async def test_the_flush_right_after_going_on_gives_a_new_position(path):
    """Written down at once, it is where a third run goes on."""
    position = await begun(path, MANY, more=LINES)
    second = open_sink(str(path), RUN)
    assert await second.open(position) is Kept.PART
    position = await second.flush()
    crash(second)
    third = open_sink(str(path), RUN)
    assert await third.open(position) is Kept.PART
    await third.close(whole=True)
    assert in_one_piece(path) == b"".join(MANY)


@pytest.mark.parametrize("records", [[], LINES, MANY])
async def test_a_file_that_has_its_name_is_whole(path, records):
    """Killed after the rename, the run has nothing to write; the file stays as it is."""
    sink = open_sink(str(path), RUN)
    await sink.open()
    await sink.write(rows(records))
    position = await sink.flush()
    await sink.close(whole=True)
    before = path.read_bytes()
    again = open_sink(str(path), RUN)
    assert await again.open(position) is Kept.WHOLE
    assert await again.close(whole=True) is None
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


async def test_another_file_of_the_name_is_not_the_runs_own(path):
    """What somebody else put there, or a longer one, is not taken for what was written."""
    position = await begun(path, MANY)
    partial(path).unlink()
    for other in (b"", b"other\n" * 20_000):
        path.write_bytes(other)
        sink = open_sink(str(path), RUN)
        assert await sink.open(position) is Kept.NOTHING
        await sink.close(whole=False)
        assert path.read_bytes() == other


def gone(path: Path, position: Position) -> None:  # noqa: ARG001
    partial(path).unlink()


def replaced(path: Path, position: Position) -> None:
    partial(path).write_bytes(b"x" * (position["offset"] + 100))


def shortened(path: Path, position: Position) -> None:
    os.truncate(partial(path), position["offset"] - 1)


def emptied(path: Path, position: Position) -> None:  # noqa: ARG001
    os.truncate(partial(path), 0)


def altered(path: Path, position: Position) -> None:
    raw = bytearray(partial(path).read_bytes())
    raw[position["offset"] - 1] ^= 1
    partial(path).write_bytes(raw)


@pytest.mark.parametrize("change", [gone, replaced, shortened, emptied, altered])
async def test_a_file_that_is_not_what_was_written_is_begun_anew(path, change):
    """Without what the position speaks of, the sink says that it has nothing, and has nothing."""
    position = await begun(path, MANY, more=LINES)
    change(path, position)
    sink = open_sink(str(path), RUN)
    assert await sink.open(position) is Kept.NOTHING
    await sink.write(rows(LINES))
    await sink.close(whole=True)
    assert in_one_piece(path) == b"".join(LINES)
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 0},
        {"offset": -1},
        {"offset": 10**15},
        {"tail": "0" * 64},
        {"path": "/elsewhere"},
        {"more": 1},
    ],
)
async def test_a_position_of_another_file_is_begun_anew(path, change):
    """A position that does not fit to the last letter is none."""
    position = await begun(path, MANY)
    sink = open_sink(str(path), RUN)
    assert await sink.open({**position, **change}) is Kept.NOTHING
    await sink.close(whole=False)
    assert names(path.parent) == []


async def test_an_empty_position_is_none(path):
    """Nor is one that says nothing."""
    await begun(path, MANY)
    sink = open_sink(str(path), RUN)
    assert await sink.open({}) is Kept.NOTHING
    await sink.close(whole=False)


@pytest.mark.parametrize("name", ["out.ndjson.gz", "out.ndjson.zst"])
async def test_a_damaged_unfinished_file_is_one_sentence(tmp_path, name):
    """A hole far before the position, which the digest of the end does not see, is told of."""
    path = tmp_path / name
    noise = [os.urandom(50_000) for _ in range(6)]
    position = await begun(path, noise)
    raw = bytearray(partial(path).read_bytes())
    raw[:1000] = bytes(1000)
    partial(path).write_bytes(raw)
    sink = open_sink(str(path), RUN)
    with pytest.raises(SinkError) as caught:
        await sink.open(position)
    message = str(caught.value)
    assert message.startswith(f"The unfinished file {partial(path)} is damaged (")
    assert message.endswith("remove it, to begin anew.")
    assert "\n" not in message
    assert names(tmp_path) == [f"{name}.partial"]
    assert partial(path).read_bytes() == raw
    await sink.close(whole=False)
    partial(path).unlink()
    assert await open_sink(str(path), RUN).open(position) is Kept.NOTHING


async def test_two_runs_do_not_go_on_with_one_file(path):
    """While one goes on, another with the same position is refused, and harms nothing."""
    position = await begun(path, MANY)
    first, second = open_sink(str(path), RUN), open_sink(str(path), RUN)
    assert await first.open(position) is Kept.PART
    with pytest.raises(SinkError, match="Another run is writing"):
        await second.open(position)
    await first.write(rows(LINES))
    await first.close(whole=True)
    assert in_one_piece(path) == b"".join([*MANY, *LINES])


async def test_half_a_rewrite_of_a_killed_run_is_harmless(path):
    """Killed while it compressed the beginning again, a run leaves what the next one needs."""
    position = await begun(path, MANY)
    partial(path).with_name(f"{path.name}.partial.new").write_bytes(b"half")
    sink = open_sink(str(path), RUN)
    assert await sink.open(position) is Kept.PART
    await sink.close(whole=True)
    assert in_one_piece(path) == b"".join(MANY)


FULL_AGAIN = """
import asyncio, hashlib, json, resource, sys
from collector.errors import SinkError
from collector.sinks.file import open_sink

LINES = [hashlib.sha256(b"%d" % n).hexdigest().encode() + b"\\n" for n in range(300)]

async def main():
    first = open_sink(sys.argv[1], RUN)
    await first.open()
    await first.write(rows(LINES))
    position = await first.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (position["offset"] + 2000, ) * 2)
    try:
        for n in range(200):
            await first.write(rows(LINES))
            await first.flush()
    except SinkError as error:
        print(error)
    print(await first.close(whole=True))
    print(json.dumps(position))

asyncio.run(main())
"""


async def test_a_full_disk_leaves_what_was_flushed(path):
    """The unfinished file keeps all up to a flush, and is gone on with once there is room."""
    program = [sys.executable, "-c", HERE + FULL_AGAIN, str(path)]
    done = await asyncio.to_thread(
        subprocess.run, program, capture_output=True, text=True, check=True
    )
    error, note, position = done.stdout.splitlines()
    assert error == f"Cannot write to {path}: File too large."
    assert note in {"None", f"What was read is in {partial(path)}, not whole"}
    assert names(path.parent) == [f"{path.name}.partial"]
    sink = open_sink(str(path), RUN)
    assert await sink.open(json.loads(position)) is Kept.PART
    await sink.close(whole=True)
    lines = in_one_piece(path).splitlines()
    assert len(lines) == len(set(lines)) == 300
