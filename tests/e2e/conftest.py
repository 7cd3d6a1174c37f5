"""Credentials that the stand-in accepts, and crawls that need not find their rate first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from collector.aws import throttle
from collector.testing import Estate, FakeAws, credentials_for

FAST = 2_000.0
"""Calls a second to begin with: a crawl's first seconds are not what most tests are about."""


@pytest.fixture(autouse=True)
def caller(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """The caller is a user of the management account, in this process and those it starts."""
    access_key, secret_key = credentials_for("111111111111")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crawls in this process start fast in place of finding out how fast they may be."""
    monkeypatch.setattr(throttle, "INITIAL_RATE", FAST)


@pytest.fixture
def aws() -> Iterator[FakeAws]:
    """A small estate, two accounts by two regions with 8 jobs each, for whole processes."""
    with FakeAws(Estate.generate(2, ("us-east-1", "eu-west-1"), 8)).in_thread() as server:
        yield server
