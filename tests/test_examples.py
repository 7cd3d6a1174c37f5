"""The examples of the README, run as they stand against a stand-in for AWS.

Every block of code there is under `RUN`, with the test that runs it, or under `NOT_RUN`, with the
reason; a block that is under neither fails a test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import boto3
import click
import duckdb
import pytest
from moto.server import ThreadedMotoServer

from collector.cli import cli
from collector.testing import Estate, FakeAws, credentials_for
from tests.test_docs import BLOCKS

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
JOBS = 32
"""In each account."""
REGION = "us-east-1"
CODE = ("bash", "python", "yaml", "sql")

SHELL = "test_examples.py::test_commands_run"
RUN = {
    "example: jq": "test_examples.py::test_failed_jobs_by_jq",
    "example: nightly": "test_examples.py::test_an_organization_into_s3",
    "example: duckdb": "test_examples.py::test_into_duckdb",
    "example: duckdb typed": "test_examples.py::test_into_duckdb_with_the_tables_types",
    "example: pandas": "test_examples.py::test_a_pandas_frame",
    "example: dlt": "test_examples.py::test_a_dlt_resource",
    "example: airflow": "test_examples.py::test_a_task_of_airflow",
    "collector run --accounts organization --role-name InventoryReader --shard 1/2 \\": (
        "test_examples.py::test_shards_are_the_whole"
    ),
    "Job retries": "test_docs.py::test_retry_policies_fit_their_services",
    "spark batch": "spark/test_spark_examples.py::test_the_readmes_examples_run",
    "spark stream": "spark/test_spark_examples.py::test_the_readmes_examples_run",
    "spark report": "spark/test_spark_examples.py::test_the_readmes_report_is_read",
    "athena": "test_lake.py::test_latest_has_the_newest_record_of_each_job",
    "telemetry": "test_docs.py::test_the_telemetry_example_traces_what_the_readme_says",
    "cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible "
    "--output-file sbom.cdx.json config/constraints.txt": (
        "test_container.py::test_the_bill_of_materials_is_valid_and_whole"
    ),
    "table": "test_docs.py::test_the_table_example_is_a_table",
    "sink": "test_docs.py::test_the_sink_example_is_installed_and_run",
    "testing": "test_docs.py::test_the_testing_example_passes",
    "import asyncio": "test_docs.py::test_library_examples_run",
    "from collector import Settings, collect": "test_docs.py::test_library_examples_run",
    "collector plan --accounts organization --role-name InventoryReader": SHELL,
    "collector run --sink jobs.ndjson.gz --report report.json": SHELL,
    "collector run --accounts organization --role-name InventoryReader "
    "--external-id my-external-id \\": SHELL,
    "collector run --state ~/.local/state/collector >> jobs.ndjson": SHELL,
    "collector run --report report.json --sink jobs.ndjson": SHELL,
    "collector run --redact environment=values --redact hyper_parameters=matching": SHELL,
    "collector validate jobs.ndjson.zst": SHELL,
    "collector iam-policy --caller --role-name InventoryReader": SHELL,
    "collector run --accounts organization --role-name InventoryReader \\": SHELL,
}
"""A block's label, or its first line if it has none, to the test that runs it."""

NOT_RUN = {
    # Every command of the AWS CLI is held against the API's model by test_deploying.py.
    **dict.fromkeys(
        (body.splitlines()[0] for _, _, body in BLOCKS if body.startswith("aws ")), "needs AWS"
    ),
    "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/collector demo": (
        "installs; `.ci/run` does the same, and test_docs.py holds the two together"
    ),
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest": (
        "installs; its words are those of `.ci/run`"
    ),
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]'": "installs, as the above",
    'docker build --build-arg REVISION="$(git rev-parse HEAD)" -t aws-resource-collector .': (
        "needs a container engine: tests/container/check.py, by hand"
    ),
    "docker build --build-arg BASE=mirror.example.com/python:3.12.12-slim-bookworm "
    "--secret id=pip,src=pip.conf -t aws-resource-collector .": "needs one, as the above",
    "docker run --rm aws-resource-collector run --regions us-east-1 --created-after 90d": (
        "needs a container engine; its arguments are parsed by test_docs.py"
    ),
    "apt-get install podman debootstrap": "installs what tests/container/check.py needs",
    "uv pip compile --universal --python-version 3.11 --generate-hashes --only-binary :all: "
    "--extra otel -o config/constraints.txt pyproject.toml": (
        "asks the index; test_container.py holds what it made against pyproject.toml"
    ),
    "pip install --require-hashes -r config/constraints.txt && pip install --no-deps .": (
        "installs; tests/container/check.py does the same"
    ),
    "pip-audit --strict --require-hashes --disable-pip -r config/constraints.txt": (
        "asks a service for what is known of vulnerabilities"
    ),
    "pip install 'aws-resource-collector[otel]'": "installs; an extra of pyproject.toml",
    "kubectl apply -f config/deploy/kubernetes/common.yaml "
    "-f config/deploy/kubernetes/cronjob.yaml": (
        "needs a cluster; test_kubernetes.py holds the files against its API"
    ),
    "collector iam-policy --caller --role-name InventoryReader --sink s3://my-lake/inventory/ \\": (
        "needs AWS; test_deploying.py and test_docs.py hold its commands against what they call"
    ),
    "python -m collector.testing --accounts 3 --jobs 1000": (
        "serves until it is stopped; its flags are checked by test_docs.py"
    ),
}


def name_of(label, body):
    return label or body.splitlines()[0]


EXAMPLES = {name_of(label, body): body for label, kind, body in BLOCKS if kind in CODE}


def test_no_example_is_forgotten():
    """Each block of code is run by a test, or is on the list of those that cannot be."""
    assert set(EXAMPLES) == RUN.keys() | NOT_RUN.keys()
    assert not RUN.keys() & NOT_RUN.keys()
    for place in set(RUN.values()):
        file, _, test = place.partition("::")
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), place


# ------------------------------------------------------------------------------ in the shell


@pytest.fixture(scope="module")
def estate():
    """Two accounts; in each, one job of the last hour has failed and another has not."""
    estate = Estate.generate(2, [REGION], 30, now=time.time())
    for account in estate.accounts:
        for status in ("Failed", "Completed"):
            estate.add_job(
                account,
                REGION,
                name=f"lately-{status.lower()}",
                creation_time=time.time() - 3600,
                TrainingJobStatus=status,
            )
    return estate


def failed_since(estate, account, days):
    """Names of the jobs that have failed, of those created in the last ``days``."""
    jobs = (estate.job(account, REGION, name) for name in estate.jobs(account, REGION))
    since = (time.time() - days * 86_400) * 1000
    return {job.name for job in jobs if job.status == "Failed" and job.created > since}


@pytest.fixture(scope="module")
def aws(estate):
    with FakeAws(estate).in_thread() as server:
        yield server


@pytest.fixture(scope="module")
def cloud():
    """A stand-in for S3 with the bucket of the examples, and where it is."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.create_bucket(Bucket="my-lake")
    yield client, url
    client.close()
    server.stop()


@pytest.fixture
def s3(cloud):
    """The same, with nothing in the bucket."""
    for item in cloud[0].list_objects_v2(Bucket="my-lake").get("Contents", ()):
        cloud[0].delete_object(Bucket="my-lake", Key=item["Key"])
    return cloud


@pytest.fixture
def environ(aws, s3, estate, tmp_path):
    """What a user of the examples has: keys, a profile, a home, and the tools on the PATH."""
    access_key, secret_key = credentials_for(estate.management_account)
    keys = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key}
    config = tmp_path / "aws-config"
    lines = ["[profile audit]", "region = us-east-1", *(f"{k} = {v}" for k, v in keys.items())]
    config.write_text("\n".join(lines))
    tools = tmp_path / "bin"
    tools.mkdir()
    if shutil.which("jq") is None:
        stand_in_for_jq(tools / "jq")
    return {
        **os.environ,
        **{name.upper(): value for name, value in keys.items()},
        "AWS_CONFIG_FILE": str(config),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_ENDPOINT_URL_S3": s3[1],
        "HOME": str(tmp_path),
        "PATH": f"{BIN}:{tools}:{os.environ['PATH']}",
    }


def stand_in_for_jq(path):
    """`jq -r PROGRAM` by the library of the same name."""
    path.write_text(
        f"#!{sys.executable}\n"
        "import sys, jq\n"
        "flag, program = sys.argv[1:]\n"
        "assert flag == '-r'\n"
        "for text in jq.compile(program).input_text(sys.stdin.read()):\n"
        "    print(text)\n"
    )
    path.chmod(0o755)


def in_bash(script, environ, folder):
    """The output of an example; it has to end well, whichever of its commands does not."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


COMMANDS = [name for name, place in RUN.items() if place == SHELL]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_run(name, environ, tmp_path):
    """Each of these ends with status 0, and the files that it names are there."""
    if name.startswith("collector validate"):
        sink = ["--sink", "jobs.ndjson.zst"]
        subprocess.run([BIN / "collector", "run", *sink], cwd=tmp_path, env=environ, check=True,
                       capture_output=True)  # fmt: skip
    script = EXAMPLES[name]
    out = in_bash(script, environ, tmp_path)
    words = script.replace("\\\n", " ").replace("'", "").split()
    for option, value in pairwise(words):
        # Nothing had failed, so what is read once more is nothing.
        written = "://" not in value and value != "retried.ndjson"
        if option in {"--sink", "--report", ">>"} and written:
            assert (tmp_path / value).stat().st_size > 0
    if name.startswith("collector run --redact"):
        records = [json.loads(line) for line in out.splitlines()]
        assert len(records) == JOBS
        values = {value for record in records for value in (record["environment"] or {}).values()}
        assert values == {"***"}


def test_failed_jobs_by_jq(environ, estate, tmp_path):
    """The names and reasons of just those jobs that have failed."""
    out = in_bash(EXAMPLES["example: jq"], environ, tmp_path)
    failed = failed_since(estate, estate.management_account, 90)
    assert {line.split("\t")[0] for line in out.splitlines()} == failed
    assert "lately-failed" in failed


def test_an_organization_into_s3(environ, s3, tmp_path):
    """Every job of all accounts is in parts that a manifest names; the next night fewer."""
    script = EXAMPLES["example: nightly"]

    def manifests():
        found = s3[0].list_objects_v2(Bucket="my-lake", Prefix="inventory/").get("Contents", ())
        keys = [item["Key"] for item in found if item["Key"].endswith("_manifest.json")]
        return [json.load(s3[0].get_object(Bucket="my-lake", Key=key)["Body"]) for key in keys]

    in_bash(script, environ, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["complete"], report["totals"]["emitted"]) == (True, 2 * JOBS)
    (manifest,) = manifests()
    assert sum(part["rows"] for part in manifest["parts"]) == 2 * JOBS
    in_bash(script, environ, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mode"] == "incremental"
    assert report["totals"]["emitted"] < 2 * JOBS


def test_shards_are_the_whole(environ, s3, tmp_path):  # noqa: ARG001 - the bucket is emptied
    """The first shard as it stands, and the second by the same words: merged, they are all."""
    name = next(name for name in EXAMPLES if "--shard 1/2" in name)
    first, _, merge = EXAMPLES[name].partition("collector report merge")
    both = first + first.replace("--shard 1/2", "--shard 2/2")
    out = in_bash(f"{both}\ncollector report merge {merge}", environ, tmp_path)
    report = json.loads(out)
    assert (report["complete"], report["totals"]["emitted"]) == (True, 2 * JOBS)


def test_into_duckdb(environ, tmp_path):
    """One line makes a table with a row for each job."""
    in_bash(EXAMPLES["example: duckdb"], environ, tmp_path)
    with duckdb.connect(tmp_path / "jobs.db") as database:
        rows = database.execute("SELECT count(*), count(DISTINCT training_job_arn) FROM jobs")
        assert rows.fetchone() == (JOBS, JOBS)


def test_into_duckdb_with_the_tables_types(environ, tmp_path):
    """The table takes all records, and the query has an answer."""
    out = in_bash(EXAMPLES["example: duckdb typed"], environ, tmp_path)
    assert "hours" in out
    with duckdb.connect(tmp_path / "jobs.db") as database:
        rows = database.execute("SELECT count(*) FROM aws_sagemaker_trainingjob")
        assert rows.fetchone() == (JOBS,)


# --------------------------------------------------------------------------- in a program


def in_python(source, environ, folder, *, after=""):
    """The output of an example that is run as a script, with some lines after it."""
    script = folder / "example.py"
    script.write_text(f"{source}\n{after}")
    quiet = {"RUNTIME__DLTHUB_TELEMETRY": "false", "AIRFLOW_HOME": str(folder / "airflow")}
    quiet["DLT_DATA_DIR"] = str(folder / "dlt")  # else, for root, in /var
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env=environ | quiet,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_pandas_frame(environ, tmp_path):
    """A row for each job, times as times, and hours by status."""
    source = EXAMPLES["example: pandas"]
    out = in_python(source, environ, tmp_path, after="print(len(jobs), jobs.creation_time.dtype)")
    assert "Completed" in out
    count, dtype = out.splitlines()[-1].split(" ", 1)
    assert 0 < int(count) <= JOBS
    assert dtype.startswith("datetime64")


@pytest.mark.slow
def test_a_dlt_resource(environ, tmp_path):
    """The pipeline loads the jobs, and a second run of it merges them into the same rows."""
    source = EXAMPLES["example: dlt"]
    again = (
        "pipeline.run(training_jobs())\n"
        "with pipeline.sql_client() as client:\n"
        "    print(client.execute_sql('SELECT count(*), count(DISTINCT training_job_arn) '\n"
        "                             'FROM training_jobs')[0])\n"
    )
    out = in_python(source, environ, tmp_path, after=again)
    count, distinct = map(int, out.splitlines()[-1].strip("()").split(","))
    assert count == distinct > 0


@pytest.mark.slow
def test_a_task_of_airflow(environ, estate, tmp_path):
    """Airflow takes the file for a DAG, and its task returns the ARNs of jobs that have failed."""
    ask = (
        "import json\n"
        "from airflow.sdk import DAG\n"
        "made = failed_jobs()\n"
        "assert isinstance(made, DAG) and made.dag_id == 'failed_jobs'\n"
        "(step,) = made.tasks\n"
        "assert step.retries == 3\n"
        "print(json.dumps(step.python_callable()))\n"
    )
    out = in_python(EXAMPLES["example: airflow"], environ, tmp_path, after=ask)
    arns = json.loads(out.splitlines()[-1])
    for account in estate.accounts:
        names = {arn.rpartition("/")[2] for arn in arns if f":{account}:" in arn}
        assert "lately-failed" in names
        assert names == failed_since(estate, account, 1)


# -------------------------------------------------------------------------- in the help texts


@pytest.mark.parametrize("name", ["run", "plan"])
def test_examples_of_the_help_are_accepted(name):
    """Each fits 80 columns as it stands and is a command line that the program takes."""
    command = cli.commands[name]
    shown = command.epilog.partition("Examples:\n")[2]
    assert max(map(len, shown.splitlines())) < 78
    lines = shown.replace("\\\n", " ").splitlines()
    assert len(lines) > 1
    for line in lines:
        program, its_name, *words = line.partition(">")[0].split()
        assert (program, its_name) == ("collector", name)
        with command.make_context(name, words, parent=click.Context(cli)):
            pass
