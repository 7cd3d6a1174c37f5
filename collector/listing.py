"""All resources of one account and region, page by page, oldest first.

Each resource comes once, whatever happens to the listing: empty pages are followed, and where a
token has run out or comes a second time, the list is taken up again from the last creation time
seen, and what was seen is dropped.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from collector.errors import RejectedError
from collector.flatten import epoch_seconds
from collector.model import Cursor, Job, JobKey, Table, Wire

SAME_JOB = 1.0
"""Seconds by which list and describe may differ on one job's creation time."""

_OVERLAP = 2.0
"""Seconds before the last creation time at which a list is taken up again: the filter is
exclusive, and a service may keep whole seconds only."""

_RESTARTS_WITHOUT_NEWS = 5
"""How often a list is taken up again at one place before it is called endless."""

_EMPTY_PAGES, _EMPTY_PAGES_FILTERED = 500, 10_000
"""How many pages in a row may hold nothing until the list is called endless; the second where a
status filter applies, which empties pages after they were made up."""

_KNOWN_PAGES, _OLD_PAGES = 200, 1_000
"""How many pages in a row may hold only jobs that were seen (as after a restart, among jobs of one
second), or only jobs from before the last page (never from AWS, which sorts)."""


class Listing:
    """An async iterator of pages, each a list of jobs not seen before; may be an empty list.

    ``call(params)`` makes one list call and raises CallError. ``cursor`` is where an earlier
    listing was left. Raises RejectedError where the service's pages never end. ``malformed``
    counts summaries that name no job.
    """

    def __init__(
        self,
        table: Table,
        call: Callable[[dict[str, Any]], Awaitable[Wire]],
        *,
        created_after: float | None = None,
        created_before: float | None = None,
        status: str | None = None,
        cursor: Cursor | None = None,
    ) -> None:
        cursor = cursor or Cursor()
        self._table = table
        self._call = call
        self._after = created_after
        self._filters: dict[str, Any] = {}
        if created_before is not None:
            self._filters[table.list.created_before] = created_before
        if status is not None:
            self._filters[table.list.status] = status
        self._sifted: str | None = None
        self.last_created = cursor.last_created
        self.malformed = 0
        self._ended = cursor.ended
        self._recent: dict[JobKey, None] = dict.fromkeys(cursor.seen)
        self._tokens: set[int] = set()
        self._restarts = 0
        self._empty_pages = self._known_pages = self._old_pages = 0
        self._go_back()

    @property
    def cursor(self) -> Cursor:
        """Where the list is, once the last page that came from here has been taken in."""
        if self.last_created is None:
            return Cursor(ended=self._ended)
        floor = self.last_created - 2 * _OVERLAP
        seen = tuple(key for key in self._recent if key[1] >= floor)
        return Cursor(self.last_created, seen, self._ended)

    def __aiter__(self) -> AsyncIterator[list[Job]]:
        return self._pages()

    def has_listed(self, job: Job) -> bool:
        """Whether the list, once at its end, has brought ``job``."""
        if self.last_created is None or job.created > self.last_created + SAME_JOB:
            return False
        if job.created < self.last_created - _OVERLAP:
            return True  # the list is past it
        return any(
            arn == job.arn and abs(created - job.created) < SAME_JOB
            for arn, created in self._recent
        )

    async def _pages(self) -> AsyncIterator[list[Job]]:
        token: str | None = None
        while not self._ended:
            try:
                answer = await self._call(self._params(token))
            except RejectedError as error:
                # A token that ran out is a ValidationException, worded in many ways.
                if token is None:
                    raise
                self._restart(f"{error.code}: {error.message}")
                token = None
                continue
            last_before = self.last_created
            summaries = answer[self._table.list.items]
            jobs = self._news(summaries)
            self._watch(jobs, last_before, empty=not summaries)
            token = answer.get("NextToken") or None
            if not isinstance(token, str | None):
                raise RejectedError(self._table.list.name, "UnreadableAnswer", "a token is no text")
            self._ended = token is None
            yield [job for job in jobs if self._sifted in (None, job.status)]
            if token is None:
                return
            if hash(token) in self._tokens:
                self._restart("the same NextToken came twice")
                token = None
            else:
                self._tokens.add(hash(token))

    def _params(self, token: str | None) -> dict[str, Any]:
        operation = self._table.list
        params = {
            **operation.params,
            **self._filters,
            operation.page_size_param: operation.page_size,
        }
        if self._after is not None:
            params[operation.created_after] = self._after
        if token is not None:
            params["NextToken"] = token
        return params

    def _restart(self, why: str) -> None:
        if self._empty_pages and self._table.list.status in self._filters:
            # Pages that a filter empties show no time to go on from: sift them here instead.
            self._sifted = self._filters.pop(self._table.list.status)
            self._empty_pages = 0
        self._restarts += 1
        if self._restarts > _RESTARTS_WITHOUT_NEWS:
            raise self._endless(why)
        self._go_back()
        self._tokens.clear()

    def _go_back(self) -> None:
        """Start the next list just before the last creation time seen."""
        if self.last_created is not None:
            resume = math.floor(self.last_created - _OVERLAP)
            self._after = resume if self._after is None else max(self._after, resume)

    def _watch(self, jobs: list[Job], last_before: float | None, *, empty: bool) -> None:
        """Count the pages that bring the list no further; raise where there are too many."""
        if jobs:
            self._restarts = self._empty_pages = self._known_pages = 0
            further = last_before is None or self.last_created != last_before
            self._old_pages = 0 if further else self._old_pages + 1
        elif empty:
            self._empty_pages += 1
        else:
            self._known_pages += 1
        filtered = self._table.list.status in self._filters
        if (
            self._empty_pages > (_EMPTY_PAGES_FILTERED if filtered else _EMPTY_PAGES)
            or self._known_pages > _KNOWN_PAGES
            or self._old_pages > _OLD_PAGES
        ):
            raise self._endless("page after page brings nothing new")

    def _endless(self, why: str) -> RejectedError:
        message = f"the list does not come to an end ({why})"
        return RejectedError(self._table.list.name, "EndlessList", message)

    def _news(self, summaries: Any) -> list[Job]:
        """The jobs of a page that have not been seen, remembering them for a restart."""
        if not isinstance(summaries, list):
            raise RejectedError(self._table.list.name, "UnreadableAnswer", "the page is no list")
        jobs = []
        for summary in summaries:
            job = self._job(summary)
            if job is None:
                self.malformed += 1
            elif job.key not in self._recent:
                self._recent[job.key] = None
                jobs.append(job)
                if self.last_created is None or job.created > self.last_created:
                    self.last_created = job.created
        self._forget()
        return jobs

    def _job(self, summary: Any) -> Job | None:
        table = self._table
        if not isinstance(summary, dict):
            return None
        created = epoch_seconds(summary.get(table.created))
        params = {name: summary.get(member) for name, member in table.describe.params.items()}
        arn = summary.get(table.arn)
        if created is None or not isinstance(arn, str):
            return None
        if not all(isinstance(value, str) for value in params.values()):
            return None
        modified = epoch_seconds(summary.get(table.modified))
        status = summary.get(table.status)
        return Job(arn, created, modified, status if isinstance(status, str) else "", params)

    def _forget(self) -> None:
        """Keep what a restart could bring again: memory does not grow with the list."""
        keep = 2 * self._table.list.page_size
        if self.last_created is None or len(self._recent) <= 2 * keep:
            return
        floor = self.last_created - 2 * _OVERLAP
        latest = list(self._recent)[-keep:]
        kept = [key for key in self._recent if key[1] >= floor]
        self._recent = dict.fromkeys([*kept, *latest])
