"""The lake of config/deploy: Athena's table and view fit the table, and the layout of the sink.

Athena itself cannot run here: its DDL is parsed, and its view is run by DuckDB over a real lake.
`python -m tests.test_lake` writes the columns of lake.yaml and the .sql files anew.
"""

from __future__ import annotations

import re
import subprocess
import sys

import duckdb
import pytest
import sqlglot

from collector import Collector, Settings
from collector.schema import render
from collector.tables import load_table
from collector.testing import Estate, FakeAws, credentials_for
from tests.cloudformation import DEPLOY, resolved

TABLE = load_table()
SQL = {"athena.sql": "athena", "athena-latest.sql": "athena-latest"}
COLUMNS = re.compile(r"(Columns: #.*\n)(?:.*\n)*?( *# end of the columns\n)")


def athena_columns():
    """(name, type) of each column of the DDL, the types as the Glue catalog keeps them."""
    declared = re.findall(r"^  `(\w+)` (.+?),?$", render(TABLE, "athena"), re.MULTILINE)
    return [(name, kind.replace("`", "")) for name, kind in declared]


def with_columns(template):
    """lake.yaml with its columns made anew."""
    lines = "".join(
        f'            - {{ Name: {name}, Type: "{kind}" }}\n' for name, kind in athena_columns()
    )
    return COLUMNS.sub(lambda found: found[1] + lines + found[2], template)


@pytest.mark.parametrize("name", SQL)
def test_the_sql_files_are_what_schema_prints(name):
    """The files that are shipped are those of `collector schema --format`."""
    assert (DEPLOY / name).read_text(encoding="utf-8") == render(TABLE, SQL[name])


@pytest.mark.parametrize("fmt", SQL.values())
def test_the_sql_is_athenas(fmt):
    """A parser of Athena's dialect takes each statement whole, and there is just one."""
    (statement,) = sqlglot.parse(render(TABLE, fmt), dialect="athena")
    assert isinstance(statement, sqlglot.exp.Create)
    assert statement.kind == ("VIEW" if "latest" in fmt else "TABLE")


@pytest.fixture(scope="module")
def glue():
    """The table of lake.yaml."""
    return resolved("lake.yaml", BucketName="my-lake")["Table"]["TableInput"]


def test_the_glue_table_has_the_columns_of_the_ddl(glue):
    """Names and types are those that `collector schema --format athena` declares, in order."""
    storage = glue["StorageDescriptor"]
    assert [(each["Name"], each["Type"]) for each in storage["Columns"]] == athena_columns()
    assert len(storage["Columns"]) == len(TABLE.columns)
    assert glue["Name"] == TABLE.name


def test_the_glue_table_reads_as_the_ddl_says(glue):
    """SerDe, its properties, the partitions and the place are those of the DDL."""
    ddl = render(TABLE, "athena")
    storage = glue["StorageDescriptor"]
    assert f"SERDE '{storage['SerdeInfo']['SerializationLibrary']}'" in ddl
    (pattern,) = storage["SerdeInfo"]["Parameters"].values()
    assert f'("timestamp.formats" = "{pattern}")' in ddl
    properties = dict(re.findall(r"^  '(\S+)' = '(.+?)',?$", ddl, re.MULTILINE))
    assert glue["Parameters"] == {"EXTERNAL": "TRUE", **properties}
    assert f"LOCATION '{storage['Location'].replace('<Bucket>/inventory', 'BUCKET/PREFIX')}'" in ddl
    (partition,) = glue["PartitionKeys"]
    assert f"PARTITIONED BY (`{partition['Name']}` {partition['Type']})" in ddl


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A lake that a real `collector demo` has written."""
    folder = tmp_path_factory.mktemp("lake")
    demo = [sys.executable, "-m", "collector", "demo", "--jobs", "5", "--log-level", "error"]
    subprocess.run([*demo, "--sink", f"file://{folder}"], check=True)
    return folder


def test_the_place_of_the_table_is_the_places_of_the_objects(lake):
    """Below LOCATION, every part is in a folder dt=<day of the projection's format>."""
    location = re.search(r"LOCATION 's3://BUCKET/PREFIX/(.*)/'", render(TABLE, "athena"))[1]
    paths = [path.relative_to(lake).as_posix() for path in lake.rglob("*") if path.is_file()]
    assert len(paths) >= 2
    for path in paths:
        assert re.fullmatch(rf"{location}/dt=\d{{4}}-\d\d-\d\d/run=[^/]+/[^/]+", path)
    # Athena leaves out what begins with an underscore.
    seen = [path for path in paths if not path.rpartition("/")[2].startswith("_")]
    assert all(path.endswith(".ndjson.gz") for path in seen)


def opened(folder):
    """The lake's records in DuckDB as Athena's table has them: with the day and the path."""
    database = duckdb.connect()
    database.execute(render(TABLE, "duckdb"))
    described = database.execute(f"DESCRIBE {TABLE.name}").fetchall()
    database.execute(f"DROP TABLE {TABLE.name}")
    columns = ", ".join(f"{name}: '{kind}'" for name, kind, *_ in described)
    database.execute(
        f'CREATE VIEW {TABLE.name} AS SELECT *, filename AS "$path" FROM read_json('
        f"'{folder}/table={TABLE.name}/dt=*/run=*/part-*', columns = {{{columns}}}, "
        "format = 'newline_delimited', hive_partitioning = true, filename = true, "
        "hive_types = {'dt': VARCHAR, 'run': VARCHAR, 'table': VARCHAR})"
    )
    return database


def test_a_lake_reads_by_day_and_run(lake):
    """Days and runs of a real lake are partitions, and every job of the demo is there once."""
    with opened(lake) as database:
        (found,) = database.execute(
            f'SELECT "table", dt, count(DISTINCT run), count(*), count(DISTINCT training_job_arn) '
            f"FROM {TABLE.name} GROUP BY ALL"
        ).fetchall()
    assert found[0] == TABLE.name
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found[1])
    assert found[2:] == (1, 45, 45)


async def test_latest_has_the_newest_record_of_each_job(tmp_path, monkeypatch):
    """The view's own SQL, over two nights: what changed shows once, as the second night saw it."""
    place = ("111111111111", "us-east-1")
    estate = Estate.generate(1, place[1:], 20)
    changed, anew, *_ = estate.jobs(*place)
    await crawl(estate, tmp_path, monkeypatch)
    # Long ago, as nights are: both runs would begin in the same second.
    (run,) = (tmp_path / f"table={TABLE.name}").glob("dt=*/run=*")
    earlier = run.parents[1] / "dt=2020-02-02/run=20200202T020000Z-ffffffff"
    earlier.parent.mkdir()
    run.rename(earlier)
    run.parent.rmdir()
    estate.update_job(*place, changed, BillableTimeInSeconds=123_456)
    estate.delete_job(*place, anew)
    estate.add_job(*place, name=anew, creation_time=estate.now)
    await crawl(estate, tmp_path, monkeypatch)

    with opened(tmp_path) as database:
        assert database.execute(f"SELECT count(*) FROM {TABLE.name}").fetchone() == (40,)
        database.execute(render(TABLE, "athena-latest"))
        latest = f"FROM {TABLE.name}_latest"
        names = [name for name, *_ in database.execute(f"DESCRIBE SELECT * {latest}").fetchall()]
        assert names == [*(column.name for column in TABLE.columns), "dt"]
        jobs = f"SELECT dt > '2020-02-02', billable_time_in_seconds {latest}"
        by_name = f"{jobs} WHERE training_job_name = ? ORDER BY creation_time"
        assert database.execute(by_name, [changed]).fetchall() == [(True, 123_456)]
        # Deleted and made again under its name: two jobs, of which one is no more.
        assert [new for new, _ in database.execute(by_name, [anew]).fetchall()] == [False, True]
        assert database.execute(f"SELECT count(*) {latest}").fetchone() == (21,)
        readme = (DEPLOY.parents[1] / "README.md").read_text(encoding="utf-8")
        query = re.search(r"<!-- athena -->\n```sql\n(.*?)```", readme, re.DOTALL)[1]
        sqlglot.parse_one(query, dialect="athena")
        assert database.execute(query).fetchall()


async def crawl(estate, folder, monkeypatch):
    keys = credentials_for(estate.accounts[0])
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys, strict=True):
        monkeypatch.setenv(name, value)
    async with FakeAws(estate) as aws:
        settings = Settings(
            regions=["us-east-1"], endpoint_url=aws.url, sink=f"file://{folder}", tags="none"
        )
        async with Collector(settings) as c:
            await c.run()
    assert c.complete


if __name__ == "__main__":
    for file, fmt in SQL.items():
        (DEPLOY / file).write_text(render(TABLE, fmt), encoding="utf-8")
    template = DEPLOY / "lake.yaml"
    template.write_text(with_columns(template.read_text(encoding="utf-8")), encoding="utf-8")
