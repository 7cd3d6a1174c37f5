"""One target: list pages in, described and tagged records out.

Every job that is listed ends as exactly one of emitted, gone or failed. Nothing here knows
SageMaker: the table says what to call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from collector import incremental
from collector.aws.client import Access, AwsClient
from collector.aws.roles import KEYS_SPREAD
from collector.aws.tags import bulk_tags, listed_tags
from collector.errors import (
    CallError,
    CollectorError,
    DeniedError,
    NotEnabledError,
    NotFoundError,
    SinkError,
    ThrottledError,
    TransientError,
)
from collector.events import (
    INTERRUPTED,
    FieldsNoted,
    JobEmitted,
    JobFailed,
    JobGone,
    JobsUnchanged,
    Observer,
    PageListed,
    TargetEnded,
    TargetStarted,
    Warned,
)
from collector.flatten import Flattener, Notes, epoch_seconds
from collector.listing import SAME_JOB, Listing
from collector.model import Job, JobKey, Outcome, Record, Start, Table, Target, Wire
from collector.redact import redact
from collector.text import clean

WINDOW = 64
"""Jobs of one target that are described or waiting for the sink at once."""

PAGES_AHEAD = 1
"""Pages listed and tagged that wait for their describes; one more is in the lister's hand."""

ATTEMPTS_IN_PLACE = 4
"""Attempts before a job is put off to the end of its target, out of the others' way."""

ATTEMPTS_FOR_TAGS = 20
"""Attempts after which a described job is emitted without the tags that cannot be read."""

MOST_DEFERRED = 2_000
"""Jobs put off before they are tried again, ahead of further pages: bounds memory."""

DENIALS = 20
"""Describes denied in a row before the target is called denied as a whole, and left."""

TAGS_YOUNG = 3600.0
"""Seconds. A job younger than this may have tags that GetResources does not show yet."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read of each target, and how; the same for all targets of a run.

    Times are epoch seconds, ``horizon`` and ``overlap`` seconds (see `collector.incremental`).
    ``known_regions`` are those the SDK knows the service in.
    """

    table: Table
    run_id: str
    tags: Literal["bulk", "each", "none"] = "bulk"
    created_after: float | None = None
    created_before: float | None = None
    status: str | None = None
    horizon: float = 60 * 86400.0
    overlap: float = 900.0
    redact: Mapping[str, str] = field(default_factory=dict)
    keep_extra: bool = False
    meta: bool = False
    known_regions: frozenset[str] = frozenset()


Deliver = Callable[[Target, Job, Record], Awaitable[None]]
"""Takes a job's record over; returns once there is room for it (backpressure)."""

BEGINNING = Start()

_NAMELESS = Job("", 0.0, None, "", {})
"""What stands for a summary that names no job."""

_Tags = dict[str, list[str] | None]
"""ARN to tags, as far as a page's bulk call knows them; None for tags that cannot be read."""


class TargetCrawl:
    """The crawl of one target, from ``start``; made, run once, thrown away.

    ``room`` bounds the records in the making over all targets. ``enabled`` says that AWS itself
    called the region enabled. ``works`` asks whether the account's credentials are good at all: a
    region that is not enabled answers as if not.
    """

    def __init__(
        self,
        target: Target,
        plan: Plan,
        *,
        client: AwsClient,
        access: Access,
        room: asyncio.Semaphore,
        flatten: Flattener,
        deliver: Deliver,
        observe: Observer,
        works: Callable[[], Awaitable[bool]],
        enabled: bool = False,
        start: Start = BEGINNING,
    ) -> None:
        self._target = target
        self._enabled = enabled
        self._start = start
        self._as_of = start.as_of
        self._plan = plan
        self._table = plan.table
        self._client = client
        self._access = access
        self._room = room
        self._flatten = flatten
        self._deliver = deliver
        self._observe = observe
        self._works = works
        self._window = asyncio.Semaphore(WINDOW)
        self._attempts: dict[JobKey, int] = {}
        self._jobs: dict[JobKey, Job] = {}
        self._deferred: list[tuple[Job, _Tags]] = []
        self._recreated: dict[JobKey, tuple[Job, Job]] = {}
        self._failed = 0
        self._denials = 0
        self._refusal: CollectorError | None = None
        self._reached = False
        self._described = False
        self._doubts = 0
        self._unrecognized = False
        self._last_error = "not described"
        self._bulk_failures = 0
        self._tag_denials = 0
        self._end: tuple[Outcome, str] | None = None
        self._halted = False
        self._lister: asyncio.Task[None] | None = None
        self._listing = Listing(
            plan.table,
            self._list_call,
            created_after=self._list_from(),
            created_before=plan.created_before,
            status=plan.status,
            cursor=start.cursor,
        )

    def _list_from(self) -> float | None:
        coverage, after = self._start.coverage, self._plan.created_after
        if self._start.span is not None:
            span, horizon = self._start.span, self._plan.horizon
            return incremental.span_from(span, after=after, horizon=horizon)
        if coverage is None:
            return after
        start = incremental.list_from(coverage, after=after, horizon=self._plan.horizon)
        before = self._plan.created_before
        return start if before is None else min(start, before - incremental.MARGIN)

    async def run(self) -> None:
        """Crawl the target. Raises SinkError alone; every other failure is an outcome."""
        started = self._client.clock()
        span = self._start.span
        in_part = self._start.coverage is not None or (span is not None and span.since > 0)
        self._observe(TargetStarted(self._target, in_part))
        try:
            await self._crawl()
        except asyncio.CancelledError:
            self._finish(Outcome.FAILED, INTERRUPTED)
            raise
        finally:
            self._close(started)

    def halt(self) -> None:
        """Start nothing more; what is under way is finished."""
        self._finish(Outcome.FAILED, INTERRUPTED)
        self._access.patience.abandon()

    def _finish(self, outcome: Outcome, error: str) -> None:
        """Describe nothing more: the first reason stands."""
        self._end = self._end or (outcome, error)
        self._halted = True
        if self._lister is not None:
            self._lister.cancel()

    def _close(self, started: float) -> None:
        outcome, error = self._end or (Outcome.COMPLETE, None)
        for job in list(self._jobs.values()):
            self._fail(job, self._table.describe.name, error or "not described")
        if outcome is Outcome.COMPLETE and self._failed:
            outcome, error = Outcome.PARTIAL, f"{self._failed} jobs could not be read"
        limits, scopes = self._client.limits, (*self._target.key, self._table.operations)
        measured = limits.measured(*scopes)
        rates = limits.forget(*scopes)
        self._observe(
            TargetEnded(
                self._target,
                outcome,
                self._client.clock() - started,
                tuple(sorted(rates.items())),
                error,
                tuple(sorted(measured.items())),
            )
        )

    async def _crawl(self) -> None:
        if self._halted:
            return
        pages: asyncio.Queue[tuple[list[Job], _Tags] | None] = asyncio.Queue()
        ahead = asyncio.Semaphore(PAGES_AHEAD)
        try:
            async with asyncio.TaskGroup() as group:
                self._lister = group.create_task(self._list(pages, ahead))
                # However the lister ends, also cancelled before its first step, so do the pages.
                self._lister.add_done_callback(lambda _: pages.put_nowait(None))
                while (page := await pages.get()) is not None:
                    ahead.release()
                    await self._dispatch(group, *page)
                    if len(self._deferred) > MOST_DEFERRED:
                        await self._again()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors
        while (self._deferred or self._recreated) and not self._halted:
            if not self._deferred:
                self._take_recreated()
            await self._again()
        await self._tell_a_denied_target()

    async def _list(
        self, pages: asyncio.Queue[tuple[list[Job], _Tags] | None], ahead: asyncio.Semaphore
    ) -> None:
        try:
            async for jobs in self._pages():
                if jobs:
                    tags = await self._page_tags(jobs)
                    await ahead.acquire()
                    pages.put_nowait((jobs, tags))
        except CollectorError as error:
            await self._cannot_list(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost other targets
            self._end = self._end or (Outcome.FAILED, _unexpected(error))

    async def _pages(self) -> AsyncIterator[list[Job]]:
        """Jobs to describe, by pages: those left over from a crawl that was cut off come first."""
        pending, size = self._start.pending, self._table.list.page_size
        for first in range(0, len(pending), size):
            yield self._enter(pending[first : first + size])
        async for jobs in self._listing:
            nameless = [_NAMELESS] * self._listing.malformed
            self._listing.malformed = 0
            yield self._enter([*jobs, *nameless])

    def _enter(self, jobs: Sequence[Job]) -> list[Job]:
        """Answer for ``jobs`` from now on; returns those that are to be described."""
        self._observe(
            PageListed(self._target, tuple(jobs), self._listing.cursor, self._as_of or 0.0)
        )
        unchanged = tuple(job for job in jobs if self._is_unchanged(job))
        if unchanged:
            self._observe(JobsUnchanged(self._target, unchanged))
            known = {job.key for job in unchanged}
            jobs = [job for job in jobs if job.key not in known]
        to_describe = []
        for job in jobs:
            if job.params:
                self._jobs[job.key] = job
                to_describe.append(job)
            else:
                self._fail(job, self._table.list.name, "the list names no such job")
            if job.key in self._recreated:
                self._gone(self._recreated.pop(job.key)[1])
        return to_describe

    def _is_unchanged(self, job: Job) -> bool:
        coverage, span = self._start.coverage, self._start.span
        if span is not None:
            return not incremental.falls_in(job, span)
        return coverage is not None and incremental.unchanged(
            job, coverage, terminal=self._table.terminal, overlap=self._plan.overlap
        )

    async def _list_call(self, params: dict[str, object]) -> Wire:
        # A region unknown to the SDK may not exist: its name is not looked up for ten minutes.
        may_exist = self._reached or self._access.region in self._plan.known_regions
        began = self._client.clock()
        try:
            answer = await self._client.json(
                self._access,
                self._table.service,
                self._table.list.name,
                params,
                required=(self._table.list.items,),
                attempts=None if may_exist else ATTEMPTS_IN_PLACE,
            )
        except NotEnabledError:
            # A region that never knew any keys is not enabled, most likely: it is asked twice.
            if self._doubts >= (ATTEMPTS_IN_PLACE if self._reached else 1):
                raise
            await self._wait_for_keys()
            return await self._list_call(params)
        self._reached = True
        self._doubts = 0
        if self._as_of is None:
            self._as_of = self._client.wire.server_time() - (self._client.clock() - began)
        return answer

    async def _cannot_list(self, error: CollectorError) -> None:
        outcome, sentence = Outcome.FAILED, str(error)
        if isinstance(error, DeniedError):
            outcome = Outcome.DENIED
        elif isinstance(error, NotEnabledError) and not (self._reached or self._enabled):
            if await self._works():
                outcome = Outcome.UNAVAILABLE
                sentence = f"the region is not enabled for this account ({error.code})"
        elif self._access.region not in self._plan.known_regions and (
            isinstance(error, TransientError) and error.code == "NameNotFound"
        ):
            outcome = Outcome.UNAVAILABLE
            sentence = f"there is no {self._table.service} in {self._access.region}"
        self._end = self._end or (outcome, sentence)

    async def _dispatch(self, group: asyncio.TaskGroup, jobs: Iterable[Job], tags: _Tags) -> None:
        """Start a describe for each job, as fast as limit, slots and window allow."""
        for job in jobs:
            await self._window.acquire()
            await self._room.acquire()
            if self._unrecognized:
                await self._wait_for_keys()
            if self._halted:
                self._let_go()
                return
            if self._access.patience.lost:
                self._let_go()
                self._fail(job, self._table.describe.name, self._last_error)
                continue
            await self._client.admit(self._access, self._table.describe.name)
            group.create_task(self._describe(job, tags))

    async def _again(self) -> None:
        """Another round for the jobs that were put off.

        Nothing else is asked for: another call's success would count as the target's progress.
        """
        jobs, self._deferred = self._deferred, []
        try:
            async with asyncio.TaskGroup() as group:
                for job, tags in jobs:
                    await self._dispatch(group, (job,), tags)
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors

    def _take_recreated(self) -> None:
        """Jobs seen only because another of the same name, listed before, was deleted."""
        pairs, self._recreated = list(self._recreated.values()), {}
        new = [job for job, _ in pairs if not self._listing.has_listed(job)]
        if new:
            self._deferred.extend((job, {}) for job in self._enter(new))
        for _, old in pairs:
            self._gone(old)

    async def _describe(self, job: Job, tags: _Tags) -> None:
        """Read one admitted job to its end."""
        operation, doubts = self._table.describe, self._doubts
        try:
            answer = await self._client.json(
                self._access,
                self._table.service,
                operation.name,
                job.params,
                required=operation.required,
                not_found=operation.not_found,
                attempts=ATTEMPTS_IN_PLACE,
                admitted=True,
            )
            self._described = True
            self._denials = self._doubts = 0
            await self._emit(job, answer, tags)
        except NotFoundError:
            self._gone(job)
        except (ThrottledError, TransientError) as error:
            self._put_off(job, error, tags)
        except NotEnabledError as error:
            self._not_recognized(job, error, tags, doubts)
        except SinkError:
            raise
        except CollectorError as error:
            self._refused(job, error)
        except Exception as error:  # noqa: BLE001 - nor other jobs
            self._fail(job, operation.name, _unexpected(error))
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._window.release()
        self._room.release()

    async def _emit(self, job: Job, answer: Wire, tags: _Tags) -> None:
        created = epoch_seconds(answer.get(self._table.created))
        if created is not None and abs(created - job.created) >= SAME_JOB:
            self._replaced(job, created)
            return
        if self._has_changed_since(job, answer):
            self._leave(job)
            self._observe(JobsUnchanged(self._target, (job,)))
            return
        values = tags[job.arn] if job.arn in tags else await self._tags_of(job)
        notes = Notes()
        record = self._flatten(answer, self._target.account.id, values, notes)
        if notes.drift or notes.coerced:
            self._observe(FieldsNoted(tuple(notes.drift), tuple(notes.coerced)))
        redact(record, self._plan.redact)
        if self._plan.meta:
            record["_region"] = self._target.region
            record["_collected_at"] = _rfc3339(self._client.wire.now())
            record["_run_id"] = self._plan.run_id
        await self._deliver(self._target, job, record)
        self._leave(job)
        self._observe(JobEmitted(self._target))

    def _has_changed_since(self, job: Job, answer: Wire) -> bool:
        """Whether it changed after it was listed, and after its span: a later one will bring it."""
        span, modified = self._start.span, epoch_seconds(answer.get(self._table.modified))
        if span is None or modified is None or job.modified is None:
            return False
        # Only if they truly differ: one time that is rounded in two ways must not lose the job.
        return modified >= span.until and modified - job.modified >= SAME_JOB

    def _replaced(self, job: Job, created: float) -> None:
        """The listed job was deleted, and its name given to another one.

        It counts as gone once the list is known to have brought the other one, or not to: were
        the run cut off before that, the other one would be forgotten.
        """
        again = Job(job.arn, created, None, job.status, job.params)
        self._recreated[again.key] = (again, job)

    def _leave(self, job: Job) -> int:
        self._jobs.pop(job.key, None)
        return self._attempts.pop(job.key, 0)

    def _gone(self, job: Job) -> None:
        self._leave(job)
        self._observe(JobGone(self._target, job))

    def _put_off(self, job: Job, error: CallError, tags: _Tags) -> None:
        self._attempts[job.key] = self._attempts.get(job.key, 0) + error.attempts
        self._last_error = str(error)
        if self._access.patience.lost or self._halted:
            self._fail(job, error.operation, str(error))
        else:
            known = {job.arn: tags[job.arn]} if job.arn in tags else {}
            self._deferred.append((job, known))

    def _not_recognized(self, job: Job, error: NotEnabledError, tags: _Tags, doubts: int) -> None:
        """The region, which listed this job, does not know the keys: for a moment, maybe.

        ``doubts`` are those of the time that it was asked: one wait is enough for all calls.
        """
        if doubts < ATTEMPTS_IN_PLACE:
            self._unrecognized |= doubts == self._doubts
            self._put_off(job, error, tags)
        else:
            self._refused(job, error)

    async def _wait_for_keys(self) -> None:
        """Start nothing until new keys may be known here; get others where that was not it."""
        self._unrecognized = False
        self._doubts += 1
        if self._doubts > 1:
            self._access.credentials.doubt()
        await self._client.sleep(KEYS_SPREAD)

    def _refused(self, job: Job, error: CollectorError) -> None:
        operation = error.operation if isinstance(error, CallError) else self._table.describe.name
        if isinstance(error, CallError):
            self._attempts[job.key] = self._attempts.get(job.key, 0) + error.attempts
        self._fail(job, operation, str(error))
        if isinstance(error, DeniedError | NotEnabledError) or not isinstance(error, CallError):
            self._denials += 1
            self._refusal = error
            # Where it is the keys that are refused, as a role's, every call would be.
            if self._denials >= DENIALS or operation != self._table.describe.name:
                self._deny(error)

    def _deny(self, error: CollectorError) -> None:
        denied = isinstance(error, DeniedError)
        self._finish(Outcome.DENIED if denied else Outcome.FAILED, str(error))

    async def _tell_a_denied_target(self) -> None:
        """Where describes were denied up to the last, though few, find out if all would be."""
        error, listing = self._refusal, self._table.list
        if error is None or not self._denials or self._end:
            return
        if self._described:
            try:
                await self._client.json(
                    self._access,
                    self._table.service,
                    listing.name,
                    {listing.page_size_param: 1},
                    attempts=ATTEMPTS_IN_PLACE,
                )
            except (DeniedError, NotEnabledError) as refusal:
                error = refusal
            except CollectorError:
                return
            else:
                return
        self._deny(error)

    def _fail(self, job: Job, operation: str, error: str) -> None:
        self._failed += 1
        attempts = self._leave(job)
        self._observe(JobFailed(self._target, job, operation, error, attempts))

    async def _page_tags(self, jobs: list[Job]) -> _Tags:
        """What one GetResources call says of a page; a job left out is to be asked by itself."""
        if self._plan.tags == "none":
            return dict.fromkeys((job.arn for job in jobs), None)
        if self._plan.tags == "each" or self._bulk_failures > 1:
            return {}
        # Its faults are not the describes': a tag call that hangs must not cost a job.
        access = replace(self._access, patience=self._access.patience.another())
        try:
            found, whole = await bulk_tags(self._client, access, [job.arn for job in jobs])
            self._bulk_failures = 0
        except CollectorError as error:
            # A refusal will be repeated; after a fault, the next page asks once more.
            passing = isinstance(error, ThrottledError | TransientError | NotEnabledError)
            self._bulk_failures += 1 if passing else 2
            self._warn(
                f"Tags are read one job at a time, since tag:GetResources failed ({_kind(error)})"
            )
            return {}
        settled = self._client.wire.now() - TAGS_YOUNG
        for job in jobs:
            if whole and job.arn not in found and job.created < settled:
                found[job.arn] = []  # GetResources leaves out what has no tags
        return dict(found)

    async def _tags_of(self, job: Job) -> list[str] | None:
        """One job's tags, or None where they cannot be read."""
        if self._tag_denials >= DENIALS:
            return None
        try:
            tags = await listed_tags(self._client, self._access, self._table, job.arn)
        except CollectorError as error:
            tried = self._attempts.get(job.key, 0)
            if isinstance(error, ThrottledError | TransientError) and not (
                self._access.patience.lost or self._halted or tried >= ATTEMPTS_FOR_TAGS
            ):
                raise  # the job is put off, and described and tagged later
            if isinstance(error, DeniedError):
                self._tag_denials += 1
            self._warn(f"Tags are null where {self._table.tags.name} failed ({_kind(error)})")
            return None
        self._tag_denials = 0
        return tags

    def _warn(self, message: str) -> None:
        self._observe(Warned(message, *self._target.key))


def _unexpected(error: Exception) -> str:
    return clean(f"unexpected {type(error).__name__}: {error}")


def _kind(error: CollectorError) -> str:
    return error.code if isinstance(error, CallError) else str(error)


def _rfc3339(now: float) -> str:
    text = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error of a group, which is why its other tasks were cancelled."""
    for error in errors.exceptions:
        return first_error(error) if isinstance(error, BaseExceptionGroup) else error
    return errors
