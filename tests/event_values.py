"""Short ways to say what happens in a run."""

from __future__ import annotations

from collector import events
from collector.model import Cursor, Job, Target


def job(arn: str, created: float = 0.0) -> Job:
    return Job(arn, created, None, "Completed", {"TrainingJobName": arn})


def page(target: Target, count: int) -> events.PageListed:
    """A page of ``count`` jobs."""
    jobs = tuple(job(f"arn:{number}") for number in range(count))
    return events.PageListed(target, jobs, Cursor(), 0.0)
