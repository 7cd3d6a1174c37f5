"""Where state is kept: a document, written whole or not at all, and a lease on it.

One run at a time holds the lease, and says when it gives it back that it has ended: nothing else
comes after that, so a run that was killed at any moment before has not. In a folder the lease is a
lock that the kernel drops with the process.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Protocol

import obstore
import orjson

from collector import objects
from collector.errors import ConfigurationError, StateError
from collector.files import replace_synced, write_synced
from collector.settings import Settings

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import ObjectStore

DOCUMENT, LEASE = "state.json", "lease.json"
LEASE_LASTS, RENEW_EVERY, LOOK_EVERY = 20.0, 5.0, 1.0
"""Seconds: after which an unchanged lease counts as lost, and between two writes, two looks."""

_LONGEST_LEASE = 512
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def name_of(settings: Settings) -> str:
    """The document's name: the table's, and below it the shard's, if this is one."""
    shard = settings.shard
    return f"{settings.table}/shard-{shard.name}" if shard else settings.table


class Store(Protocol):
    """Keeps one document. Every method raises StateError, with one sentence."""

    @property
    def place(self) -> str:
        """Where it is, for a person."""

    async def acquire(self) -> bool:
        """Take the lease, or say who holds it; whether the run that had it has ended."""

    async def begin(self) -> None:
        """From now on the lease says that its run has not ended, and no more that the last has."""

    async def load(self) -> bytes | None:
        """The document; None if there is none yet. To look at it takes no lease."""

    async def save(self, data: bytes) -> None:
        """Put ``data`` in the document's place; returns once it is durable."""

    async def release(self, *, ended: bool) -> None:
        """Give the lease back; does nothing if it is not held. One not begun stays as it was."""


def open_store(
    uri: str, name: str, settings: Settings, *, tell: Callable[[str], None] = lambda _: None
) -> Store:
    """The store below ``uri`` for the document of ``name``. Raises ConfigurationError.

    ``tell`` takes what a person should know of a wait.
    """
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else "file"
    if scheme == "file":
        return FolderStore(Path(uri[match.end() :] if match else uri) / name)
    if scheme not in objects.SCHEMES:
        raise ConfigurationError(
            f"There is no state in {scheme}://: use a folder, s3://, gs:// or az://."
        )

    place = f"{uri.partition('?')[0].rstrip('/')}/{name}"
    return BucketStore(lambda: objects.open_objects(uri, settings), name, place, tell=tell)


def describe_holder(lease: Any) -> str:
    """Who holds a lease, from what it says."""
    try:
        return f"process {lease['process']} on {lease['host']}, since {lease['since']}"
    except (TypeError, KeyError):
        return "another run"


def holder(now: float) -> dict[str, object]:
    """How a lease names the process that holds it."""
    since = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since}


def _has_ended(lease: bytes) -> bool:
    """Whether the run that a lease speaks of has ended; there was none where there is no lease."""
    found = _parsed(lease)
    return not lease.strip() or (isinstance(found, dict) and found.get("ended") is True)


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _in_use(place: str, who: str) -> StateError:
    return StateError(
        f"The state in {place} is in use by {who}: wait for that run to end, or give this one a "
        "state of its own."
    )


def _cannot(place: str, verb: str, why: object) -> StateError:
    return StateError(f"The state in {place} cannot be {verb}: {why}.")


class FolderStore:
    """A folder of the file system."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._document = folder / DOCUMENT
        self._now = now
        self._lock: int | None = None
        self._begun = False
        self._saving = threading.Lock()

    @property
    def place(self) -> str:
        return str(self._document)

    async def acquire(self) -> bool:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder / LEASE, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lease = os.pread(self._lock, _LONGEST_LEASE, 0)
        except BlockingIOError as error:
            who = describe_holder(_parsed(os.pread(self._lock or 0, _LONGEST_LEASE, 0)))
            self._drop()
            raise _in_use(str(self._folder), who) from error
        except OSError as error:
            self._drop()
            raise _cannot(str(self._folder), "used", error.strerror) from error
        ended = _has_ended(lease)
        self._write_lease({**holder(self._now()), "ended": ended})
        return ended

    async def begin(self) -> None:
        self._begun = True
        self._write_lease({**holder(self._now()), "ended": False})

    def _write_lease(self, lease: dict[str, object]) -> None:
        if self._lock is None:
            return
        # Of one length, so that it can be written over at once, also on a full disk.
        data = orjson.dumps(lease).ljust(_LONGEST_LEASE)
        try:
            os.pwrite(self._lock, data, 0)
            os.fsync(self._lock)
        except OSError as error:
            raise _cannot(str(self._folder), "written", error.strerror) from error

    def _drop(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def load(self) -> bytes | None:
        try:
            return await asyncio.to_thread(self._document.read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _cannot(str(self._folder), "read", error.strerror) from error

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
                raise _cannot(str(self._folder), "written", error.strerror) from error

    async def release(self, *, ended: bool) -> None:
        try:
            if self._begun and ended:
                self._write_lease({**holder(self._now()), "ended": True})
        finally:
            self._drop()


class BucketStore:
    """A prefix of an object store.

    The lease is an object that its holder writes anew every RENEW_EVERY seconds; one that stays
    the same for LEASE_LASTS seconds has lost its holder. No clock but our own is needed for that.
    Each write names the version that it replaces, so that a run that has lost its lease without
    knowing (as on a machine that slept) cannot harm the one that holds it now.
    """

    def __init__(
        self,
        open_bucket: Callable[[], Awaitable[ObjectStore]],
        name: str,
        place: str,
        *,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._open_bucket = open_bucket
        self._paths = {kind: f"{name}/{kind}" for kind in (DOCUMENT, LEASE)}
        self._place = place
        self._tell = tell
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._bucket: ObjectStore | None = None
        self._versions: dict[str, UpdateVersion] = {}
        self._lease: dict[str, object] = {}
        self._begun = False
        self._renewing: asyncio.Task[None] | None = None

    @property
    def place(self) -> str:
        return f"{self._place}/{DOCUMENT}"

    async def acquire(self) -> bool:
        self._bucket = await self._open_bucket()
        lease = await self._get(LEASE) or b""
        found = _parsed(lease)
        if isinstance(found, dict) and found.get("held"):
            await self._wait_for(found)
        ended = _has_ended(lease)
        token = token_hex(8)  # no other run writes an equal lease
        self._lease = {"held": True, "ended": ended, **holder(self._now()), "token": token}
        try:
            await self._put_lease()
        except objects.TAKEN as error:
            who = describe_holder(_parsed(await self._get(LEASE) or b""))
            raise _in_use(self._place, who) from error
        except objects.ERRORS as error:
            raise self._cannot("written", error) from error
        self._renewing = asyncio.create_task(self._renew())
        return ended

    async def begin(self) -> None:
        self._begun = True
        self._lease["ended"] = False
        await self._save(LEASE, orjson.dumps(self._lease))

    async def _wait_for(self, lease: Any) -> None:
        """Return once the holder of a lease is seen to be gone. Raises StateError if it is not."""
        who = describe_holder(lease)
        self._tell(f"The state in {self._place} is held by {who}: waiting for a sign of life")
        version, until = self._versions[LEASE], self._clock() + LEASE_LASTS
        while self._clock() < until:
            await self._sleep(LOOK_EVERY)
            await self._get(LEASE)
            if self._versions.get(LEASE) != version:
                raise _in_use(self._place, who)

    async def _renew(self) -> None:
        while True:
            await self._sleep(RENEW_EVERY)
            self._lease["renewed"] = self._now()
            try:
                await self._put_lease()
            except objects.TAKEN:
                return  # lost; writing the document will say so
            except objects.ERRORS:
                continue  # the next time, maybe; until then others wait

    async def _put_lease(self) -> None:
        await self._put(LEASE, orjson.dumps(self._lease))

    async def load(self) -> bytes | None:
        if self._bucket is None:
            self._bucket = await self._open_bucket()
        return await self._get(DOCUMENT)

    async def save(self, data: bytes) -> None:
        await self._save(DOCUMENT, data)

    async def _save(self, kind: str, data: bytes) -> None:
        try:
            await self._put(kind, data)
        except objects.TAKEN as error:
            raise StateError(
                f"The state in {self._place} was taken over by another run, since this one gave "
                "no sign of life: it stops here."
            ) from error
        except objects.ERRORS as error:
            raise self._cannot("written", error) from error

    async def release(self, *, ended: bool) -> None:
        renewing, self._renewing = self._renewing, None
        if renewing is None:
            return
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        self._lease["held"] = False
        if self._begun:
            self._lease["ended"] = ended
        try:
            await self._put_lease()
        except objects.TAKEN:
            pass  # lost: it is not ours to give back
        except objects.ERRORS as error:
            if ended:
                raise self._cannot("given back", error) from error

    async def _get(self, kind: str) -> bytes | None:
        try:
            answer = await obstore.get_async(self._opened, self._paths[kind])
            data = bytes(await answer.bytes_async())
        except objects.ABSENT:
            self._versions.pop(kind, None)
            return None
        except objects.ERRORS as error:
            raise self._cannot("read", error) from error
        self._versions[kind] = {
            "e_tag": answer.meta["e_tag"],
            "version": answer.meta["version"],
        }
        return data

    async def _put(self, kind: str, data: bytes) -> None:
        """Write in the place of the version that was last seen. Raises what the library raises."""
        known = self._versions.get(kind)
        mode: Any = {key: value for key, value in known.items() if value} if known else "create"
        try:
            done = await obstore.put_async(self._opened, self._paths[kind], data, mode=mode)
        except objects.TAKEN:
            # A write whose answer was lost is made again, and finds itself.
            if await self._get(kind) == data:
                return
            self._versions.pop(kind, None)
            if known:
                self._versions[kind] = known
            raise
        self._versions[kind] = {"e_tag": done["e_tag"], "version": done["version"]}

    @property
    def _opened(self) -> ObjectStore:
        if self._bucket is None:
            raise StateError(f"The state in {self._place} is not open.")
        return self._bucket

    def _cannot(self, verb: str, error: BaseException) -> StateError:
        return _cannot(self._place, verb, objects.sentence(error))
