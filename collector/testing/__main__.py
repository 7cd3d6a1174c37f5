"""Serves a fake AWS until interrupted: ``python -m collector.testing --jobs 1000``."""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from collector.testing.estate import DEFAULT_REGIONS, Estate
from collector.testing.keys import credentials_for
from collector.testing.limits import Limits
from collector.testing.server import FakeAws


async def _serve(options: argparse.Namespace) -> None:
    regions = options.regions.split(",")
    estate = Estate.generate(options.accounts, regions, 0, options.seed, time.time())
    targets = [(account, region) for account in estate.accounts for region in regions]
    filled = {
        target: options.jobs
        for number, target in enumerate(targets)
        if options.fill_one_in == 1 or number % options.fill_one_in == 0
    }
    estate = Estate.generate(options.accounts, regions, filled, options.seed, time.time())
    limits = Limits({name: (rate, burst) for name, rate, burst in options.limit})
    tls = None
    if options.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate)
    async with FakeAws(
        estate, limits=limits, latency=options.latency, port=options.port, ssl_context=tls
    ) as aws:
        access_key, secret = credentials_for(estate.management_account)
        sys.stdout.write(
            f"export AWS_ENDPOINT_URL={aws.url}\n"
            f"export AWS_ACCESS_KEY_ID={access_key}\n"
            f"export AWS_SECRET_ACCESS_KEY={secret}\n"
            f"export AWS_DEFAULT_REGION={estate.regions[0]}\n"
        )
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m collector.testing", description=__doc__)
    parser.add_argument("--accounts", type=int, default=3)
    parser.add_argument("--regions", default=",".join(DEFAULT_REGIONS), help="R,R")
    parser.add_argument("--jobs", type=int, default=200, help="for each account and region")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--port", type=int, default=0, help="0 for any that is free")
    parser.add_argument(
        "--limit",
        type=_limit,
        action="append",
        default=[],
        metavar="OP=RATE/BURST",
        help="calls a second, and at once, in each account and region; repeatable",
    )
    parser.add_argument(
        "--fill-one-in", type=int, default=1, metavar="N", help="the other targets stay empty"
    )
    parser.add_argument("--certificate", metavar="PEM", help="serve HTTPS with this certificate")
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(parser.parse_args()))


def _limit(text: str) -> tuple[str, float, float]:
    operation, _, numbers = text.partition("=")
    rate, _, burst = numbers.partition("/")
    return operation, float(rate), float(burst or rate)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    main()
