"""A stand-in for Azure's Blob service: as much of its REST API as puts, lists and deletes blobs.

A block that no list names never shows, as in the service; of what was staged for a blob, putting
it leaves nothing (REST API reference, "Put Block List").
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import chain, repeat
from xml.sax.saxutils import escape

from aiohttp import web
from yarl import URL

ACCOUNT = "devstoreaccount1"
_BLOB = (
    "<Blob><Name>{name}</Name><Properties><Last-Modified>{at}</Last-Modified>"
    "<Etag>{size}</Etag><Content-Length>{size}</Content-Length>"
    "<Content-Type>application/octet-stream</Content-Type></Properties></Blob>"
)


class BlobServer:
    """``blobs`` by container and name, the oldest first; ``answers`` fail requests in turn."""

    def __init__(self) -> None:
        self.url = ""
        self.blobs: dict[str, bytes] = {}
        self.staged: dict[str, dict[str, bytes]] = {}
        self.answers: Iterator[int | None] = repeat(None)

    def fail_next(self, requests: int) -> None:
        self.answers = chain(repeat(503, requests), repeat(None))

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        if status := next(self.answers):
            return web.Response(status=status)
        name = request.path.removeprefix(f"/{ACCOUNT}/")
        match request.method, request.query.get("comp"):
            case "GET", "list":
                return self._list(name, request.query.get("prefix", ""))
            case "PUT", "block":
                block = b64decode(request.query["blockid"]).decode()
                self.staged.setdefault(name, {})[block] = body
            case "PUT", "blocklist":
                staged, ids = self.staged.pop(name), re.findall(rb"<Uncommitted>(.+?)<", body)
                self._keep(name, b"".join(staged[b64decode(each).decode()] for each in ids))
            case "PUT", None:
                self._keep(name, body)
            case "POST", "batch":
                return self._batch(body)
            case _:
                raise AssertionError(f"unheard of: {request.method} {request.path_qs}")
        return web.Response(status=201, headers={"ETag": '"e"'})

    def _keep(self, name: str, body: bytes) -> None:
        if not name.startswith("lake/"):
            raise web.HTTPNotFound(text="<Error><Code>ContainerNotFound</Code></Error>")
        self.staged.pop(name, None)
        self.blobs.pop(name, None)
        self.blobs[name] = body

    def _list(self, container: str, prefix: str) -> web.Response:
        at = format_datetime(datetime.now(UTC), usegmt=True)
        found = [
            _BLOB.format(name=escape(name.removeprefix(f"{container}/")), size=len(body), at=at)
            for name, body in self.blobs.items()
            if name.startswith(f"{container}/{prefix}")
        ]
        text = f"<EnumerationResults><Blobs>{''.join(found)}</Blobs></EnumerationResults>"
        return web.Response(text=text, content_type="application/xml")

    def _batch(self, body: bytes) -> web.Response:
        """Requests to delete in the parts of one, each with an answer of its own."""
        answers = []
        for number, path in enumerate(re.findall(r"DELETE (\S+) HTTP", body.decode())):
            name = URL(path, encoded=True).path.removeprefix(f"/{ACCOUNT}/")
            found = self.blobs.pop(name, None)
            said = "404 Not Found" if found is None else "202 Accepted"
            answers.append(
                "--batch\r\nContent-Type: application/http\r\n"
                f"Content-ID: {number}\r\n\r\nHTTP/1.1 {said}\r\n\r\n\r\n"
            )
        return web.Response(
            status=202,
            body="".join([*answers, "--batch--\r\n"]).encode(),
            headers={"Content-Type": "multipart/mixed; boundary=batch"},
        )


@asynccontextmanager
async def blob_server() -> AsyncIterator[BlobServer]:
    """A server with a container named lake; its account is the one of Azure's own emulator."""
    server = BlobServer()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{any:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
