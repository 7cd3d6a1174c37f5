"""Reads of a table by Spark, against the stand-in."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import duckdb
import pyarrow.parquet as pq
import pytest
from estates import TABLE, estate, load, names, names_in, options, records

from collector.model import Type
from collector.schema import all_columns, render
from collector.spread.rows import Rows
from collector.tables import load_table
from collector.testing import FakeAws, Faults, Limits, credentials_for

MASTER = "local[2]"
CALLER, OTHER = "111111111111", "222222222222"


@pytest.fixture
def small():
    with FakeAws(estate(2, 8)).in_thread() as aws:
        yield aws


@pytest.fixture
def parquet(tmp_path):
    """Writes a DataFrame and gives the folder."""

    def write(frame):
        frame.write.parquet(str(tmp_path / "jobs"))
        return tmp_path / "jobs"

    return write


def refusal(action):
    """What Spark says when it fails."""
    from pyspark.errors import PySparkException

    with pytest.raises(PySparkException) as error:
        action()
    return str(error.value)


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
    """DuckDB finds in Parquet the types that `collector schema --format duckdb` declares."""
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
    with FakeAws(estate(2, 8), denied=denied).in_thread() as aws:
        said = refusal(load(spark, aws).collect)
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


def test_the_schema_is_the_tables(spark, small):
    """Spark's schema is that of `collector schema --format spark`, and Arrow's the same again."""
    from pyspark.sql.pandas.types import to_arrow_schema
    from pyspark.sql.types import StructType

    for added in ({}, {"meta": True}, {"extra": True}):
        text = render(load_table(), "spark", **added)
        declared = StructType.fromJson(json.loads(text))
        given = {name: {"extra": "keep"}.get(name, "true") for name in added}
        assert load(spark, small, **given).schema == declared
        columns = all_columns(load_table(), **added)
        assert Rows(columns).schema.equals(to_arrow_schema(declared, timezone="UTC"))


def test_a_schema_may_name_fewer_columns(spark, small):
    """A schema of the user's own is read where its types are the table's, and refused elsewhere."""
    reader = spark.read.format(TABLE).options(**options(small))
    narrow = reader.schema("creation_time TIMESTAMP, training_job_name STRING").load()
    assert len(narrow.collect()) == 2 * 3 * 8
    assert "GetResources" not in small.calls
    said = refusal(reader.schema("creation_time STRING").load().collect)
    assert "The column creation_time is timestamp, not string." in said


def test_wrong_options_are_refused_when_the_table_is_loaded(spark, small):
    """An unknown option is named with the nearest one, before anything is read."""
    said = refusal(lambda: load(spark, small, rolname="x"))
    assert "There is no option rolname; did you mean roleName?" in said
    assert not small.calls


def test_filters_spare_calls_where_they_are_pushed(spark, small, monkeypatch):
    """With push_filters, other accounts are not called, and other jobs not described."""
    from collector.spark import PUSHDOWN, register

    wanted = list(small.estate.jobs(OTHER, "us-west-2"))[5]
    created = small.estate.describe(OTHER, "us-west-2", wanted)["CreationTime"]
    instant = datetime.fromtimestamp(created, UTC).isoformat()
    register(spark, push_filters=True)
    try:
        one = load(spark, small).where(
            f"account_id = '{OTHER}' and training_job_arn like 'arn:aws:sagemaker:us-w%' "
            f"and creation_time = timestamp '{instant}'"
        )
        assert [row["training_job_name"] for row in one.collect()] == [wanted]
        called = {key[:2] for key in small.calls_by if key[2] == "ListTrainingJobs"}
        described = small.calls["DescribeTrainingJob"]
        failed = load(spark, small).where("training_job_status = 'Failed'").collect()
        described_then = small.calls["DescribeTrainingJob"] - described
        nothing = (
            "creation_time < timestamp '2020-01-01' and creation_time > timestamp '2021-01-01'"
        )
        assert load(spark, small).where(nothing).collect() == []
    finally:
        spark.conf.set(PUSHDOWN, "false")
        register(spark)
    expected = records(small, *credentials_for(CALLER), monkeypatch)
    assert called == {(OTHER, "us-west-2")}
    assert described == 1
    assert names_in(failed) == names_in(
        record for record in expected if record["training_job_status"] == "Failed"
    )
    assert described_then == len(failed) < len(expected)


def test_the_same_query_without_pushing_gives_the_same_rows(spark, small):
    """Two queries of one DataFrame are both right: so filters are not pushed by default."""
    frame = load(spark, small)
    one, other = (frame.where(f"account_id = '{account}'") for account in (OTHER, CALLER))
    assert (one.union(other).count(), frame.count()) == (48, 48)


def test_a_limit_ends_the_crawl(spark):
    """Ten rows of very many: the tasks that read the rest stop, and with them their calls."""
    with FakeAws(estate(1, 4_000), latency=0.02).in_thread() as aws:
        assert len(load(spark, aws).limit(10).collect()) == 10
        for _ in range(200):
            calls = aws.calls.total()
            time.sleep(0.5)
            if aws.calls.total() == calls:
                break
        assert aws.calls["DescribeTrainingJob"] < 3 * 4_000


def test_no_secret_is_in_a_plan(spark, small):
    """Keys are nowhere in what Spark shows of a query, and not in what it sends to its tasks."""
    frame = load(spark, small)
    plan = frame._jdf.queryExecution().toString()
    sent = b"".join(bytes(part) for part in pickled_partitions(small))
    assert b"us-east-1" in sent
    for secret in credentials_for(CALLER):
        assert secret not in plan
        assert secret.encode() not in sent


def pickled_partitions(aws):
    """What goes to the tasks: the reader and its partitions, as the planner makes them."""
    from pyspark.cloudpickle import dumps

    from collector.spark import TableSource

    source = type("Source", (TableSource,), {"table": TABLE})(options(aws))
    with pytest.MonkeyPatch.context() as patch:
        access_key, secret_key = credentials_for(CALLER)
        patch.setenv("AWS_ACCESS_KEY_ID", access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
        reader = source.reader(source.schema())
        return [dumps(reader), *map(dumps, reader.partitions())]
