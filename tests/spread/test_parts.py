"""Which targets go together, which are wanted at all, and how far a stream has come."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import Settings
from collector.incremental import MARGIN
from collector.model import Span
from collector.parse import parse_time
from collector.spread.filters import Filters
from collector.spread.offsets import BEGINNING, advance, spans
from collector.spread.parts import Run, make_parts
from collector.tables import load_table

KEYS = st.sets(
    st.tuples(
        st.sampled_from([f"{n:012d}" for n in range(5)]), st.sampled_from(["r-1", "r-2", "r-3"])
    )
)
RUN = Run("20260101T000000Z-00000000", 1e9)
BIG, SMALL, EMPTY = ("1" * 12, "us-east-1"), ("2" * 12, "us-east-1"), ("3" * 12, "us-east-1")


@given(KEYS, st.integers(1, 20), st.data())
def test_each_target_is_in_one_part(keys, count, data):
    """No target is left out or read twice, no part is empty, and there are no more than asked."""
    sizes = {key: data.draw(st.integers(0, 1000)) for key in keys}
    parts = make_parts(dict.fromkeys(keys), sizes, count, RUN)
    assert Counter(key for part in parts for key in part.spans) == Counter(keys)
    assert len(parts) == min(count, len(keys))
    assert all(part.targets for part in parts)
    assert [part.number for part in parts] == list(range(len(parts)))


def test_the_biggest_comes_first_and_alone():
    """A target bigger than all others together has the first part to itself."""
    others = {(f"{n:012d}", "eu-west-1"): 10 for n in range(20)}
    sizes = {BIG: 1000, **others}
    parts = make_parts(dict.fromkeys(sizes), sizes, 3, RUN)
    assert list(parts[0].spans) == [BIG]
    assert {len(part.spans) for part in parts[1:]} == {10}


def test_what_travels_is_no_secret():
    """A part is accounts, regions and times."""
    (part,) = make_parts({BIG: Span(1, 2)}, {}, 4, RUN)
    assert pickle.loads(pickle.dumps(part)) == part
    assert part.targets == ((*BIG, Span(1, 2)),)


@given(st.lists(st.tuples(KEYS, st.integers(1, 50)), max_size=6))
def test_spans_of_a_target_follow_each_other(steps):
    """Whatever comes and goes: from its first span on, a target's time is read once, to the end.

    Offsets are what a checkpoint holds, so they pass through JSON here.
    """
    offset, read = BEGINNING, {}
    for found, seconds in steps:
        end = json.loads(json.dumps(advance(offset, found, offset["until"] + seconds)))
        for key, span in spans(offset, end).items():
            assert span.since == read.get(key, 0)
            assert span.until == end["until"]
            read[key] = span.until
        assert {key for key, until in read.items() if until == end["until"]} == found
        offset = end


def test_an_offset_never_goes_back():
    """A clock set back, or a longer overlap, makes no new offset and reads nothing twice."""
    offset = advance(BEGINNING, [BIG], 100)
    assert advance(offset, [BIG, SMALL], 90) is offset
    assert spans(offset, offset) == {}
    assert spans(offset, BEGINNING) == {}


@dataclass
class EqualTo:
    attribute: tuple[str, ...]
    value: Any


class EqualNullSafe(EqualTo): ...


class In(EqualTo): ...


class GreaterThan(EqualTo): ...


class LessThanOrEqual(EqualTo): ...


class StringStartsWith(EqualTo): ...


class Not:
    child = EqualTo(("account_id",), BIG[0])


def filters(*conditions):
    made = Filters(load_table())
    for condition in conditions:
        made.add(condition)
    return pickle.loads(pickle.dumps(made))


ARN = "arn:aws:sagemaker:us-east-1:"


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        ([], [BIG, SMALL, EMPTY]),
        ([EqualTo(("account_id",), BIG[0])], [BIG]),
        ([In(("account_id",), [BIG[0], SMALL[0]])], [BIG, SMALL]),
        ([In(("account_id",), [BIG[0], SMALL[0]]), EqualTo(("account_id",), SMALL[0])], [SMALL]),
        ([EqualTo(("account_id",), BIG[0]), EqualTo(("account_id",), SMALL[0])], []),
        ([EqualNullSafe(("_region",), "us-east-1")], [BIG, SMALL, EMPTY]),
        ([EqualTo(("_region",), "eu-west-1")], []),
        ([StringStartsWith(("training_job_arn",), ARN)], [BIG, SMALL, EMPTY]),
        ([StringStartsWith(("training_job_arn",), "arn:aws:sagemaker:us-")], [BIG, SMALL, EMPTY]),
        ([StringStartsWith(("training_job_arn",), "arn:aws:sagemaker:eu-")], []),
        ([StringStartsWith(("training_job_arn",), f"{ARN}{BIG[0]}:training-job/x")], [BIG]),
        ([EqualTo(("training_job_arn",), f"{ARN}{BIG[0]}:training-job/x")], [BIG]),
        ([Not()], [BIG, SMALL, EMPTY]),
        ([EqualTo(("vpc_config", "account_id"), BIG[0])], [BIG, SMALL, EMPTY]),
        ([EqualTo(("account_id",), None)], [BIG, SMALL, EMPTY]),
    ],
)
def test_targets_that_cannot_hold_a_row_are_not_read(conditions, wanted):
    """Accounts and regions are left out only where a condition excludes each of their jobs."""
    made = filters(*conditions)
    assert [key for key in (BIG, SMALL, EMPTY) if made.wants(key, "aws")] == wanted


def test_an_account_out_of_reach_is_wanted_by_its_number_alone():
    """Its regions are unknown, so only a condition on accounts leaves it out."""
    assert filters(EqualTo(("_region",), "us-east-1")).wants((BIG[0], "*"), "aws")
    assert not filters(EqualTo(("account_id",), SMALL[0])).wants((BIG[0], "*"), "aws")


def test_conditions_on_time_and_status_narrow_the_list():
    """They are wider than the query by a margin, and never wider than the options."""
    low, high = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    made = filters(
        GreaterThan(("creation_time",), low),
        LessThanOrEqual(("creation_time",), high),
        EqualTo(("training_job_status",), "Failed"),
    )
    settings = made.narrowed(Settings(), 0.0)
    assert parse_time(settings.created_after, 0.0) == low.timestamp() - MARGIN
    assert parse_time(settings.created_before, 0.0) == high.timestamp() + MARGIN
    assert settings.status == "Failed"
    given = Settings(created_after="2026-03-01T12:00:00Z", status="Stopped")
    narrowed = made.narrowed(given, 0.0)
    assert parse_time(narrowed.created_after, 0.0) == low.timestamp() + 12 * 3600
    assert narrowed.status == "Stopped"
    assert made.narrowed(Settings(created_after="2026-03-05"), 0.0) is None


def test_a_status_that_does_not_exist_is_not_sent():
    """AWS would refuse the call; the engine finds no such row by itself."""
    assert filters(EqualTo(("training_job_status",), "failed")).status is None
    assert filters(In(("training_job_status",), ["Failed", "Stopped"])).status is None
