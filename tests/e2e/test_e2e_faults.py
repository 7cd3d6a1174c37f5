"""What goes wrong between us and AWS: every job still ends as emitted, gone or named as failed.

`CELLS` is one half of the fault matrix, in which every target ends complete in the end; the other
half, of what AWS refuses, is in test_e2e_outcomes.py. Each cell is crawled once, and then over two
runs with a state, of which the first has the fault and the second has not.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from harness import (
    LONGEST,
    REGIONS,
    Run,
    assert_accounted,
    assert_sums,
    assert_whole,
    crawl,
    identities,
    identity,
    run_command,
    settings,
)
from reference import moment, record_of

from collector import Collector
from collector.aws import throttle
from collector.aws.client import _REPAIRS
from collector.events import Event, JobEmitted, PageListed
from collector.testing import Estate, FakeAws, Faults, Limits
from collector.testing.estate import DEFAULT_NOW
from collector.testing.faults import DEALT
from collector.testing.jobs import RECENT, TERMINAL

FIRST, SECOND = "111111111111", "222222222222"
HOME, AWAY = REGIONS
JOBS = 60
DAY = 86_400.0


def estate(jobs: int = JOBS, accounts: int = 2, regions: tuple[str, ...] = REGIONS) -> Estate:
    return Estate.generate(accounts, regions, jobs)


def assert_exact(run: Run, aws: FakeAws) -> None:
    """Every record is what AWS said, tags included."""
    for record in run.records:
        assert record == record_now(aws, record["training_job_arn"])


def record_now(aws: FakeAws, arn: str) -> dict[str, Any]:
    """The record that the job of this ARN has to have, as it is now."""
    region, account, name = arn.split(":")[3], arn.split(":")[4], arn.rpartition("/")[2]
    return record_of(aws.estate, account, region, name)


def vanished(aws: FakeAws) -> set[tuple[str, str]]:
    """Identities of the jobs that the stand-in took away between list and describe."""
    jobs = (aws.estate.job(*place) for place in aws.vanished)
    return {(job.arn, moment(job.created / 1000)) for job in jobs}


# --- the matrix -----------------------------------------------------------------------------------


class Creating:
    """Twenty new jobs while the first page is described, and as many when the last one is."""

    def __init__(self, aws: FakeAws) -> None:
        self.aws = aws
        self.jobs = aws.estate.count(FIRST, HOME)
        self.emitted = 0
        self.surely: set[tuple[str, str]] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobEmitted):
            self.emitted += 1
            if self.emitted == 5:
                self.surely = self.create()
            elif self.emitted == self.jobs - 10:
                self.create()

    def create(self) -> set[tuple[str, str]]:
        before = identities(self.aws.estate)
        for n in range(20):
            self.aws.estate.add_job(
                FIRST,
                HOME,
                name=f"new-{self.emitted}-{n}",
                creation_time=self.aws.estate.now + (self.emitted + n) / 100,
            )
        return identities(self.aws.estate) - before


class Recreating:
    """A job deleted once its page has been listed, and its name given to a new one."""

    def __init__(self, aws: FakeAws) -> None:
        self.aws = aws
        self.name = list(aws.estate.jobs(FIRST, HOME))[10]
        self.surely: set[tuple[str, str]] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, PageListed) and not self.surely:
            estate = self.aws.estate
            before = identities(estate)
            estate.delete_job(FIRST, HOME, self.name)
            estate.add_job(FIRST, HOME, name=self.name, creation_time=estate.now + 5)
            self.surely = identities(estate) - before


@dataclass(frozen=True)
class Cell:
    """One thing that goes wrong, at which nothing may be lost.

    ``jobs`` are those of each account and region. ``faults``, ``rates`` and ``fake`` are how the
    stand-in misbehaves, ``options`` the settings of the run. AWS's clock is ``minutes`` ahead of
    ours and runs ``speed`` times as fast. ``pace`` is the calls a second that we make at least,
    whatever AWS allows. ``during`` changes the estate in the middle of a crawl. With ``young``
    some jobs are minutes old by AWS's clock.
    """

    jobs: int | Mapping[tuple[str, str], int] = JOBS
    accounts: int = 1
    regions: tuple[str, ...] = REGIONS
    faults: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[Any, tuple[float, float]] = field(default_factory=dict)
    fake: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    minutes: float = 0.0
    speed: float = 1.0
    pace: float | None = None
    during: Callable[[FakeAws], Creating | Recreating] | None = None
    young: bool = False

    def aws(self, *, broken: bool = False) -> FakeAws:
        """The stand-in of this cell; ``broken`` leaves nothing of AWAY, see `hopeless`."""
        began = time.time()

        def clock() -> float:
            return began + 60 * self.minutes + self.speed * (time.time() - began)

        now = clock() if self.young else DEFAULT_NOW
        faults, rates = self.hopeless if broken else ({}, {})
        return FakeAws(
            Estate.generate(self.accounts, self.regions, self.jobs, now=now),
            faults=Faults(**self.faults),
            regional_faults={AWAY: Faults(**faults)} if faults else None,
            limits=Limits({**self.rates, **rates}, http_429=0.3),
            clock=clock,
            **self.fake,
        )

    @property
    def hopeless(self) -> tuple[dict[str, Any], dict[Any, tuple[float, float]]]:
        """Faults and rates in AWAY that let no describe through, of this cell's kind.

        Both are empty where the cell does not mean a call that fails, or means several of them.
        """
        kinds = [kind for kind in DEALT if kind in self.faults]
        if len(kinds) == 1:
            return {**self.faults, kinds[0]: 1.0, "only": ["DescribeTrainingJob"]}, {}
        if self.pace is not None:
            return {}, {(AWAY, "DescribeTrainingJob"): (1e-9, 1e-9)}
        return {}, {}

    def has_struck(self, aws: FakeAws) -> bool:
        """Whether what was to go wrong has done so at least once."""
        kinds = {*DEALT, "empty_pages", "token_calls", "vanish"} & self.faults.keys()
        struck = [aws.faults_dealt[kind] > 0 for kind in kinds]
        if len(kinds) > 1:  # each with a chance of its own: most of them
            struck = [sum(struck) >= len(kinds) - 2]
        if self.rates:
            struck.append(aws.throttled.total() > 0)
        if "session_seconds" in self.fake:
            struck.append(aws.calls["AssumeRole"] > self.accounts - 1)
        if "tag_index_lag" in self.fake:
            struck.append(aws.calls["ListTags"] > 0)
        return all(struck)


TWO_IN_A_HUNDRED = 0.02
HANGING: dict[str, Any] = {"hang_seconds": 30.0}
IMPATIENT = {"read_timeout": 0.3}
"""What answers in a millisecond or not at all need not be waited for as long as AWS."""

CELLS: dict[str, Cell] = {
    # Limits. At this pace, to the end of the run some five calls are made for each one allowed.
    "throttled-5x": Cell(jobs=50, rates={"DescribeTrainingJob": (20, 5)}, pace=1000),
    "throttled-elsewhere": Cell(
        accounts=2,
        regions=(HOME,),
        rates={"ListTrainingJobs": (2, 1), "GetResources": (2, 1), "AssumeRole": (2, 1)},
        jobs=120,
    ),
    # Answers that are none.
    "error-500": Cell(faults={"error_500": TWO_IN_A_HUNDRED}),
    "error-503": Cell(faults={"error_503": TWO_IN_A_HUNDRED}),
    "reset": Cell(faults={"reset": TWO_IN_A_HUNDRED}),
    "truncated": Cell(faults={"truncated": TWO_IN_A_HUNDRED}),
    "garbage": Cell(faults={"garbage": TWO_IN_A_HUNDRED}),
    "emptied": Cell(faults={"emptied": TWO_IN_A_HUNDRED}),
    "hang-30s": Cell(faults={"hang": TWO_IN_A_HUNDRED, **HANGING}, options=IMPATIENT),
    # Lists. The seed is one that strikes three of the first five pages.
    "empty-pages": Cell(
        jobs=220,
        regions=(HOME,),
        faults={"empty_pages": 0.1, "only": ["ListTrainingJobs"], "seed": 42},
    ),
    "token-of-3-calls": Cell(jobs=320, regions=(HOME,), faults={"token_calls": 3}),
    "token-of-1-call": Cell(jobs=320, regions=(HOME,), faults={"token_calls": 1}),
    # Jobs that come and go.
    "vanishing": Cell(jobs=150, faults={"vanish": 0.03}),
    "created-meanwhile": Cell(jobs=350, regions=(HOME,), during=Creating),
    "recreated": Cell(regions=(HOME,), during=Recreating),
    "recreated-while-listing": Cell(jobs=350, regions=(HOME,), during=Recreating),
    # Sessions of 15 s by AWS's clock, which goes twenty times as fast as ours: they end unforeseen.
    "sessions-of-15s": Cell(
        jobs=45,
        accounts=2,
        regions=(HOME,),
        speed=20.0,
        fake={"session_seconds": 15},
        options={"max_rate": {"DescribeTrainingJob": 40}},
    ),
    # Time.
    "clock-slow": Cell(accounts=2, minutes=10),
    "clock-fast": Cell(accounts=2, minutes=-10),
    "tags-lag": Cell(young=True, fake={"tag_index_lag": 3000}),
    "everything": Cell(
        jobs={(FIRST, HOME): 80, (SECOND, HOME): 320},
        accounts=2,
        regions=(HOME,),
        young=True,
        faults={
            **dict.fromkeys(DEALT[:6], TWO_IN_A_HUNDRED),
            "hang": 0.01,
            **HANGING,
            "empty_pages": 0.1,
            "token_calls": 3,
            "vanish": 0.03,
            "seed": 5,
        },
        rates={"DescribeTrainingJob": (400, 20), "*": (50, 20)},
        minutes=10,
        fake={"session_seconds": 2, "tag_index_lag": 3000},
        options=IMPATIENT,
    ),
}


@pytest.fixture
def cell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cell:
    """The cell of this name, and its pace."""
    cell = CELLS[request.param]
    if cell.pace is not None:
        monkeypatch.setattr(throttle, "INITIAL_RATE", cell.pace)
        monkeypatch.setattr(throttle, "LEAST_RATE", cell.pace)
    return cell


every_cell = pytest.mark.parametrize("cell", CELLS, indirect=True)


@pytest.mark.usefixtures("at_full_speed")
@every_cell
async def test_nothing_is_lost(cell):
    """Every job once or, if it was deleted, gone; exact to the last tag; complete, and exit 0."""
    async with cell.aws() as aws:
        before = identities(aws.estate)
        during = cell.during(aws) if cell.during else None
        run = await crawl(aws, observers=[during] if during else [], **cell.options)
    assert cell.has_struck(aws)
    assert_complete(run, aws, before)
    if during:
        assert during.surely
        assert during.surely <= set(map(identity, run.records))
    calls = run.report["calls"].values()
    refused = sum(aws.throttled.values())
    assert sum(counts["throttled"] for counts in calls) == refused
    broken = sum(aws.faults_dealt[kind] for kind in DEALT)
    assert sum(counts["retried"] + counts["failed"] for counts in calls) >= refused + broken
    if cell.pace is not None:
        assert aws.calls["DescribeTrainingJob"] > 3 * len(run.records)
    if "tag_index_lag" in cell.fake and not cell.faults:
        assert aws.calls["ListTags"] <= RECENT * len(places(aws))
    if cell.minutes and not cell.faults:
        assert 1 <= sum(counts["retried"] for counts in calls) <= 10 * _REPAIRS


def assert_complete(run: Run, aws: FakeAws, before: set[tuple[str, str]]) -> None:
    """The run says that nothing is missing, and it is true. ``before`` is what there was."""
    assert_sums(run)
    after = identities(aws.estate)
    gone = (before - after) | vanished(aws)
    found = set(map(identity, run.records))
    assert before - gone <= found <= after - gone
    assert_exact(run, aws)
    assert set(run.outcomes.values()) == {"complete"}
    for row in run.report["targets"]:
        place = f":{row['region']}:{row['account_id']}:"
        assert row["gone"] == sum(place in arn for arn, _ in gone)
    assert run.report["failures"] == []
    assert (run.report["complete"], run.status) == (True, 0)


# --- the matrix over two runs ---------------------------------------------------------------------

HORIZON, OVERLAP = 200 * DAY, 60.0
"""Half of the jobs are older than the one, and a clock that is minutes off shows in the other."""


async def run_into(
    path: Path,
    aws: FakeAws,
    *,
    observers: list[Callable[[Event], None]] | None = None,
    **changes: Any,
) -> Run:
    """A run into a file, with a state beside it."""
    state = str(path.with_name("state"))
    spans = {"horizon": HORIZON, "overlap": OVERLAP}
    options = settings(aws, sink=str(path), state=state, **spans | changes)
    async with (
        asyncio.timeout(LONGEST),
        Collector(options, observers=observers or []) as collector,
    ):
        report = await collector.run()
    return Run(read(path), report, 0 if collector.complete else 3)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def places(aws: FakeAws) -> list[tuple[str, str]]:
    return [(account, region) for account in aws.estate.accounts for region in aws.estate.regions]


def jobs_of(aws: FakeAws, place: tuple[str, str]) -> list[Any]:
    """The jobs that a list brings there."""
    jobs = (aws.estate.job(*place, name) for name in aws.estate.jobs(*place))
    return [job for job in jobs if not aws.is_gone(job)]


def due(
    aws: FakeAws, place: tuple[str, str], watermark: float, overlap: float = OVERLAP
) -> list[str]:
    """Names of the jobs that may have changed since ``watermark``, as far as a list tells."""
    return sorted(
        job.name
        for job in jobs_of(aws, place)
        if job.created / 1000 > watermark - HORIZON
        and not (job.status in TERMINAL and job.modified / 1000 < watermark - overlap)
    )


def settle(aws: FakeAws) -> None:
    """A job in each place that has ended five minutes ago, by AWS's clock."""
    now = aws.estate.now = aws.clock()
    for place in places(aws):
        aws.estate.add_job(
            *place,
            name="ended",
            creation_time=now - 1800,
            TrainingJobStatus="Completed",
            LastModifiedTime=now - 300,
        )


def go_on(aws: FakeAws) -> None:
    """In each place a job ends, one that had ended is changed once more, and one is created."""
    now = aws.estate.now = aws.clock()
    for place in places(aws):
        jobs = [job for job in jobs_of(aws, place) if job.created / 1000 > now - HORIZON + DAY]
        ends = next(job for job in reversed(jobs) if job.status == "InProgress")
        aws.estate.update_job(*place, ends.name, TrainingJobStatus="Completed")
        ended = next(job for job in jobs if job.status in TERMINAL)
        aws.estate.update_job(*place, ended.name, BillableTimeInSeconds=1)
        aws.estate.add_job(*place, name="later")


def described(aws: FakeAws) -> dict[tuple[str, str], list[str]]:
    """Names by place, in order, as often as they were asked for since the log was cleared."""
    asked: dict[tuple[str, str], list[str]] = {place: [] for place in places(aws)}
    for operation, account, region, params in aws.requests:
        if operation == "DescribeTrainingJob":
            asked[account, region].append(params["TrainingJobName"])
    return {place: sorted(names) for place, names in asked.items()}


def assert_first(
    run: Run, aws: FakeAws, before: set[tuple[str, str]], broken: set[tuple[str, str]]
) -> None:
    """The run with the fault: places that are ``broken`` say so, and all others are whole."""
    if not broken:
        assert_complete(run, aws, before)
        return
    assert_accounted(run, aws)
    assert_exact(run, aws)
    failed = {failure["arn"] for failure in run.report["failures"]}
    assert failed == {job.arn for place in broken for job in jobs_of(aws, place)}
    for place, outcome in run.outcomes.items():
        assert outcome == ("partial" if place in broken else "complete")
    assert (run.report["complete"], run.status) == (False, 3)


@pytest.mark.usefixtures("at_full_speed")
@every_cell
async def test_what_a_run_has_missed_the_next_one_brings(cell, tmp_path):
    """A run with the fault and one without, on one state: together they have everything, exactly.

    Where a call can fail at all, AWAY lets no describe through in the first run. The second one
    reads AWAY in full, and of the rest what may have changed, by AWS's clock, and nothing else.
    """
    cell = replace(cell, young=True)
    faults, rates = cell.hopeless
    async with cell.aws(broken=True) as aws:
        settle(aws)
        broken = {place for place in places(aws) if (faults or rates) and place[1] == AWAY}
        before, watermark = identities(aws.estate), aws.clock()
        during = cell.during(aws) if cell.during else None
        patience = {"give_up_after": 0.6} if broken else {}
        first = await run_into(
            tmp_path / "first.ndjson",
            aws,
            observers=[during] if during else [],
            **patience,
            **cell.options,
        )
        assert_first(first, aws, before, broken)
        assert first.report["mode"] == "full"

        aws.faults, aws.limits, aws.regional_faults = Faults(), Limits(), {}
        go_on(aws)
        aws.requests.clear()
        second = await run_into(tmp_path / "second.ndjson", aws, **cell.options)
    assert_sums(second)
    assert_exact(second, aws)
    assert set(second.outcomes.values()) == {"complete"}
    assert (second.report["complete"], second.status) == (True, 0)
    assert second.report["failures"] == []
    assert second.report["mode"] == "incremental"

    # Nothing is lost, and of what both runs have the second has the latest.
    newest = {identity(record): record for run in (first, second) for record in run.records}
    there = identities(aws.estate) - vanished(aws)
    assert there <= newest.keys()
    assert {identity(record) for record in second.records} <= there
    for job in there:
        assert newest[job] == record_now(aws, job[0])

    # Nothing is read twice for nothing, except where the first run was not complete.
    asked = described(aws)
    for place in places(aws):
        row, jobs = second.target(*place), jobs_of(aws, place)
        if place in broken:
            wanted, listed = sorted(job.name for job in jobs), len(jobs)
        else:
            wanted = due(aws, place, watermark)
            listed = sum(job.created / 1000 > watermark - HORIZON for job in jobs)
            assert len(wanted) < listed < len(jobs)
            assert "later" in wanted
            assert "ended" not in wanted
        assert asked[place] == wanted
        assert row["listed"] == listed
        assert row["unchanged"] == listed - len(wanted)


@pytest.mark.usefixtures("at_full_speed")
async def test_a_target_that_was_not_complete_keeps_its_old_watermark(tmp_path):
    """Three runs, AWAY failing in the second: the third reads there what changed since the first.

    HOME, complete in the second, is asked for what changed since then.
    """
    home, away = (FIRST, HOME), (FIRST, AWAY)
    async with Cell(young=True).aws() as aws:
        oldest = aws.clock()
        await run_into(tmp_path / "0.ndjson", aws)
        go_on(aws)
        await asyncio.sleep(1.2)  # the watermark is of the server's clock, which has whole seconds
        older = aws.clock()
        aws.regional_faults = {AWAY: Faults(error_500=1.0, only=["DescribeTrainingJob"])}
        failing = await run_into(tmp_path / "1.ndjson", aws, overlap=0.0, give_up_after=0.5)
        aws.regional_faults = {}
        aws.requests.clear()
        last = await run_into(tmp_path / "2.ndjson", aws, overlap=0.0)
    assert failing.outcomes == {home: "complete", away: "partial"}
    assert (failing.report["complete"], failing.status) == (False, 3)
    assert (last.report["complete"], last.status) == (True, 0)
    asked = described(aws)
    assert asked[home] == due(aws, home, older, overlap=0.0)
    assert asked[away] == due(aws, away, oldest, overlap=0.0)
    assert len(due(aws, away, older, overlap=0.0)) < len(asked[away]) < JOBS / 2
    failed = {failure["arn"] for failure in failing.report["failures"]}
    assert failed <= {record["training_job_arn"] for record in last.records}
    assert_exact(last, aws)


# --- more than chance -----------------------------------------------------------------------------


@pytest.mark.usefixtures("at_full_speed")
@pytest.mark.parametrize("http_429", [0.0, 1.0], ids=["as-error", "as-429"])
async def test_a_low_limit_met_at_full_speed_loses_nothing(http_429):
    """A rate far above the limit is cut down to it: throttles happen, and no job is lost."""
    limits = Limits({"DescribeTrainingJob": (100, 20)}, http_429=http_429)
    async with FakeAws(estate(accounts=1, regions=(HOME,)), limits=limits) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    assert_exact(run, aws)
    throttles = run.report["calls"]["DescribeTrainingJob"]["throttled"]
    assert 0 < throttles == sum(aws.throttled.values()) < len(run.records)


@pytest.mark.usefixtures("at_full_speed")
@pytest.mark.parametrize("name", ["emptied", "truncated", "garbage", "error_500"])
async def test_a_list_that_fails_half_the_time_is_never_taken_for_an_end(name):
    """A page that comes damaged under status 200 is asked for again, not read as the last one."""
    faults = Faults(only=["ListTrainingJobs"], **{name: 0.5})
    async with FakeAws(estate(350, 1, (HOME,)), faults=faults) as aws:
        run = await crawl(aws)
    assert aws.faults_dealt[name] > 0
    assert_whole(run, aws)


@pytest.mark.usefixtures("at_full_speed")
async def test_a_region_that_never_answers_right_is_given_up_and_named():
    """No success in a target for give_up_after: its listed jobs are failed by name, exit 3."""
    faults = Faults(error_500=1.0, only=["DescribeTrainingJob"])
    async with FakeAws(estate(5, 1), faults=faults) as aws:
        run = await crawl(aws, give_up_after=0.2)
    assert_accounted(run, aws)
    assert set(run.outcomes.values()) == {"partial"}
    assert run.report["totals"]["failed"] == 10
    assert {failure["operation"] for failure in run.report["failures"]} == {"DescribeTrainingJob"}
    assert min(failure["attempts"] for failure in run.report["failures"]) >= 1
    assert run.status == 3


def test_a_process_survives_what_the_library_does(tmp_path):
    """`collector run` through faults: every job on a line once, exit status 0."""
    faults = Faults(error_500=0.05, reset=0.05, emptied=0.05, truncated=0.05, seed=1)
    with FakeAws(estate(10), faults=faults).in_thread() as aws:
        run = run_command(aws, tmp_path)
    assert sum(aws.faults_dealt.values()) > 0
    assert_whole(run, aws)
    assert_exact(run, aws)
