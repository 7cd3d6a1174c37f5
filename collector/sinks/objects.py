"""Object stores, and folders of the same layout: parts as they are filled, then a manifest.

    <prefix>/table=.../dt=YYYY-MM-DD/run=.../part-00001.ndjson.gz, ..., _manifest.json

A part appears once it is whole, the manifest once all parts are there: a run without one was cut
off. Parts are finished when they are large or old enough, and at each flush, which acknowledges
them; so flushes are as far apart as parts may be old.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
import orjson
from obstore.store import ObjectStore

from collector import objects
from collector.errors import CollectorError, ConfigurationError, SinkError
from collector.files import sync
from collector.shards import PLACE, placed
from collector.sinks._layout import OF_A_PART, OF_A_RUN, Options, read_uri
from collector.sinks._parts import Done, Part
from collector.sinks.base import Kept, Permission, Position, Row, Run

SCHEMES = ("s3", "gs", "az", "file")

FORMAT, VERSION = "aws-resource-collector manifest", 1

MOST_OPEN = 16
"""Parts being written at once, where the template splits them by account or region."""

_STAGED = re.compile(r"#\d+$")
"""How the library ends the name of a file that is not whole yet."""


def open_sink(uri: str, run: Run) -> ObjectSink:
    return ObjectSink(uri, read_uri(uri), run)


def permissions(uri: str) -> list[Permission]:
    parts, options = urlsplit(uri), read_uri(uri)
    if parts.scheme != "s3":
        return []
    bucket = f"arn:*:s3:::{parts.netloc}"
    below = f"{bucket}/{parts.path.strip('/')}".rstrip("/") + "/*"
    writing = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:PutObject"]
    writing += ["s3:PutObjectAcl"] if options.acl is not None else []
    found = [
        Permission("WriteParts", writing, [below]),
        Permission("FindParts", ["s3:ListBucket", "s3:ListBucketMultipartUploads"], [bucket]),
    ]
    if options.kms_key is not None:
        key = _key_arn(options.kms_key)
        found.append(Permission("EncryptParts", ["kms:Decrypt", "kms:GenerateDataKey"], [key]))
    return found


def _key_arn(key: str) -> str:
    """The ARN of a key. An alias allows nothing of the key behind it, so that may be any."""
    arn = key if key.startswith("arn:") else f"arn:*:kms:*:*:{'' if '/' in key else 'key/'}{key}"
    return re.sub(":alias/.*", ":key/*", arn)


class ObjectSink:
    """Exactly once: where a run goes on, what had not been acknowledged is removed first."""

    def __init__(
        self,
        uri: str,
        options: Options,
        run: Run,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = uri.partition("?")[0].rstrip("/")
        self._full_uri = uri
        self._options = options
        self._run = run
        self._clock = clock
        self._run_id, self._dt = run.run_id, _date(run.started_at)
        self._folder_here = objects.folder(uri) if urlsplit(uri).scheme == "file" else None
        self._bucket: objects.Bucket | None = None
        self._store: ObjectStore | None = None
        self._make: objects.Opener | None = None
        self._parts: list[Done] = []
        self._open_parts: dict[tuple[str, ...], Part] = {}
        self._next = 1
        self._note: str | None = None

    @property
    def flush_every(self) -> float:
        return self._options.roll_after

    # Where things are.

    @property
    def _names(self) -> dict[str, str]:
        shard = placed(PLACE, self._run.settings.shard)
        return {"table": self._run.table, "dt": self._dt, "run_id": self._run_id, "shard": shard}

    @property
    def _folder(self) -> str:
        """The folder that all parts of this run are in, and others maybe."""
        return self._options.folder(OF_A_PART, self._names)

    def _own(self, name: str) -> str:
        """Path of an object that speaks of the whole run; its underscore hides it from readers."""
        folder = self._folder
        stem = f"_{name}" if self._run_id in folder else f"_{name}-{self._run_id}"
        return f"{folder}/{stem}.json".lstrip("/")

    # The protocol.

    async def open(self, position: Position | None = None) -> Kept:
        patience = self._run.settings.give_up_after
        try:
            self._make = await self._opener()
            # A person waits at the start, so the first requests are given up sooner.
            self._store = self._make(min(objects.PATIENCE, patience))
            kept = await self._begin(position)
            self._store = self._make(patience)
        except objects.ERRORS as error:
            self._store = None
            raise self._cannot(error) from error
        return kept

    async def _opener(self) -> objects.Opener:
        settings, key = self._run.settings, self._options.kms_key
        try:
            if urlsplit(self._uri).scheme != "s3":
                return await objects.opener(self._uri, settings)
            self._bucket = objects.Bucket(self._full_uri, settings)
            config = {"sse_kms_key_id": key, "server_side_encryption": "aws:kms"} if key else {}
            return await self._bucket.opener(config)
        except ConfigurationError:
            raise
        except CollectorError as error:
            raise SinkError(str(error)) from error

    async def _begin(self, position: Position | None) -> Kept:
        kept = Kept.NOTHING if position is None else await self._go_on(position)
        begun = self._run_id
        if kept is Kept.NOTHING:
            self._run_id, self._dt = self._run.run_id, _date(self._run.started_at)
            self._parts, self._next = [], 1
            await self._put(
                self._own("started"), {"run_id": self._run_id, "table": self._run.table}
            )
        if self._bucket is not None:
            await self._abort_uploads(self._bucket, begun)
        return kept

    async def _go_on(self, position: Position) -> Kept:
        self._run_id, self._dt = position["run_id"], position["dt"]
        there = {
            item["path"]: item["size"]
            for item in await obstore.list(self._opened_store, prefix=self._folder).collect_async()
            if self._run_id in item["path"]
        }
        parts = [Done(*part) for part in position["parts"]]
        if any(there.get(part.path) != part.bytes for part in parts):
            return Kept.NOTHING
        self._parts, self._next = parts, position["next"]
        if self._own("manifest") in there:
            return Kept.WHOLE
        kept = {part.path for part in parts} | {self._own("started")}
        strays = [path for path in there if path not in kept]
        if strays:
            await obstore.delete_async(self._opened_store, strays)
        if self._folder_here is not None:
            await asyncio.to_thread(self._remove_staged, self._folder_here / self._folder)
        return Kept.PART

    def _remove_staged(self, folder: Path) -> None:
        """What the library had staged for a part of this run, and never lists."""
        for path in folder.rglob("*#*"):
            if _STAGED.search(path.name) and self._run_id in str(path):
                path.unlink(missing_ok=True)

    async def _abort_uploads(self, bucket: objects.Bucket, run_id: str) -> None:
        """Multipart uploads that a killed run left behind; those of others are only named."""
        folder = self._options.folder(OF_A_RUN, self._names)
        try:
            others = await bucket.abort_uploads(folder, run_id)
        except SinkError as error:
            self._note = f"Unfinished uploads could not be looked for ({str(error).rstrip('.')})"
            return
        if others:
            self._note = (
                f"{self._uri} has {len(others)} unfinished multipart uploads of other runs, such "
                f"as {others[0]}: where none of these is under way, abort them, or have a "
                "lifecycle rule do it (AbortIncompleteMultipartUpload)"
            )

    async def write(self, rows: Sequence[Row]) -> None:
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault(self._group(row), []).append(row)
        try:
            for group, its_rows in groups.items():
                part = await self._part(group, its_rows[0])
                await part.write(b"".join(row.line for row in its_rows), len(its_rows))
            for group, part in list(self._open_parts.items()):
                old = self._clock() - part.opened_at >= self._options.roll_after
                if old or part.size >= self._options.part_bytes:
                    await self._finish(group)
        except objects.ERRORS as error:
            raise self._cannot(error) from error

    def _group(self, row: Row) -> tuple[str, ...]:
        template = self._options.template
        return tuple(
            value
            for name, value in (("account_id", row.account_id), ("region", row.region))
            if f"{{{name}}}" in template
        )

    async def _part(self, group: tuple[str, ...], row: Row) -> Part:
        part = self._open_parts.get(group)
        if part is None:
            if len(self._open_parts) >= MOST_OPEN:
                await self._finish(next(iter(self._open_parts)))
            its_own = {"account_id": row.account_id, "region": row.region}
            path = self._options.path(self._names | its_own | {"part": f"{self._next:05}"})
            self._next += 1
            part = Part(self._opened_store, path, self._clock())
            self._open_parts[group] = part
        return part

    async def _finish(self, group: tuple[str, ...]) -> None:
        part = self._open_parts.pop(group)
        try:
            done = await part.finish()
        except BaseException:
            self._open_parts[group] = part  # to be aborted
            raise
        await self._settle(done.path)
        self._parts.append(done)

    async def _settle(self, path: str) -> None:
        """What an object lacks that has just been put."""
        if self._folder_here is not None:
            await asyncio.to_thread(sync, self._folder_here / path)
        if self._bucket is not None and self._options.acl is not None:
            await self._bucket.set_acl(path, self._options.acl)

    async def flush(self) -> Position | None:
        try:
            for group in list(self._open_parts):
                await self._finish(group)
        except objects.ERRORS as error:
            raise self._cannot(error) from error
        return {
            "run_id": self._run_id,
            "dt": self._dt,
            "parts": [[part.path, part.rows, part.bytes] for part in self._parts],
            "next": self._next,
        }

    async def close(self, *, whole: bool) -> str | None:
        if self._store is None:
            return None
        try:
            if whole:
                await self.flush()
                await self._put(self._own("manifest"), self._manifest())
                return self._note
            await asyncio.gather(*(part.abort() for part in self._open_parts.values()))
            if not self._parts:
                await self._leave_nothing()
                return None
        except objects.ERRORS as error:
            raise self._cannot(error) from error
        finally:
            self._open_parts.clear()
            self._store = None
        return f"What was read is in {self._uri}/{self._folder}, without a manifest"

    async def _leave_nothing(self) -> None:
        """No part is there: nor is a sign of having begun, unless that cannot be helped."""
        if self._make is not None:
            store = self._make(min(objects.PATIENCE, self._run.settings.give_up_after))
            with suppress(*objects.ERRORS):
                await obstore.delete_async(store, self._own("started"))

    def _manifest(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "run_id": self._run_id,
            "table": self._run.table,
            "rows": sum(part.rows for part in self._parts),
            "bytes": sum(part.bytes for part in self._parts),
            "parts": self._parts,
        }

    async def _put(self, path: str, content: object) -> None:
        data = orjson.dumps(content, option=orjson.OPT_INDENT_2)
        await obstore.put_async(self._opened_store, path, data)
        await self._settle(path)

    @property
    def _opened_store(self) -> ObjectStore:
        if self._store is None:
            raise SinkError(f"The sink {self._uri} is not open.")
        return self._store

    def _cannot(self, error: BaseException) -> SinkError:
        return SinkError(f"Cannot write to {self._uri}: {objects.sentence(error)}.")


def _date(started_at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(started_at))
