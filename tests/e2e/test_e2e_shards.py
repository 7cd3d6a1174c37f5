"""Shards as processes: together they are the whole, and each goes its own way."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from harness import LONGEST, ROLE, assert_sums, command, crawl, identities, identity, start
from harness import is_one_sentence as one_sentence
from moto.server import ThreadedMotoServer
from state_setup import TABLE, fill

from collector import Settings, store
from collector.shards import Shard
from collector.store import open_store
from collector.testing import Estate, FakeAws

N = 4
REGIONS = ("us-east-1", "eu-west-1", "eu-central-1")
DENIED = "333333333333"


@pytest.fixture
def aws() -> Iterator[FakeAws]:
    """Five accounts by three regions with six jobs each; one account lets nobody in."""
    estate = Estate.generate(5, REGIONS, 0, now=time.time())
    for account in estate.accounts:
        for region in REGIONS:
            fill(estate, account, region, range(1, 7))
    with FakeAws(estate, denied=[(DENIED, "sts:AssumeRole")]).in_thread() as server:
        yield server


def everything(aws: FakeAws) -> tuple[str, ...]:
    return "run", "--accounts", ",".join(aws.estate.accounts), "--role-name", ROLE


def run_shards(aws: FakeAws, folder: Path, *more: str) -> list[int]:
    """All shards at once, with one command and one state, each told by its index; their ends."""
    outputs = ("--sink", str(folder / "jobs-{shard}.ndjson"))
    outputs += ("--report", str(folder / "report-{shard}.json"))
    started = [
        start(
            *everything(aws),
            *outputs,
            *("--state", str(folder / "state"), *more),
            aws=aws,
            AWS_BATCH_JOB_ARRAY_INDEX=str(index),
            AWS_BATCH_JOB_ARRAY_SIZE=str(N),
        )
        for index in range(N)
    ]
    for process in started:
        _, stderr = process.communicate(timeout=LONGEST)
        assert "Traceback" not in stderr
    return [process.returncode for process in started]


def reports(folder: Path) -> list[dict]:
    return [json.loads((folder / f"report-{k}-of-{N}.json").read_text()) for k in range(1, N + 1)]


def test_shards_together_are_the_whole(aws, tmp_path):
    """Four processes at once on one state: every job once, the closed account reported once."""
    statuses = run_shards(aws, tmp_path)
    found = reports(tmp_path)
    records = [
        json.loads(line)
        for k in range(1, N + 1)
        for line in (tmp_path / f"jobs-{k}-of-{N}.ndjson").read_text().splitlines()
    ]
    wanted = identities(aws.estate, [each for each in aws.estate.accounts if each != DENIED])
    assert Counter(map(identity, records)) == dict.fromkeys(wanted, 1)
    assert [report["shard"] for report in found] == [f"{k}/{N}" for k in range(1, N + 1)]
    rows = [row for report in found for row in report["targets"]]
    assert Counter((row["account_id"], row["region"]) for row in rows) == {
        **{(a, r): 1 for a in aws.estate.accounts for r in REGIONS if a != DENIED},
        (DENIED, "*"): 1,
    }
    denied = [row["outcome"] == "denied" for report in found for row in report["targets"]]
    assert sum(denied) == 1
    assert statuses == [0 if report["complete"] else 3 for report in found]
    assert sorted(statuses) == [0, 0, 0, 3]
    assert sum("another shard" in str(report["warnings"]) for report in found) == N - 1
    states = sorted(path.parent.name for path in (tmp_path / "state" / TABLE).rglob("state.json"))
    assert states == [f"shard-{k}-of-{N}" for k in range(1, N + 1)]

    # Once more: lists, and no describe.
    aws.calls.clear()
    run_shards(aws, tmp_path)
    assert aws.calls["DescribeTrainingJob"] == 0
    assert aws.calls["ListTrainingJobs"] == 4 * len(REGIONS)
    again = reports(tmp_path)
    assert sum(report["totals"]["unchanged"] for report in again) == len(wanted)
    assert {report["mode"] for report in again if report["totals"]["listed"]} == {"incremental"}


def test_reports_of_shards_make_one(aws, tmp_path):
    """`report merge` prints the report of the whole; without one of its shards it says so."""
    aws.policy.denied = ((DENIED, "us-east-1", "DescribeTrainingJob"),)
    statuses = run_shards(aws, tmp_path)
    assert sorted(statuses) == [0, 0, 0, 3]
    paths = [str(tmp_path / f"report-{k}-of-{N}.json") for k in range(1, N + 1)]
    merged = command("report", "merge", *paths)
    whole = json.loads("\n".join(merged.lines))
    assert merged.status == 3
    assert merged.stderr == (
        "collector: 4 reports, 15 targets, 84 emitted, 0 unchanged, 0 gone, 6 failed: not "
        "complete.\n"
    )
    merged.report = whole
    assert whole["totals"]["listed"] == 15 * 6
    assert "shard" not in whole
    assert whole["totals"]["failed"] == len(whole["failures"]) == 6

    # What the whole calls failed is read again, and then nothing is missing.
    output = tmp_path / "whole.json"
    assert command("report", "merge", *paths, "--output", str(output)).lines == []
    assert json.loads(output.read_text()) == whole
    aws.policy.denied = ()
    aws.calls.clear()
    again = command(*everything(aws), "--retry-failed", str(output), aws=aws)
    assert again.status == 0
    assert {json.loads(line)["account_id"] for line in again.lines} == {DENIED}
    assert len(again.lines) == aws.calls["DescribeTrainingJob"] == 6

    some = command("report", "merge", *paths[1:])
    assert some.status == 3
    assert f"Of the {N} shards there is no report of 1" in "\n".join(some.lines)
    (tmp_path / "report-1-of-4.json").write_text("{}")
    wrong = command("report", "merge", *paths)
    assert (wrong.status, wrong.lines) == (2, [])
    assert one_sentence(wrong.stderr)
    assert "report-1-of-4.json is not the report of a run" in wrong.stderr


def test_a_shard_enters_no_account_for_nothing(aws):
    """With the regions given, each role is assumed by the shard that reads there, and no other."""
    pairs = [(a, "us-east-1") for a in aws.estate.accounts if a != DENIED]
    of = 8
    for k in range(1, of + 1):
        aws.calls.clear()
        places = {"accounts": [account for account, _ in pairs], "regions": ["us-east-1"]}
        run = asyncio.run(crawl(aws, **places, shard=f"{k}/{of}"))
        ours = [pair for pair in pairs if Shard(k, of).holds(*pair)]
        assert list(run.outcomes) == ours
        roles = sum(account != aws.estate.management_account for account, _ in ours)
        assert aws.calls["AssumeRole"] == roles
        assert_sums(run)


def test_plan_and_demo_know_shards(aws):
    """`plan` shows what a shard would read, `demo` reads its part of the stand-in's estate."""
    accounts = ",".join(a for a in aws.estate.accounts if a != DENIED)
    rows, lines = [], []
    for k in (1, 2):
        plan = command(
            *("plan", "--accounts", accounts, "--role-name", ROLE, "--json"),
            aws=aws,
            COLLECTOR_SHARD="auto/2",
            JOB_COMPLETION_INDEX=str(k - 1),
        )
        rows += [
            (row["account_id"], row["region"])
            for row in json.loads("\n".join(plan.lines))["targets"]
        ]
        lines += command("demo", "--jobs", "3", "--shard", f"{k}/2").lines
    assert sorted(rows) == sorted(
        (a, r) for a in aws.estate.accounts for r in REGIONS if a != DENIED
    )
    assert len(set(lines)) == len(lines) == 3 * 3 * 3


def test_outputs_in_common_are_warned_of(aws, tmp_path):
    """A pod that was not given {shard} in a name says so; one without its size reads nothing."""
    report = tmp_path / "report.json"
    more = ("--report", str(report), "--regions", "us-east-1")
    index = {"JOB_COMPLETION_INDEX": "1", "aws": aws}
    run = command(*everything(aws), *more, **index, COLLECTOR_SHARDS="2")
    (warning, *_) = json.loads(report.read_text())["warnings"]
    assert f"writes {report} and replaces" in warning
    assert warning in run.stderr
    aws.calls.clear()
    run = command(*everything(aws), *more, **index)
    assert (run.status, aws.calls.total()) == (2, 0)
    assert one_sentence(run.stderr)
    assert "COLLECTOR_SHARD=auto/N" in run.stderr


BUCKET = "inventory"


@pytest.fixture
def s3(monkeypatch) -> Iterator[str]:
    """An S3 by moto beside the stand-in, which the SDK's own variable leads to."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
    yield url
    server.stop()


def test_a_late_run_does_not_overlap(aws, s3, monkeypatch):
    """State in a bucket, held by a run that lives: exit 1, who holds it, nothing called."""
    monkeypatch.setattr(store, "RENEW_EVERY", 0.3)

    async def late():
        holder = open_store(f"s3://{BUCKET}/state", TABLE, Settings(endpoint_url=s3))
        await holder.acquire()
        await holder.begin()
        state = ("--state", f"s3://{BUCKET}/state", "--log-level", "error")
        run = await asyncio.to_thread(command, *everything(aws), *state, aws=aws)
        other = await asyncio.to_thread(command, *everything(aws), *state, "--shard=1/2", aws=aws)
        await holder.release(ended=True)
        return run, other, await asyncio.to_thread(command, *everything(aws), *state, aws=aws)

    run, other, after = asyncio.run(late())
    assert (run.status, run.lines) == (1, [])
    assert one_sentence(run.stderr)
    assert f"is in use by process {os.getpid()} on" in run.stderr
    assert other.status in {0, 3}  # a shard has a state of its own
    assert after.status == 3
    assert len(after.lines) == 4 * len(REGIONS) * 6


def test_a_report_is_an_object(aws, s3):
    """Written whole by a process; what it calls failed is read again from there."""
    aws.policy.denied = ((DENIED, "us-east-1", "DescribeTrainingJob"),)
    uri = f"s3://{BUCKET}/reports/{{shard}}.json"
    run = command(*everything(aws), "--report", uri, aws=aws)
    assert run.status == 3
    client = boto3.client("s3", endpoint_url=s3)
    body = client.get_object(Bucket=BUCKET, Key="reports/1-of-1.json")["Body"].read()
    assert json.loads(body)["totals"]["failed"] == 6
    merged = command("report", "merge", f"s3://{BUCKET}/reports/1-of-1.json")
    assert json.loads("\n".join(merged.lines)) == json.loads(body)
    aws.policy.denied = ()
    again = command(*everything(aws), "--retry-failed", uri, aws=aws)
    assert (again.status, len(again.lines)) == (0, 6)
    aws.calls.clear()
    nowhere = command(*everything(aws), "--report", "s3://nowhere/report.json", aws=aws)
    assert (nowhere.status, nowhere.lines, aws.calls.total()) == (2, [], 0)
    assert one_sentence(nowhere.stderr)


class Refuses(BaseHTTPRequestHandler):
    """An S3 that allows nothing."""

    def refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = refuse  # noqa: N815 - the library's names

    def log_message(self, *_: object) -> None:
        pass


def test_a_report_that_is_denied_costs_no_records(aws):
    """Everything is delivered and its essence logged; one sentence says it, and the status is 1."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        run = command(
            *everything(aws),
            *("--report", f"s3://{BUCKET}/report.json"),
            aws=aws,
            AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{server.server_port}",
        )
        server.shutdown()
        thread.join()
    assert run.status == 1
    assert len(run.lines) == 4 * len(REGIONS) * 6
    assert one_sentence(run.stderr)
    assert f"Cannot write the report s3://{BUCKET}/report.json: access is denied." in run.stderr
    assert '"event": "run ended"' in run.stderr
