"""The memory of a run: what was known before, what the sink has acknowledged since.

It watches the run as an observer, and is told by the pipeline which records the sink has taken. A
checkpoint writes down, at one moment, how far each target came: a run that is cut off goes on
from the last one. Without a store it remembers nothing beyond the run.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

import orjson

from collector import events, incremental
from collector.events import Event
from collector.extract import Plan
from collector.model import Account, Coverage, Cursor, Job, JobKey, Outcome, Start, Target
from collector.settings import Settings
from collector.sinks.base import Kept, Position
from collector.state import (
    DoneTarget,
    OpenTarget,
    State,
    TargetState,
    UnfinishedRun,
    dump,
    load,
)
from collector.store import Store

SHARE_AT_RISK = 0.05
"""Part of a run's time that a crash may cost: checkpoints come that often, within the bounds."""

LEAST_INTERVAL, MOST_INTERVAL = 0.5, 30.0
"""Seconds between two checkpoints."""

MOST_SAVING = 0.05
"""Part of a run's time that saving may take: what is slow to write is written less often."""

_SHAPING = (
    "table", "accounts", "role_name", "include_ou", "exclude_accounts", "regions", "created_after",
    "created_before", "status", "horizon", "overlap", "tags", "redact", "extra", "meta", "full",
)  # fmt: skip
"""Settings that shape what a run reads and writes, beside its sink and its shard: only an equal run
is gone on with."""

_UNREAD = "not read before the run was cut off"


@dataclass(slots=True)
class _Progress:
    """One target of this run, as far as it is settled."""

    coverage: Coverage | None = None
    as_of: float | None = None
    cursor: Cursor = field(default_factory=Cursor)
    pending: dict[JobKey, Job] = field(default_factory=dict)
    emitted: int = 0
    unchanged: int = 0
    gone: int = 0
    outcome: Outcome | None = None
    error: str | None = None
    rates: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, past: OpenTarget) -> _Progress:
        pending = {job.key: job for job in past.pending}
        return cls(
            past.coverage, past.as_of or None, past.cursor, pending,
            past.emitted, past.unchanged, past.gone,
        )  # fmt: skip

    def freeze(self) -> OpenTarget:
        return OpenTarget(
            self.coverage, self.as_of or 0.0, self.cursor, tuple(self.pending.values()),
            self.emitted, self.unchanged, self.gone,
            self.outcome, self.error,
        )  # fmt: skip


class Journal:
    """A run's memory; `open`, `begin`, the run with its checkpoints, `finish`, `close`.

    ``output`` names where records go. ``run_id`` and ``started_at`` are those of the run that is
    gone on with, if there is one. Everything that touches the store raises StateError.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store | None,
        *,
        output: str,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._now = now
        self.started_at = now()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.started_at))
        self.run_id = f"{stamp}-{token_hex(4)}"
        self._digests = _digests(settings, output)
        self._state = State(settings.table)
        self._plan: Plan | None = None
        self._done: dict[str, DoneTarget] = {}
        self._open: dict[str, _Progress] = {}
        self._bytes = 0
        self._position: Position | None = None
        self._replayed: list[Event] = []
        self._ready = False
        self._changed = False
        self._finished = False
        self._began = self._saved = clock()
        self._saving = 0.0
        self._flush_every = 0.0

    @property
    def is_kept(self) -> bool:
        """Whether anything is remembered for another run."""
        return self._store is not None

    async def open(self) -> None:
        """Take the lease, and read what is known."""
        if self._store is None:
            return
        ended = await self._store.acquire()
        data = await self._store.load()
        if data is not None:
            self._state = load(data, self._settings.table, self._store.place)
        past = self._state.run
        if past is not None and past.delivered and ended:
            self._leave(past.done)
            await self._write(self._state)
        await self._store.begin()
        self._ready = True

    # What the sink and the crawl are to begin with.

    @property
    def position(self) -> Position | None:
        """Where the sink goes on, if it can; None where it begins."""
        past = self._state.run
        return past.position if past is not None and not self._differing(past) else None

    @property
    def delivered(self) -> bool:
        """Whether the run that was cut off had given everything to the sink."""
        return self._state.run is not None and self._state.run.delivered

    def begin(self, kept: Kept, *, flush_every: float = 0.0) -> None:
        """Go on with the run that was cut off, if its output is ``kept``; else leave it.

        ``flush_every`` are seconds that there have to be between two checkpoints.
        """
        self._flush_every = flush_every
        past = self._state.run
        if past is None:
            return
        when = datetime.fromtimestamp(past.started_at, UTC).isoformat(timespec="seconds")
        differing = self._differing(past)
        if differing or (past.position is not None and kept is Kept.NOTHING):
            why = (
                f"other settings: {', '.join(differing)}"
                if differing
                else "what it had written is not there any more"
            )
            self._tell(f"The run of {when}, which was cut off, is not gone on with ({why})")
            self._leave(past.done if past.position is None else {})
        else:
            self._resume(past, when, kept)

    def _differing(self, past: UnfinishedRun) -> list[str]:
        names = {**past.settings, **self._digests}
        return [name for name in names if past.settings.get(name) != self._digests.get(name)]

    def _leave(self, done: Mapping[str, DoneTarget]) -> None:
        """There is nothing to go on with; the watermarks of ``done`` count."""
        targets = {**self._state.targets, **{key: target.state for key, target in done.items()}}
        self._state = replace(self._state, targets=targets, run=None)

    def _resume(self, past: UnfinishedRun, when: str, kept: Kept) -> None:
        self.run_id, self.started_at = past.run_id, past.started_at
        self._done = dict(past.done)
        self._open = {key: _Progress.of(target) for key, target in past.open.items()}
        jobs = sum(done.emitted for done in past.done.values())
        jobs += sum(open_.emitted for open_ in past.open.values())
        self._tell(
            f"Resumed the run of {when}, which was cut off: {len(past.done)} targets were done, "
            f"{jobs} records delivered"
        )
        in_output = past.position is not None
        for key, done in past.done.items():
            target = _target(key)
            self._replayed += [
                events.TargetFound(target),
                events.TargetStarted(target, done.incremental),
                *([_resumed(target, done)] if in_output else []),
                events.TargetEnded(target, Outcome.COMPLETE, 0.0),
            ]
        for key, open_ in past.open.items():
            target = _target(key)
            if in_output and open_.as_of:
                self._replayed.append(_resumed(target, open_))
            if kept is Kept.WHOLE:
                self._replayed += _unread(target, open_)
        if in_output:
            self._bytes = past.bytes
            self._replayed.append(events.BytesDelivered(jobs, past.bytes))

    def _tell(self, message: str) -> None:
        self._replayed.append(events.Warned(message))

    def replay(self) -> Iterable[Event]:
        return self._replayed

    def start(self, target: Target, plan: Plan) -> Start | None:
        """Where the crawl of ``target`` begins; None if it is done."""
        if self._store is None:
            return Start()
        self._plan = plan
        key = _key(target)
        if key in self._done:
            return None
        past = self._open.get(key)
        if past is not None and past.as_of is not None:
            return Start(past.coverage, past.as_of, past.cursor, tuple(past.pending.values()))
        coverage = self._coverage(key, plan)
        self._open[key] = _Progress(coverage)
        return Start(coverage)

    def _coverage(self, key: str, plan: Plan) -> Coverage | None:
        return coverage_of(
            self._state.targets.get(key),
            self._settings,
            after=plan.created_after,
            status=plan.status,
            now=self._now(),
        )

    def size(self, target: Target) -> int:
        known = self._state.targets.get(_key(target))
        return known.listed if known else 0

    def rates(self, target: Target) -> Mapping[str, float]:
        known = self._state.targets.get(_key(target))
        return known.rates if known else {}

    # What happens in the run.

    def __call__(self, event: Event, /) -> None:
        match event:
            case events.PageListed() if progress := self._open.get(_key(event.target)):
                progress.as_of = event.as_of
                progress.cursor = event.cursor
                progress.pending.update((job.key, job) for job in event.jobs)
                self._changed = True
            case events.JobsUnchanged() if progress := self._open.get(_key(event.target)):
                progress.unchanged += _settle(progress, event.jobs)
            case events.JobGone() if progress := self._open.get(_key(event.target)):
                progress.gone += _settle(progress, (event.job,))
                self._changed = True
            case events.TargetEnded() if self._store is not None:
                key = _key(event.target)
                if key in self._done:
                    return
                progress = self._open.setdefault(key, _Progress())
                progress.outcome, progress.error = event.outcome, event.error
                progress.rates = dict(event.measured)
                self._move(key, progress)

    def acknowledge(self, jobs: Iterable[tuple[Target, Job]], count: int = 0) -> None:
        """The sink has taken the records of ``jobs``, ``count`` bytes of them.

        They are as durable as its next `flush` makes them.
        """
        if self._store is None:
            return
        self._changed = True
        self._bytes += count
        for target, job in jobs:
            key = _key(target)
            progress = self._open[key]
            progress.emitted += _settle(progress, (job,))
            if progress.outcome is not None:
                self._move(key, progress)

    def _move(self, key: str, progress: _Progress) -> None:
        """A target is done once it has been read whole and all its records are acknowledged."""
        if progress.outcome is not Outcome.COMPLETE or progress.pending or self._plan is None:
            return
        as_of, known = progress.as_of or 0.0, self._state.targets.get(key)
        plan = self._plan
        full_at = known.full_at if known and progress.coverage else as_of
        state = TargetState(
            Coverage(as_of, plan.created_after, plan.created_before, plan.status),
            full_at,
            progress.emitted + progress.unchanged + progress.gone,
            dict(progress.rates) or (dict(known.rates) if known else {}),
        )
        self._done[key] = DoneTarget(
            state, progress.coverage is not None,
            progress.emitted, progress.unchanged, progress.gone,
        )  # fmt: skip
        del self._open[key]
        self._changed = True

    # What is written down.

    @property
    def wait(self) -> float | None:
        """Seconds until a checkpoint may be due; None if there never is one."""
        if self._store is None:
            return None
        return max(self._left(), 0.0 if self._changed else LEAST_INTERVAL)

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._changed and self._left() <= 0

    def _left(self) -> float:
        now = self._clock()
        interval = min(max(SHARE_AT_RISK * (now - self._began), LEAST_INTERVAL), MOST_INTERVAL)
        return self._saved + max(interval, self._saving / MOST_SAVING, self._flush_every) - now

    async def save(self, position: Position | None, *, delivered: bool = False) -> None:
        """Write down how far the run is; ``position`` is where its sink would go on."""
        if not self._ready or self._finished:
            return
        self._position = position
        run = UnfinishedRun(
            run_id=self.run_id,
            started_at=self.started_at,
            settings=self._digests,
            position=position,
            bytes=self._bytes,
            delivered=delivered,
            done=dict(self._done),
            open={
                key: progress.freeze()
                for key, progress in self._open.items()
                if progress.as_of is not None or progress.outcome is not None
            },
        )
        await self._write(replace(self._state, run=run))

    async def _write(self, state: State) -> None:
        if self._store is None:
            return
        self._state = replace(state, saved_at=self._now())
        self._changed = False
        began = self._clock()
        await self._store.save(dump(self._state))
        self._saved = self._clock()
        self._saving = self._saved - began

    async def finish(self) -> None:
        """The run has ended by itself, and its output is whole."""
        if not self._state.run or not self._state.run.delivered:
            await self.save(self._position, delivered=True)
        self._finished = True

    async def close(self) -> None:
        """Give the state back. With a run that has finished the watermarks move at this moment.

        Were the process killed before it could say that it has ended, the same command says so,
        and does not begin another run.
        """
        if self._store is not None:
            await self._store.release(ended=self._finished)


def coverage_of(
    known: TargetState | None,
    settings: Settings,
    *,
    after: float | None,
    status: str | None,
    now: float,
) -> Coverage | None:
    """What of a target need not be read again, by what is known of it; None to read it in full.

    ``after`` and ``status`` narrow the run; times are epoch seconds.
    """
    if known is None or settings.full:
        return None
    if settings.full_every is not None and now - known.full_at >= settings.full_every:
        return None
    reaches = incremental.reaches(known.coverage, after=after, status=status)
    return known.coverage if reaches else None


def _settle(progress: _Progress, jobs: Iterable[Job]) -> int:
    """Jobs that are done with; how many of them were pending."""
    return sum(progress.pending.pop(job.key, None) is not None for job in jobs)


def _key(target: Target) -> str:
    return f"{target.account.id}/{target.region}"


def _target(key: str) -> Target:
    account_id, _, region = key.partition("/")
    return Target(Account(account_id), region)


def _resumed(target: Target, past: DoneTarget | OpenTarget) -> Event:
    return events.TargetResumed(target, past.emitted, past.unchanged, past.gone)


def _unread(target: Target, past: OpenTarget) -> Iterator[Event]:
    """The end of a target that was not read whole."""
    yield events.PageListed(target, past.pending, past.cursor, past.as_of)
    for job in past.pending:
        yield events.JobFailed(target, job, "", past.error or _UNREAD, 0)
    yield events.TargetEnded(
        target, Outcome(past.outcome or Outcome.FAILED), 0.0, error=past.error or _UNREAD
    )


def _digests(settings: Settings, output: str) -> dict[str, str]:
    """A digest of each setting that shapes the output: its value may be nobody's business."""
    values: dict[str, Any] = {name: getattr(settings, name) for name in _SHAPING}
    values |= {"sink": output, "shard": str(settings.shard)}
    return {
        name: hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
        for name, value in values.items()
    }
