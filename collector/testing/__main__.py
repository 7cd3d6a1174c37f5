"""Serves a fake AWS until interrupted: ``python -m collector.testing --jobs 1000``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import suppress

from collector.testing.estate import DEFAULT_REGIONS, Estate
from collector.testing.keys import credentials_for
from collector.testing.server import FakeAws


async def _serve(options: argparse.Namespace) -> None:
    estate = Estate.generate(
        options.accounts, options.regions.split(","), options.jobs, options.seed, time.time()
    )
    async with FakeAws(estate, latency=options.latency, port=options.port) as aws:
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
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
