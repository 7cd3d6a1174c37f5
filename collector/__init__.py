"""Async AWS inventory: SageMaker training jobs of many accounts and regions, as records.

    from collector import collect, Settings

    for record in collect(Settings(regions=["us-east-1"])):
        ...

See `Collector` for the same in async code, and README.md for everything else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collector.blocking import collect
    from collector.errors import (
        CallError,
        CollectorError,
        ConfigurationError,
        CredentialsError,
        DiscoveryError,
        SinkError,
        StateError,
    )
    from collector.pipeline import Collector
    from collector.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "CallError",
    "Collector",
    "CollectorError",
    "ConfigurationError",
    "CredentialsError",
    "DiscoveryError",
    "Settings",
    "SinkError",
    "StateError",
    "collect",
]

_HOMES = {"Collector": "pipeline", "Settings": "settings", "collect": "blocking"}


def __getattr__(name: str) -> object:
    # On first use: importing the SDK takes longer than `collector --help` may.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
