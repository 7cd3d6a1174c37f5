"""Listing against a model of a service that forgets tokens, repeats them and changes meanwhile."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import RejectedError, TransientError
from collector.listing import Listing
from collector.tables import load_table

TABLE = load_table()
PAGE = 100


def summary(arn: str, created: float, **more: Any) -> dict[str, Any]:
    name = arn.rpartition("/")[2]
    return {
        "TrainingJobArn": arn,
        "TrainingJobName": name,
        "CreationTime": created,
        "LastModifiedTime": created + 1,
        "TrainingJobStatus": "Completed",
        **more,
    }


@dataclass
class Service:
    """A list operation over ``jobs``, (created, arn) in order.

    ``faults`` are dealt one a call: "empty" gives a page without jobs, "expire" refuses a token,
    "repeat" gives a token that was given before, "add" and "delete" change the jobs first. A
    filter is exclusive and sees whole seconds only where ``coarse``. A token says where it goes on,
    if ``stable``, so that another chain may bring the same one again.
    """

    jobs: list[tuple[float, str]]
    faults: list[str] = field(default_factory=list)
    page: int = 5
    coarse: bool = False
    stable: bool = False
    calls: list[dict[str, Any]] = field(default_factory=list)
    deleted: set[tuple[float, str]] = field(default_factory=set)
    added: set[tuple[float, str]] = field(default_factory=set)
    tokens: dict[str, tuple[dict[str, Any], tuple[float, str]]] = field(default_factory=dict)

    async def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(params)
        fault = self.faults.pop(0) if self.faults else ""
        self.change(fault)
        token = params.get("NextToken")
        query = {name: value for name, value in params.items() if name != "NextToken"}
        after: tuple[float, str] = (-1.0, "")
        if token is not None:
            if fault == "expire":
                raise RejectedError("ListTrainingJobs", "ValidationException", "Invalid token")
            asked, after = self.tokens[token]
            assert query == asked, "parameters changed within one chain of tokens"
        found = [job for job in self.jobs if job > after and self.chosen(job[0], query)]
        page = [] if fault == "empty" else found[: self.page]
        answer: dict[str, Any] = {
            TABLE.list.items: [summary(arn, created) for created, arn in page]
        }
        if len(found) > len(page):
            if fault == "repeat" and token is not None:
                answer["NextToken"] = token
            else:
                given = f"after {page[-1]}" if page and self.stable else str(len(self.calls))
                self.tokens[given] = (query, page[-1] if page else after)
                answer["NextToken"] = given
        return answer

    def chosen(self, created: float, query: dict[str, Any]) -> bool:
        seen = float(int(created)) if self.coarse else created
        after, before = query.get("CreationTimeAfter"), query.get("CreationTimeBefore")
        return (after is None or seen > after) and (before is None or seen < before)

    def change(self, fault: str) -> None:
        if fault == "add":
            last = self.jobs[-1][0] if self.jobs else 0.0
            job = (last + 0.5, f"arn:new/{len(self.calls)}")
            insort(self.jobs, job)
            self.added.add(job)
        elif fault == "delete" and self.jobs:
            self.deleted.add(self.jobs.pop(len(self.jobs) // 2))


async def read(listing: Listing) -> list[tuple[float, str]]:
    return [(job.created, job.arn) async for page in listing for job in page]


FAULTS = ["", "", "", "empty", "expire", "repeat", "add", "delete"]


@settings(deadline=None, max_examples=200)
@given(
    times=st.lists(st.integers(0, 40), max_size=60).map(lambda ts: [t / 4 for t in ts]),
    faults=st.lists(st.sampled_from(FAULTS), max_size=25),
    page=st.integers(1, 7),
    kind=st.fixed_dictionaries({"coarse": st.booleans(), "stable": st.booleans()}),
    between=st.tuples(st.none() | st.integers(0, 8), st.none() | st.integers(2, 12)),
)
async def test_every_job_comes_once_and_in_order(times, faults, page, kind, between):
    """Whatever a service does to its pages, a job that was there all along comes exactly once."""
    restarts = 0
    for index, fault in enumerate(faults):
        restarts += fault in ("expire", "repeat")
        if restarts > 4 and fault in ("expire", "repeat"):
            faults[index] = ""
    jobs = sorted((created, f"arn:job/{number}") for number, created in enumerate(times))
    service = Service(list(jobs), list(faults), page=page, **kind)
    after, before = between
    listing = Listing(TABLE, service, created_after=after, created_before=before)
    query = {"CreationTimeAfter": after, "CreationTimeBefore": before}
    found = await read(listing)
    wanted = [job for job in jobs if service.chosen(job[0], query)]
    steady = [job for job in wanted if job not in service.deleted]
    assert len(set(found)) == len(found)
    assert [job for job in found if job in set(steady)] == steady
    assert set(found) <= set(wanted) | service.added
    assert [created for created, _ in found] == sorted(created for created, _ in found)
    assert listing.malformed == 0


async def test_tokens_that_expire_all_the_time_are_outlived():
    """A token that lives for a few pages costs further calls, and no job."""
    jobs = [(float(number), f"arn:job/{number:04}") for number in range(1000)]
    service = Service(list(jobs), ["", "", "", "expire"] * 500, page=7)
    assert await read(Listing(TABLE, service)) == jobs
    assert len(service.calls) < 400


async def test_many_jobs_of_one_second_span_pages():
    """Creation times that are equal over many pages lose nothing where a token runs out."""
    jobs = sorted((100.25, f"arn:job/{number:04}") for number in range(1000))
    jobs += [(101.0, "arn:job/last")]
    service = Service(list(jobs), [""] * 18 + ["expire"], page=50, stable=True)
    assert await read(Listing(TABLE, service)) == jobs


async def test_the_call_is_the_tables_own():
    """Order, page size and filters are asked for; after a restart only the start has moved."""
    service = Service([(float(n), f"arn:job/{n}") for n in range(20)], ["", "", "expire"])
    listing = Listing(TABLE, service, created_before=50.0, status="Completed")
    await read(listing)
    first, again = service.calls[0], service.calls[3]
    assert first == {
        "SortBy": "CreationTime",
        "SortOrder": "Ascending",
        "MaxResults": PAGE,
        "CreationTimeBefore": 50.0,
        "StatusEquals": "Completed",
    }
    assert {**again, "CreationTimeAfter": None} == {**first, "CreationTimeAfter": None}
    assert again["CreationTimeAfter"] < listing.last_created


async def test_a_restart_does_not_reach_before_the_users_start():
    """``created_after`` stays the earliest start, also where the overlap would pass it."""
    service = Service([(10.5 + n / 10, f"arn:job/{n}") for n in range(9)], ["", "expire"])
    found = await read(Listing(TABLE, service, created_after=10))
    assert len(found) == 9
    assert len(service.calls) == 4
    assert {call["CreationTimeAfter"] for call in service.calls} == {10}


async def endless(listing: Listing) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        await read(listing)
    assert caught.value.code == "EndlessList"
    return caught.value


async def test_a_token_that_only_repeats_ends_the_list():
    """A service that gives the same page and token for ever is called endless, and soon."""
    calls = []

    async def call(params: dict[str, Any]) -> dict[str, Any]:
        calls.append(params)
        return {TABLE.list.items: [summary("arn:a/1", 5.0)], "NextToken": "same"}

    error = await endless(Listing(TABLE, call))
    assert "the same NextToken came twice" in error.message
    assert len(calls) < 20


@pytest.mark.parametrize(("status", "least"), [(None, 100), ("Failed", 4_622)])
async def test_empty_pages_for_ever_end_the_list(status, least):
    """Empty pages with ever new tokens are endless at last: later where a filter empties pages."""
    count = 0

    async def call(_: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        count += 1
        return {TABLE.list.items: [], "NextToken": str(count)}

    await endless(Listing(TABLE, call, status=status))
    assert least < count < 20_000


async def test_the_same_page_for_ever_ends_the_list():
    """One page over and over, with ever new tokens, brings its jobs once and then an end."""
    count = 0
    page = [
        {
            "TrainingJobName": f"job-{number}",
            "TrainingJobArn": f"arn:{number}",
            "CreationTime": 1_700_000_000.0 + number,
        }
        for number in range(100)
    ]
    seen = []

    async def call(_: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        count += 1
        return {TABLE.list.items: page, "NextToken": str(count)}

    async def read() -> None:
        async for jobs in Listing(TABLE, call):
            seen.extend(jobs)

    with pytest.raises(RejectedError, match="EndlessList"):
        await read()
    assert len(seen) == 100
    assert count < 1_000


async def test_old_jobs_for_ever_end_the_list():
    """A service that gives ever new jobs of one moment is called endless at last."""
    count = 0

    async def call(_: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        count += 1
        return {TABLE.list.items: [summary(f"arn:a/{count}", 5.0)], "NextToken": str(count)}

    await endless(Listing(TABLE, call))
    assert 100 < count < 100_000


async def test_a_token_that_always_expires_ends_the_list():
    """Where a list gets no further than its first page, it is given up with the reason."""
    service = Service([(5.0, f"arn:job/{n:02}") for n in range(20)], ["", "expire"] * 50)
    error = await endless(Listing(TABLE, service))
    assert "Invalid token" in error.message


async def test_some_empty_pages_are_normal():
    """A hundred empty pages in a row are followed."""
    service = Service([(1.0, "arn:job/1")], ["empty"] * 100)
    assert await read(Listing(TABLE, service)) == [(1.0, "arn:job/1")]


@pytest.mark.parametrize("error", [TransientError, RejectedError])
async def test_a_refused_first_call_is_raised(error):
    """Without a token there is nothing to take up again: the error is the caller's."""

    async def call(_: dict[str, Any]) -> dict[str, Any]:
        raise error("ListTrainingJobs", "X")

    with pytest.raises(error, match="ListTrainingJobs: X"):
        await read(Listing(TABLE, call))


async def test_other_errors_under_a_token_are_raised():
    """Only a refusal can mean a token that ran out."""
    service = Service([(float(n), f"arn:job/{n}") for n in range(20)])

    async def call(params: dict[str, Any]) -> dict[str, Any]:
        if "NextToken" in params:
            raise TransientError("ListTrainingJobs", "X")
        return await service(params)

    with pytest.raises(TransientError):
        await read(Listing(TABLE, call))


async def test_summaries_that_name_no_job_are_counted():
    """What cannot be described is counted; the jobs beside it come."""
    good = summary("arn:a/1", 5.0)
    bad: list[Any] = [
        None,
        7,
        {},
        {**good, "TrainingJobArn": None},
        {**good, "CreationTime": "soon"},
        {**good, "TrainingJobName": 7},
    ]

    async def call(_: dict[str, Any]) -> dict[str, Any]:
        return {TABLE.list.items: [*bad, good]}

    listing = Listing(TABLE, call)
    assert await read(listing) == [(5.0, "arn:a/1")]
    assert listing.malformed == len(bad)


async def test_a_job_is_its_arn_and_creation_time():
    """A name that was given twice is two jobs; times may be text; what describes it is kept."""

    async def call(_: dict[str, Any]) -> dict[str, Any]:
        first = summary("arn:a/1", 5.0)
        return {
            TABLE.list.items: [
                first,
                first,
                {**first, "CreationTime": "1970-01-01T00:00:06Z", "LastModifiedTime": None},
            ]
        }

    jobs = [job async for page in Listing(TABLE, call) for job in page]
    assert [job.key for job in jobs] == [("arn:a/1", 5.0), ("arn:a/1", 6.0)]
    assert [job.modified for job in jobs] == [6.0, None]
    assert jobs[0].params == {"TrainingJobName": "1"}
    assert jobs[0].status == "Completed"


async def test_memory_does_not_grow_with_the_list():
    """What is remembered of 100,000 jobs stays within a few pages."""

    async def call(params: dict[str, Any]) -> dict[str, Any]:
        start = int(params.get("NextToken", 0))
        items = [summary(f"arn:a/{n}", float(n)) for n in range(start, start + PAGE)]
        return {TABLE.list.items: items, "NextToken": str(start + PAGE)}

    listing, seen, most = Listing(TABLE, call), 0, 0
    async for page in listing:
        seen += len(page)
        most = max(most, len(listing._recent))
        if seen >= 100_000:
            break
    assert seen == 100_000
    assert most <= 10 * PAGE


async def test_pages_that_a_filter_empties_are_sifted_here_when_tokens_run_out():
    """With a status filter, empty pages and tokens that die, no time shows where to go on.

    The filter is dropped then, and applied here: each job of the status comes once.
    """
    service = Filtering([(1000.0 + n, f"arn:aws:x:job/{n}") for n in range(60)])
    listing = Listing(TABLE, service, status="Failed")
    jobs = [job async for page in listing for job in page]
    assert [job.arn for job in jobs] == [arn for created, arn in service.jobs if created == 1059.0]
    assert {job.status for job in jobs} == {"Failed"}


class Filtering(Service):
    """Only the last job is Failed; a filter empties the pages of others; a chain has two tokens."""

    async def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        wanted = params.get("StatusEquals")
        if "NextToken" in params and params["NextToken"].endswith("!!"):
            raise RejectedError("ListTrainingJobs", "ValidationException", "Invalid token")
        plain = {name: value for name, value in params.items() if name != "StatusEquals"}
        marks = plain.get("NextToken", "").count("!")
        if "NextToken" in plain:
            plain["NextToken"] = plain["NextToken"].rstrip("!")
        answer = await super().__call__(plain)
        for item in answer[TABLE.list.items]:
            item["TrainingJobStatus"] = "Failed" if item["CreationTime"] == 1059.0 else "Completed"
        if wanted:
            answer[TABLE.list.items] = [
                item for item in answer[TABLE.list.items] if item["TrainingJobStatus"] == wanted
            ]
        if "NextToken" in answer:
            answer["NextToken"] += "!" * (marks + 1)
        return answer
