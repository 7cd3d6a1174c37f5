"""Flattening, held to a slow reference that is read off the table's schema file."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.flatten import Notes, epoch_seconds
from collector.testing import Estate
from tests.flatten_reference import ACCOUNT, FLATTEN, KEEPING, SCHEMA, check

MANY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


# --- answers drawn from the schema -------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = text | st.sampled_from(["{0}%s", "sagemaker_program", "a.b", "camelCase", "", "__proto__"])
seconds = (
    st.integers(-(10**9), 7 * 10**9)
    | st.integers(0, 7 * 10**12).map(lambda ms: ms / 1000)
    | st.floats(0, 7e9, width=64).map(lambda value: float(f"{value:.6e}"))
)
OLDEST, LATEST = datetime.fromisoformat("1800-01-01"), datetime.fromisoformat("2200-01-01")
instants = st.datetimes(OLDEST, LATEST, timezones=st.timezones()).map(
    datetime.isoformat
) | st.datetimes(OLDEST).map(datetime.isoformat)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.sampled_from(["NaN", "Infinity", "-Infinity", "1e400", "nan", "1.5E9", "0001-01-01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
SCALARS = {
    "STRING": text,
    "BOOLEAN": st.booleans(),
    "INT32": st.integers(-(2**33), 2**33) | st.sampled_from([1.0, 1.5, 2**31 - 1, -(2**31)]),
    "INT64": st.integers(-(2**63), 2**64 - 1) | st.sampled_from([1e3, 2.0**53, 2**63 - 1]),
    "FLOAT": st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from(["NaN", "Infinity", "-Infinity", "1.5"]),
    "TIMESTAMP": seconds | seconds.map(str) | instants,
    "MAP_STRING_STRING": st.dictionaries(keys, text | anything, max_size=3),
    "UNORDERED_LIST_STRING": st.lists(text | anything, max_size=3),
}


def wires(fields: list[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Structures with some of these members, right and wrong, and some that nobody knows."""
    members = {f["provider"]: value(f) | anything for f in fields if f["provider"]}
    known = st.fixed_dictionaries({}, optional=members)
    return st.builds(
        lambda wire, more: {**{k: v for k, v in more.items() if k not in members}, **wire},
        known,
        st.dictionaries(keys | st.just("Brand New"), anything, max_size=2),
    )


def value(field: dict[str, Any]) -> st.SearchStrategy[Any]:
    if field["type"] == "STRUCT":
        return wires(field["fields"])
    if field["type"] == "UNORDERED_LIST_STRUCT":
        return st.lists(wires(field["fields"]) | anything, max_size=2)
    return SCALARS[field["type"]]


@MANY
@given(wires(SCHEMA))
def test_answers_are_flattened_as_the_schema_file_says(wire):
    """Record, notes and extra members agree with the reference, whatever an answer holds."""
    check(orjson.loads(orjson.dumps(wire)))


@MANY
@given(st.data())
def test_each_column_is_flattened_as_the_schema_file_says(data):
    """The same, one column at a time, so that deep members are drawn often."""
    field = data.draw(st.sampled_from([field for field in SCHEMA if field["provider"]]))
    check(orjson.loads(orjson.dumps({field["provider"]: data.draw(value(field))})))


@MANY
@given(st.dictionaries(keys, anything, max_size=5))
def test_any_json_object_is_flattened(wire):
    """No JSON object makes flattening raise, and the record is valid."""
    check(orjson.loads(orjson.dumps(wire)))


@pytest.mark.parametrize("unknown", [False, True])
def test_an_estate_is_flattened_as_the_schema_file_says(unknown):
    """Whole answers of a fake AWS agree with the reference, and use every column."""
    estate = Estate.generate(accounts=1, regions=["us-east-1"], jobs=120, unknown_members=unknown)
    used = set()
    for name in estate.jobs("111111111111", "us-east-1"):
        tags = sorted(f"{k}:{v}" for k, v in estate.tags("111111111111", "us-east-1", name).items())
        wire = estate.describe("111111111111", "us-east-1", name)
        record = check(orjson.loads(orjson.dumps(wire)), tags)
        used |= {column for column, value in record.items() if value is not None}
    assert used == {field["name"] for field in SCHEMA}


# --- single rules ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.700000000123e9, "2023-11-14T22:13:20.123Z"),
        (1700000000, "2023-11-14T22:13:20.000Z"),
        ("1.700000000123E9", "2023-11-14T22:13:20.123Z"),
        ("2023-11-14T23:13:20.123456+01:00", "2023-11-14T22:13:20.123Z"),
        ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20.000Z"),
        ("2023-11-14T22:13:20", "2023-11-14T22:13:20.000Z"),
        (-0.001, "1969-12-31T23:59:59.999Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (951782400, "2000-02-29T00:00:00.000Z"),
        (253402300799, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_timestamps_are_utc_with_milliseconds(value, expected):
    """Every form the wire may use gives RFC 3339 in UTC with three digits."""
    assert check({"CreationTime": value})["creation_time"] == expected


@pytest.mark.parametrize("value", [253402300800, 1e300, "nan", "inf", "soon", True, "", [], {}])
def test_what_is_no_timestamp_is_kept_out(value):
    """A year past 9999 and what is no time at all is null and noted."""
    assert check({"CreationTime": value})["creation_time"] is None


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Apia"])
def test_timestamps_do_not_depend_on_the_machine(zone, monkeypatch):
    """The machine's time zone changes no timestamp."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for value in (1.700000000123e9, "2023-11-14T22:13:20.123", "2023-11-15T00:13:20.123+02:00"):
            assert check({"CreationTime": value})["creation_time"] == "2023-11-14T22:13:20.123Z"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_epoch_seconds_reads_what_timestamps_are_written_as():
    """The number behind a wire time, or None where there is none."""
    assert epoch_seconds("2023-11-14T23:13:20+01:00") == epoch_seconds(1.7e9) == 1.7e9
    assert [epoch_seconds(v) for v in (None, True, "soon", "nan", float("inf"), {})] == [None] * 6


def test_absent_empty_and_null_are_told_apart():
    """A list or map that came empty stays empty; absent and null ones are null, or not there."""
    record = check(
        {
            "HyperParameters": {},
            "InputDataConfig": [],
            "Environment": None,
            "VpcConfig": {"Subnets": [], "SecurityGroupIds": None},
        }
    )
    assert record["hyper_parameters"] == {}
    assert record["input_data_config"] == []
    assert record["environment"] is None
    assert record["vpc_config"] == {"subnets": []}


def test_map_keys_are_data():
    """Keys of a map are left exactly as they came, even those that look like members."""
    names = ["CamelCase", "{0}%s", "a.b", "", "ключ", "\u2028", "TrainingJobName"]
    hyper = {name: name for name in names}
    assert list(check({"HyperParameters": hyper})["hyper_parameters"].items()) == list(
        hyper.items()
    )


def test_wide_integers_are_exact():
    """Integers are exact up to the last value of their type; one more is kept out."""
    assert check({"TrainingTimeInSeconds": 2**31 - 1})["training_time_in_seconds"] == 2**31 - 1
    assert check({"TrainingTimeInSeconds": 2**31})["training_time_in_seconds"] is None
    name = "profiling_interval_in_milliseconds"
    for value, expected in ((2**63 - 1, {name: 2**63 - 1}), (2**63, {}), (1e3, {name: 1000})):
        record = check({"ProfilerConfig": {"ProfilingIntervalInMilliseconds": value}})
        assert record["profiler_config"] == expected


def test_notes_name_paths_not_values():
    """Drift and coerced are paths as documented: AWS's names, ours, lists marked, keys hidden."""
    notes = Notes()
    FLATTEN(
        {
            "Zeta": 1,
            "VpcConfig": {"Subnets": ["a", 7], "Vlan": "x"},
            "InputDataConfig": [{"ChannelName": 5, "Colour": "red"}],
            "HyperParameters": {"password": 5},
        },
        ACCOUNT,
        None,
        notes,
    )
    assert sorted(notes.drift) == ["InputDataConfig[].Colour", "VpcConfig.Vlan", "Zeta"]
    assert sorted(notes.coerced) == [
        "hyper_parameters{}",
        "input_data_config[].channel_name",
        "vpc_config.subnets[]",
    ]


def test_extra_mirrors_the_answer():
    """Unknown members stand in `_extra` where they stood in the answer, at their index in lists."""
    wire = {
        "VpcConfig": {"Subnets": [], "Vlan": {"Id": 1}},
        "InputDataConfig": [{"ChannelName": "a"}, {"Colour": "red"}],
        "Zeta": [None],
        "Nothing": None,
    }
    record = KEEPING(wire, ACCOUNT, None, Notes())
    assert record["_extra"] == {
        "VpcConfig": {"Vlan": {"Id": 1}},
        "InputDataConfig": [{}, {"Colour": "red"}],
        "Zeta": [None],
    }
    assert KEEPING({}, ACCOUNT, None, Notes())["_extra"] == {}
