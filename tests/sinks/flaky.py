"""A proxy that hands requests on to another server, and fails some of them on the way."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from yarl import URL

_NOT_HANDED_ON = {"connection", "content-encoding", "content-length", "host", "transfer-encoding"}


@dataclass
class Flaky:
    """``failing`` requests get a 503; ``every`` so many, one does, and those ``broken`` all do."""

    url: str = ""
    failing: int = 0
    every: int = 0
    broken: str | None = None
    failed: int = 0
    seen: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)

    def fail_next(self, requests: int) -> None:
        self.failing = requests

    def fails(self, request: str) -> bool:
        self.seen.append(request)
        bad = self.failing > 0 or bool(self.every and len(self.seen) % self.every == 0)
        bad |= self.broken is not None and re.search(self.broken, request) is not None
        self.failing -= self.failing > 0
        self.failed += bad
        return bad


@asynccontextmanager
async def flaky(server: str, *, signs: str | None = None) -> AsyncIterator[Flaky]:
    """A proxy before ``server``, a URL; ``signs`` stands for the authorization of all requests."""
    proxy = Flaky()

    async def hand_on(request: web.Request) -> web.Response:
        proxy.headers.append(request.headers)
        if proxy.fails(f"{request.method} {request.path_qs}"):
            return web.Response(status=503, text="SlowDown")
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_HANDED_ON}
        headers |= {"Authorization": signs} if signs else {}
        url = URL(server + request.raw_path, encoded=True)
        body = io.BytesIO(await request.read())
        async with session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _NOT_HANDED_ON}
            content = await answer.read()
            if request.method == "HEAD":
                kept["Content-Length"] = answer.headers.get("Content-Length", "0")
            return web.Response(status=answer.status, body=content, headers=kept)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{any:.*}", hand_on)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield proxy
        finally:
            await runner.cleanup()
