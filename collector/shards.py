"""Shards: the targets of a run, shared out between several processes.

Each account and region falls to one shard by a hash that stays the same everywhere and always, so
that a rate limit, which AWS keeps for an account and region, is never shared by two processes.

Sources of the variables: "AWS Batch job environment variables" in the user guide of AWS Batch,
and "Indexed Job for parallel processing with static work assignment" of Kubernetes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from collector.errors import ConfigurationError

PLACE = "{shard}"
"""What stands in the name of an output for the name of the shard that wrote it."""

CLOSED = "The role cannot be assumed, which another shard is to report"
"""Warning of a shard that was kept out of an account whose row falls to another."""

SIZE = "COLLECTOR_SHARDS"
BATCH_INDEX, BATCH_SIZE = "AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"
JOB_INDEX = "JOB_COMPLETION_INDEX"

MOST = 10_000
"""Children of an array job of AWS Batch, at most."""

_FORM = re.compile(r"(\d{1,9}|auto)/(\d{1,9})", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shard:
    """The shard ``index`` (from 1) of ``of``; ``found``: taken from the environment, not given."""

    index: int
    of: int
    found: bool = field(default=False, compare=False)

    def holds(self, account_id: str, region: str) -> bool:
        """Whether an account and region fall to this shard, and so to no other of as many."""
        digest = hashlib.sha256(f"{account_id}/{region}".encode()).digest()
        return int.from_bytes(digest) % self.of == self.index - 1

    @property
    def name(self) -> str:
        """As it may stand in the name of a file: 3-of-16."""
        return f"{self.index}-of-{self.of}"

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


def parse_shard(value: Any) -> Shard | None:
    """A shard from ``3/16``; None from ``none``. ``0/16`` is ``16/16``, for who counts from 0.

    Raises ValueError, also for ``auto/16``: that is for `with_environment` to replace.
    """
    if value is None or value == "none":
        return None
    if isinstance(value, Shard):
        value, found = str(value), value.found
    else:
        found = False
    match = _FORM.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not K/N such as 3/16, auto/N or none")
    if match[1] == "auto":
        raise ValueError(
            f"{match[0]} is for a process of the command line that has {BATCH_INDEX} or "
            f"{JOB_INDEX}: give K/N"
        )
    index, of = int(match[1]), int(match[2])
    if not 1 <= of <= MOST:
        raise ValueError(f"{match[0]}: there may be 1 to {MOST} shards")
    if index > of:
        raise ValueError(f"{match[0]}: there is no shard {index} of {of}")
    return Shard(index or of, of, found)


def with_environment(value: Any, environ: Mapping[str, str]) -> Any:
    """``value`` of the setting, or what ``environ`` says where it is None or ``auto/N``.

    Raises ConfigurationError where the environment tells only half of it: a process that took
    itself for the only one would read everything, and so would all the others.
    """
    match = _FORM.fullmatch(value.strip()) if isinstance(value, str) else None
    name = next((name for name in (BATCH_INDEX, JOB_INDEX) if environ.get(name)), None)
    if match is not None and match[1] == "auto":
        return value if name is None else _found(name, environ[name], "auto/N", match[2])
    if value is not None:
        return value
    if name is None:
        if environ.get(SIZE):
            raise ConfigurationError(
                f"{SIZE} is set, but none of {BATCH_INDEX} and {JOB_INDEX} says which shard this "
                "is: give --shard K/N, or --shard none to read everything."
            )
        return None
    sizes = (BATCH_SIZE, SIZE) if name == BATCH_INDEX else (SIZE,)
    size = next((each for each in sizes if environ.get(each)), None)
    if size is None:
        raise ConfigurationError(
            f"{name} is set, but not how many shards there are: set COLLECTOR_SHARD=auto/N, or "
            "COLLECTOR_SHARD=none to read everything in this process."
        )
    return _found(name, environ[name], size, environ[size])


def _found(index_name: str, index: str, size_name: str, size: str) -> Shard:
    """The shard of an index that counts from 0."""
    for name, number in ((index_name, index), (size_name, size)):
        if not _NUMBER.fullmatch(number):
            raise ConfigurationError(f"{name}: {number!r} is not a whole number.")
    if not 1 <= int(size) <= MOST:
        raise ConfigurationError(f"{size_name}: there may be 1 to {MOST} shards, not {size}.")
    if int(index) >= int(size):
        raise ConfigurationError(
            f"{index_name} is {index}, but {size_name} makes {size} shards, counted from 0: give "
            "as many shards as the job has indexes."
        )
    return Shard(int(index) + 1, int(size), found=True)


def placed(uri: str, shard: Shard | None) -> str:
    """``uri`` with the name of the shard in its place."""
    return uri.replace(PLACE, shard.name if shard else "1-of-1")


def shared_outputs(shard: Shard | None, report: str | None, sinks: Iterable[str]) -> list[str]:
    """One sentence for each output that the shards of a job would take from each other.

    Only a shard that was taken from the environment has its command in common with the others.
    Of sinks these are files: objects have the run's id in their path, streams take all there is.
    """
    if shard is None or not shard.found or shard.of == 1:
        return []
    files = [uri for uri in sinks if uri != "-" and "://" not in uri and uri[:5] != "/dev/"]
    return [
        f"Every shard of this job writes {output} and replaces the others': put {PLACE} into it"
        for output in ([] if report is None else [report]) + files
        if shard.name not in output
    ]
