"""The memory of a run: what is settled, when it is written down, and where the next one begins."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector import events, journal
from collector.errors import StateError
from collector.extract import Plan
from collector.journal import Journal
from collector.listing import Listing
from collector.model import Account, Coverage, Cursor, Job, Outcome, Start, Target
from collector.report import Report
from collector.settings import Settings
from collector.sinks.base import Kept
from collector.state import State, dump, load
from collector.tables import load_table
from collector.testing import ManualClock
from tests.test_listing import Service

TABLE = load_table()
HERE = Target(Account("111111111111"), "us-east-1")
THERE = Target(Account("222222222222"), "eu-west-1")
KEY = "111111111111/us-east-1"
PLAN = Plan(TABLE, "run")
NOW, DAY = 1_750_000_000.0, 86_400.0
JOBS = tuple(
    Job(f"arn:{n}", NOW - 1000 + n, NOW - 500 + n, "Completed", {"TrainingJobName": str(n)})
    for n in range(6)
)


@dataclass
class Memory:
    """A store that is only there for the test; ``slow`` is the time that a save takes."""

    data: bytes | None = None
    ended: bool = True
    begun: bool = False
    held: bool = False
    saves: int = 0
    clock: ManualClock | None = None
    slow: float = 0.0

    place = "memory"

    async def acquire(self) -> bool:
        if self.held:
            raise StateError("in use")
        self.held, self.begun = True, False
        return self.ended

    async def begin(self) -> None:
        self.begun, self.ended = True, False

    async def load(self) -> bytes | None:
        return self.data

    async def save(self, data: bytes) -> None:
        assert self.held
        self.saves += 1
        self.data = data
        if self.clock is not None:
            self.clock.advance(self.slow)

    async def release(self, *, ended: bool) -> None:
        if self.held and self.begun and ended:
            self.ended = True
        self.held = False

    def crash(self) -> None:
        """What is left of the lease of a process that was killed."""
        self.held = False

    @property
    def state(self) -> State:
        assert self.data is not None
        return load(self.data, TABLE.name, "memory")


async def opened(
    store: Memory | None, kept: Kept = Kept.NOTHING, *, now: float = NOW, **changes: Any
) -> Journal:
    """The journal of a run that has just begun."""
    clock = (store.clock if store else None) or ManualClock()
    memory = Journal(
        Settings(**{"state": "somewhere"} | changes),
        store,
        output="-",
        clock=clock,
        now=lambda: now,
    )
    await memory.open()
    memory.begin(kept)
    return memory


def page(
    *jobs: Job, target: Target = HERE, cursor: Cursor | None = None, as_of: float = NOW
) -> events.PageListed:
    last = max((job.created for job in jobs), default=None)
    return events.PageListed(target, jobs, cursor or Cursor(last, ()), as_of)


def ended(
    outcome: Outcome = Outcome.COMPLETE, target: Target = HERE, **more: Any
) -> events.TargetEnded:
    return events.TargetEnded(target, outcome, 1.0, **more)


def acknowledge(memory: Journal, *jobs: Job, target: Target = HERE) -> None:
    memory.acknowledge([(target, job) for job in jobs], 10 * len(jobs))


def warnings(memory: Journal) -> list[str]:
    return [event.message for event in memory.replay() if isinstance(event, events.Warned)]


def told(memory: Journal) -> dict[str, Any]:
    """The report of what a journal replays."""
    report = Report()
    report(events.RunStarted(memory.run_id, TABLE.name, memory.started_at))
    for event in memory.replay():
        report(event)
    return report.as_dict()


def assert_sums(report: dict[str, Any]) -> None:
    for row in [*report["targets"], report["totals"]]:
        assert row["listed"] == sum(
            row[name] for name in ("emitted", "unchanged", "gone", "failed")
        ), row


async def whole_run(store: Memory, *jobs: Job, **changes: Any) -> Journal:
    """A run that reads ``jobs`` and ends by itself; the plan may be among the changes."""
    plan = changes.pop("plan", PLAN)
    memory = await opened(store, **changes)
    assert memory.start(HERE, plan) is not None
    as_of = changes.get("now", NOW)
    memory(page(*jobs, cursor=Cursor(as_of, (), ended=True), as_of=as_of))
    acknowledge(memory, *jobs)
    memory(ended())
    await memory.finish()
    await memory.close()
    return memory


# Without a store.


async def test_without_a_store_nothing_is_remembered():
    """A journal without state starts every target at its beginning and never wants to be saved."""
    memory = await opened(None)
    assert memory.start(HERE, PLAN) == Start()
    memory(page(*JOBS))
    acknowledge(memory, *JOBS)
    memory(ended())
    assert (memory.wait, memory.due, memory.is_kept) == (None, False, False)
    assert (memory.position, memory.delivered, list(memory.replay())) == (None, False, [])
    await memory.save(None)
    await memory.finish()
    await memory.close()


# When it is written down.


async def test_nothing_is_due_before_anything_happens():
    """Time alone asks for no checkpoint."""
    clock = ManualClock()
    memory = await opened(Memory(clock=clock))
    clock.advance(1000)
    assert memory.due is False
    assert memory.wait == journal.LEAST_INTERVAL


async def test_a_checkpoint_is_due_once_the_least_interval_is_over():
    """The first page asks for one half a second after the start; a save begins the wait anew."""
    clock = ManualClock()
    memory = await opened(Memory(clock=clock))
    memory.start(HERE, PLAN)
    memory(page(*JOBS))
    assert memory.due is False
    assert memory.wait == pytest.approx(journal.LEAST_INTERVAL)
    clock.advance(journal.LEAST_INTERVAL)
    assert memory.due is True
    assert memory.wait == 0
    await memory.save(None)
    assert memory.due is False
    acknowledge(memory, JOBS[0])
    assert memory.due is False
    clock.advance(journal.LEAST_INTERVAL)
    assert memory.due is True


@pytest.mark.parametrize(
    ("age", "interval"),
    [(1, 0.5), (10, 0.5), (40, 2.0), (200, 10.0), (600, 30.0), (1_000_000, 30.0)],
)
async def test_checkpoints_come_less_often_the_longer_a_run_lasts(age, interval):
    """A twentieth of the time that the run has taken, between half a second and half a minute."""
    clock = ManualClock()
    memory = await opened(Memory(clock=clock))
    memory.start(HERE, PLAN)
    clock.advance(age - interval)
    await memory.save(None)
    memory(page(*JOBS))
    clock.advance(interval - 0.1)
    assert memory.due is False
    clock.advance(0.2)
    assert memory.due is True


async def test_what_is_slow_to_write_is_written_less_often():
    """Saving takes no more than a twentieth of a run's time."""
    clock = ManualClock()
    memory = await opened(Memory(clock=clock, slow=3.0))
    memory.start(HERE, PLAN)
    memory(page(*JOBS))
    await memory.save(None)
    memory(page(*JOBS))
    clock.advance(3.0 / journal.MOST_SAVING - 1)
    assert memory.due is False
    assert memory.wait == pytest.approx(1)
    clock.advance(1.1)
    assert memory.due is True


@pytest.mark.parametrize(
    "event",
    [
        page(JOBS[1]),
        events.JobGone(HERE, JOBS[0]),
        ended(),
        ended(Outcome.PARTIAL),
    ],
)
async def test_what_changes_the_state_asks_for_a_checkpoint(event):
    """A page, a job that is gone, a target that ended; the outcome alone can wait."""
    clock = ManualClock()
    store = Memory(clock=clock)
    memory = await opened(store)
    memory.start(HERE, PLAN)
    memory(page(JOBS[0]))
    acknowledge(memory, *([JOBS[0]] if isinstance(event, events.TargetEnded) else []))
    await memory.save(None)
    clock.advance(60)
    assert memory.due is False
    memory(event)
    changes = not (isinstance(event, events.TargetEnded) and event.outcome is Outcome.PARTIAL)
    assert memory.due is changes


# What is settled.


async def test_each_job_is_pending_until_it_is_settled():
    """Acknowledged, gone, unchanged: settled and counted; listed alone, or failed: pending."""
    store = Memory()
    memory = await opened(store)
    assert memory.start(HERE, PLAN) == Start()
    cursor = Cursor(JOBS[5].created, (JOBS[5].key,))
    memory(page(*JOBS, cursor=cursor))
    memory(events.JobsUnchanged(HERE, JOBS[:1]))
    acknowledge(memory, JOBS[1], JOBS[2])
    memory(events.JobEmitted(HERE))  # handed on, but the sink has not taken it
    memory(events.JobGone(HERE, JOBS[3]))
    memory(events.JobFailed(HERE, JOBS[4], "DescribeTrainingJob", "no", 3))
    await memory.save({"offset": 20})
    run = store.state.run
    assert run is not None
    assert (run.bytes, run.position, run.delivered, run.done) == (20, {"offset": 20}, False, {})
    left = run.open[KEY]
    assert left.pending == (JOBS[4], JOBS[5])
    assert (left.emitted, left.unchanged, left.gone) == (2, 1, 1)
    assert (left.cursor, left.as_of, left.coverage) == (cursor, NOW, None)


async def test_settling_a_job_twice_counts_it_once():
    """An event that comes again, or of a job that was never listed, changes no count."""
    store = Memory()
    memory = await opened(store)
    memory.start(HERE, PLAN)
    memory(page(JOBS[0], JOBS[1]))
    for _ in range(2):
        memory(events.JobGone(HERE, JOBS[0]))
    memory(events.JobsUnchanged(HERE, (JOBS[0], JOBS[3])))
    acknowledge(memory, JOBS[2])
    await memory.save(None)
    left = store.state.run.open[KEY]
    assert (left.emitted, left.unchanged, left.gone) == (0, 0, 1)
    assert left.pending == (JOBS[1],)


@pytest.mark.parametrize("last", ["event", "acknowledgement"])
async def test_a_target_is_done_when_it_is_read_whole_and_acknowledged(last):
    """Whichever comes last; then it has a watermark, a count and rates for the next run."""
    store = Memory()
    memory = await opened(store)
    memory.start(HERE, PLAN)
    memory(page(*JOBS, as_of=NOW - 7))
    rates = (("DescribeTrainingJob", 9.5),)
    if last == "event":
        acknowledge(memory, *JOBS)
        await memory.save(None)
        assert store.state.run.done == {}
        memory(ended(measured=rates))
    else:
        memory(ended(measured=rates))
        acknowledge(memory, *JOBS[:-1])
        await memory.save(None)
        assert store.state.run.done == {}
        acknowledge(memory, JOBS[-1])
    await memory.save(None)
    run = store.state.run
    assert run.open == {}
    done = run.done[KEY]
    assert (done.emitted, done.incremental) == (6, False)
    assert done.state.coverage == Coverage(NOW - 7)
    assert done.state.full_at == NOW - 7
    assert done.state.listed == 6
    assert done.state.rates == dict(rates)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.COMPLETE])
async def test_a_target_that_is_not_complete_is_never_done(outcome):
    """With all that it did bring acknowledged, its watermark still does not move."""
    store = Memory()
    memory = await opened(store)
    memory.start(HERE, PLAN)
    memory(page(*JOBS))
    acknowledge(memory, *JOBS)
    memory(ended(outcome, error="a reason"))
    await memory.finish()
    await memory.close()
    run = store.state.run
    assert run.done == {}
    assert (run.open[KEY].outcome, run.open[KEY].error) == (outcome, "a reason")
    again = await opened(store)
    assert again.start(HERE, PLAN) == Start()
    assert again.size(HERE) == 0


async def test_targets_do_not_meet():
    """Each target has its own jobs, also where their ARNs and times are alike."""
    store = Memory()
    memory = await opened(store)
    for target in (HERE, THERE):
        memory.start(target, PLAN)
        memory(page(*JOBS, target=target))
        memory(ended(target=target))
    acknowledge(memory, *JOBS, target=THERE)
    await memory.save(None)
    run = store.state.run
    assert list(run.done) == ["222222222222/eu-west-1"]
    assert run.open[KEY].pending == JOBS


# Going on.


async def cut_off(store: Memory, position: dict[str, Any] | None) -> Journal:
    """A run that was killed: HERE in the middle, THERE done; two jobs of HERE are pending."""
    memory = await opened(store)
    memory.start(HERE, PLAN)
    memory.start(THERE, PLAN)
    memory(page(*JOBS, cursor=Cursor(JOBS[-1].created, (JOBS[-1].key,)), as_of=NOW - 3))
    memory(events.JobGone(HERE, JOBS[0]))
    memory(page(JOBS[0], target=THERE))
    acknowledge(memory, JOBS[0], target=THERE)
    memory(ended(target=THERE))
    acknowledge(memory, *JOBS[1:4])
    await memory.save(position)
    store.crash()
    return memory


@pytest.mark.parametrize(
    ("position", "kept"), [({"offset": 40}, Kept.PART), (None, Kept.NOTHING), (None, Kept.PART)]
)
async def test_a_run_that_was_cut_off_is_gone_on_with(position, kept):
    """The same run: its name, its start, each target where it was; what was done is not begun."""
    store = Memory()
    first = await cut_off(store, position)
    memory = await opened(store, kept, now=NOW + 100)
    assert (memory.run_id, memory.started_at) == (first.run_id, NOW)
    assert memory.position == position
    assert memory.start(THERE, PLAN) is None
    assert memory.start(HERE, PLAN) == Start(
        None, NOW - 3, Cursor(JOBS[-1].created, (JOBS[-1].key,)), JOBS[4:]
    )
    assert warnings(memory)[0].startswith("Resumed the run of 2025-06-15T15:06:40+00:00")
    assert "1 targets were done, 4 records delivered" in warnings(memory)[0]
    report = told(memory)
    assert_sums(report)
    # What standard output was given is not in this output; what a file holds is.
    assert report["totals"]["emitted"] == (4 if position else 0)
    assert report["totals"]["gone"] == (1 if position else 0)
    assert report["totals"]["bytes"] == (40 if position else 0)


async def test_a_run_goes_on_and_ends():
    """After going on, what was pending is settled, and both targets have their watermarks."""
    store = Memory()
    await cut_off(store, None)
    memory = await opened(store)
    start = memory.start(HERE, PLAN)
    memory(page(*start.pending, cursor=start.cursor, as_of=start.as_of))
    acknowledge(memory, *start.pending)
    memory(ended())
    await memory.finish()
    await memory.close()
    again = await opened(store, now=NOW + DAY)
    assert again.start(HERE, PLAN) == Start(Coverage(NOW - 3))
    assert again.start(THERE, PLAN) == Start(Coverage(NOW))
    assert (again.size(HERE), again.size(THERE)) == (6, 1)
    assert list(again.replay()) == []
    assert store.state.run is None


async def test_a_target_whose_list_had_not_begun_begins():
    """A target that was started, and had no page yet, is not half done."""
    store = Memory()
    memory = await opened(store)
    memory.start(HERE, PLAN)
    await memory.save(None)
    assert store.state.run.open == {}
    store.crash()
    assert (await opened(store)).start(HERE, PLAN) == Start()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"meta": True}, "meta"),
        ({"created_after": "2020-01-01"}, "created_after"),
        ({"status": "Failed", "regions": ["us-east-1"]}, "regions, status"),
        ({"full": True, "horizon": "90d", "overlap": "1h"}, "horizon, overlap, full"),
    ],
)
async def test_other_settings_are_another_run(changes, names):
    """Its name is new, its sink begins anew, and the warning names what differs."""
    store = Memory()
    first = await cut_off(store, {"offset": 40})
    memory = await opened(store, **changes)
    assert memory.position is None
    assert memory.run_id != first.run_id
    (warning,) = warnings(memory)
    assert f"is not gone on with (other settings: {names})" in warning
    assert memory.start(THERE, PLAN) == Start()


async def test_settings_that_do_not_shape_the_output_may_change():
    """How hard to push, how to show it, how long to wait: the same run all the same."""
    store = Memory()
    first = await cut_off(store, None)
    memory = await opened(store, max_in_flight=7, grace="1s", full_every="7d", progress="off")
    assert memory.run_id == first.run_id


async def test_without_its_output_a_run_begins_anew():
    """A file that is gone takes its targets with it; what a pipe was given stays given."""
    for position, start in (({"offset": 40}, Start()), (None, Start(Coverage(NOW)))):
        store = Memory()
        await cut_off(store, position)
        changes = {} if position else {"meta": True}
        memory = await opened(store, Kept.NOTHING, **changes)
        assert "is not gone on with" in warnings(memory)[0]
        assert memory.start(HERE, PLAN) == Start()
        assert memory.start(THERE, PLAN) == start


async def test_a_run_that_only_lacked_its_last_word_is_replayed():
    """All delivered and under its name: the report is that of the run, with what it lacked."""
    store = Memory()
    memory = await opened(store)
    for target in (HERE, THERE):
        memory.start(target, PLAN)
        memory(page(*JOBS, target=target))
    acknowledge(memory, *JOBS, target=THERE)
    acknowledge(memory, *JOBS[:4])
    memory(events.JobFailed(HERE, JOBS[4], "DescribeTrainingJob", "odd", 1))
    memory(events.JobFailed(HERE, JOBS[5], "DescribeTrainingJob", "odd", 1))
    memory(ended(target=THERE))
    memory(ended(Outcome.PARTIAL, error="2 jobs could not be read"))
    await memory.save({"offset": 100}, delivered=True)
    store.crash()
    again = await opened(store, Kept.WHOLE)
    assert again.delivered
    report = told(again)
    assert_sums(report)
    assert {row["region"]: row["outcome"] for row in report["targets"]} == {
        "us-east-1": "partial",
        "eu-west-1": "complete",
    }
    assert report["totals"] == {
        "targets": 2, "listed": 12, "emitted": 10, "unchanged": 0, "gone": 0, "failed": 2,
        "bytes": 100,
    }  # fmt: skip
    assert {failure["arn"] for failure in report["failures"]} == {JOBS[4].arn, JOBS[5].arn}


@pytest.mark.parametrize("outcome", [Outcome.DENIED, Outcome.FAILED])
async def test_a_target_that_was_never_listed_is_not_forgotten(outcome):
    """A run that was cut off at its very end does not become complete by that."""
    store = Memory()
    memory = await opened(store)
    for target in (HERE, THERE):
        memory.start(target, PLAN)
    memory(page(*JOBS))
    acknowledge(memory, *JOBS)
    memory(ended())
    memory(ended(outcome, target=THERE, error="no"))
    await memory.save({"offset": 100}, delivered=True)
    store.crash()
    report = told(await opened(store, Kept.WHOLE))
    assert {row["region"]: row["outcome"] for row in report["targets"]} == {
        "us-east-1": "complete",
        "eu-west-1": outcome,
    }


# Watermarks.


async def test_a_run_that_ended_leaves_watermarks():
    """The next run is incremental, and the watermark moves with it."""
    store = Memory()
    await whole_run(store, *JOBS)
    memory = await opened(store, now=NOW + DAY)
    assert memory.start(HERE, PLAN) == Start(Coverage(NOW))
    assert memory.start(THERE, PLAN) == Start()
    memory(page(JOBS[0], as_of=NOW + DAY))
    memory(events.JobsUnchanged(HERE, JOBS[:1]))
    memory(ended())
    await memory.finish()
    await memory.close()
    third = await opened(store, now=NOW + 2 * DAY)
    assert third.start(HERE, PLAN) == Start(Coverage(NOW + DAY))
    assert store.state.targets[KEY].full_at == NOW
    assert third.size(HERE) == 1


@pytest.mark.parametrize("finished", [True, False])
async def test_only_a_run_that_has_ended_moves_watermarks(finished):
    """All delivered, but not known to have ended: it is gone on with first."""
    store = Memory()
    memory = await opened(store)
    memory.start(HERE, PLAN)
    memory(page(*JOBS))
    acknowledge(memory, *JOBS)
    memory(ended())
    await memory.save(None, delivered=True)
    if finished:
        await memory.finish()
        await memory.close()
    store.crash()
    again = await opened(store)
    assert again.start(HERE, PLAN) == (Start(Coverage(NOW)) if finished else None)
    assert bool(warnings(again)) is not finished


async def test_nothing_is_written_once_a_run_has_ended():
    """A save after the end would bring the run back: it is left out."""
    store = Memory()
    memory = await whole_run(store, *JOBS)
    before = store.data, store.saves
    await memory.save(None)
    assert (store.data, store.saves) == before


@pytest.mark.parametrize("end", ["killed", "given back"])
async def test_a_run_that_wrote_nothing_leaves_the_one_before_it(end):
    """Begun and gone before its first checkpoint: the watermarks of the last run are there."""
    store = Memory()
    await whole_run(store, *JOBS)
    memory = await opened(store, now=NOW + DAY)
    memory.start(HERE, PLAN)
    if end == "killed":
        store.crash()
    else:
        await memory.close()
    again = await opened(store, now=NOW + 2 * DAY)
    assert again.start(HERE, PLAN) == Start(Coverage(NOW))
    assert list(again.replay()) == []
    assert again.position is None


@pytest.mark.parametrize("trouble", ["held", "damaged"])
async def test_a_state_that_could_not_be_opened_is_not_written(trouble):
    """Neither another run's nor a damaged one: save and close leave it as it was."""
    store = Memory()
    await whole_run(store, *JOBS)
    store.held = trouble == "held"
    store.data = b"{}" if trouble == "damaged" else store.data
    before = store.data
    memory = Journal(Settings(state="somewhere"), store, output="-", clock=ManualClock())
    with pytest.raises(StateError):
        await memory.open()
    await memory.save(None)
    assert store.data == before


@pytest.mark.parametrize(
    ("changes", "age", "incremental"),
    [
        ({}, DAY, True),
        ({"full": True}, DAY, False),
        ({"full_every": "7d"}, 7 * DAY - 1, True),
        ({"full_every": "7d"}, 7 * DAY, False),
        ({"full_every": "7d"}, 70 * DAY, False),
        ({"full_every": 0}, 0.0, False),
    ],
)
async def test_full_runs_are_made_when_asked_for(changes, age, incremental):
    """--full at once, --full-every by the age of the last full crawl."""
    store = Memory()
    await whole_run(store, *JOBS)
    memory = await opened(store, now=NOW + age, **changes)
    assert (memory.start(HERE, PLAN).coverage is not None) is incremental


async def test_full_every_is_not_put_off_by_incremental_runs():
    """An incremental run each day does not make the last full one any younger."""
    store = Memory()
    for day in range(7):
        await whole_run(store, *JOBS, now=NOW + day * DAY, full_every="7d")
    memory = await opened(store, now=NOW + 7 * DAY, full_every="7d")
    assert memory.start(HERE, PLAN) == Start()
    memory(page(*JOBS, as_of=NOW + 7 * DAY))
    acknowledge(memory, *JOBS)
    memory(ended())
    await memory.finish()
    await memory.close()
    again = await opened(store, now=NOW + 8 * DAY, full_every="7d")
    assert again.start(HERE, PLAN).coverage is not None
    assert store.state.targets[KEY].full_at == NOW + 7 * DAY


@pytest.mark.parametrize(
    ("first", "second", "incremental"),
    [
        ({"created_after": 100.0}, {"created_after": 100.0}, True),
        ({"created_after": 100.0}, {"created_after": 200.0}, True),
        ({"created_after": 100.0}, {"created_after": 99.0}, False),
        ({"created_after": 100.0}, {}, False),
        ({}, {"created_after": 100.0}, True),
        ({"status": "Failed"}, {"status": "Failed"}, True),
        ({"status": "Failed"}, {"status": "Stopped"}, False),
        ({"status": "Failed"}, {}, False),
        ({}, {"status": "Failed"}, True),
        ({"created_before": 100.0}, {}, True),
    ],
)
async def test_what_was_not_asked_for_before_is_read_in_full(first, second, incremental):
    """Wider in time or another status than was delivered: the watermark does not count."""
    store = Memory()
    await whole_run(store, *JOBS, plan=replace(PLAN, **first))
    memory = await opened(store)
    start = memory.start(HERE, replace(PLAN, **second))
    coverage = Coverage(
        NOW, first.get("created_after"), first.get("created_before"), first.get("status")
    )
    assert start == Start(coverage if incremental else None)


async def test_rates_outlive_a_run_that_measured_none():
    """What was learned stays until something else is learned."""
    store = Memory()
    memory = await opened(store)
    memory.start(HERE, PLAN)
    memory(page())
    memory(ended(measured=(("DescribeTrainingJob", 12.5),)))
    await memory.finish()
    await memory.close()
    await whole_run(store, *JOBS)
    memory = await opened(store)
    assert memory.rates(HERE) == {"DescribeTrainingJob": 12.5}
    assert memory.rates(THERE) == {}


async def test_settings_are_kept_as_digests():
    """Names of accounts and roles are nobody's business: the state does not show them."""
    store = Memory()
    memory = await opened(
        store, accounts=["333333333333"], role_name="SecretRole", exclude_accounts=["444444444444"]
    )
    memory.start(HERE, PLAN)
    memory(page(*JOBS))
    await memory.save(None)
    for secret in (b"SecretRole", b"333333333333", b"444444444444"):
        assert secret not in store.data
    assert all(len(digest) == 16 for digest in
               store.state.run.settings.values())  # fmt: skip


# All of it at once, with the list.


@dataclass
class Life:
    """A run over a list, as the crawl makes it; it may be killed at any point.

    ``committed`` are jobs that the last state that was written calls settled.
    """

    store: Memory
    service: Service
    committed: set[tuple[str, float]]
    settled: set[tuple[str, float]] = field(default_factory=set)
    outstanding: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    handed: list[tuple[str, float]] = field(default_factory=list)
    report: Report = field(default_factory=Report)
    ended: bool = False

    async def begin(self) -> bool:
        """Whether there is anything to read."""
        past = self.store.data is not None and self.store.state.run is not None
        self.memory = await opened(self.store, Kept.PART if past else Kept.NOTHING)
        self.tell(events.RunStarted(self.memory.run_id, TABLE.name, self.memory.started_at))
        for event in self.memory.replay():
            self.report(event)
        start = self.memory.start(HERE, PLAN)
        if start is None:
            return False
        self.as_of = start.as_of or NOW
        self.listing = Listing(TABLE, self.service, cursor=start.cursor)
        self.pages = aiter(self.listing)
        if start.pending:
            self.enter(list(start.pending))
        return True

    def tell(self, event: events.Event) -> None:
        self.report(event)
        self.memory(event)

    def enter(self, jobs: list[Job]) -> None:
        keys = [job.key for job in jobs]
        assert not self.committed & set(keys), "handed out again"
        assert not set(self.handed) & set(keys), "handed out twice"
        self.handed += keys
        self.tell(events.PageListed(HERE, tuple(jobs), self.listing.cursor, self.as_of))
        self.outstanding += jobs

    async def do(self, deed: str, number: int) -> None:
        jobs = self.outstanding
        match deed:
            case "page" | "unchanged" if not self.ended:
                found = await anext(self.pages, None)
                self.ended = found is None
                self.enter(found or [])
                if found and deed == "unchanged":
                    same = found[: number % len(found) + 1]
                    self.tell(events.JobsUnchanged(HERE, tuple(same)))
                    self.settle(same)
            case "take":
                taken = jobs[number % 3 :: 2]
                for _ in taken:
                    self.tell(events.JobEmitted(HERE))
                self.memory.acknowledge([(HERE, job) for job in taken], len(taken))
                self.report(events.BytesDelivered(len(taken), len(taken)))
                self.settle(taken)
            case "gone" if jobs:
                job = jobs[number % len(jobs)]
                self.tell(events.JobGone(HERE, job))
                self.settle([job])
            case "fail" if jobs:
                job = jobs.pop(number % len(jobs))
                self.failed.append(job)
                self.tell(events.JobFailed(HERE, job, "DescribeTrainingJob", "no", 1))
            case "save":
                await self.memory.save({"offset": number})
                self.committed |= self.settled

    def settle(self, jobs: list[Job]) -> None:
        for job in jobs:
            self.outstanding.remove(job)
            self.settled.add(job.key)

    async def finish(self) -> None:
        """Read on to the end."""
        while not self.ended:
            await self.do("page", 0)
        while self.outstanding:
            await self.do("take", 0)
        self.tell(ended(Outcome.PARTIAL if self.failed else Outcome.COMPLETE))


DEEDS = st.tuples(
    st.sampled_from(["page", "page", "page", "unchanged", "take", "take", "gone", "fail", "save"]),
    st.integers(0, 9),
)


@settings(deadline=None, max_examples=300)
@given(
    times=st.lists(st.integers(0, 40), max_size=40).map(lambda times: [t / 4 for t in times]),
    faults=st.lists(st.sampled_from(["", "", "", "empty", "expire"]), max_size=12),
    size=st.integers(1, 6),
    coarse=st.booleans(),
    lives=st.lists(st.lists(DEEDS, max_size=14), max_size=4),
)
async def test_whenever_a_run_is_killed_nothing_is_lost_or_settled_twice(
    times, faults, size, coarse, lives
):
    """Each job listed is committed, handed out again, or listed again: exactly one of them."""
    jobs = sorted((created, f"arn:job/{number:02}") for number, created in enumerate(times))
    service = Service(list(jobs), faults, page=size, coarse=coarse)
    wanted = {(arn, created) for created, arn in jobs}
    store, committed = Memory(), set()
    for deeds in lives:
        life = Life(store, service, committed)
        assert await life.begin()
        for deed, number in deeds:
            await life.do(deed, number)
        committed = life.committed
        store.crash()
    last = Life(store, service, committed)
    assert await last.begin()
    await last.finish()
    assert set(last.handed) == wanted - committed
    await last.memory.finish()
    await last.memory.close()
    report = last.report.as_dict()
    assert_sums(report)
    assert report["totals"]["listed"] == len(jobs)
    assert report["totals"]["failed"] == 0
    after = await opened(store)
    assert after.start(HERE, PLAN) == Start(Coverage(NOW))
    assert after.size(HERE) == len(jobs)


@settings(deadline=None, max_examples=150)
@given(
    count=st.integers(1, 30),
    deeds=st.lists(DEEDS, max_size=30),
    size=st.integers(1, 6),
)
async def test_a_target_is_never_done_before_everything_is_acknowledged(count, deeds, size):
    """At each checkpoint the state calls done only what is: all settled, by the end of the list."""
    jobs = [(float(number), f"arn:job/{number:02}") for number in range(count)]
    store = Memory()
    life = Life(store, Service(jobs, page=size), set())
    assert await life.begin()
    for deed, number in deeds:
        await life.do(deed, number)
        await life.do("save", 0)
        assert store.state.run.done == {}
        left = store.state.run.open.get(KEY)
        if left is not None:
            assert {job.key for job in left.pending} == {
                job.key for job in (*life.outstanding, *life.failed)
            }
            assert left.emitted + left.unchanged + left.gone == len(life.settled)
    while not life.ended:
        await life.do("page", 0)
    life.tell(ended(Outcome.PARTIAL if life.failed else Outcome.COMPLETE))
    await life.do("save", 0)
    done = not life.failed and not life.outstanding
    assert bool(store.state.run.done) is done
    await life.do("take", 0)
    while life.outstanding:
        await life.do("take", 0)
    await life.do("save", 0)
    assert bool(store.state.run.done) is not bool(life.failed)


async def test_a_document_of_an_empty_run_is_whole():
    """A run without targets leaves a state that is read again."""
    store = Memory()
    memory = await opened(store)
    await memory.finish()
    await memory.close()
    assert store.data == dump(store.state)
    assert (await opened(store)).start(HERE, PLAN) == Start()
