"""The command line as its user meets it: real processes, their streams and exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from harness import (
    ROLE,
    assert_whole,
    command,
    environment,
    identities,
    identity,
    is_one_sentence,
    run_command,
)
from reference import NAMES

from collector.testing import Estate, FakeAws

FIRST = "111111111111"
HEAVY = ("pydantic", "aiobotocore", "botocore", "aiohttp", "rich", "structlog", "yaml")


def sentences(run) -> list[str]:
    """What stderr says, each line an error of the command line."""
    lines = run.stderr.splitlines()
    assert all(line.startswith("collector: ") for line in lines), run.stderr
    return lines


def test_stdout_is_records_and_stderr_the_rest(aws, tmp_path):
    """NDJSON alone on stdout; a JSON log on stderr that ends with the totals."""
    run = run_command(aws, tmp_path)
    assert_whole(run, aws)
    events = [json.loads(line) for line in run.stderr.splitlines()]
    assert events[0]["event"] == "run started"
    assert events[-1]["event"] == "run ended"
    assert events[-1]["emitted"] == len(run.records) == 32
    assert sum(event["event"] == "target ended" for event in events) == 4


def test_help_imports_none_of_the_heavy_libraries():
    """`collector --help` answers without the SDK, the HTTP client, pydantic and the others."""
    code = (
        "import sys\n"
        "from collector.cli import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"sys.exit(' '.join(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert "run" in done.stdout
    assert "demo" in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        (),
        ("run",),
        ("plan",),
        ("schema",),
        ("validate",),
        ("iam-policy",),
        ("demo",),
        ("report",),
        ("report", "merge"),
    ],
)
def test_every_command_has_help(name):
    """--help of each command is a page on stdout, exit 0."""
    run = command(*name, "--help")
    assert (run.status, run.stderr) == (0, "")
    assert run.lines[0].startswith("Usage:")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--no-such-flag"], ["--no-such-flag"]),
        (["--state", "ftp://host/x"], ["ftp://", "folder"]),
        (["--created-after", "1d", "--created-before", "2d"], ["created_after", "before"]),
        (["--retry-failed", "not-there.json"], ["not-there.json"]),
        (["--sink", "sftp://b/p"], ["sftp://", "s3://"]),
        (["--regions", "mars"], ["--regions", "mars"]),
        (["--shard", "5/4"], ["--shard", "5/4"]),
        (["--report", "ftp://host/x"], ["ftp://", "s3://"]),
        (["--report", "s3://bucket"], ["s3://bucket", "object"]),
        (["--accounts", "12"], ["--accounts", "12"]),
        (["--accounts", "organization"], ["role_name"]),
        (["--table", "aws_sagemaker_trainingjbo"], ["aws_sagemaker_trainingjob"]),
        (["--created-after", "soon"], ["--created-after", "soon"]),
        (["--status", "Done"], ["--status", "InProgress"]),
        (["--redact", "role_arn=values"], ["--redact", "environment"]),
        (["--max-rate", "Describe=3"], ["--max-rate", "Describe"]),
        (["--config", "not-there.yaml"], ["not-there.yaml"]),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, list) else None,
)
def test_bad_usage_exits_2(aws, args, words):
    """A wrong flag or value: exit 2, what is wrong by name, no traceback and no call."""
    run = command("run", *args, aws=aws)
    assert (run.status, run.lines) == (2, [])
    assert all(word in run.stderr for word in words), run.stderr
    assert "Traceback" not in run.stderr
    assert "pydantic" not in run.stderr
    assert aws.calls.total() == 0


def test_all_bad_values_are_named_at_once(aws, tmp_path):
    """Errors in flags, environment and file come together, each with its place."""
    file = tmp_path / "collector.yaml"
    file.write_text("headrom: 0.5\ntags: some\n")
    args = ("--config", str(file), "--regions", "mars", "--max-in-flight", "0")
    run = command("run", *args, aws=aws, COLLECTOR_GRACE="later")
    assert run.status == 2
    told = sentences(run)
    assert len(told) == 5
    text = " ".join(told)
    for word in (
        "--regions",
        "--max-in-flight",
        "COLLECTOR_GRACE",
        f"{file}: headrom",
        "did you mean headroom",
        f"{file}: tags",
    ):
        assert word in text
    assert aws.calls.total() == 0


@pytest.mark.parametrize("content", ["a: [", "- a list", "key: \x00"])
def test_a_file_that_is_no_settings_file_is_one_sentence(tmp_path, content):
    """YAML that cannot be read, or is no mapping: exit 2 and the file's name."""
    file = tmp_path / "collector.yaml"
    file.write_text(content)
    run = command("run", "--config", str(file))
    assert run.status == 2
    assert is_one_sentence(run.stderr)
    assert str(file) in run.stderr


def test_flags_win_over_environment_over_file(tmp_path):
    """One setting from each layer, and one in all three."""
    estate = Estate.generate(1, ("us-east-1", "eu-west-1", "us-west-2"), 2)
    file = tmp_path / "collector.yaml"
    file.write_text("regions: [us-east-1, eu-west-1]\nmeta: true\ntags: none\nextra: keep\n")
    with FakeAws(estate).in_thread() as aws:
        run = command(
            *("run", "--regions", "us-west-2", "--config", str(file)),
            aws=aws,
            COLLECTOR_REGIONS="us-east-1",
            COLLECTOR_TAGS="each",
        )
        by_environment = command("run", aws=aws, COLLECTOR_REGIONS="eu-west-1")
        by_both = command("run", aws=aws, COLLECTOR_CONFIG=str(file), COLLECTOR_META="false")
    records = [json.loads(line) for line in run.lines]
    assert {record["_region"] for record in records} == {"us-west-2"}
    assert all("_extra" in record for record in records)
    assert all(record["tags"] is not None for record in records)
    places = [{json.loads(line)["training_job_arn"].split(":")[3] for line in each.lines}
              for each in (by_environment, by_both)]  # fmt: skip
    assert places == [{"eu-west-1"}, {"us-east-1", "eu-west-1"}]
    assert "_region" not in by_both.lines[0]


def test_meta_and_extra_follow_the_columns(tmp_path):
    """--meta and --extra keep add their columns behind the table's, and no others."""
    estate = Estate.generate(1, ("us-east-1",), 9, unknown_members=True)
    with FakeAws(estate).in_thread() as aws:
        run = run_command(aws, tmp_path, "--meta", "--extra", "keep")
    added = ["_extra", "_region", "_collected_at", "_run_id"]
    assert {tuple(record) for record in run.records} == {(*NAMES, *added)}
    assert {record["_region"] for record in run.records} == {"us-east-1"}
    assert {record["_run_id"] for record in run.records} == {run.report["run_id"]}
    moments = [record["_collected_at"] for record in run.records]
    assert run.report["started_at"] <= min(moments)
    assert max(moments) <= run.report["finished_at"]
    kept = [record["_extra"] for record in run.records if "ZetaConfig" in record["_extra"]]
    assert len(kept) == run.report["schema_drift"]["ZetaConfig"] > 0
    assert kept[0]["ZetaConfig"] == {"ZetaMode": "On", "Depth": {"Level": 3}}
    assert command("validate", "-", stdin="\n".join(run.lines) + "\n").status == 0


def test_redacted_values_leave_no_trace(tmp_path):
    """--redact environment=values: keys stay, each value is ***, other columns as they are."""
    with FakeAws(Estate.generate(1, ("us-east-1",), 12)).in_thread() as aws:
        run = run_command(aws, tmp_path, "--redact", "environment=values")
        matching = run_command(aws, tmp_path, "--redact", "environment=matching")
    assert "tok_" not in "".join(run.lines) + run.stderr
    environments = [record["environment"] for record in run.records if record["environment"]]
    assert environments
    assert {value for each in environments for value in each.values()} == {"***"}
    assert all("MLFLOW_TRACKING_URI" in each for each in environments)
    assert any(record["hyper_parameters"] for record in run.records)
    assert "tok_" not in "".join(matching.lines)
    some = [record["environment"] for record in matching.records if record["environment"]]
    assert {each["API_TOKEN"] for each in some} == {"***"}
    assert {each["camelCaseKey"] for each in some} == {"kept as it is"}


def test_a_crawl_is_narrowed_by_time_and_status(tmp_path):
    """--created-after, --created-before, --status: exactly the jobs in between, of that state."""
    estate = Estate.generate(1, ("us-east-1",), 12)
    jobs = [estate.job(FIRST, "us-east-1", name) for name in estate.jobs(FIRST, "us-east-1")]
    after, before = jobs[3].created / 1000, jobs[9].created / 1000
    with FakeAws(estate).in_thread() as aws:
        run = run_command(
            aws,
            tmp_path,
            *("--created-after", stamp(after), "--created-before", stamp(before)),
        )
        completed = run_command(aws, tmp_path, "--status", "Completed")
    assert sorted(run.names) == sorted(job.name for job in jobs[4:9])
    assert run.status == 0
    done = {job.name for job in jobs if job.status == "Completed"}
    assert set(completed.names) == done
    assert 0 < len(done) < len(jobs)


def stamp(seconds: float) -> str:
    whole, rest = divmod(round(seconds * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{rest:03}Z"


@pytest.mark.parametrize("place", ["missing/jobs.ndjson", "folder", "closed/jobs.ndjson"])
def test_a_sink_that_cannot_be_written_fails_before_any_call(aws, tmp_path, place):
    """A missing folder, a folder for a file, a file that is read-only: told at once, no call."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "closed").write_text("a file, not a folder")
    run = command("run", "--regions", "us-east-1", "--sink", str(tmp_path / place), aws=aws)
    assert run.status == (2 if place == "folder" else 1)
    assert is_one_sentence(run.stderr)
    assert str(tmp_path / place) in run.stderr
    assert aws.calls.total() == 0


def test_a_report_into_a_pipe_leaves_the_pipe(aws, tmp_path):
    """A pipe or a device takes the report, and is not replaced by a file, whoever we are."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        run = command("run", "--regions", "us-east-1", "--report", str(pipe), aws=aws)
        assert run.status == 0
        assert json.loads(os.read(reader, 1 << 20))["complete"] is True
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("place", ["missing/report.json", "folder"])
def test_a_report_that_cannot_be_written_fails_before_any_call(aws, tmp_path, place):
    """Found out before the run and not after it: exit 2, no call, nothing on stdout."""
    (tmp_path / "folder").mkdir()
    run = command("run", "--report", str(tmp_path / place), aws=aws)
    assert (run.status, run.lines) == (2, [])
    assert is_one_sentence(run.stderr)
    assert aws.calls.total() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_one_sentence(aws, tmp_path):
    """A sink that takes no more: exit 1, one sentence that says so, and the report is written."""
    run = run_command(aws, tmp_path, "--sink", "/dev/full", "--log-level", "error")
    assert run.status == 1
    assert is_one_sentence(run.stderr)
    assert "No space left" in run.stderr
    assert run.report["complete"] is False


@pytest.mark.parametrize("name", ["jobs.ndjson", "jobs.ndjson.gz", "jobs.ndjson.zst"])
def test_files_are_whole_and_valid(aws, tmp_path, name):
    """Each kind of file holds every job, passes validate, and has no .partial beside it."""
    path = tmp_path / "out" / name
    path.parent.mkdir()
    run = run_command(aws, tmp_path, "--sink", str(path))
    assert (run.status, run.lines) == (0, [])
    assert [entry.name for entry in path.parent.iterdir()] == [name]
    done = command("validate", str(path))
    assert (done.status, done.stderr) == (0, "")
    text = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert set(map(identity, map(json.loads, text.splitlines()))) == identities(aws.estate)


READ = (
    "import sys; from collector.validate import open_lines\n"
    "for line in open_lines(sys.argv[1]): sys.stdout.buffer.write(line)"
)


def test_progress_is_on_stderr_alone(aws, tmp_path):
    """--progress on: records on stdout as ever, something drawn on stderr."""
    run = run_command(aws, tmp_path, "--progress", "on")
    assert_whole(run, aws)
    assert "Traceback" not in run.stderr


def test_a_variable_that_is_no_setting_is_mentioned(aws):
    """A COLLECTOR_ variable that nobody knows is named in one line and harms nothing."""
    run = command("run", "--regions", "us-east-1", aws=aws, COLLECTOR_REGIOSN="x")
    assert run.status == 0
    assert "collector: COLLECTOR_REGIOSN" in run.stderr


def test_validate_names_lines(aws, tmp_path):
    """Good lines pass silently; a bad one exits 1 and is told by number and path."""
    run = run_command(aws, tmp_path)
    bad = dict(run.records[1], creation_time="yesterday")
    lines = [run.lines[0], json.dumps(bad), run.lines[2], "not JSON"]
    done = command("validate", "-", stdin="\n".join(lines) + "\n")
    assert done.status == 1
    told = done.stderr.splitlines()
    assert [line.split(":")[1] for line in told] == ["2", "4"]
    assert "creation_time" in told[0]
    missing = command("validate", str(tmp_path / "nothing.ndjson"))
    assert missing.status == 2
    assert is_one_sentence(missing.stderr)


@pytest.mark.parametrize(
    ("form", "word"),
    [
        ("json-schema", '"$schema"'),
        ("arrow", "training_job_arn"),
        ("spark", '"training_job_arn"'),
        ("athena", "CREATE EXTERNAL TABLE"),
        ("bigquery", '"training_job_arn"'),
        ("duckdb", "training_job_arn"),
        ("markdown", "| `training_job_arn`"),
    ],
)
def test_schema_in_every_format(form, word):
    """Each format names every column; exit 0, nothing on stderr."""
    run = command("schema", "--format", form)
    text = "\n".join(run.lines)
    assert (run.status, run.stderr) == (0, "")
    assert word in text
    assert [name for name in NAMES if name not in text] == []


def test_schema_of_no_format_is_bad_usage():
    """A format that does not exist: exit 2."""
    assert command("schema", "--format", "xml").status == 2


def test_iam_policy_and_trust():
    """The reader's policy, the caller's and the trust policy are JSON documents that fit."""
    reader = json.loads("\n".join(command("iam-policy").lines))
    caller = json.loads("\n".join(command("iam-policy", "--caller", "--role-name", ROLE).lines))
    args = ("iam-policy", "--trust", "--principal", FIRST, "--external-id", "only-us")
    trust = json.loads("\n".join(command(*args).lines))
    assert "sagemaker:ListTrainingJobs" in json.dumps(reader)
    assert f"role/{ROLE}" in json.dumps(caller)
    (statement,) = trust["Statement"]
    assert statement["Principal"] == {"AWS": FIRST}
    assert statement["Condition"]["StringEquals"] == {"sts:ExternalId": "only-us"}
    wrong = command("iam-policy", "--trust", "--principal", "everybody")
    assert wrong.status == 2
    assert is_one_sentence(wrong.stderr)


def test_demo_needs_nothing_and_is_valid(monkeypatch):
    """The demo runs without credentials, and what it writes passes validate."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    run = command("demo", "--accounts", "2", "--regions", "2", "--jobs", "7")
    assert run.status == 0
    assert len(run.lines) == 2 * 2 * 7
    assert command("validate", "-", stdin="\n".join(run.lines) + "\n").status == 0


def test_demo_with_trouble_loses_nothing(tmp_path):
    """A demo with faults, a rate, latency, a seed and settings of run: all jobs, exit 0."""
    report = tmp_path / "report.json"
    args = ("--accounts", "1", "--regions", "2", "--jobs", "15", "--faults", "0.2")
    more = ("--rate", "40", "--latency", "0.01", "--seed", "3", "--report", str(report), "--meta")
    run = command("demo", *args, *more)
    assert run.status == 0
    assert len({identity(json.loads(line)) for line in run.lines}) == len(run.lines) == 30
    calls = json.loads(report.read_text())["calls"].values()
    assert sum(counts["retried"] for counts in calls) > 0


def test_demo_is_deaf_to_the_users_configuration(tmp_path):
    """A profile, an endpoint or settings of the user's do not reach the stand-in."""
    run = command(
        *("demo", "--accounts", "1", "--regions", "1", "--jobs", "2"),
        AWS_PROFILE="nobody",
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        COLLECTOR_REGIONS="mars",
        HTTP_PROXY="http://127.0.0.1:9",
    )
    assert (run.status, len(run.lines)) == (0, 2)
    assert environment()["HOME"] == str(tmp_path)
