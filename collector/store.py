"""Where state is kept: a document, written whole or not at all, and a lease on it.

One run at a time holds the lease, and says when it gives it back whether it has ended: nothing
else comes after that, so a run that was killed at any moment before has not. In a folder the lease
is a lock that the kernel drops with the process.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import orjson

from collector.errors import ConfigurationError, StateError
from collector.files import replace_synced, write_synced

DOCUMENT, LEASE = "state.json", "lease.json"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Store(Protocol):
    """Keeps one document. Every method raises StateError, with one sentence."""

    @property
    def place(self) -> str:
        """Where it is, for a person."""

    async def acquire(self) -> bool:
        """Take the lease, or say who holds it; whether the run that had it has ended."""

    async def load(self) -> bytes | None:
        """The document; None if there is none yet."""

    async def save(self, data: bytes) -> None:
        """Put ``data`` in the document's place; returns once it is durable."""

    async def release(self, *, ended: bool) -> None:
        """Give the lease back; does nothing if it is not held."""


def open_store(uri: str, name: str, *, now: Callable[[], float] = time.time) -> Store:
    """The store below ``uri`` for the document of ``name``. Raises ConfigurationError."""
    match = _SCHEME.match(uri)
    if match is None:
        return FolderStore(Path(uri) / name, now=now)
    if match[1].lower() == "file":
        return FolderStore(Path(uri[len("file://") :]) / name, now=now)
    raise ConfigurationError(
        f"There is no state in {match[1]}:// in this release; use a folder, s3://, gs:// or az://."
    )


def describe_holder(data: bytes) -> str:
    """Who holds a lease, from what it holds."""
    try:
        lease = orjson.loads(data)
        return f"process {lease['process']} on {lease['host']}, since {lease['since']}"
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return "another run"


def holder(now: float) -> dict[str, object]:
    """How a lease names the process that holds it."""
    since = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since}


class FolderStore:
    """A folder of the file system."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._document = folder / DOCUMENT
        self._now = now
        self._lock: int | None = None
        self._saving = threading.Lock()

    @property
    def place(self) -> str:
        return str(self._document)

    async def acquire(self) -> bool:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder / LEASE, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ended = os.fstat(self._lock).st_size == 0
            lease = orjson.dumps(holder(self._now()))
            os.pwrite(self._lock, lease, 0)
            os.ftruncate(self._lock, len(lease))
        except BlockingIOError as error:
            who = describe_holder(os.pread(self._lock or 0, 4096, 0))
            self._drop()
            raise StateError(
                f"The state in {self._folder} is in use by {who}: wait for that run to end, or "
                "give this one a state of its own."
            ) from error
        except OSError as error:
            self._drop()
            raise self._cannot("used", error) from error
        return ended

    def _drop(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _cannot(self, verb: str, error: OSError) -> StateError:
        return StateError(
            f"The state in {self._folder} cannot be {verb}: {error.strerror or error}."
        )

    async def load(self) -> bytes | None:
        try:
            return await asyncio.to_thread(self._document.read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._cannot("read", error) from error

    async def save(self, data: bytes) -> None:
        await asyncio.to_thread(self._save, data)

    def _save(self, data: bytes) -> None:
        new = self._document.with_name(DOCUMENT + ".new")
        # A save that was cancelled goes on in its thread: the next one waits for it.
        with self._saving:
            try:
                write_synced(new, data)
                replace_synced(new, self._document)
            except OSError as error:
                raise self._cannot("written", error) from error

    async def release(self, *, ended: bool) -> None:
        if self._lock is not None and ended:
            os.ftruncate(self._lock, 0)
            os.fsync(self._lock)
        self._drop()
