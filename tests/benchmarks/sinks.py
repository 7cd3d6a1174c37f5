"""What writing costs: CPU of a run into each kind of sink, against one into nothing.

    python -m tests.benchmarks.sinks [--jobs 10000] [--rounds 3]

Object stores and HTTP go to a server on this machine that throws everything away. The runs take
turns; each figure is the median of the rounds. State is kept where the sink's name says so.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from tests.benchmarks.harness import Cost, fake_aws, measure

_UPLOAD = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
_DONE = b'<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>'


async def _take(request: web.Request) -> web.Response:
    """Enough of S3 for parts and manifests, and a POST that is always taken."""
    async for _ in request.content.iter_chunked(1 << 20):
        pass
    body = b""
    if request.method == "POST":
        body = _UPLOAD if "uploads" in request.query else _DONE
    return web.Response(body=body, headers={"ETag": '"e"'})


def _serve(port: multiprocessing.Queue[int]) -> None:
    async def start(app: web.Application) -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.put(runner.addresses[0][1])

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{any:.*}", _take)
    import asyncio

    loop = asyncio.new_event_loop()
    loop.run_until_complete(start(app))
    loop.run_forever()


@contextmanager
def discarding() -> Iterator[str]:
    """URL of a server that takes everything and keeps nothing."""
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=_serve, args=(port,), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{port.get()}"
    finally:
        server.terminate()
        server.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    server = ("--accounts", "1", "--regions", "us-east-1", "--jobs", str(arguments.jobs))
    with (
        tempfile.TemporaryDirectory() as folder,
        discarding() as url,
        fake_aws(*server) as fake,
    ):
        environment = {**fake, "AWS_ENDPOINT_URL_S3": url}
        sinks = {
            "nothing": ["--sink", "/dev/null"],
            "a file": ["--sink", f"{folder}/a.ndjson"],
            "a file, with state": ["--sink", f"{folder}/b.ndjson", "--state"],
            "a file, .gz": ["--sink", f"{folder}/a.ndjson.gz"],
            "a file, .zst": ["--sink", f"{folder}/a.ndjson.zst"],
            "s3, not compressed": ["--sink", "s3://bucket/x?codec=none"],
            "s3, zst": ["--sink", "s3://bucket/x?codec=zst"],
            "s3, gz": ["--sink", "s3://bucket/x"],
            "http": ["--sink", f"{url}/x"],
        }
        costs: dict[str, list[Cost]] = {name: [] for name in sinks}
        for turn in range(arguments.rounds):
            for number, (name, flags) in enumerate(sinks.items()):
                if flags[-1] == "--state":
                    flags = [*flags, str(Path(folder) / f"state-{turn}-{number}")]  # noqa: PLW2901
                command = [sys.executable, "-m", "collector", "run", "--regions", "us-east-1"]
                quiet = ["--progress", "off", "--log-level", "warning"]
                costs[name].append(measure([*command, *flags, *quiet], environment))
    base = statistics.median(cost.cpu for cost in costs["nothing"])
    print(f"{arguments.jobs} jobs in one region, median of {arguments.rounds}")
    print(f"{'':24}{'CPU ms a job':>14}{'more than nothing':>20}{'peak MB':>10}")
    for name, runs in costs.items():
        cpu = statistics.median(cost.cpu for cost in runs)
        peak = max(cost.peak for cost in runs)
        print(f"{name:24}{cpu / arguments.jobs * 1000:14.3f}{cpu / base - 1:20.1%}{peak:10.0f}")


if __name__ == "__main__":
    main()
