"""What others read in the parts of a lake: DuckDB by the printed DDL, pyarrow by the schema."""

from __future__ import annotations

import asyncio
import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.json
import pytest

from collector import Collector, Settings
from collector.aws import throttle
from collector.schema import arrow_schema, render
from collector.tables import load_table
from collector.testing import Estate, FakeAws, credentials_for

PARTS = "table=*/dt=*/run=*/part-*.ndjson.gz"


@pytest.fixture(scope="module")
def delivered(tmp_path_factory) -> Path:
    """Parts of a real crawl, in a folder of the layout of a lake."""
    folder: Path = tmp_path_factory.mktemp("lake")
    with pytest.MonkeyPatch.context() as patch:
        keys = credentials_for("111111111111")
        for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys, strict=True):
            patch.setenv(name, value)
        patch.setattr(throttle, "INITIAL_RATE", 2_000.0)
        with FakeAws(Estate.generate(1, ("us-east-1",), 120)).in_thread() as aws:
            sink = f"file://{folder}/?part_bytes=20KB"
            settings = Settings(regions=["us-east-1"], endpoint_url=aws.url, sink=sink)
            report = asyncio.run(Collector(settings).run())
    assert report["totals"]["emitted"] == 120
    return folder


@pytest.fixture
def records(delivered) -> dict[str, dict[str, Any]]:
    """The records as JSON has them, by their ARN."""
    found = [
        json.loads(line)
        for part in delivered.glob(PARTS)
        for line in gzip.decompress(part.read_bytes()).splitlines()
    ]
    assert len(found) == 120
    return {record["training_job_arn"]: record for record in found}


def millis(moment: str | None) -> int | None:
    return moment and round(datetime.fromisoformat(moment).timestamp() * 1000)


def test_duckdb_reads_the_parts(delivered, records):
    """By the DDL that `schema` prints: timestamps, structs, lists and maps are what they were."""
    with duckdb.connect() as db:
        db.execute(render(load_table(), "duckdb"))
        db.execute(f"COPY aws_sagemaker_trainingjob FROM '{delivered}/{PARTS}' (FORMAT json)")
        rows = db.execute(
            "SELECT training_job_arn, epoch_ms(creation_time), epoch_ms(training_end_time), "
            "resource_config.instance_type, resource_config.instance_count, hyper_parameters, "
            "environment, tags, len(secondary_status_transitions), "
            "epoch_ms(secondary_status_transitions[1].start_time) FROM aws_sagemaker_trainingjob"
        ).fetchall()
        kinds = dict(
            db.execute(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE NOT internal"
            ).fetchall()
        )
        partitions = db.execute(
            'SELECT DISTINCT "table", dt, run FROM '
            f"read_json('{delivered}/{PARTS}', hive_partitioning = true, hive_types_autocast = 0)"
        ).fetchall()
    assert len(rows) == len({row[0] for row in rows}) == 120
    for arn, created, ended, kind, count, parameters, environment, tags, changes, began in rows:
        record = records[arn]
        transitions = record["secondary_status_transitions"] or []
        assert created == millis(record["creation_time"])
        assert ended == millis(record["training_end_time"])
        assert kind == record["resource_config"].get("instance_type")
        assert count == record["resource_config"].get("instance_count")
        assert parameters == record["hyper_parameters"]
        assert environment == record["environment"]
        assert tags == record["tags"]
        assert (changes or 0) == len(transitions)
        assert began == (millis(transitions[0]["start_time"]) if transitions else None)
    assert any(row[5] for row in rows), "no job has hyperparameters: nothing was compared"
    assert kinds["creation_time"] == "TIMESTAMP WITH TIME ZONE"
    assert kinds["hyper_parameters"] == "MAP(VARCHAR, VARCHAR)"
    assert kinds["resource_config"].startswith("STRUCT(")
    ((table, dt, run),) = partitions
    (folder,) = delivered.glob("table=*/dt=*/run=*")
    assert str(folder) == f"{delivered}/table={table}/dt={dt}/run={run}"


def test_pyarrow_reads_the_parts(delivered, records):
    """By the table's schema; maps, which pyarrow's JSON reader does not know, come as structs."""
    schema = arrow_schema(load_table())
    maps = [field.name for field in schema if pa.types.is_map(field.type)]
    assert maps == ["environment", "hyper_parameters"]
    typed = pa.schema([field for field in schema if "map<" not in str(field.type)])
    assert len(typed) == len(schema) - 6
    options = pyarrow.json.ParseOptions(explicit_schema=typed)
    count = 0
    for part in delivered.glob(PARTS):
        with pa.input_stream(str(part), compression="gzip") as stream:
            table = pyarrow.json.read_json(stream, parse_options=options)
        assert set(table.column_names) == set(schema.names)
        for field in typed:
            assert table.schema.field(field.name).type == field.type
        created = table["creation_time"].cast(pa.int64()).to_pylist()
        rest = table.select(["training_job_arn", "resource_config", *maps, "tags"]).to_pylist()
        for moment, row in zip(created, rest, strict=True):
            record = records[row["training_job_arn"]]
            assert moment == millis(record["creation_time"])
            assert present(row["resource_config"]) == present(record["resource_config"])
            assert row["tags"] == record["tags"]
            for name in maps:
                assert present(row[name]) == present(record[name])
        count += table.num_rows
    assert count == 120


def present(value: Any) -> Any:
    """A struct without the members that it does not have, which JSON leaves out."""
    if isinstance(value, dict):
        return {k: present(v) for k, v in value.items() if v is not None} or None
    if isinstance(value, list):
        return [present(item) for item in value] or None
    return value


def test_pyarrow_finds_the_partitions(delivered, records):
    """As a dataset of JSON, whose files' names tell table, date and run."""
    found = pa.dataset.dataset(
        sorted(map(str, delivered.glob(PARTS))),
        format="json",
        partitioning=pa.dataset.partitioning(flavor="hive"),
        partition_base_dir=str(delivered),
    ).to_table(columns=["training_job_arn", "table", "dt", "run"])
    assert set(found["training_job_arn"].to_pylist()) == records.keys()
    (folder,) = delivered.glob("table=*/dt=*/run=*")
    ((table, dt, run),) = {(row["table"], row["dt"], row["run"]) for row in found.to_pylist()}
    assert str(folder) == f"{delivered}/table={table}/dt={dt}/run={run}"
