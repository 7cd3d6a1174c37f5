"""Where state is kept: one holder at a time, and a document that is always a whole one."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.errors import ConfigurationError, StateError
from collector.settings import Settings
from collector.store import DOCUMENT, LEASE, FolderStore, describe_holder, open_store

HOLD = """
import asyncio, sys
from pathlib import Path
from collector.store import FolderStore

async def main():
    store = FolderStore(Path(sys.argv[1]))
    ended = await store.acquire()
    if sys.argv[2] == "begin":
        await store.begin()
    print(ended, flush=True)
    word = sys.stdin.readline().strip()
    if word:
        await store.release(ended=word == "ended")

asyncio.run(main())
"""

SAVE = """
import asyncio, sys
from itertools import count
from pathlib import Path
from collector.store import FolderStore

async def main():
    store = FolderStore(Path(sys.argv[1]))
    await store.acquire()
    for number in count():
        await store.save(b"%d " % number * (number * 7919 % 50_000 + 1))
        if number == 3:
            print("saving", flush=True)

asyncio.run(main())
"""

FULL = """
import asyncio, resource, sys
from pathlib import Path
from collector.errors import StateError
from collector.store import FolderStore

async def main():
    store = FolderStore(Path(sys.argv[1]))
    await store.acquire()
    await store.save(b"old " * 1000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    for size in (10_000, 60_000, 200_000):
        try:
            await store.save(b"n" * size)
        except StateError as error:
            print(error)
    await store.release(ended=True)

asyncio.run(main())
"""


@contextmanager
def process(program: str, folder: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program, which is killed at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder), *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def holding(folder: Path, *, begun: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease, of a run that has begun or not yet."""
    with process(HOLD, folder, "begin" if begun else "look") as running:
        assert running.stdout.readline() in ("True\n", "False\n")
        yield running


async def test_a_new_place_has_no_document(tmp_path):
    """A folder that does not exist yet is made; nobody held it, and it holds nothing."""
    store = FolderStore(tmp_path / "a" / "b")
    assert await store.acquire() is True
    assert await store.load() is None
    await store.release(ended=True)
    assert not (tmp_path / "a" / "b" / DOCUMENT).exists()


async def test_what_is_saved_is_loaded(tmp_path):
    """The last document that was saved is the one that is there, for this store and the next."""
    store = FolderStore(tmp_path)
    await store.acquire()
    for data in (b"one", b"", bytes(range(256)) * 1000, b"last\n"):
        await store.save(data)
        assert await store.load() == data
        assert (tmp_path / DOCUMENT).read_bytes() == data
    await store.release(ended=True)
    assert await FolderStore(tmp_path).load() == b"last\n"
    assert {entry.name for entry in tmp_path.iterdir()} == {DOCUMENT, LEASE}
    assert store.place == str(tmp_path / DOCUMENT)


async def test_a_second_run_is_told_who_holds_the_state(tmp_path):
    """While a process holds the lease, another is told its number and host, and stops."""
    with holding(tmp_path) as running:
        with pytest.raises(StateError) as caught:
            await FolderStore(tmp_path).acquire()
        message = str(caught.value)
        assert f"in use by process {running.pid} on {socket.gethostname()}, since 20" in message
        assert str(tmp_path) in message
        assert "\n" not in message


async def test_a_second_run_harms_nothing(tmp_path):
    """Refused twice, and giving back what it does not hold, it leaves the holder its lease."""
    first, second = FolderStore(tmp_path), FolderStore(tmp_path)
    await first.acquire()
    await first.save(b"first")
    lease = (tmp_path / LEASE).read_bytes()
    for _ in range(2):
        with pytest.raises(StateError, match=f"process {os.getpid()} "):
            await second.acquire()
        await second.release(ended=True)
    assert (tmp_path / LEASE).read_bytes() == lease
    assert await first.load() == b"first"
    await first.release(ended=True)
    assert await second.acquire() is True
    await second.release(ended=True)


async def test_giving_back_twice_does_nothing(tmp_path):
    """A second release is quiet, and does not take the lease of whoever came after."""
    first, second = FolderStore(tmp_path), FolderStore(tmp_path)
    await first.acquire()
    await first.release(ended=True)
    await second.acquire()
    await first.release(ended=True)
    with pytest.raises(StateError, match="in use"):
        await FolderStore(tmp_path).acquire()
    await second.release(ended=True)


@pytest.mark.parametrize(("word", "ended"), [("ended", True), ("cut off", False), ("", False)])
async def test_the_next_one_knows_how_the_last_one_ended(tmp_path, word, ended):
    """Ended is what the holder said so of; given back otherwise, or just left, is not."""
    with holding(tmp_path) as running:
        running.stdin.write(f"{word}\n")
        running.stdin.close()
        assert running.wait(10) == 0
    store = FolderStore(tmp_path)
    assert await store.acquire() is ended
    await store.release(ended=False)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("how", ["ended", "cut off", "killed"])
async def test_a_run_that_did_not_begin_changes_nothing(tmp_path, last, how):
    """A holder that only looked leaves what the run before it had said, however it went."""
    store = FolderStore(tmp_path)
    await store.acquire()
    await store.begin()
    await store.release(ended=last)
    with holding(tmp_path, begun=False) as running:
        if how == "killed":
            running.send_signal(signal.SIGKILL)
        else:
            running.stdin.write(f"{how}\n")
            running.stdin.close()
        running.wait(10)
    again = FolderStore(tmp_path)
    assert await again.acquire() is last
    await again.release(ended=False)


async def test_a_killed_holder_loses_its_lease_at_once(tmp_path):
    """After SIGKILL the lease is free within no time, and the run is known not to have ended."""
    with holding(tmp_path) as running:
        running.send_signal(signal.SIGKILL)
        running.wait(10)
        store = FolderStore(tmp_path)
        assert await store.acquire() is False
        await store.release(ended=False)


async def test_a_lease_cut_short_names_nobody(tmp_path):
    """A holder that cannot be read is another run, not a traceback."""
    first = FolderStore(tmp_path)
    await first.acquire()
    for content in (b"", b'{"process": 5', b"[]", b"null"):
        (tmp_path / LEASE).write_bytes(content)
        with pytest.raises(StateError, match="in use by another run"):
            await FolderStore(tmp_path).acquire()
    await first.release(ended=True)


@pytest.mark.parametrize("lease", [None, [], {}, {"process": 1}, "text"])
def test_a_lease_of_another_shape_names_nobody(lease):
    """Whatever a lease says, its description is a few words."""
    assert describe_holder(lease) == "another run"


def test_a_document_is_whole_whenever_the_writer_is_killed(tmp_path):
    """Six processes killed while they save: the document is always one that was saved, whole."""
    rng = random.Random(4)
    for _ in range(6):
        with process(SAVE, tmp_path) as running:
            assert running.stdout.readline() == "saving\n"
            time.sleep(rng.uniform(0, 0.05))
            running.send_signal(signal.SIGKILL)
            running.wait(10)
        data = (tmp_path / DOCUMENT).read_bytes()
        number = int(data.split(b" ", 1)[0])
        assert number >= 3
        assert data == b"%d " % number * (number * 7919 % 50_000 + 1)


async def test_what_a_killed_writer_leaves_is_harmless(tmp_path):
    """Half a document beside the old one is neither read nor in the way."""
    store = FolderStore(tmp_path)
    await store.acquire()
    await store.save(b"old")
    await store.release(ended=False)
    (tmp_path / f"{DOCUMENT}.new").write_bytes(b"x" * 10_000)
    again = FolderStore(tmp_path)
    await again.acquire()
    assert await again.load() == b"old"
    await again.save(b"new")
    assert await again.load() == b"new"
    await again.release(ended=True)
    assert {entry.name for entry in tmp_path.iterdir()} == {DOCUMENT, LEASE}


async def test_a_save_that_was_cancelled_does_not_overtake_the_next(tmp_path, monkeypatch):
    """A save given up on goes on in its thread; the next one comes after it, and stays."""
    store, started, go, whole = (
        FolderStore(tmp_path),
        threading.Event(),
        threading.Event(),
        os.fsync,
    )

    def sync(descriptor: int) -> None:
        started.set()
        go.wait(5)
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    first = asyncio.create_task(store.save(b"first" * 1000))
    await asyncio.to_thread(started.wait)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(store.save(b"second"))
    done, _ = await asyncio.wait([second], timeout=0.05)
    assert not done
    go.set()
    await second
    assert await store.load() == b"second"


def test_a_full_disk_leaves_the_old_document_whole(tmp_path):
    """What does not fit is one sentence; the last document that did is still there, whole."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    sentence = f"The state in {tmp_path} cannot be written: File too large."
    assert done.stdout.splitlines() == [sentence] * 2
    assert (tmp_path / DOCUMENT).read_bytes() == b"n" * 10_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_device_is_one_sentence(tmp_path):
    """A disk without room is told of, and the old document stays."""
    store = FolderStore(tmp_path)
    await store.acquire()
    await store.save(b"old")
    (tmp_path / f"{DOCUMENT}.new").symlink_to("/dev/full")
    with pytest.raises(StateError, match="cannot be written: No space left on device"):
        await store.save(b"new")
    assert await store.load() == b"old"
    await store.release(ended=True)


@pytest.mark.parametrize("below", ["", "/deeper"])
async def test_a_place_that_cannot_be_a_folder_is_one_sentence(tmp_path, below):
    """A regular file in the way is told of when the lease is taken."""
    (tmp_path / "file").write_text("")
    store = FolderStore(Path(f"{tmp_path}/file{below}"))
    with pytest.raises(StateError, match=r"The state in .*/file\S* cannot be used: \S.*\.") as got:
        await store.acquire()
    assert "\n" not in str(got.value)
    await store.release(ended=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_without_permission_is_one_sentence(tmp_path):
    """A folder that may not be written to is told of when the lease is taken."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StateError, match="cannot be used: Permission denied"):
            await FolderStore(tmp_path).acquire()
    finally:
        tmp_path.chmod(0o700)


async def test_a_document_that_cannot_be_read_is_one_sentence(tmp_path):
    """What is there and no readable file is an error, not an empty state."""
    (tmp_path / DOCUMENT).mkdir()
    store = FolderStore(tmp_path)
    await store.acquire()
    with pytest.raises(StateError, match=r"The state in .* cannot be read: Is a directory\."):
        await store.load()
    with pytest.raises(StateError, match="cannot be written"):
        await store.save(b"new")
    await store.release(ended=False)


@pytest.mark.parametrize("scheme", ["", "file://", "FILE://"])
def test_a_folder_is_found_by_its_uri(tmp_path, scheme):
    """A path and a file:// URI are the same place, with a folder for each table."""
    store = open_store(f"{scheme}{tmp_path}", "aws_sagemaker_trainingjob", Settings())
    assert store.place == str(tmp_path / "aws_sagemaker_trainingjob" / DOCUMENT)


def test_a_place_of_another_kind_is_refused():
    """A scheme that holds no state is named, with those that do."""
    with pytest.raises(ConfigurationError, match=r"no state in ftp://.*s3://"):
        open_store("ftp://host/state", "table", Settings())
