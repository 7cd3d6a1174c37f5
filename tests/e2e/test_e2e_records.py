"""The whole crawl: every record right, every figure of the report true, few calls."""

from __future__ import annotations

import json
import time

import pytest
from harness import (
    ROLE,
    assert_sums,
    assert_whole,
    command,
    crawl,
    identities,
    identity,
    run_command,
)
from reference import COLUMNS, NAMES, paths, paths_in, record_of

from collector.testing import Estate, FakeAws

LARGE = 200


@pytest.mark.usefixtures("at_full_speed")
async def test_every_record_of_nine_targets_is_what_aws_said():
    """1800 jobs with every field, in 3 accounts by 3 regions: each record exact, few calls."""
    estate = Estate.generate(jobs=LARGE, now=time.time(), unknown_members=True)
    async with FakeAws(estate) as aws:
        run = await crawl(aws)
    assert_whole(run, aws)
    wanted = {
        identity(record): record
        for account in estate.accounts
        for region in estate.regions
        for name in estate.jobs(account, region)
        for record in [record_of(estate, account, region, name)]
    }
    assert {identity(record): record for record in run.records} == wanted
    assert {tuple(record) for record in run.records} == {tuple(NAMES)}
    seen = {path for record in run.records for path in paths_in(record, COLUMNS)}
    assert seen == set(paths(COLUMNS))
    assert len(seen) == 155

    totals = run.report["totals"]
    assert totals["targets"] == 9
    assert totals["listed"] == totals["emitted"] == 9 * LARGE
    assert {row["listed"] for row in run.report["targets"]} == {LARGE}
    assert {op: counts["calls"] for op, counts in run.report["calls"].items()} == dict(aws.calls)
    assert aws.calls.total() / (9 * LARGE) < 1.05
    assert aws.calls["DescribeTrainingJob"] == 9 * LARGE
    assert aws.calls["AssumeRole"] == 2
    assert run.report["failures"] == []
    assert run.report["warnings"] == []


@pytest.mark.usefixtures("at_full_speed")
async def test_what_the_table_lacks_is_counted_and_what_json_lacks_is_null():
    """Unknown members stand in schema_drift with their number; no NaN gets into a record."""
    estate = Estate.generate(1, ("us-east-1",), 120, unknown_members=True)
    async with FakeAws(estate) as aws:
        run = await crawl(aws)
    names = list(estate.jobs("111111111111", "us-east-1"))
    answers = [estate.describe("111111111111", "us-east-1", name) for name in names]
    drift = run.report["schema_drift"]
    assert drift["ZetaConfig"] == sum("ZetaConfig" in answer for answer in answers) > 0
    assert drift["ResourceConfig.FluxCapacity"] == sum(
        "FluxCapacity" in answer["ResourceConfig"] for answer in answers
    )
    odd = sum(
        isinstance(metric["Value"], str)
        for answer in answers
        for metric in answer.get("FinalMetricDataList", [])
    )
    assert run.report["coerced"] == {"final_metric_data_list[].value": odd}
    nulls = sum(
        metric["value"] is None
        for record in run.records
        for metric in record["final_metric_data_list"] or []
    )
    assert nulls == odd > 0


def test_the_command_writes_the_same_as_ndjson(tmp_path):
    """`collector run` puts each job on a line of its own, exactly, and its report agrees."""
    estate = Estate.generate(2, ("us-east-1", "eu-west-1"), 12, now=time.time())
    with FakeAws(estate).in_thread() as aws:
        run = run_command(aws, tmp_path)
    assert_whole(run, aws)
    wanted = {
        identity(record): record
        for account in estate.accounts
        for region in estate.regions
        for name in estate.jobs(account, region)
        for record in [record_of(estate, account, region, name)]
    }
    assert {identity(record): record for record in run.records} == wanted
    written = sum(len(line.encode()) + 1 for line in run.lines)
    assert run.report["totals"]["bytes"] == written
    assert "Traceback" not in run.stderr
    assert command("validate", "-", stdin="\n".join(run.lines) + "\n").status == 0


def test_the_time_zone_of_the_machine_does_not_show(tmp_path):
    """Far east of Greenwich the same records are written as in UTC."""
    with FakeAws(Estate.generate(1, ("us-east-1",), 6)).in_thread() as aws:
        run = run_command(aws, tmp_path, TZ="Pacific/Kiritimati")
    assert_whole(run, aws)


def test_an_organization_in_every_region(tmp_path):
    """accounts=organization and regions=all find the same jobs without being told of any."""
    estate = Estate.generate(3, ("us-east-1", "eu-west-1"), 4, suspended=1)
    with FakeAws(estate).in_thread() as aws:
        run = run_command(
            aws, tmp_path, "--accounts", "organization", "--role-name", ROLE, "--regions", "all"
        )
    assert_whole(run, aws)
    assert set(map(identity, run.records)) == identities(estate, estate.accounts)
    assert_sums(run)
    asked = {parsed["RoleArn"].split(":")[4] for parsed in aws.assumed}
    assert asked == set(estate.accounts[1:])


def test_nothing_to_read_is_a_complete_run(tmp_path):
    """An estate without jobs gives no line, exit status 0 and a report that says complete."""
    with FakeAws(Estate.generate(1, ("us-east-1",), 0)).in_thread() as aws:
        run = run_command(aws, tmp_path)
    assert (run.status, run.lines) == (0, [])
    assert run.report["complete"] is True
    assert json.loads(json.dumps(run.report["totals"]))["listed"] == 0
