"""Which jobs a run need not read again: the arithmetic of watermarks.

AWS cannot be asked what changed. But a job is pending for at most 28 days and runs for at most
30: one created longer ago than the horizon is as it was. So the list starts at the watermark less
the horizon, and of what it brings, jobs in a terminal state that were not modified since the
watermark, less an overlap for changes that show late, are left out. Times are epoch seconds.
"""

from __future__ import annotations

from collections.abc import Collection

from collector.model import Coverage, Job, Span

MARGIN = 2.0
"""Seconds kept clear of the edges of a span: filters are exclusive, and may see whole seconds."""


def reaches(coverage: Coverage, *, after: float | None, status: str | None) -> bool:
    """Whether what was delivered includes all that a run would read: else it reads in full."""
    deep_enough = coverage.after is None or (after is not None and after >= coverage.after)
    return deep_enough and coverage.status in (None, status)


def list_from(coverage: Coverage, *, after: float | None, horizon: float) -> float:
    """Creation time that an incremental list starts after."""
    start = coverage.watermark - horizon
    if coverage.before is not None:
        start = min(start, coverage.before - MARGIN)
    return start if after is None else max(start, after)


def unchanged(job: Job, coverage: Coverage, *, terminal: Collection[str], overlap: float) -> bool:
    """Whether ``job`` was delivered as it is now."""
    return (
        job.status in terminal
        and job.modified is not None
        and job.modified < coverage.watermark - overlap
        and (coverage.after is None or job.created > coverage.after + MARGIN)
        and (coverage.before is None or job.created < coverage.before - MARGIN)
    )


def span_from(span: Span, *, after: float | None, horizon: float) -> float | None:
    """Creation time that the list of what changed in ``span`` starts after."""
    if span.since <= 0:
        return after
    return list_from(Coverage(span.since - MARGIN), after=after, horizon=horizon)


def falls_in(job: Job, span: Span) -> bool:
    """Whether the latest change of ``job``, as listed, is one of ``span``.

    So every change falls in one of the spans that follow each other, and a job that changes again
    in a later one. Where a list has no time of change, a job falls in every span it has lived to.
    """
    if job.modified is None:
        return job.created < span.until
    return span.since <= max(job.created, job.modified) < span.until
