"""The arithmetic of watermarks, against a model of a service whose jobs come, change and end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.incremental import MARGIN, list_from, reaches, unchanged
from collector.model import Coverage, Job
from collector.tables import load_table

DAY, OVERLAP, HORIZON = 86_400.0, 900.0, 60 * 86_400.0
TERMINAL = load_table().terminal
PENDING, RUNNING = 28 * DAY, 30 * DAY
"""The longest that a job waits, and then runs."""


@dataclass(frozen=True)
class Life:
    """A job: when it was created, and since when it has which status."""

    created: float
    versions: tuple[tuple[float, str], ...]

    def version(self, moment: float) -> int | None:
        """Which version there is at this time; None before the first."""
        index = bisect_right([since for since, _ in self.versions], moment) - 1
        return None if index < 0 else index


@dataclass(frozen=True)
class Ask:
    """A run: the service's clock at its start, when it lists, and what it is narrowed to."""

    watermark: float
    listed_at: float
    after: float | None
    before: float | None
    status: str | None
    complete: bool = True


@dataclass
class Estate:
    """A service, and what runs have delivered of it: the version of each job.

    A list shows what is true ``lag`` seconds late, by exclusive filters that may see whole seconds.
    """

    lives: tuple[Life, ...]
    lag: float
    coarse: bool
    horizon: float
    coverage: Coverage | None = None
    delivered: dict[int, int] = field(default_factory=dict)
    described: list[int] = field(default_factory=list)

    def shown(self, ask: Ask, after: float | None) -> Iterable[tuple[int, int]]:
        """(job, version) that the list brings."""
        for number, life in enumerate(self.lives):
            version = life.version(ask.listed_at - self.lag)
            seen = float(floor(life.created)) if self.coarse else life.created
            if (
                version is not None
                and (after is None or seen > after)
                and (ask.before is None or seen < ask.before)
                and ask.status in (None, life.versions[version][1])
            ):
                yield number, version

    def run(self, ask: Ask) -> None:
        known = self.coverage
        if known and not reaches(known, after=ask.after, status=ask.status):
            known = None
        after = list_from(known, after=ask.after, horizon=self.horizon) if known else ask.after
        self.described = []
        for number, version in self.shown(ask, after):
            life = self.lives[number]
            since, status = life.versions[version]
            job = Job(str(number), life.created, since, status, {})
            if known and unchanged(job, known, terminal=TERMINAL, overlap=OVERLAP):
                continue
            self.described.append(number)
            if ask.complete:
                self.delivered[number] = life.version(ask.listed_at) or version
        if ask.complete:
            self.coverage = Coverage(ask.watermark, ask.after, ask.before, ask.status)

    def left_out(self, ask: Ask) -> list[int]:
        """Jobs that a full run would have read, and that nobody has read as they are now."""
        return [
            number
            for number, version in self.shown(ask, ask.after)
            if self.delivered.get(number, -1) < version
        ]


NUDGES = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, OVERLAP, 3600.0])
MOMENTS = st.builds(
    lambda days, nudge, sign: days * DAY + sign * nudge,
    st.integers(100, 300),
    NUDGES,
    st.sampled_from([-1, 1]),
)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """A job that waits and runs no longer than AWS lets it, and is modified meanwhile."""
    created = draw(MOMENTS)
    started = created + draw(st.sampled_from([0.0, DAY, PENDING]))
    ended = started + draw(st.sampled_from([1.0, DAY, RUNNING]))
    versions = {created: "InProgress", started: "InProgress"}
    if draw(st.booleans()):
        versions[ended - 0.5] = "Stopping"
    versions[ended] = draw(st.sampled_from(TERMINAL))
    return Life(created, tuple(sorted(versions.items())))


@st.composite
def stories(draw: st.DrawFn, *, narrowed: bool) -> tuple[Estate, list[Ask]]:
    """An estate and some runs over it, at moments that are near to those of its jobs."""
    jobs = tuple(draw(st.lists(lives(), min_size=1, max_size=3)))
    edges = [moment for life in jobs for moment in (life.created, life.versions[-1][0])]
    near = st.builds(
        lambda edge, nudge, sign, far: edge + far + sign * nudge,
        st.sampled_from(edges),
        NUDGES,
        st.sampled_from([-1, 1]),
        st.sampled_from([0.0, HORIZON + DAY] if narrowed else [0.0]),
    )
    bound = st.none()
    if narrowed:
        bound |= st.builds(lambda edge, nudge: edge - nudge, st.sampled_from(edges), NUDGES)
    asks = draw(
        st.lists(
            st.builds(
                Ask,
                near,
                st.sampled_from([0.0, 0.5, 60.0, OVERLAP, DAY]),
                bound,
                bound,
                st.sampled_from([None, None, "InProgress", "Completed"] if narrowed else [None]),
                st.integers(0, 5).map(bool),
            ),
            min_size=2,
            max_size=6,
        )
    )
    asks = [replace(ask, listed_at=ask.watermark + ask.listed_at) for ask in asks]
    asks.sort(key=lambda ask: ask.watermark)
    horizon = draw(st.sampled_from([HORIZON, PENDING + RUNNING + OVERLAP + MARGIN]))
    lag = draw(st.sampled_from([0.0, OVERLAP]))
    return Estate(jobs, lag, draw(st.booleans()), horizon), asks


@pytest.mark.parametrize("narrowed", [False, True])
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_no_change_is_ever_left_out(narrowed, data):
    """However runs are narrowed, each complete one leaves nothing unread that a full one reads."""
    estate, asks = data.draw(stories(narrowed=narrowed))
    for ask in asks:
        estate.run(ask)
        if ask.complete:
            assert estate.left_out(ask) == []


BORN = 200 * DAY
LONGEST = Life(
    BORN,
    (
        (BORN, "InProgress"),
        (BORN + PENDING, "InProgress"),
        (BORN + PENDING + RUNNING, "Completed"),
    ),
)
SHORTEST = Life(BORN, ((BORN, "InProgress"), (BORN + 1, "Failed")))
TWICE = Life(BORN, ((BORN, "InProgress"), (BORN + 1, "Stopped"), (BORN + DAY, "Stopped")))


@pytest.mark.parametrize(
    ("life", "lag", "moments"),
    [
        (LONGEST, 0.0, [BORN + PENDING + RUNNING - 1, BORN + PENDING + RUNNING]),
        (LONGEST, OVERLAP, [BORN + PENDING + RUNNING - 1, BORN + HORIZON - 1, BORN + 2 * HORIZON]),
        (SHORTEST, OVERLAP, [BORN - DAY, BORN + 1.5, BORN + 1 + OVERLAP]),
        (SHORTEST, OVERLAP, [BORN - DAY, BORN + OVERLAP, BORN + 1 + OVERLAP]),
        (SHORTEST, OVERLAP, [BORN - DAY, BORN + 1 + OVERLAP - 0.5, BORN + HORIZON]),
        (TWICE, OVERLAP, [BORN + DAY - 1, BORN + DAY + 1, BORN + DAY + OVERLAP]),
        (TWICE, OVERLAP, [BORN + DAY - 1, BORN + DAY + OVERLAP - 1, BORN + DAY + OVERLAP]),
    ],
)
def test_changes_at_the_very_edge_are_read(life, lag, moments):
    """A job that waits and runs as long as it may, and one whose change shows as late as it may."""
    estate = Estate((life,), lag, coarse=False, horizon=HORIZON)
    for moment in moments:
        ask = Ask(moment, moment, None, None, None)
        estate.run(ask)
        assert estate.left_out(ask) == []
    assert estate.delivered == {0: len(life.versions) - 1}


@settings(deadline=None, max_examples=200)
@given(
    jobs=st.lists(lives(), min_size=1, max_size=8),
    pause=st.sampled_from([0.0, 1.0, DAY, 30 * DAY]),
    coarse=st.booleans(),
    narrower=st.booleans(),
)
def test_an_unchanged_estate_is_not_read_again(jobs, pause, coarse, narrower):
    """Once every job has ended, longer ago than the overlap, another run describes none."""
    estate = Estate(tuple(jobs), 0.0, coarse, HORIZON)
    ended = max(life.versions[-1][0] for life in jobs)
    first = Ask(ended + OVERLAP + 0.5, ended + OVERLAP + 1, None, None, None)
    estate.run(first)
    assert sorted(estate.described) == list(range(len(jobs)))
    after = min(life.created for life in jobs) if narrower else None
    second = Ask(first.watermark + pause, first.listed_at + pause, after, None, None)
    estate.run(second)
    assert estate.described == []


@settings(deadline=None)
@given(jobs=st.lists(lives(), min_size=1, max_size=8), data=st.data())
def test_a_run_that_was_not_complete_moves_nothing(jobs, data):
    """After a failed run the next one reads what changed since the last complete one."""
    estate = Estate(tuple(jobs), 0.0, coarse=False, horizon=HORIZON)
    moments = sorted(data.draw(st.lists(MOMENTS, min_size=3, max_size=3)))
    first, second, third = (Ask(moment, moment, None, None, None) for moment in moments)
    estate.run(first)
    before = estate.coverage
    estate.run(replace(second, complete=False))
    assert estate.coverage == before
    estate.run(third)
    assert estate.left_out(third) == []


NOW = 20_000 * DAY


@pytest.mark.parametrize(
    ("covered", "after", "status", "expected"),
    [
        (Coverage(NOW), None, None, True),
        (Coverage(NOW), 5.0, None, True),
        (Coverage(NOW), None, "Failed", True),
        (Coverage(NOW, after=5.0), None, None, False),
        (Coverage(NOW, after=5.0), 4.9, None, False),
        (Coverage(NOW, after=5.0), 5.0, None, True),
        (Coverage(NOW, after=5.0), 5.1, None, True),
        (Coverage(NOW, after=0.0), None, None, False),
        (Coverage(NOW, after=0.0), 0.0, None, True),
        (Coverage(NOW, before=5.0), None, None, True),
        (Coverage(NOW, status="Failed"), None, None, False),
        (Coverage(NOW, status="Failed"), None, "Completed", False),
        (Coverage(NOW, status="Failed"), None, "Failed", True),
        (Coverage(NOW, after=5.0, status="Failed"), 5.0, "Failed", True),
        (Coverage(NOW, after=5.0, status="Failed"), None, "Failed", False),
    ],
)
def test_what_was_delivered_reaches_as_far_as_it_was_asked_for(covered, after, status, expected):
    """An earlier start or another status asks for what was never delivered; an end does not."""
    assert reaches(covered, after=after, status=status) is expected


@pytest.mark.parametrize(
    ("covered", "after", "expected"),
    [
        (Coverage(NOW), None, NOW - HORIZON),
        (Coverage(NOW), NOW - HORIZON - 1, NOW - HORIZON),
        (Coverage(NOW), NOW - HORIZON + 1, NOW - HORIZON + 1),
        (Coverage(NOW, before=NOW), None, NOW - HORIZON),
        (Coverage(NOW, before=NOW + DAY), None, NOW - HORIZON),
        (Coverage(NOW, before=NOW - HORIZON + MARGIN), None, NOW - HORIZON),
        (Coverage(NOW, before=NOW - HORIZON), None, NOW - HORIZON - MARGIN),
        (Coverage(NOW, before=DAY), None, DAY - MARGIN),
        (Coverage(NOW, before=DAY), 2 * DAY, 2 * DAY),
        (Coverage(NOW, before=0.0), 0.0, 0.0),
    ],
)
def test_a_list_starts_a_horizon_back_or_where_the_span_had_ended(covered, after, expected):
    """The earliest job that may be news: a horizon back, or from the end of what was covered."""
    assert list_from(covered, after=after, horizon=HORIZON) == expected


EDGE = NOW - OVERLAP


@pytest.mark.parametrize(
    ("changes", "covered", "expected"),
    [
        ({"modified": EDGE - 0.001}, Coverage(NOW), True),
        ({"modified": EDGE}, Coverage(NOW), False),
        ({"modified": EDGE + 0.001}, Coverage(NOW), False),
        ({"modified": None}, Coverage(NOW), False),
        ({"status": "InProgress"}, Coverage(NOW), False),
        ({"status": "Stopping"}, Coverage(NOW), False),
        ({"status": "Deleting"}, Coverage(NOW), False),
        ({"status": "SomethingNew"}, Coverage(NOW), False),
        ({"status": "Failed"}, Coverage(NOW), True),
        ({"created": 100.0 + MARGIN}, Coverage(NOW, after=100.0), False),
        ({"created": 100.001 + MARGIN}, Coverage(NOW, after=100.0), True),
        ({"created": 50.0}, Coverage(NOW, after=100.0), False),
        ({"created": 100.0 - MARGIN}, Coverage(NOW, before=100.0), False),
        ({"created": 99.999 - MARGIN}, Coverage(NOW, before=100.0), True),
        ({"created": 150.0}, Coverage(NOW, before=100.0), False),
        ({"created": 0.0}, Coverage(NOW, after=0.0), False),
    ],
)
def test_only_what_surely_was_delivered_is_unchanged(changes, covered, expected):
    """Ended, last modified before the overlap, and inside the span by more than the margin."""
    job = replace(Job("arn:job", DAY, 2 * DAY, "Completed", {}), **changes)
    assert unchanged(job, covered, terminal=TERMINAL, overlap=OVERLAP) is expected
