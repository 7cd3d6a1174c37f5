"""Reads of a table by Spark, against the stand-in."""

from __future__ import annotations

import json
from datetime import datetime

import duckdb
import pyarrow.parquet as pq
import pytest
from estates import REGIONS, TABLE, estate, load, names, names_in, options, records

from collector.model import Type
from collector.schema import render
from collector.tables import load_table
from collector.testing import FakeAws, Faults, Limits, credentials_for

MASTER = "local[2]"
CALLER, OTHER = "111111111111", "222222222222"


@pytest.fixture
def small():
    with FakeAws(estate(2, 8)).in_thread() as aws:
        yield aws


@pytest.fixture
def parquet(spark, tmp_path):
    """Writes a DataFrame and gives the folder."""

    def write(frame):
        frame.write.parquet(str(tmp_path / "jobs"))
        return tmp_path / "jobs"

    return write


def plain(column, value):
    """A record's value as pyarrow reads it from Parquet: every member there, times as times."""
    if value is None:
        return None
    if column.type is Type.TIMESTAMP:
        return datetime.fromisoformat(value)
    if column.type is Type.STRUCT:
        return {each.name: plain(each, value.get(each.name)) for each in column.fields}
    if column.type is Type.LIST_STRUCT:
        return [
            {each.name: plain(each, item.get(each.name)) for each in column.fields}
            for item in value
        ]
    if column.type is Type.MAP_STRING_STRING:
        return sorted(value.items())
    return value


def test_every_job_comes_once_and_whole(spark, parquet, monkeypatch):
    """4 accounts by 3 regions: after Parquet, each row is the library's own record, all types."""
    columns = load_table().columns
    with FakeAws(estate()).in_thread() as aws:
        folder = parquet(load(spark, aws))
        expected = records(aws, *credentials_for(CALLER), monkeypatch)
    found = pq.read_table(folder).to_pylist()
    assert names_in(found) == names(aws.estate)
    by_arn = {record["training_job_arn"]: record for record in expected}
    assert len(by_arn) == len(found) == 4 * 3 * 150
    for row in found:
        record = by_arn[row["training_job_arn"]]
        for column in columns:
            value = row[column.name]
            if column.type is Type.MAP_STRING_STRING and value is not None:
                value = sorted(value)
            assert value == plain(column, record[column.name]), column.name


def test_duckdb_reads_the_types_of_the_table(spark, parquet, small):
    """DuckDB finds in Spark's Parquet the types that `collector schema --format duckdb` declares."""
    folder = parquet(load(spark, small))
    db = duckdb.connect()
    db.execute(render(load_table(), "duckdb"))
    declared = db.execute(f"SELECT column_name, column_type FROM (DESCRIBE {TABLE})").fetchall()
    query = f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM '{folder}/*.parquet')"
    assert db.execute(query).fetchall() == declared
    assert len(declared) == 45


def test_throttling_and_faults_cost_nothing(spark, parquet):
    """With limits on every call and 2% of calls failing, every job still comes once."""
    limits = Limits({"DescribeTrainingJob": (60, 60), "ListTrainingJobs": (5, 5)})
    faults = Faults(error_500=0.01, truncated=0.005, reset=0.005)
    with FakeAws(estate(), limits=limits, faults=faults).in_thread() as aws:
        folder = parquet(load(spark, aws))
    assert sum(aws.faults_dealt.values()) > 10
    assert sum(aws.throttled.values()) > 0
    assert names_in(pq.read_table(folder).to_pylist()) == names(aws.estate)


def test_a_denied_account_fails_the_read_with_one_sentence(spark):
    """By default a target that cannot be read fails the query, and the error says which and why."""
    denied = [(OTHER, "eu-west-1", "ListTrainingJobs")]
    with FakeAws(estate(2, 8), denied=denied).in_thread() as aws, pytest.raises(Exception) as error:
        load(spark, aws).collect()
    said = str(error.value)
    assert f"Account {OTHER}, region eu-west-1 could not be read whole (denied)" in said
    assert "ListTrainingJobs" in said
    assert credentials_for(CALLER)[1] not in said


def test_permissive_reads_the_rest_and_reports_what_is_missing(spark, tmp_path):
    """Nothing is lost silently: the report table has the outcome of each target, in every task."""
    denied = [(OTHER, "eu-west-1", "ListTrainingJobs")]
    place = str(tmp_path / "reports")
    with FakeAws(estate(2, 8), denied=denied).in_thread() as aws:
        rows = load(spark, aws, mode="PERMISSIVE", reportPath=place).collect()
    missing = {key for key in names(aws.estate) if key[:2] == (OTHER, "eu-west-1")}
    assert set(names_in(rows)) == set(names(aws.estate)) - missing
    assert len(rows) == 5 * 8
    report = spark.read.format(f"{TABLE}_report").option("reportPath", place).load()
    found = {(row["account_id"], row["region"]): row for row in report.collect()}
    assert len(found) == 6
    assert {key for key, row in found.items() if row["outcome"] != "complete"} == {
        (OTHER, "eu-west-1")
    }
    assert "ListTrainingJobs" in found[OTHER, "eu-west-1"]["error"]
    assert found[CALLER, "us-east-1"]["emitted"] == 8
    assert len({row["run_id"] for row in found.values()}) == 1
