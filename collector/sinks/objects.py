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
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import obstore
import orjson
from obstore.store import ObjectStore

from collector import objects
from collector.errors import CollectorError, ConfigurationError, SinkError
from collector.files import sync
from collector.parse import parse_duration, parse_size
from collector.shards import PLACE, placed
from collector.sinks._encoders import Encoder, encoder_for
from collector.sinks.base import Kept, Permission, Position, Row, Run

SCHEMES = ("s3", "gs", "az", "file")

FORMAT, VERSION = "aws-resource-collector manifest", 1
TEMPLATE = "table={table}/dt={dt}/run={run_id}/part-{part}.ndjson"
CODECS = {"gz": ".gz", "zst": ".zst", "none": ""}
PART_BYTES, ROLL_AFTER = 128 << 20, 300.0

CHUNK = 8 << 20
"""Bytes of one upload of a multipart upload; a part that is smaller is put at once."""

UPLOADS = 2
"""Chunks of one part on their way at once."""

MOST_OPEN = 16
"""Parts being written at once, where the template splits them by account or region."""

_NAMES = ("table", "dt", "run_id", "shard", "account_id", "region", "part")
_OF_A_PART = ("account_id", "region", "part")
_OPTIONS = ("template", "codec", "part_bytes", "roll_after", "region", "kms_key", "acl")


def open_sink(uri: str, run: Run) -> ObjectSink:
    parts = urlsplit(uri)
    given = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    for name in given:
        if name not in _OPTIONS:
            near = get_close_matches(name, _OPTIONS, 1) or [", ".join(_OPTIONS)]
            raise ConfigurationError(f"{uri}: there is no option {name}; did you mean {near[0]}?")
    if parts.scheme != "s3" and {"kms_key", "acl", "region"} & given.keys():
        raise ConfigurationError(f"{uri}: kms_key, acl and region are options of s3:// only.")
    if not parts.netloc and parts.scheme != "file":
        raise ConfigurationError(f"{uri} lacks the name of a bucket.")
    try:
        options = Options(
            template=_template(given.get("template", TEMPLATE), given.get("codec", "gz")),
            part_bytes=parse_size(given.get("part_bytes", PART_BYTES)),
            roll_after=parse_duration(given.get("roll_after", ROLL_AFTER)),
            kms_key=given.get("kms_key"),
            acl=given.get("acl"),
        )
    except ValueError as error:
        raise ConfigurationError(f"{uri}: {error}.") from None
    return ObjectSink(uri, options, run)


def permissions(uri: str) -> list[Permission]:
    parts = urlsplit(uri)
    if parts.scheme != "s3":
        return []
    given = parse_qs(parts.query)
    bucket = f"arn:*:s3:::{parts.netloc}"
    below = f"{bucket}/{parts.path.strip('/')}".rstrip("/") + "/*"
    writing = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:PutObject"]
    writing += ["s3:PutObjectAcl"] if "acl" in given else []
    found = [
        Permission("WriteParts", writing, [below]),
        Permission("FindParts", ["s3:ListBucket", "s3:ListBucketMultipartUploads"], [bucket]),
    ]
    if "kms_key" in given:
        key = given["kms_key"][-1]
        arn = key if key.startswith("arn:") else "arn:*:kms:*:*:key/*"
        found.append(Permission("EncryptParts", ["kms:Decrypt", "kms:GenerateDataKey"], [arn]))
    return found


def _template(template: str, codec: str) -> str:
    """The template of a part's path, with its ending. Raises ValueError."""
    if codec not in CODECS:
        raise ValueError(f"codec takes {', '.join(CODECS)}, not {codec!r}")
    names = re.findall(r"\{(.*?)\}", template)
    unknown = [name for name in names if name not in _NAMES]
    if unknown or {"run_id", "part"} - set(names):
        raise ValueError(
            f"template takes {', '.join('{' + name + '}' for name in _NAMES)}, and needs "
            "{run_id} and {part}"
        )
    return template.strip("/") + CODECS[codec]


@dataclass(frozen=True, slots=True)
class Options:
    """What may stand in the query of the URI; ``part_bytes`` as written, ``roll_after`` seconds."""

    template: str
    part_bytes: int
    roll_after: float
    kms_key: str | None = None
    acl: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A part that is in place."""

    path: str
    rows: int
    bytes: int


_ABORT = b""


class _AbortedError(Exception):
    """Tells the library to abort an upload: cancelling the call would only leave it."""


class _Part:
    """A part that is being written."""

    def __init__(self, store: ObjectStore, path: str, opened_at: float) -> None:
        self.path = path
        self.opened_at = opened_at
        self.rows = self.size = 0
        self._store = store
        self._encoder: Encoder = encoder_for(Path(path).suffix)
        self._buffer = bytearray()
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._upload: asyncio.Task[Any] | None = None

    async def write(self, data: bytes, rows: int) -> None:
        # Off the loop: compressing a batch takes longer than a call to AWS may wait.
        self._take(await asyncio.to_thread(self._encoder.compress, data))
        self.rows += rows
        while len(self._buffer) >= CHUNK:
            chunk = bytes(self._buffer[:CHUNK])
            del self._buffer[:CHUNK]
            await self._send(chunk)

    def _take(self, data: bytes) -> None:
        self._buffer += data
        self.size += len(data)

    async def _send(self, chunk: bytes | None) -> None:
        if self._upload is None:
            self._upload = asyncio.create_task(self._run())
        sending = asyncio.create_task(self._chunks.put(chunk))
        try:
            # The upload ends early only if it fails.
            await asyncio.wait({sending, self._upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not sending.done():
                sending.cancel()
        if self._upload.done():
            await self._upload

    async def _run(self) -> None:
        await obstore.put_async(
            self._store,
            self.path,
            self._stream(),
            chunk_size=CHUNK,
            max_concurrency=UPLOADS,
        )

    async def _stream(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            if not chunk:
                raise _AbortedError
            yield chunk

    async def finish(self) -> Done:
        """Put the part in its place."""
        self._take(await asyncio.to_thread(self._encoder.flush))
        rest = bytes(self._buffer)
        if self._upload is None:
            await obstore.put_async(self._store, self.path, rest, use_multipart=False)
        else:
            if rest:
                await self._send(rest)
            await self._send(None)
            await self._upload
        return Done(self.path, self.rows, self.size)

    async def abort(self) -> None:
        """Leave no trace; a multipart upload under way is aborted."""
        if self._upload is not None:
            while not self._chunks.empty():
                self._chunks.get_nowait()
            self._chunks.put_nowait(_ABORT)
            await asyncio.gather(self._upload, return_exceptions=True)


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
        self._store: ObjectStore | None = None
        self._parts: list[Done] = []
        self._open_parts: dict[tuple[str, ...], _Part] = {}
        self._next = 1
        self._note: str | None = None

    @property
    def flush_every(self) -> float:
        return self._options.roll_after

    # Where things are.

    def _path(self, **names: str) -> str:
        return self._filled(self._options.template, **names)

    def _filled(self, template: str, **names: str) -> str:
        shard = placed(PLACE, self._run.settings.shard)
        known = {"table": self._run.table, "dt": self._dt, "run_id": self._run_id, "shard": shard}
        return re.sub(r"\{(.*?)\}", lambda match: (known | names)[match[1]], template)

    @property
    def _folder(self) -> str:
        """The folder that all parts of this run are in, and others maybe."""
        segments = self._options.template.split("/")[:-1]
        fixed = []
        for segment in segments:
            if any(f"{{{name}}}" in segment for name in _OF_A_PART):
                break
            fixed.append(segment)
        return self._filled("/".join(fixed))

    def _own(self, name: str) -> str:
        """Path of an object that speaks of the whole run; its underscore hides it from readers."""
        folder = self._folder
        stem = f"_{name}" if self._run_id in folder else f"_{name}-{self._run_id}"
        return f"{folder}/{stem}.json".lstrip("/")

    # The protocol.

    async def open(self, position: Position | None = None) -> Kept:
        try:
            self._store = await self._opened()
            if position is not None:
                kept = await self._go_on(position)
                if self._uri.startswith("s3://"):
                    await self._abort_uploads()
                if kept is not Kept.NOTHING:
                    return kept
                self._run_id, self._dt = self._run.run_id, _date(self._run.started_at)
            self._parts, self._next = [], 1
            await self._put(
                self._own("started"), {"run_id": self._run_id, "table": self._run.table}
            )
        except objects.ERRORS as error:
            self._store = None
            raise self._cannot(error) from error
        return Kept.NOTHING

    async def _opened(self) -> ObjectStore:
        config = {"sse_kms_key_id": self._options.kms_key, "server_side_encryption": "aws:kms"}
        try:
            return await objects.open_objects(
                self._full_uri, self._run.settings, config if self._options.kms_key else {}
            )
        except ConfigurationError:
            raise
        except CollectorError as error:
            raise SinkError(str(error)) from error

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
        return Kept.PART

    async def _abort_uploads(self) -> None:
        """Multipart uploads that a killed run left behind; other runs' are only named."""
        try:
            others = await objects.abort_uploads(
                self._full_uri, self._run.settings, self._folder, self._run_id
            )
        except SinkError as error:
            self._note = f"Unfinished uploads could not be looked for ({error})"
            return
        if others:
            self._note = (
                f"{self._uri} has {others} unfinished multipart uploads of other runs: a lifecycle "
                "rule (AbortIncompleteMultipartUpload) removes them"
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

    async def _part(self, group: tuple[str, ...], row: Row) -> _Part:
        part = self._open_parts.get(group)
        if part is None:
            if len(self._open_parts) >= MOST_OPEN:
                await self._finish(next(iter(self._open_parts)))
            path = self._path(account_id=row.account_id, region=row.region, part=f"{self._next:05}")
            self._next += 1
            part = _Part(self._opened_store, path, self._clock())
            self._open_parts[group] = part
        return part

    async def _finish(self, group: tuple[str, ...]) -> None:
        part = self._open_parts.pop(group)
        try:
            done = await part.finish()
        except BaseException:
            self._open_parts[group] = part  # to be aborted
            raise
        if self._uri.startswith("file://"):
            await asyncio.to_thread(sync, Path(self._uri.removeprefix("file://")) / done.path)
        if self._options.acl is not None:
            await objects.set_acl(self._full_uri, self._run.settings, done.path, self._options.acl)
        self._parts.append(done)

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
            for part in self._open_parts.values():
                await part.abort()
            if not self._parts:
                await obstore.delete_async(self._store, self._own("started"))
                return None
        except objects.ERRORS as error:
            raise self._cannot(error) from error
        finally:
            self._open_parts.clear()
            self._store = None
        return f"What was read is in {self._uri}/{self._folder}, without a manifest"

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
        if self._uri.startswith("file://"):
            await asyncio.to_thread(sync, Path(self._uri.removeprefix("file://")) / path)

    @property
    def _opened_store(self) -> ObjectStore:
        if self._store is None:
            raise SinkError(f"The sink {self._uri} is not open.")
        return self._store

    def _cannot(self, error: BaseException) -> SinkError:
        return SinkError(f"Cannot write to {self._uri}: {objects.sentence(error)}.")


def _date(started_at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(started_at))
