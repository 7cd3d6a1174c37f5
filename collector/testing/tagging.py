"""The tagging service: GetResources, for training jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from collector.model import Wire
from collector.testing import pages
from collector.testing.estate import tags_of
from collector.testing.jobs import Job
from collector.testing.rules import Rule, check
from collector.testing.world import AwsError, Call, World

_CODE = "InvalidParameterException"
_ARN = re.compile(r"arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]*:.+")
_ALONE = ("ResourcesPerPage", "TagsPerPage", "PaginationToken", "TagFilters", "ResourceTypeFilters")
"""Parameters that do not go together with a list of ARNs."""

_RULES = {
    "ResourceARNList": Rule(list, low=1, high=100),
    "ResourcesPerPage": Rule(int, low=1, high=100),
    "TagsPerPage": Rule(int, low=100, high=500),
    "PaginationToken": Rule(str, high=2048),
    "TagFilters": Rule(list, high=50),
    "ResourceTypeFilters": Rule(list, high=100),
}


def get_resources(world: World, call: Call) -> Wire:
    params = call.params
    check(params, _RULES, _CODE)
    arns = params.get("ResourceARNList")
    if arns is None:
        answer = pages.page(
            world,
            call,
            [_mapping(job) for job in _all(world, call)],
            params.get("ResourcesPerPage", 50),
            name="ResourceTagMappingList",
            param="PaginationToken",
            code=_CODE,
        )
        return {"PaginationToken": "", **answer}
    clash = [name for name in _ALONE if params.get(name)]
    if clash:
        raise AwsError(
            _CODE, f"ResourceARNList cannot be combined with the parameters {', '.join(clash)}."
        )
    for arn in arns:
        if not isinstance(arn, str) or not _ARN.fullmatch(arn):
            raise AwsError(_CODE, f"{arn} is not a valid ARN.")
    shelf = world.estate.shelf(call.account, call.region)
    found = (shelf.find(arn.rpartition("/")[2]) for arn in dict.fromkeys(arns))
    wanted = set(arns)
    return {
        "PaginationToken": "",
        "ResourceTagMappingList": [
            _mapping(job)
            for job in found
            if job is not None and job.arn in wanted and _indexed(world, job)
        ],
    }


def _all(world: World, call: Call) -> Iterator[Job]:
    types = call.params.get("ResourceTypeFilters") or ["sagemaker"]
    if not {"sagemaker", "sagemaker:training-job"}.intersection(types):
        return
    filters = call.params.get("TagFilters") or []
    shelf = world.estate.shelf(call.account, call.region)
    for name in shelf.names():
        job = shelf.find(name)
        if job is None or not _indexed(world, job):
            continue
        tags = tags_of(job)
        if all(
            wish["Key"] in tags and (not wish.get("Values") or tags[wish["Key"]] in wish["Values"])
            for wish in filters
        ):
            yield job


def _indexed(world: World, job: Job) -> bool:
    """Whether the index has the job: it has tags, and the index has had time to see them."""
    age = world.clock() - job.created / 1000
    lag = world.policy.tag_index_lag
    return bool(tags_of(job)) and (not lag or age >= lag) and not world.is_gone(job)


def _mapping(job: Job) -> Wire:
    return {
        "ResourceARN": job.arn,
        "Tags": [{"Key": key, "Value": value} for key, value in tags_of(job).items()],
    }
