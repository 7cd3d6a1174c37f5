"""The accounts, regions and training jobs that the fake AWS serves."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

from collector.model import Table, Wire
from collector.tables import load_table
from collector.testing.describe import Describer
from collector.testing.jobs import HOUR_MS, TERMINAL, Job, Shelf
from collector.testing.organization import Organization
from collector.testing.values import Context

DEFAULT_NOW = 1_750_000_000.0
DEFAULT_REGIONS = ("us-east-1", "eu-west-1", "us-west-2")
RUN_MS = 600_000
"""How long an added job ran that is terminal from the start."""

USER_TAGS = 50
"""How many tags a user may put on one job; AWS's own come on top."""


class Estate:
    """What exists. The same arguments give the same estate, job for job.

    Use ``generate``. ``now`` (epoch seconds) is when the estate was looked at: the last few jobs
    of each account and region are younger than an hour, the oldest 400 days. Set it later to date
    changes.
    """

    def __init__(
        self,
        *,
        accounts: Sequence[str],
        suspended: Sequence[str],
        regions: Sequence[str],
        jobs: int | Mapping[tuple[str, str], int],
        seed: int,
        now: float,
        partition: str,
        unknown_members: bool,
        table: Table,
    ) -> None:
        self.accounts = tuple(accounts)
        self.suspended = tuple(suspended)
        self.regions = tuple(regions)
        self.partition = partition
        self.now = now
        self.organization = Organization(self.accounts, self.suspended, partition)
        self._describer = Describer(table, unknown_members=unknown_members)
        self._rng = random.Random()  # noqa: S311 - seeded for each job
        self._shelves = {
            (account, region): Shelf(
                f"arn:{partition}:sagemaker:{region}:{account}:training-job/",
                count=jobs if isinstance(jobs, int) else jobs.get((account, region), 0),
                seed=seed,
                now=round(now * 1000),
            )
            for account in self.accounts
            for region in self.regions
        }

    @classmethod
    def generate(
        cls,
        accounts: int = 3,
        regions: Sequence[str] = DEFAULT_REGIONS,
        jobs: int | Mapping[tuple[str, str], int] = 200,
        seed: int = 0,
        now: float = DEFAULT_NOW,
        *,
        suspended: int = 0,
        partition: str = "aws",
        unknown_members: bool = False,
        table: Table | None = None,
    ) -> Estate:
        """An estate of ``accounts`` active and ``suspended`` further accounts.

        The first account, 111111111111, manages the organization. ``jobs`` is a number for each
        account and region, or a mapping of (account, region) to a number, 0 where it is silent.
        """
        ids = [account_id(number) for number in range(accounts + suspended)]
        return cls(
            accounts=ids[:accounts],
            suspended=ids[accounts:],
            regions=regions,
            jobs=jobs,
            seed=seed,
            now=now,
            partition=partition,
            unknown_members=unknown_members,
            table=table or load_table(),
        )

    @property
    def management_account(self) -> str:
        """Id of the account that manages the organization: the first one."""
        return self.accounts[0]

    def jobs(self, account: str, region: str) -> Iterable[str]:
        """Names of the jobs there, oldest first."""
        return self.shelf(account, region).names()

    def count(self, account: str, region: str) -> int:
        """How many jobs there are; 0 where the estate has no such place."""
        return len(self.shelf(account, region))

    def shelf(self, account: str, region: str) -> Shelf:
        """The jobs of one account and region; none, where the estate has no such place."""
        found = self._shelves.get((account, region))
        return found if found is not None else Shelf("", count=0, seed=0, now=0)

    def job(self, account: str, region: str, name: str) -> Job:
        """Raises KeyError if there is no such job."""
        found = self.shelf(account, region).find(name)
        if found is None:
            raise KeyError(f"There is no job {name} in {account}, {region}.")
        return found

    def summary(self, account: str, region: str, name: str) -> Wire:
        """What ListTrainingJobs shows of a job. Raises KeyError for an unknown name."""
        return self.job(account, region, name).summary()

    def describe(self, account: str, region: str, name: str) -> Wire:
        """The answer of DescribeTrainingJob, in wire form. Raises KeyError for an unknown name."""
        job = self.job(account, region, name)
        context = Context(job, account, region, self.partition, self._rng)
        return self._describer.describe(job, context)

    def tags(self, account: str, region: str, name: str) -> dict[str, str]:
        """The tags of a job. Raises KeyError for an unknown name."""
        return tags_of(self.job(account, region, name))

    def add_job(
        self,
        account: str,
        region: str,
        *,
        name: str,
        creation_time: float | None = None,
        tags: Mapping[str, str] | None = None,
        **members: Any,
    ) -> str:
        """A new job; its ARN. ``creation_time`` is in epoch seconds, by default ``now``.

        ``members`` are members of the description in wire form; None leaves one out. Without a
        TrainingJobStatus the job is InProgress if it is younger than an hour, else Completed.
        Raises ValueError if there is a job of that name, KeyError if no such account and region.
        """
        shelf = self._shelves[account, region]
        created = round((self.now if creation_time is None else creation_time) * 1000)
        age = round(self.now * 1000) - created
        members.setdefault("TrainingJobStatus", "InProgress" if age < HOUR_MS else "Completed")
        if members["TrainingJobStatus"] in TERMINAL:
            ended = members.get("TrainingEndTime") or (created + max(0, min(age, RUN_MS))) / 1000
            members.setdefault("LastModifiedTime", ended)
        job = _changed(replace(shelf.new(name, created), tags=dict(tags or {})), members)
        shelf.add(job)
        return job.arn

    def delete_job(self, account: str, region: str, name: str) -> None:
        """Raises KeyError if there is no such job."""
        self.shelf(account, region).delete(name)

    def update_job(
        self,
        account: str,
        region: str,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        """Change members of a description, in wire form; None removes one.

        LastModifiedTime becomes ``now`` unless it is given. A new TrainingJobStatus brings its
        SecondaryStatus, and a terminal one its TrainingEndTime, unless they are given. Changed
        tags alone leave LastModifiedTime as it is, as AWS does.
        """
        job = self.job(account, region, name)
        if members:
            members.setdefault("LastModifiedTime", self.now)
            job = _changed(job, members)
        if tags is not None:
            job = replace(job, tags=dict(tags))
        self.shelf(account, region).replace(job)


def account_id(number: int) -> str:
    """The id of account ``number``, from 0: twelve digits, the first nine accounts' all alike."""
    digits = 9
    return str(number + 1) * 12 if number < digits else f"{number + 1:012d}"


def tags_of(job: Job) -> dict[str, str]:
    """A job's tags: none for four in ten, else one to three, and one job with more than 50."""
    if job.tags is not None:
        return dict(job.tags)
    if job.number == 42:  # noqa: PLR2004 - the one
        return {f"user-{n:02d}": str(n) for n in range(USER_TAGS)} | {
            f"aws:cloudformation:part-{n}": str(n) for n in range(5)
        }
    place = job.number % 10
    if place < 4:  # noqa: PLR2004 - four in ten
        return {}
    tags = {"team": ("ranking", "vision", "équipe données")[job.number % 3]}
    if place >= 6:  # noqa: PLR2004 - four in ten
        tags["cost:center"] = f"cc:{job.chance % 100}"
    if place >= 8:  # noqa: PLR2004 - two in ten
        tags["Approved"] = ""
    return tags


def _changed(job: Job, members: Mapping[str, Any]) -> Job:
    """``job`` with these members, and what a list shows of it kept in step."""
    members = dict(members)
    status = members.get("TrainingJobStatus", job.status)
    modified = _milliseconds(members.get("LastModifiedTime"), job.modified)
    if status != job.status:
        members.setdefault("SecondaryStatus", "Training" if status == "InProgress" else status)
        if status not in TERMINAL:
            members.setdefault("TrainingEndTime", None)
        elif job.ended is None:
            members.setdefault("TrainingEndTime", modified / 1000)
    ended = job.ended
    if "TrainingEndTime" in members:
        ended = _milliseconds(members["TrainingEndTime"], None)
    started = job.started
    if started is None and ended is not None:
        started = min(ended, job.created + 60_000)
    return replace(
        job,
        status=status,
        secondary=members.get("SecondaryStatus", job.secondary),
        modified=modified,
        started=started,
        ended=ended,
        changes={**job.changes, **members},
    )


@overload
def _milliseconds(seconds: float | None, default: int) -> int: ...
@overload
def _milliseconds(seconds: float | None, default: None) -> int | None: ...
def _milliseconds(seconds: float | None, default: int | None) -> int | None:
    return default if seconds is None else round(seconds * 1000)
