"""Flattening, held to a slow reference that is read off the table's schema file."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import datetime
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.aws.mend import Mended
from collector.aws.retry import read_json
from collector.aws.wire import Answer
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
        ("6537-01-01T00:00:00.001000", "6537-01-01T00:00:00.001Z"),
        ("9999-12-31T23:59:59.999999", "9999-12-31T23:59:59.999Z"),
        ("0001-01-01T00:00:00.001+00:00", "0001-01-01T00:00:00.001Z"),
    ],
)
def test_timestamps_are_utc_with_milliseconds(value, expected):
    """Every form the wire may use gives RFC 3339 in UTC with three digits."""
    assert check({"CreationTime": value})["creation_time"] == expected


@pytest.mark.parametrize(
    "value",
    [
        *(253402300800, 1e300, "nan", "inf", "soon", True, "", [], {}, "9" * 10**7),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
    ],
)
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


# --- answers that were mended ------------------------------------------------------------------


def mended(text: str) -> dict[str, Any]:
    """The members of an answer with this body."""
    return read_json("DescribeTrainingJob", Answer(0.0, 200, {}, text.encode()))


def flattened(wire: dict[str, Any], flatten=FLATTEN) -> tuple[dict[str, Any], Counter[str]]:
    notes = Notes()
    return flatten(wire, ACCOUNT, [], notes), Counter(notes.coerced)


ODD = {
    "TrainingJobName": "half \ud800",
    "HyperParameters": {
        "a": "\udc00",
        "b\udfff": "c",
        "d\ud801": "\ud802",
        "e": "fine",
        "f\ud800": 5,
    },
    "VpcConfig": {"Subnets": ["s-1", "s\ud800", ["\ud800"]], "Vlan\ud800": "x", "Vlan": "\ud800"},
    "InputDataConfig": [{"ChannelName": "c\ud800", "Colour": "\ud800"}, "\ud800", {"Hue": 1}],
    "CreationTime": "\ud800",
    "EnableNetworkIsolation": "\ud800",
    "ModelArtifacts": "\ud800",
    "StoppingCondition": {"MaxRuntimeInSeconds": 1e999},
    "RoleArn": {"a": "\ud800"},
    "Zeta": ["\ud800", {"Eta": "\ud801"}],
}


def test_text_that_is_none_is_counted_where_it_was():
    """Each half of a surrogate pair is U+FFFD in the record, and noted once under its path."""
    wire = mended(json.dumps(ODD))
    record, coerced = flattened(wire)
    assert record["training_job_name"] == "half \ufffd"
    assert record["hyper_parameters"] == {
        "a": "\ufffd",
        "b\ufffd": "c",
        "d\ufffd": "\ufffd",
        "e": "fine",
    }
    assert record["vpc_config"] == {"subnets": ["s-1", "s\ufffd"]}
    assert record["input_data_config"] == [{"channel_name": "c\ufffd"}, {}]
    assert coerced == {
        "training_job_name": 1,
        "hyper_parameters{}": 4,  # one of them for its value, which is a number
        "vpc_config.subnets[]": 2,  # one of them for being a list
        "input_data_config[].channel_name": 1,
        "input_data_config[]": 1,
        "creation_time": 1,
        "enable_network_isolation": 1,
        "model_artifacts": 1,
        "stopping_condition.max_runtime_in_seconds": 1,
        "role_arn": 1,
    }
    check(dict(wire))


def test_text_that_is_none_is_counted_in_what_is_kept_besides():
    """With unknown members kept, what had to be mended among them is noted by AWS's names."""
    wire = mended(json.dumps(ODD))
    (_, coerced), (record, kept) = flattened(wire), flattened(wire, KEEPING)
    assert kept - coerced == {
        "_extra.Zeta": 2,
        "_extra.VpcConfig.Vlan": 1,
        "_extra.VpcConfig.Vlan\ufffd": 1,
        "_extra.InputDataConfig[].Colour": 1,
    }
    assert record["_extra"]["Zeta"] == ["\ufffd", {"Eta": "\ufffd"}]
    orjson.dumps(record)


halves = st.text(st.sampled_from("a\ufffd\ud800\udc00é"), max_size=4)


def broken(wire: Any, draw: Any) -> Any:
    """``wire`` with some of its keys and texts drawn anew, with halves of pairs."""
    if isinstance(wire, dict):
        return {
            f"#{number}#{draw(halves)}" if draw(st.integers(0, 5)) == 0 else key: broken(item, draw)
            for number, (key, item) in enumerate(wire.items())
        }
    if isinstance(wire, list):
        return [broken(item, draw) for item in wire]
    return draw(halves) if isinstance(wire, str) and draw(st.booleans()) else wire


def odd_texts(value: Any, columns: list[dict[str, Any]], path: str = "") -> Counter[str]:
    """Paths of the texts with halves of pairs in a record, or in a part of one."""
    found: Counter[str] = Counter()
    for column in columns:
        part, here = value.get(column["name"]), path + column["name"]
        parts = [part]
        if isinstance(part, list):
            parts, here = part, here + "[]"
        elif column["type"] == "MAP_STRING_STRING" and part:
            parts, here = [key + item for key, item in part.items()], here + "{}"
        for item in parts:
            if isinstance(item, dict) and "fields" in column:
                found += odd_texts(item, column["fields"], here + ".")
            elif isinstance(item, str) and any("\ud800" <= c <= "\udfff" for c in item):
                found[here] += 1
    return found


@MANY
@given(st.data())
def test_any_answer_with_odd_text_is_counted_exactly(data):
    """What is noted beyond wrong types is what the unmended record would have held."""
    field = data.draw(st.sampled_from([field for field in SCHEMA if field["provider"]]))
    wire = broken({field["provider"]: data.draw(value(field))}, data.draw)
    body = json.dumps(wire)
    raw, wrong = flattened(json.loads(body))
    record, coerced = flattened(mended(body))
    orjson.dumps(record)
    assert coerced == wrong + odd_texts(raw, SCHEMA)


def test_a_mended_answer_of_any_form_is_flattened():
    """Places that lead nowhere in the table, or very deep, are passed over."""
    deep = '{"a":' * 500 + '"\\ud800"' + "}" * 500
    for member in ("Zeta", "TrainingJobName", "VpcConfig", "InputDataConfig", "HyperParameters"):
        wire = mended(f'{{"{member}": {deep}}}')
        assert type(wire) is Mended
        _, coerced = flattened(wire)
        assert sum(coerced.values()) == (member not in {"Zeta", "VpcConfig"})
        flattened(wire, KEEPING)


# --- unknown members that cannot be written -----------------------------------------------------


@pytest.mark.parametrize("levels", [150, 300, 1_000])
def test_what_is_too_deep_to_be_written_is_kept_out_and_counted(levels):
    """Whatever an unknown member holds, the record with it is a line of JSON."""
    member: Any = "x"
    for _ in range(levels):
        member = [member]
    wire = {"Zeta": member, "VpcConfig": {"Vlan": member}, "InputDataConfig": [{"Hue": member}]}
    record, coerced = flattened(wire, KEEPING)
    orjson.dumps(record)
    paths = ["_extra.Zeta", "_extra.VpcConfig.Vlan", "_extra.InputDataConfig[].Hue"]
    if levels < 200:
        assert record["_extra"] == wire
        assert not coerced
    else:
        assert record["_extra"] == {}
        assert coerced == dict.fromkeys(paths, 1)
    assert not flattened(wire)[1]
