"""Training jobs by number: every fact about a job follows from its place in the estate.

Nothing is kept for a job that nobody changed, so half a million jobs cost no memory.
"""

from __future__ import annotations

import heapq
import re
import zlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from collector.model import Wire

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SPAN_MS = 400 * DAY_MS
RECENT = 4
"""How many jobs at the end are younger than an hour."""

TERMINAL = ("Completed", "Failed", "Stopped")
KINDS = ("xgboost-churn", "pytorch-rank", "llm-finetune", "tf-vision", "hpo-trial", "sklearn-etl")
_NUMBER = re.compile(r"-(\d{7})-[0-9a-f]{6}$")
_MASK = 2**64 - 1

Key = tuple[int, str]
"""(creation time in epoch milliseconds, name): the order of a list."""


def mix(value: int) -> int:
    """64 well-mixed bits of ``value`` (the finisher of splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@dataclass(frozen=True, slots=True)
class Job:
    """One training job. Times are epoch milliseconds; ``number`` decides what it is like.

    ``changes`` holds members that were set by hand, in wire form; None removes a member.
    """

    arn: str
    name: str
    created: int
    number: int
    chance: int
    status: str
    secondary: str
    modified: int
    started: int | None = None
    ended: int | None = None
    tags: Mapping[str, str] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return (self.created, self.name)

    def summary(self) -> Wire:
        """The job as ListTrainingJobs shows it."""
        answer: Wire = {
            "TrainingJobName": self.name,
            "TrainingJobArn": self.arn,
            "CreationTime": self.created / 1000,
            "LastModifiedTime": self.modified / 1000,
            "TrainingJobStatus": self.status,
            "SecondaryStatus": self.secondary,
        }
        if self.ended is not None:
            answer["TrainingEndTime"] = self.ended / 1000
        return answer


class Shelf:
    """The jobs of one account and region, in order of creation.

    ``now`` is in epoch milliseconds. Jobs 0 to ``count`` - 1 follow from ``seed``; whatever is
    added, changed or deleted later is kept beside them.
    """

    def __init__(self, prefix: str, *, count: int, seed: int, now: int) -> None:
        self._prefix = prefix
        self._count = count
        self._seed = mix(zlib.crc32(prefix.encode()) ^ mix(seed))
        self._now = now
        self._step = max(1, (SPAN_MS - 2 * HOUR_MS) // max(count, 1))
        self._deleted: set[int] = set()
        self._kept: dict[str, Job] = {}
        self._added: list[Key] = []

    def __len__(self) -> int:
        return self._count - len(self._deleted) + len(self._added)

    def names(self) -> Iterator[str]:
        """Names, oldest job first."""
        return (name for _, name, _ in self._entries())

    def find(self, name: str) -> Job | None:
        if name in self._kept:
            return self._kept[name]
        found = _NUMBER.search(name)
        if found is None:
            return None
        index = int(found[1])
        if index >= self._count or index in self._deleted:
            return None
        created, expected = self._key(index)
        return self._at(created, name, index) if name == expected else None

    def slice(
        self,
        limit: int,
        *,
        after: Key | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
        descending: bool = False,
    ) -> list[Job]:
        """Up to ``limit`` jobs that follow ``after``, created strictly between two times (ms)."""
        entries = self._entries(after, created_after, created_before, descending=descending)
        return [self._at(*entry) for entry in islice(entries, limit)]

    def add(self, job: Job) -> None:
        if self.find(job.name) is not None:
            raise ValueError(f"There is a job called {job.name} already.")
        self._kept[job.name] = job
        insort(self._added, job.key)

    def delete(self, name: str) -> None:
        job = self._require(name)
        if job.key in self._added:
            self._added.remove(job.key)
        else:
            self._deleted.add(job.number)
        self._kept.pop(name, None)

    def replace(self, job: Job) -> None:
        """Put ``job`` in the place of the one with its name and creation time."""
        self._kept[job.name] = job

    def new(self, name: str, created: int) -> Job:
        """A job that is not on the shelf yet, just started."""
        number = zlib.crc32(name.encode())
        return Job(
            arn=f"{self._prefix}{name}",
            name=name,
            created=created,
            number=number,
            chance=mix(self._seed ^ mix(number ^ created)),
            status="InProgress",
            secondary="Starting",
            modified=created,
        )

    def _require(self, name: str) -> Job:
        job = self.find(name)
        if job is None:
            raise KeyError(f"There is no job called {name}.")
        return job

    def _at(self, created: int, name: str, index: int) -> Job:
        kept = self._kept.get(name)
        if kept is not None:
            return kept
        return self._history(name, created, index, mix(self._seed + index))

    def _entries(
        self,
        after: Key | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
        *,
        descending: bool = False,
    ) -> Iterator[tuple[int, str, int]]:
        """(creation time, name, number) of the jobs; added ones have -1 for a number."""
        lower = (created_after, "\U0010ffff") if created_after is not None else None
        upper = (created_before, "") if created_before is not None else None
        if after is not None and descending:
            upper = min(after, upper) if upper else after
        elif after is not None:
            lower = max(after, lower) if lower else after
        numbers = range(self._count)
        first = bisect_right(numbers, lower, key=self._key) if lower else 0
        last = bisect_left(numbers, upper, key=self._key) if upper else self._count
        first_added = bisect_right(self._added, lower) if lower else 0
        last_added = bisect_left(self._added, upper) if upper else len(self._added)
        chosen: range = numbers[first:last]
        added = self._added[first_added:last_added]
        if descending:
            chosen, added = chosen[::-1], added[::-1]
        generated = ((*self._key(n), n) for n in chosen if n not in self._deleted)
        others = ((*key, -1) for key in added)
        return heapq.merge(generated, others, reverse=descending) if added else generated

    def _created(self, index: int) -> int:
        """When job ``index`` was created; never earlier than the one before it.

        Around every hundredth job, where a page ends, eight jobs share a second or, every other
        time, a millisecond; large shelves have one millisecond with 130 jobs.
        """
        young = self._count - index
        if self._count > 2 * RECENT and young <= RECENT:
            return self._now - young * 600_000 + mix(self._seed ^ index) % 1000
        start = self._now - SPAN_MS
        block, place = divmod(index + 4, 100)
        if self._count >= 1000 and 550 <= index < 680:  # noqa: PLR2004 - as the docstring says
            index = 550
        elif place < 8:  # noqa: PLR2004 - as the docstring says
            first = max(0, block * 100 - 4)
            second = (start + first * self._step) // 1000 * 1000
            return second + (417 if block % 2 else 100 * place)
        jitter = mix(self._seed ^ index) % max(1, self._step // 2)
        return start + index * self._step + jitter

    def _key(self, index: int) -> Key:
        created = self._created(index)
        # Jobs of one millisecond are of one kind, so that their names sort as their numbers do.
        kind = KINDS[created % len(KINDS)]
        return created, f"{kind}-{index:07d}-{mix(self._seed ^ ~index & _MASK) & 0xFFFFFF:06x}"

    def _history(self, name: str, created: int, number: int, chance: int) -> Job:
        """What has become of a job since it was created."""
        status, secondary = _status(number, chance, self._now - created)
        started = ended = None
        modified = min(self._now, created + 5_000 + chance % 50_000)
        if status in TERMINAL or status == "Deleting":
            ended = min(self._now, created + 180_000 + chance % 20_000_000)
            started = min(ended, created + 60_000 + chance % 90_000)
            modified = min(self._now, ended + chance % 3_000)
        elif secondary in {"Training", "Uploading", "Stopping"}:
            started = modified
        return Job(
            arn=f"{self._prefix}{name}",
            name=name,
            created=created,
            number=number,
            chance=chance,
            status=status,
            secondary=secondary,
            modified=modified,
            started=started,
            ended=ended,
        )


_RUNNING = ("Starting", "Downloading", "Training", "Uploading", "Pending", "Training")
_FAILED = (1, 7, 15, 22, 30, 36)
_STOPPED = {4: "Stopped", 13: "MaxRuntimeExceeded", 25: "MaxWaitTimeExceeded"}
_DELETING = 33
"""Places among forty jobs that are old enough to have ended; the rest have completed."""


def _status(number: int, chance: int, age: int) -> tuple[str, str]:
    """(status, secondary status) of a job that was created ``age`` milliseconds ago."""
    place = number % 40
    if age < HOUR_MS:
        running = "InProgress", _RUNNING[chance % len(_RUNNING)]
        return ("Stopping", "Stopping") if number % 4 == 1 else running
    if age < 28 * DAY_MS and chance % 10 == 0:
        return "InProgress", "Training"
    if place in _STOPPED:
        return "Stopped", _STOPPED[place]
    if place == _DELETING:
        return "Deleting", "Completed"
    return ("Failed", "Failed") if place in _FAILED else ("Completed", "Completed")
