from __future__ import annotations

import copy
import gzip
import io
import itertools
import json
import re
import sys
import tracemalloc
from types import SimpleNamespace

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import ConfigurationError
from collector.model import Type
from collector.schema.columns import EXTRA, META
from collector.tables import load_table
from collector.validate import Problem, lines, open_lines, validate_lines

TABLE = load_table()
TIME = "2023-11-14T22:13:20.123Z"
BASE = {column.name: None for column in TABLE.columns} | {"account_id": "012345678901"}
ADDED = {"_extra": {"A": [None]}, "_region": "r", "_collected_at": TIME, "_run_id": "1"}


def line(record):
    return orjson.dumps(record) + b"\n"


def spelt(record):
    """The same as Python writes it: blanks, escapes, integers of any size."""
    return json.dumps(record).encode() + b"\n"


def problems(*content, **options):
    return list(validate_lines(TABLE, content, **options))


def found(text, **options):
    """Path to message for one line."""
    return {problem.path: problem.message for problem in problems(text, **options)}


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = {
    Type.STRING: text,
    Type.INT32: st.integers(-(2**31), 2**31 - 1),
    Type.INT64: st.integers(-(2**63), 2**63 - 1),
    Type.FLOAT: st.floats(allow_nan=False, allow_infinity=False),
    Type.BOOLEAN: st.booleans(),
    Type.TIMESTAMP: st.datetimes().map(lambda t: f"{t.isoformat(timespec='milliseconds')}Z"),
    Type.LIST_STRING: st.lists(text, max_size=2),
    Type.MAP_STRING_STRING: st.dictionaries(text, text, max_size=2),
}


def values(column):
    if not column.fields:
        return VALUES[column.type]
    members = {member.name: values(member) for member in column.fields}
    struct = st.fixed_dictionaries({}, optional=members)
    return struct if column.type is Type.STRUCT else st.lists(struct, max_size=2)


def top_level(column):
    if column.name == "account_id":
        return st.from_regex("[0-9]{12}", fullmatch=True)
    if column.name == "tags":
        tags = st.builds("{}:{}".format, text.filter(bool), text)
        return st.none() | st.lists(tags, max_size=3).map(sorted)
    return st.none() | values(column)


columns = {column.name: top_level(column) for column in TABLE.columns}
# Hypothesis varies the order of a dictionary's keys; that of columns is a rule.
records = st.fixed_dictionaries(columns).map(lambda drawn: {name: drawn[name] for name in columns})
writers = st.sampled_from([line, spelt])


@settings(max_examples=60, deadline=None)
@given(st.lists(records, max_size=2), writers)
def test_records_are_valid(sample, write):
    """Whatever the types allow is accepted, however the JSON is spelt."""
    assert problems(*map(write, sample)) == []


def places(value, column, path):
    """Where in a value a mutation can go: (container, key, path, column)."""
    if isinstance(value, dict) and column.type is Type.STRUCT:
        by_name = {member.name: member for member in column.fields}
        for name, inner in value.items():
            yield value, name, f"{path}.{name}", by_name[name]
            yield from places(inner, by_name[name], f"{path}.{name}")
    elif isinstance(value, dict):
        for name in value:
            yield value, name, f"{path}.{name}", None
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield value, index, f"{path}[{index}]", None
            if column.type is Type.LIST_STRUCT:
                for name, item in inner.items():
                    member = next(each for each in column.fields if each.name == name)
                    yield inner, name, f"{path}[{index}].{name}", member
                    yield from places(item, member, f"{path}[{index}].{name}")


def all_places(record):
    for column in TABLE.columns:
        yield record, column.name, column.name, column
        yield from places(record[column.name], column, column.name)


JSON_KINDS = {"text": "", "number": 1.5, "boolean": True, "list": [0], "object": {"?": 0}}
FITS = {Type.STRING: "text", Type.FLOAT: "number", Type.BOOLEAN: "boolean"}


@settings(max_examples=100, deadline=None)
@given(records, st.data())
def test_a_mutation_is_found_where_it_is(record, data):
    """A value of another JSON type, anywhere in a record, is found there or right below."""
    record = copy.deepcopy(record)
    spots = list(all_places(record))
    container, key, path, column = data.draw(st.sampled_from(spots))
    fitting = {FITS.get(column.type)} if column else {"text"}
    if path == "account_id" or path.startswith("tags["):
        fitting = set()
    kind = data.draw(st.sampled_from(sorted(JSON_KINDS.keys() - fitting)))
    container[key] = JSON_KINDS[kind]
    wrong = found(line(record))
    assert wrong
    assert all(each.startswith(path) for each in wrong)


@settings(max_examples=40, deadline=None)
@given(records, st.data())
def test_a_column_lost_moved_or_added_is_found(record, data):
    """Every column has to be there, once, in its place, and no other."""
    names = list(record)
    lost = data.draw(st.sampled_from(names))
    assert found(line({key: record[key] for key in names if key != lost})) == {lost: "is missing"}
    moved = [name for name in names if name != lost] + [lost]
    if lost != names[-1]:
        (message,) = found(line({key: record[key] for key in moved})).values()
        assert message.startswith("is out of order")
    assert found(line(record | {"colour": 1})) == {"colour": "is not a column of the table"}


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"account_id": None}, "account_id", "is not a string of 12 digits"),
        ({"account_id": 123456789012}, "account_id", "is not a string of 12 digits"),
        ({"account_id": "12345678901"}, "account_id", "is not a string of 12 digits"),
        ({"account_id": "\u0660" * 12}, "account_id", "is not a string of 12 digits"),
        ({"role_arn": 1}, "role_arn", "is a number, not a string"),
        ({"training_time_in_seconds": True}, "training_time_in_seconds", "a boolean, not an int"),
        ({"training_time_in_seconds": 1.0}, "training_time_in_seconds", "a number, not an integer"),
        ({"training_time_in_seconds": 2**31}, "training_time_in_seconds", "does not fit 32 bits"),
        ({"enable_network_isolation": 0}, "enable_network_isolation", "a number, not a boolean"),
        ({"creation_time": 1700000000}, "creation_time", "is a number, not a timestamp"),
        ({"creation_time": TIME[:-1]}, "creation_time", "is not a timestamp like"),
        ({"creation_time": "2023-11-14T22:13:20Z"}, "creation_time", "is not a timestamp like"),
        ({"creation_time": f"{TIME}\n"}, "creation_time", "is not a timestamp like"),
        ({"creation_time": "2023-02-29T00:00:00.000Z"}, "creation_time", "of the calendar"),
        ({"creation_time": "2023-01-01T24:00:00.001Z"}, "creation_time", "of the calendar"),
        ({"tags": "a:b"}, "tags", "is a string, not a list"),
        ({"tags": ["a"]}, "tags[0]", "is not a string key:value"),
        ({"tags": [":a"]}, "tags[0]", "is not a string key:value"),
        ({"tags": ["a:", None]}, "tags[1]", "is not a string key:value"),
        ({"tags": ["b:", "a:"]}, "tags", "is not sorted"),
        ({"environment": {"KEY": 1}}, "environment.KEY", "is a number, not a string"),
        ({"environment": {"KEY": None}}, "environment.KEY", "is null, not a string"),
        ({"environment": []}, "environment", "is a list, not an object"),
        ({"vpc_config": {"subnets": None}}, "vpc_config.subnets", "is null, not a list"),
        ({"vpc_config": {"subnets": ["", None]}}, "vpc_config.subnets[1]", "is null, not a string"),
        ({"vpc_config": {"Subnets": []}}, "vpc_config.Subnets", "is not a member of the table"),
        ({"vpc_config": [{}]}, "vpc_config", "is a list, not an object"),
        ({"input_data_config": {}}, "input_data_config", "is an object, not a list"),
        ({"input_data_config": [None]}, "input_data_config[0]", "is null, not an object"),
        (
            {"input_data_config": [{}, {"shuffle_config": {"seed": 2**63}}]},
            "input_data_config[1].shuffle_config.seed",
            "does not fit 64 bits",
        ),
        (
            {"input_data_config": [{"shuffle_config": {"seed": 2**64}}]},
            "input_data_config[0].shuffle_config.seed",
            "is a number, not an integer of 64 bits",
        ),
    ],
)
def test_rules_of_values(change, path, message):
    """Each rule, broken once, gives one problem at its path."""
    wrong = found(spelt(BASE | change))
    assert list(wrong) == [path]
    assert message in wrong[path]


@pytest.mark.parametrize("metric", [0.5, 1, -1e300, 2**64])
def test_any_finite_number_is_a_float(metric):
    """FLOAT takes integers too: JSON has one kind of number."""
    assert found(spelt(BASE | {"final_metric_data_list": [{"value": metric}]})) == {}


GOOD = line(BASE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "is blank"),
        (b" \t\r\n", "is blank"),
        (GOOD[:-1], "does not end with a newline"),
        (GOOD[:-3], "is not JSON: .*; does not end with a newline"),
        (GOOD[:-1] + b"\r\n", "has something beside the object"),
        (b" " + GOOD, "has something beside the object"),
        (GOOD[:-1] + GOOD, "is not JSON"),
        (b"[]\n", "is a list, not an object"),
        (b"null\n", "is null, not an object"),
        (b"\xef\xbb\xbf" + GOOD, "is not JSON"),
        (GOOD.replace(b"null", b"NaN", 1), "is not JSON"),
        (GOOD.replace(b"null", b"1e999", 1), "is not JSON"),
        (GOOD.replace(b"null", b'"\xff"', 1), "is not UTF-8 at byte"),
        (GOOD.replace(b"null", b'"\\ud800"', 1), "is not JSON"),
        (GOOD.replace(b"null", b"[" * 5000, 1), "is not JSON"),
    ],
)
def test_rules_of_lines(content, message):
    """A line that is not one whole JSON object in UTF-8, ended, is one problem of that line."""
    (problem,) = problems(GOOD, content, GOOD)
    assert (problem.line, problem.path) == (2, "")
    assert re.match(message, problem.message)


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ('"role_arn":null', '"role_arn":null,"role_arn":null', "role_arn"),
        ('"role_arn":null', '"role_arn":"a","role\\u005farn":null', "role_arn"),
        ('"environment":null', '"environment":{"A":"1","A":"1"}', "environment.A"),
        ('"tags":null', '"tags":5,"tags":null', "tags"),
        (
            '"input_data_config":null',
            '"input_data_config":[{},{"data_source":{},"data_source":{}}]',
            "input_data_config[1].data_source",
        ),
    ],
)
def test_repeated_keys_are_found(old, new, path, spaced):
    """A key written twice is found at any depth, even if both values are the same."""
    written = GOOD.decode().replace(old, new)
    assert written != GOOD.decode()
    written = written.replace(":", ": ") if spaced else written
    assert found(written.encode()) == {path: "is there more than once"}


def test_a_record_of_one_key_repeated_is_seen_beside_other_faults():
    """What else is wrong at other paths is reported too, one problem a path."""
    written = line(BASE | {"tags": 5, "role_arn": 1}).replace(b'"tags":5', b'"tags":5,"tags":5')
    assert found(written) == {
        "tags": "is there more than once",
        "role_arn": "is a number, not a string",
    }


def test_depth_is_bounded():
    """An object nested deeper than any reader follows is a problem, not a crash."""
    deep = b'{"A":' * 990 + b"1" + b"}" * 990
    wrong = found(line(BASE)[:-2] + b',"_extra":' + deep + b"}\n")
    assert wrong in ({}, {"": "is nested too deep"})


def test_digits_without_end_are_no_crash():
    """A number too long for Python's integers is a problem of its path."""
    digits = b"0." + b"1" * 5000
    assert found(GOOD.replace(b'"role_arn":null', b'"role_arn":' + digits)) == {
        "role_arn": "is a number, not a string"
    }


def test_no_problem_stops_the_check():
    """Every line is looked at, and every path of a line."""
    bad = line(BASE | {"role_arn": 1, "tags": {}})
    assert [(each.line, each.path) for each in problems(bad, GOOD, b"\n", bad)] == [
        (1, "role_arn"),
        (1, "tags"),
        (3, ""),
        (4, "role_arn"),
        (4, "tags"),
    ]


def test_values_are_never_told():
    """A value, which may be a secret, does not get into a message."""
    secret = "hunter2"
    for change in ({"creation_time": secret}, {"tags": [secret]}, {"vpc_config": secret}):
        wrong = problems(line(BASE | change), line(BASE | change)[:-3])
        assert wrong
        assert secret not in str(wrong)


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("meta", [False, True])
def test_added_columns(extra, meta):
    """The added columns are accepted in their order, and demanded when asked for."""
    names = [*([EXTRA.name] if extra else []), *(column.name for column in META if meta)]
    full = BASE | {name: ADDED[name] for name in names}
    assert found(line(full)) == {}
    assert found(line(full), extra=extra, meta=meta) == {}
    missing = dict.fromkeys(names, "is missing")
    assert found(line(BASE), extra=extra, meta=meta) == missing


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"_extra": None}, "_extra"),
        ({"_extra": []}, "_extra"),
        ({"_region": None}, "_region"),
        ({"_collected_at": "now"}, "_collected_at"),
        ({"_run_id": 1}, "_run_id"),
        ({"_other": 1}, "_other"),
    ],
)
def test_added_columns_are_typed(change, path):
    """The added columns are never null, have their types, and there are no others."""
    assert list(found(line(BASE | ADDED | change))) == [path]


def test_meta_comes_whole_and_last():
    """One of the columns that --meta adds calls for all, and they follow _extra."""
    assert found(line(BASE | {"_region": "r"})) == {
        "_collected_at": "is missing",
        "_run_id": "is missing",
    }
    turned = BASE | dict(reversed(ADDED.items()))
    assert list(found(line(turned))) == ["_run_id"]


CONTENT = b"".join([GOOD, b"\n", GOOD * 3000])


def packed(kind, content=CONTENT):
    if kind == ".gz":
        return gzip.compress(content)
    if kind == ".zst":
        return zstandard.ZstdCompressor(write_checksum=True).compress(content)
    return content


@pytest.fixture(params=["", ".gz", ".zst"])
def kind(request):
    return request.param


def test_files_are_read_by_their_names(tmp_path, kind):
    """Plain, gzip and zstd files give the same lines, also when made of several parts."""
    path = tmp_path / f"records.ndjson{kind}"
    path.write_bytes(packed(kind) + packed(kind, GOOD))
    assert list(open_lines(str(path))) == (CONTENT + GOOD).splitlines(keepends=True)
    assert list(validate_lines(TABLE, open_lines(str(path)))) == [Problem(2, "", "is blank")]


def test_stdin_is_read(monkeypatch):
    """A dash stands for the standard input, which stays open."""
    stdin = SimpleNamespace(buffer=io.BytesIO(CONTENT))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert b"".join(open_lines("-")) == CONTENT
    assert not stdin.buffer.closed


def test_a_file_that_is_not_there(tmp_path):
    """A missing file or a folder is one sentence at once, before anything is read."""
    with pytest.raises(ConfigurationError, match="none cannot be read: No such file"):
        open_lines(str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        open_lines(str(tmp_path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flip", "tail", "plain", "empty"])
def test_a_damaged_file_is_a_problem_where_it_breaks(tmp_path, suffix, damage):
    """A compressed file that is cut short, altered or none at all is never taken for whole."""
    whole = bytearray(packed(suffix))
    content = {
        "cut": whole[:-9],
        "flip": whole[: len(whole) // 2] + b"\xff\x00\xff" + whole[len(whole) // 2 + 3 :],
        "tail": whole + b"rubbish",
        "plain": GOOD,
        "empty": b"",
    }[damage]
    path = tmp_path / f"records.ndjson{suffix}"
    path.write_bytes(content)
    *_, last = validate_lines(TABLE, open_lines(str(path)))
    assert last.path == ""
    assert re.search(r"records.ndjson\S+ is damaged or ends too early: .+\.$", last.message)
    if damage in {"plain", "empty"}:
        assert last.line == 1
    if damage == "tail":
        assert last.line == CONTENT.count(b"\n") + 1


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch, kind):
    """Neither many lines nor one endless line are held in memory, compressed or not."""
    monkeypatch.setattr(lines, "MAX_LINE", 100_000)
    path = tmp_path / f"records.ndjson{kind}"
    path.write_bytes(packed(kind, GOOD * 5000 + b" " * 20_000_000 + b"\n" + GOOD))
    tracemalloc.start()
    lengths = [len(each) for each in itertools.islice(open_lines(str(path)), 5003)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lengths[-3:] == [len(GOOD), 100_001, len(GOOD)]
    assert peak < 12_000_000


def test_an_endless_line_is_a_problem():
    """A line longer than the bound is reported by its length, not parsed."""
    assert found(b" " * (lines.MAX_LINE + 1)) == {"": "is longer than 64 MiB"}
