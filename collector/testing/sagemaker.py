"""SageMaker: ListTrainingJobs, DescribeTrainingJob, ListTags."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from collector.model import Wire
from collector.testing import pages
from collector.testing.estate import tags_of
from collector.testing.jobs import Job, Shelf
from collector.testing.rules import Rule, check
from collector.testing.world import AwsError, Call, World

NOT_FOUND = "Requested resource not found."
TAGS_PER_PAGE = 50
"""ListTags never returns more at once, whatever MaxResults says."""

_NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
_STATUSES = ("InProgress", "Completed", "Failed", "Stopping", "Stopped", "Deleting")
_TOKEN = Rule(str, high=8192)
_LIST = {
    "NextToken": _TOKEN,
    "MaxResults": Rule(int, low=1, high=100),
    "CreationTimeAfter": Rule(float),
    "CreationTimeBefore": Rule(float),
    "LastModifiedTimeAfter": Rule(float),
    "LastModifiedTimeBefore": Rule(float),
    "NameContains": Rule(str, high=63, pattern=r"[a-zA-Z0-9\-]+"),
    "StatusEquals": Rule(str, among=_STATUSES),
    "SortBy": Rule(str, among=("Name", "CreationTime", "Status")),
    "SortOrder": Rule(str, among=("Ascending", "Descending")),
}
_DESCRIBE = {"TrainingJobName": Rule(str, low=1, high=63, pattern=_NAME, required=True)}
_TAGS = {
    "ResourceArn": Rule(
        str, high=256, pattern=r"arn:aws[a-z-]*:sagemaker:[a-z0-9-]*:[0-9]{12}:.+", required=True
    ),
    "NextToken": _TOKEN,
    "MaxResults": Rule(int, low=50),
}


def list_training_jobs(world: World, call: Call) -> Wire:
    params = call.params
    check(params, _LIST)
    place, calls = pages.position(world, call)
    if world.faults_in(call.region).empties(call.operation):
        world.faults_dealt["empty_pages"] += 1
        return {"TrainingJobSummaries": [], "NextToken": pages.token(call, place, calls + 1)}
    size = params.get("MaxResults", 10)
    shelf = world.estate.shelf(call.account, call.region)
    by = params.get("SortBy", "CreationTime")
    pick = _by_creation if by == "CreationTime" else _sorted(by)
    jobs = pick(shelf, params, place, size + 1)
    answer: Wire = {
        "TrainingJobSummaries": [
            job.summary() for job in jobs[:size] if _matches(job, params) and not world.is_gone(job)
        ]
    }
    if len(jobs) > size:
        last = jobs[size - 1]
        answer["NextToken"] = pages.token(call, (_value(last, by), *last.key), calls + 1)
    return answer


def describe_training_job(world: World, call: Call) -> bytes:
    check(call.params, _DESCRIBE)
    name = call.params["TrainingJobName"]
    job = world.estate.shelf(call.account, call.region).find(name)
    if job is None or world.take(call, job):
        raise AwsError("ValidationException", NOT_FOUND)
    return as_java(orjson.dumps(world.estate.describe(call.account, call.region, name)))


def list_tags(world: World, call: Call) -> Wire:
    check(call.params, _TAGS)
    prefix, _, name = call.params["ResourceArn"].rpartition(":training-job/")
    job = world.estate.shelf(call.account, call.region).find(name)
    if job is None or not job.arn.startswith(f"{prefix}:training-job/") or world.is_gone(job):
        raise AwsError("ValidationException", NOT_FOUND)
    tags = [{"Key": key, "Value": value} for key, value in tags_of(job).items()]
    return pages.page(world, call, tags, TAGS_PER_PAGE, name="Tags")


_TIMES = re.compile(rb'":(?<!\\":)(\d)(\d{9})\.(\d+)(?=[,}])')


def as_java(body: bytes) -> bytes:
    """``body`` with epoch seconds in scientific notation, as the service writes them."""
    return _TIMES.sub(rb'":\1.\2\3E9', body)


def _by_creation(shelf: Shelf, params: Wire, place: Any, limit: int) -> list[Job]:
    return shelf.slice(
        limit,
        after=(place[1], place[2]) if place else None,
        created_after=_milliseconds(params.get("CreationTimeAfter")),
        created_before=_milliseconds(params.get("CreationTimeBefore")),
        descending=params.get("SortOrder") == "Descending",
    )


def _sorted(by: str) -> Callable[[Shelf, Wire, Any, int], list[Job]]:
    """Another order than that of creation: the whole shelf is sorted for every page."""

    def pick(shelf: Shelf, params: Wire, place: Any, limit: int) -> list[Job]:
        descending = params.get("SortOrder") == "Descending"
        jobs = _by_creation(shelf, params, None, len(shelf))
        jobs.sort(key=lambda job: (_value(job, by), *job.key), reverse=descending)
        if place:
            here = tuple(place)
            jobs = [
                job
                for job in jobs
                if ((_value(job, by), *job.key) < here if descending else False)
                or (not descending and (_value(job, by), *job.key) > here)
            ]
        return jobs[:limit]

    return pick


def _value(job: Job, by: str) -> str:
    return job.name if by == "Name" else job.status if by == "Status" else ""


def _matches(job: Job, params: Wire) -> bool:
    """The filters that SageMaker applies to a page once it has chosen it."""
    status, part = params.get("StatusEquals"), params.get("NameContains")
    after = _milliseconds(params.get("LastModifiedTimeAfter"))
    before = _milliseconds(params.get("LastModifiedTimeBefore"))
    return (
        (status is None or job.status == status)
        and (part is None or part.lower() in job.name.lower())
        and (after is None or job.modified > after)
        and (before is None or job.modified < before)
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
