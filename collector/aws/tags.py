"""Tags of resources: a page at a time from GetResources, or one by one.

Source: Resource Groups Tagging API reference, GetResources: up to 100 ARNs, alone; only
resources that have, or once had, tags are returned.
"""

from __future__ import annotations

from typing import Any

from collector.aws.client import Access, AwsClient
from collector.aws.mend import Mended
from collector.errors import RejectedError
from collector.events import FieldsNoted
from collector.model import Table

TAGGING = "resourcegroupstaggingapi"
MOST_PAGES = 100
"""A resource has some 50 tags: more pages than this are no list of them."""

ATTEMPTS = 4
"""Tags that cannot be had, as where a network lets no call through to this service, must not hold
up the jobs themselves: there is another way for them, and another time."""


async def bulk_tags(
    client: AwsClient, access: Access, arns: list[str]
) -> tuple[dict[str, list[str] | None], bool]:
    """Tags by ARN of those resources that GetResources returns, and whether it returned them all.

    Raises CallError.
    """
    answer = await client.json(
        access,
        TAGGING,
        "GetResources",
        {"ResourceARNList": arns},
        required=("ResourceTagMappingList",),
        attempts=ATTEMPTS,
    )
    _note_mended(client, answer)
    found: dict[str, list[str] | None] = {}
    for item in _objects("GetResources", answer["ResourceTagMappingList"], "ResourceARN"):
        found[item["ResourceARN"]] = tag_strings("GetResources", item.get("Tags") or [])
    # Pagination goes with filters, not with ARNs; if a token comes all the same, more is missing.
    return found, not answer.get("PaginationToken")


async def listed_tags(client: AwsClient, access: Access, table: Table, arn: str) -> list[str]:
    """All tags of one resource, every page of them. Raises CallError."""
    operation = table.tags
    first: dict[str, Any] = {
        operation.arn_param: arn,
        operation.page_size_param: operation.page_size,
    }
    params = first
    tags: list[Any] = []
    tokens: set[str] = set()
    begun = 1
    while True:
        try:
            answer = await client.json(
                access,
                table.service,
                operation.name,
                params,
                required=(operation.items,),
                attempts=ATTEMPTS,
            )
        except RejectedError:
            # A token that ran out is refused, worded in many ways: from the first page again.
            if params is first or begun == ATTEMPTS:
                raise
            params, tags, tokens = first, [], set()
            begun += 1
            continue
        _note_mended(client, answer)
        tags += _objects(operation.name, answer[operation.items])
        token = answer.get("NextToken")
        if not token:
            return tag_strings(operation.name, tags)
        if not isinstance(token, str) or token in tokens or len(tokens) >= MOST_PAGES:
            raise RejectedError(operation.name, "EndlessList", "the NextTokens never end")
        tokens.add(token)
        params = {**params, "NextToken": token}


def tag_strings(operation: str, tags: Any) -> list[str]:
    """``key:value`` for each tag, sorted; an empty value gives ``key:``."""
    found = _objects(operation, tags, "Key")
    if not all(isinstance(tag.get("Value"), str | None) for tag in found):
        raise _unreadable(operation)
    return sorted(f"{tag['Key']}:{tag.get('Value') or ''}" for tag in found)


def _objects(operation: str, items: Any, *names: str) -> list[dict[str, Any]]:
    """``items`` if it is what it should be, a list of objects with text under ``names``."""
    if isinstance(items, list) and all(
        isinstance(item, dict) and all(isinstance(item.get(name), str) for name in names)
        for item in items
    ):
        return items
    raise _unreadable(operation)


def _unreadable(operation: str) -> RejectedError:
    return RejectedError(
        operation, "UnreadableAnswer", "the answer is not of the form it should be"
    )


def _note_mended(client: AwsClient, answer: Any) -> None:
    if isinstance(answer, Mended):
        client.observe(FieldsNoted((), ("tags[]",) * len(answer.places)))
