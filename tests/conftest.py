"""What every test starts from: no trace of the machine's own AWS settings, and a virtual clock."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import botocore.session
import pytest

from collector.testing import ManualClock

_OURS = ("AWS_", "COLLECTOR_", "OTEL_")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials, profile, endpoint, proxy or option reaches a test from outside."""
    for name in list(os.environ):
        if name.upper().startswith(_OURS) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))


_create_loader = cache(botocore.session.create_loader)


@pytest.fixture(autouse=True)
def read_models_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK reads its service models once for all tests, not once for each of their sessions."""
    monkeypatch.setattr(botocore.session, "create_loader", _create_loader)


@pytest.fixture
def clock() -> ManualClock:
    """Seconds that pass only in sleeps, which take no time."""
    return ManualClock(auto=True)
