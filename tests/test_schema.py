from __future__ import annotations

import inspect
import json
import re
import sys
from datetime import datetime

import duckdb
import orjson
import pyarrow as pa
import pytest

from collector.errors import ConfigurationError
from collector.model import Type
from collector.schema import FORMATS, all_columns, arrow_schema, render
from collector.tables import load_table
from collector.validate import validate_lines

TABLE = load_table()
NAMES = [column.name for column in TABLE.columns]
ADDED = ["_extra", "_region", "_collected_at", "_run_id"]
TIME = "2023-11-14T22:13:20.123Z"
MILLIS = 1700000000123

VALUES = {
    Type.STRING: "müsli 🥣",
    Type.INT32: -(2**31),
    Type.INT64: 2**63 - 1,
    Type.FLOAT: 0.1,
    Type.BOOLEAN: True,
    Type.TIMESTAMP: TIME,
    Type.LIST_STRING: ["b", "a"],
    Type.MAP_STRING_STRING: {"KEY": "1", "key": "2", "a.b": ""},
}


def value(column):
    """A value of the column's type with every member present."""
    if column.name == "account_id":
        return "012345678901"
    if column.name == "tags":
        return ["key:", "team:ml"]
    if not column.fields:
        return VALUES.get(column.type, {"A.B": [1, {"c": None}]})
    inner = {member.name: value(member) for member in column.fields}
    return inner if column.type is Type.STRUCT else [inner, {}]


def hollow(column):
    """What the column holds when AWS returned as little as it can."""
    empty = {Type.STRUCT: {}, Type.MAP_STRING_STRING: {}, Type.LIST_STRUCT: []}
    return value(column) if column.name in {"account_id", *ADDED} else empty.get(column.type)


def records(*, extra=False, meta=False):
    """A full record and two hollow ones."""
    columns = all_columns(TABLE, extra=extra, meta=meta)
    full = {column.name: value(column) for column in columns}
    nothing = {column.name: hollow(column) for column in columns}
    nulls = {name: item or None for name, item in nothing.items()}
    return [full, nothing, nulls]


@pytest.fixture
def ndjson(tmp_path):
    path = tmp_path / "records.ndjson"
    path.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in records()))
    return path


def test_the_samples_are_records():
    """What these tests load elsewhere keeps the rules of the record format."""
    lines = [orjson.dumps(each) + b"\n" for each in records(extra=True, meta=True)]
    assert list(validate_lines(TABLE, lines, extra=True, meta=True)) == []


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_has_every_column(fmt):
    """Each format names all the columns in their order, and the added ones when asked for."""
    plain = render(TABLE, fmt)
    assert plain.endswith("\n")
    assert not any(name in plain for name in ADDED)
    places = [re.search(rf"\b{name}\b", plain) for name in ("account_id", "tags", "vpc_config")]
    assert [place.start() for place in places] == sorted(place.start() for place in places)
    added = render(TABLE, fmt, extra=True, meta=True)
    # The SerDe behind Athena cannot read an object of any shape.
    named = NAMES + (ADDED[1:] if "athena" in fmt else ADDED)
    assert all(name in added for name in named)


def test_an_unknown_format_is_refused_with_the_nearest():
    """A misspelt format is answered with the one that was meant."""
    with pytest.raises(ConfigurationError, match="did you mean duckdb"):
        render(TABLE, "duckbd")
    with pytest.raises(ConfigurationError, match="known are json-schema, arrow"):
        render(TABLE, "xsd")


@pytest.fixture(scope="module")
def validator():
    import jsonschema

    document = json.loads(render(TABLE, "json-schema"))
    cls = jsonschema.Draft202012Validator
    cls.check_schema(document)
    return cls(document)


def test_json_schema_accepts_records(validator):
    """A full record and hollow ones are instances of the JSON schema."""
    for record in records():
        validator.validate(record)


def test_json_schema_describes_added_columns():
    """The JSON schema with the added columns accepts records that have them."""
    import jsonschema

    document = json.loads(render(TABLE, "json-schema", extra=True, meta=True))
    for record in records(extra=True, meta=True):
        jsonschema.Draft202012Validator(document).validate(record)
    assert document["required"] == NAMES + ADDED


@pytest.mark.parametrize(
    "change",
    [
        {"account_id": None},
        {"account_id": "1"},
        {"creation_time": "2023-11-14T22:13:20Z"},
        {"creation_time": f"{TIME}\n"},
        {"training_time_in_seconds": 2**31},
        {"training_time_in_seconds": True},
        {"enable_network_isolation": 1},
        {"tags": ["no-colon"]},
        {"tags": [None]},
        {"environment": {"A": 1}},
        {"vpc_config": {"subnets": None}},
        {"vpc_config": {"Subnets": []}},
        {"input_data_config": [{"shuffle_config": {"seed": 2**63}}]},
        {"colour": "red"},
    ],
)
def test_json_schema_refuses_what_is_no_record(validator, change):
    """One wrong value makes a record invalid against the JSON schema."""
    assert not validator.is_valid(records()[0] | change)


def test_json_schema_demands_every_column(validator):
    """A record without one of the columns is invalid against the JSON schema."""
    for name in NAMES:
        assert not validator.is_valid({key: v for key, v in records()[0].items() if key != name})


@pytest.mark.parametrize("added", [False, True])
def test_arrow_text_is_pyarrows(added):
    """The Arrow text is what pyarrow itself prints for the schema it builds."""
    schema = arrow_schema(TABLE, extra=added, meta=added)
    # Newer releases cut long types short unless told not to.
    known = inspect.signature(schema.to_string).parameters
    whole = {"element_size_limit": sys.maxsize >> 33} if "element_size_limit" in known else {}
    assert render(TABLE, "arrow", extra=added, meta=added) == schema.to_string(**whole) + "\n"


def as_instants(item):
    """``item`` with datetimes for timestamps, since pyarrow parses none from objects."""
    if isinstance(item, dict):
        return {key: as_instants(member) for key, member in item.items()}
    if isinstance(item, list):
        return [as_instants(member) for member in item]
    return datetime.fromisoformat(item) if item == TIME else item


def test_arrow_schema_holds_records():
    """Under the schema, pyarrow keeps exact integers, UTC milliseconds, maps and empty lists."""
    table = pa.Table.from_pylist(as_instants(records()), schema=arrow_schema(TABLE))
    full, hollow_one, nulls = table.to_pylist()
    assert full["input_data_config"][0]["shuffle_config"]["seed"] == 2**63 - 1
    assert table["creation_time"].cast(pa.int64()).to_pylist() == [MILLIS, None, None]
    assert dict(full["environment"]) == VALUES[Type.MAP_STRING_STRING]
    assert (hollow_one["input_data_config"], hollow_one["environment"]) == ([], [])
    assert (nulls["input_data_config"], nulls["environment"]) == (None, None)


def test_arrow_without_pyarrow_says_what_to_install(monkeypatch):
    """Where pyarrow is missing, one sentence says so."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match="pip install pyarrow"):
        arrow_schema(TABLE)


def spark_types(fields):
    for field in fields:
        assert field["nullable"] is True
        kind = field["type"]
        if isinstance(kind, dict) and kind["type"] == "array":
            kind = kind["elementType"]
        if isinstance(kind, dict) and kind["type"] == "struct":
            yield from spark_types(kind["fields"])
        else:
            yield kind if isinstance(kind, str) else kind["type"]


def test_spark_types():
    """The Spark schema is a nullable struct of Spark's own type names."""
    document = json.loads(render(TABLE, "spark", extra=True, meta=True))
    assert document["type"] == "struct"
    assert [field["name"] for field in document["fields"]] == NAMES + ADDED
    assert set(spark_types(document["fields"])) == {
        "boolean",
        "double",
        "integer",
        "long",
        "map",
        "string",
        "timestamp",
    }


@pytest.mark.slow
def test_spark_reads_its_schema():
    """Spark takes the JSON for a StructType and gives it back unchanged."""
    from pyspark.sql import types

    document = json.loads(render(TABLE, "spark", extra=True, meta=True))
    assert types.StructType.fromJson(document).jsonValue() == document


def test_athena_declares_columns_and_the_timestamp_format():
    """The DDL quotes columns, types them for Hive, and tells the SerDe of the Z in times."""
    ddl = render(TABLE, "athena", extra=True, meta=True)
    quoted = re.findall(r"^  `(\w+)` (.+?),?$", ddl, re.MULTILINE)
    assert [name for name, _ in quoted] == NAMES + ADDED[1:]
    types = dict(quoted)
    assert types["creation_time"] == types["_collected_at"] == "timestamp"
    assert types["tags"] == "array<string>"
    assert types["environment"] == "map<string,string>"
    assert (
        types["vpc_config"] == "struct<`security_group_ids`:array<string>,`subnets`:array<string>>"
    )
    assert "`seed`:bigint" in types["input_data_config"]
    assert "org.apache.hive.hcatalog.data.JsonSerDe" in ddl
    assert """("timestamp.formats" = "yyyy-MM-dd'T'HH:mm:ss.SSS'Z'")""" in ddl
    assert "LOCATION 's3://BUCKET/PREFIX/table=aws_sagemaker_trainingjob/'\n" in ddl
    assert ddl.count("<") == ddl.count(">")


def test_bigquery_fields():
    """Lists are repeated, structs are records, maps are JSON, everything else may be null."""
    fields = {field["name"]: field for field in json.loads(render(TABLE, "bigquery", extra=True))}
    assert list(fields) == [*NAMES, "_extra"]

    def kind(field):
        return field["type"], field["mode"]

    assert kind(fields["tags"]) == ("STRING", "REPEATED")
    assert kind(fields["input_data_config"]) == ("RECORD", "REPEATED")
    assert kind(fields["vpc_config"]) == ("RECORD", "NULLABLE")
    assert kind(fields["environment"]) == kind(fields["_extra"]) == ("JSON", "NULLABLE")
    assert kind(fields["creation_time"]) == ("TIMESTAMP", "NULLABLE")
    assert kind(fields["training_time_in_seconds"]) == ("INTEGER", "NULLABLE")
    assert [kind(member) for member in fields["vpc_config"]["fields"]] == [
        ("STRING", "REPEATED"),
        ("STRING", "REPEATED"),
    ]


def padded(column, item):
    """``item`` as DuckDB gives it back: members that were absent are null."""
    if item is None or not column.fields:
        return item
    if column.type is Type.LIST_STRUCT:
        return [pad_members(column, element) for element in item]
    return pad_members(column, item)


def pad_members(column, item):
    return {member.name: padded(member, item.get(member.name)) for member in column.fields}


def rows(connection, columns):
    """Every row as JSON values; through JSON since times need another module to become Python's."""
    names = ", ".join(f'"{column.name}"' for column in columns)
    text = f'SELECT to_json(struct_pack({names})) FROM "{TABLE.name}"'
    return [json.loads(row) for (row,) in connection.execute(text).fetchall()]


def in_milliseconds(item):
    """DuckDB's text of a UTC time, 2023-11-14 22:13:20.123+00, as the record's."""
    if isinstance(item, dict):
        return {key: in_milliseconds(member) for key, member in item.items()}
    if isinstance(item, list):
        return [in_milliseconds(member) for member in item]
    if isinstance(item, str):
        return re.sub(r"^(\d{4}-\d\d-\d\d) ([\d:]{8}\.\d{3})\+00$", r"\1T\2Z", item)
    return item


@pytest.mark.parametrize("added", [False, True])
def test_duckdb_round_trip(tmp_path, added):
    """DuckDB runs the DDL and its commented example, and gives back every value it was given."""
    columns = all_columns(TABLE, extra=added, meta=added)
    written = records(extra=added, meta=added)
    path = tmp_path / "records.ndjson"
    path.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in written))
    create, _, example = render(TABLE, "duckdb", extra=added, meta=added).partition("-- ")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(create)
        connection.execute(example.replace("records.ndjson", str(path)))
        read = in_milliseconds(rows(connection, columns))
    assert read == [
        {column.name: padded(column, each[column.name]) for column in columns} for each in written
    ]


def test_duckdb_types(ndjson):
    """Times are instants whatever the session's zone, big integers exact, maps maps."""
    create, _, example = render(TABLE, "duckdb").partition("-- ")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'Asia/Tokyo'")
        connection.execute(create)
        connection.execute(example.replace("records.ndjson", str(ndjson)))
        found = connection.execute(
            "SELECT epoch_ms(creation_time), input_data_config[1].shuffle_config.seed,"
            " environment['KEY'], environment['key'], vpc_config.subnets[1], typeof(creation_time),"
            f" typeof(environment) FROM {TABLE.name} LIMIT 1"
        ).fetchone()
    kinds = ("TIMESTAMP WITH TIME ZONE", "MAP(VARCHAR, VARCHAR)")
    assert found == (MILLIS, 2**63 - 1, "1", "2", "b", *kinds)


def test_markdown_has_a_row_a_field():
    """The Markdown table has all 155 fields, nested ones under dotted names, with descriptions."""
    text = render(TABLE, "markdown")
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(cells) == 155
    assert {len(row) for row in cells} == {4}
    row = (
        "| `input_data_config.shuffle_config.seed` | INT64 | `InputDataConfig.ShuffleConfig.Seed` |"
    )
    assert row in text
    assert "| `account_id` | STRING |  | " in text
