"""Tags, in bulk and one resource at a time."""

from __future__ import annotations

from typing import Any

import pytest

from collector.aws.mend import Mended
from collector.aws.tags import ATTEMPTS, bulk_tags, listed_tags, tag_strings
from collector.errors import DeniedError, RejectedError
from collector.events import FieldsNoted
from collector.tables import load_table

TABLE = load_table()
ARN = "arn:aws:sagemaker:us-east-1:111111111111:training-job/a"


class Client:
    """Answers calls in turn, and remembers what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.events: list[FieldsNoted] = []
        self.observe = self.events.append
        self.asked: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = []

    async def json(self, _access, service, operation, params, *, required=(), attempts=None):
        assert attempts  # tags must not hold up the jobs
        self.asked.append((service, operation, dict(params), required))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def tags(**values: str | None) -> list[dict[str, str | None]]:
    return [{"Key": key, "Value": value} for key, value in values.items()]


def test_tags_are_sorted_strings():
    """Each tag is key:value, an empty value leaves key:, and the strings are sorted."""
    assert tag_strings("ListTags", []) == []
    assert tag_strings(
        "ListTags", [*tags(b="2", a=""), {"Key": "c"}, {"Key": "a:b", "Value": "x:y"}]
    ) == [
        "a:",
        "a:b:x:y",
        "b:2",
        "c:",
    ]
    assert tag_strings("ListTags", tags(Z="1", a="1", é="1")) == ["Z:1", "a:1", "é:1"]


async def test_every_page_of_one_resource_is_read():
    """ListTags is asked until no token comes, and what all pages brought is sorted as one."""
    client = Client(
        {"Tags": tags(b="1"), "NextToken": "t1"},
        {"Tags": [], "NextToken": "t2"},
        {"Tags": tags(a="2")},
    )
    assert await listed_tags(client, None, TABLE, ARN) == ["a:2", "b:1"]
    first = {"ResourceArn": ARN, "MaxResults": 100}
    assert [params for _, _, params, _ in client.asked] == [
        first,
        first | {"NextToken": "t1"},
        first | {"NextToken": "t2"},
    ]
    assert {(s, o, r) for s, o, _, r in client.asked} == {("sagemaker", "ListTags", ("Tags",))}


async def test_a_token_that_repeats_is_refused():
    """Pages of tags that never end are an error, not a loop."""
    client = Client(*[{"Tags": [], "NextToken": "same"}] * 5)
    with pytest.raises(RejectedError, match="EndlessList"):
        await listed_tags(client, None, TABLE, ARN)
    assert len(client.asked) == 2


async def test_a_token_that_ran_out_is_begun_again():
    """The list starts from its first page once more, and no tag comes twice."""
    refused = RejectedError("ListTags", "ValidationException", "Invalid token")
    client = Client(
        {"Tags": tags(b="1"), "NextToken": "t1"},
        refused,
        {"Tags": tags(b="1"), "NextToken": "t2"},
        {"Tags": tags(a="2")},
    )
    assert await listed_tags(client, None, TABLE, ARN) == ["a:2", "b:1"]
    assert [params.get("NextToken") for _, _, params, _ in client.asked] == [None, "t1", None, "t2"]


async def test_tokens_that_always_run_out_are_given_up():
    """A list that cannot be followed to its end is an error after a few beginnings."""
    refused = RejectedError("ListTags", "ValidationException", "Invalid token")
    client = Client(*[{"Tags": [], "NextToken": "t1"}, refused] * 9)
    with pytest.raises(RejectedError, match="Invalid token"):
        await listed_tags(client, None, TABLE, ARN)
    assert len(client.asked) == 2 * ATTEMPTS


async def test_many_resources_are_read_in_one_call():
    """GetResources is given the ARNs alone; who has tags is in the answer, the rest is not."""
    client = Client(
        {
            "ResourceTagMappingList": [
                {"ResourceARN": ARN, "Tags": tags(b="1", a="")},
                {"ResourceARN": ARN + "2"},
            ],
            "PaginationToken": "",
        }
    )
    found, whole = await bulk_tags(client, None, [ARN, ARN + "2", ARN + "3"])
    assert found == {ARN: ["a:", "b:1"], ARN + "2": []}
    assert whole
    assert client.asked == [
        (
            "resourcegroupstaggingapi",
            "GetResources",
            {"ResourceARNList": [ARN, ARN + "2", ARN + "3"]},
            ("ResourceTagMappingList",),
        )
    ]


async def test_a_bulk_answer_that_goes_on_is_not_whole():
    """A pagination token says that who is not in the answer may have tags all the same."""
    client = Client({"ResourceTagMappingList": [], "PaginationToken": "more"})
    assert await bulk_tags(client, None, [ARN]) == ({}, False)


async def test_a_refusal_is_the_callers():
    """An error of either call is raised as it is."""
    for ask in (
        lambda client: bulk_tags(client, None, [ARN]),
        lambda client: listed_tags(client, None, TABLE, ARN),
    ):
        with pytest.raises(DeniedError):
            await ask(Client(DeniedError("ListTags", "AccessDeniedException")))


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "wrong",
    [
        *([None], [{"Value": "x"}], {"Key": "a"}, ["a"]),
        *([{"Key": 5}], [{"Key": "a", "Value": 0}], [{"Key": "a", "Value": {}}]),
        *([{"Key": nested(1000)}], [{"Key": "a", "Value": nested(1000)}]),
    ],
    ids=range(9),
)
async def test_tags_of_another_form_are_an_error_of_ours(wrong):
    """What is no list of tags is refused in words, not with a KeyError."""
    with pytest.raises(RejectedError, match="UnreadableAnswer"):
        await listed_tags(Client({"Tags": wrong}), None, TABLE, ARN)
    page = {"ResourceTagMappingList": [{"ResourceARN": ARN, "Tags": wrong}]}
    with pytest.raises(RejectedError, match="UnreadableAnswer"):
        await bulk_tags(Client(page), None, [ARN])


async def test_other_members_of_another_form_are_an_error_of_ours_too():
    """A token or an ARN that is no text is refused in words."""
    with pytest.raises(RejectedError, match="EndlessList"):
        await listed_tags(Client({"Tags": [], "NextToken": {"a": 1}}), None, TABLE, ARN)
    page = {"ResourceTagMappingList": [{"ResourceARN": nested(1000), "Tags": []}]}
    with pytest.raises(RejectedError, match="UnreadableAnswer"):
        await bulk_tags(Client(page), None, [ARN])


async def test_tags_that_were_mended_are_counted():
    """Half a surrogate pair in a tag is U+FFFD, and noted as a tag's."""
    wrong = [{"Key": "a", "Value": "\ufffd"}, {"Key": "b", "Value": "c"}]
    client = Client(
        Mended({"Tags": wrong}, [("Tags", 0, "Value")]),
        Mended(
            {"ResourceTagMappingList": [{"ResourceARN": ARN, "Tags": wrong}]},
            [("ResourceTagMappingList", 0, "Tags", 0, "Value")],
        ),
    )
    assert await listed_tags(client, None, TABLE, ARN) == ["a:\ufffd", "b:c"]
    assert await bulk_tags(client, None, [ARN]) == ({ARN: ["a:\ufffd", "b:c"]}, True)
    assert client.events == [FieldsNoted((), ("tags[]",))] * 2
