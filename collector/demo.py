"""The stage of `collector demo`: an embedded AWS stand-in, and settings that lead to it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

REGIONS = (
    "us-east-1", "eu-west-1", "us-west-2", "eu-central-1", "ap-southeast-2", "us-east-2",
    "ap-northeast-1", "ca-central-1", "eu-west-2", "sa-east-1", "ap-south-1", "eu-north-1",
    "us-west-1", "eu-west-3", "ap-northeast-2", "ap-southeast-1", "ap-northeast-3", "eu-south-1",
    "ap-east-1", "me-south-1",
)  # fmt: skip
_CALLS_THAT_FAIL = 6
"""Kinds of fault that share --faults between them."""


@contextmanager
def aws(
    *,
    accounts: int,
    regions: int,
    jobs: int,
    rate: float | None,
    faults: float,
    latency: float,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """A stand-in with the given estate, while the block lasts; yields the settings to reach it."""
    from collector.testing import Estate, FakeAws, Faults, Limits, credentials_for  # noqa: PLC0415

    estate = Estate.generate(accounts, REGIONS[:regions], jobs, seed, now=time.time())
    limits = Limits({"DescribeTrainingJob": (rate, max(rate, 1.0))} if rate else None)
    share = faults / _CALLS_THAT_FAIL
    trouble = Faults(
        error_500=share, error_503=share, reset=share, truncated=share, garbage=share,
        emptied=share, seed=seed,
    )  # fmt: skip
    access_key, secret_key = credentials_for(estate.accounts[0])
    # The process is ours: nothing of the user's AWS configuration may reach the stand-in.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        AWS_ACCESS_KEY_ID=access_key,
        AWS_SECRET_ACCESS_KEY=secret_key,
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        NO_PROXY="127.0.0.1",
    )
    with FakeAws(estate, limits=limits, faults=trouble, latency=latency).in_thread() as server:
        yield {
            "accounts": "organization",
            "role_name": "InventoryReader",
            "endpoint_url": server.url,
        }
