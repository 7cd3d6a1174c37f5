"""Against moto's server: an implementation of AWS that nobody here wrote.

Where moto is not AWS: its GetResources does not know training jobs and answers without any of
them, as AWS does for jobs without tags. Jobs of moto are seconds old, younger than the hour for
which GetResources is not believed when it is silent, so every job's tags come from ListTags. Its
summaries lack SecondaryStatus, and it lists in the order of creation whatever is asked for.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import boto3
import pytest
from harness import assert_sums, command
from moto.server import ThreadedMotoServer
from reference import COLUMNS, expected

from collector import Collector, Settings

MANY = 103
"""More than a page."""

OWN, OTHER = "123456789012", "210987654321"
REGIONS = ("us-east-1", "eu-central-1")
ROLE = "InventoryReader"


def client(url, region, service="sagemaker", keys=None):
    """A boto3 client; ``keys`` are what AssumeRole returned."""
    keys = keys or {"AccessKeyId": "moto", "SecretAccessKey": "moto", "SessionToken": None}
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=url,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )


@pytest.fixture(autouse=True)
def plain_keys(caller, monkeypatch):  # noqa: ARG001 - after it, to take its place
    """Keys that moto takes for its default account's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "moto")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "moto")


def create(sagemaker, name, number):
    more = {}
    if number % 2:
        more["Tags"] = [{"Key": "team", "Value": "ranking"}, {"Key": "empty", "Value": ""}]
    if number % 3 == 0:
        more["HyperParameters"] = {"eta": "0.1", "camelCase": "größe"}
        more["VpcConfig"] = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]}
    sagemaker.create_training_job(
        TrainingJobName=name,
        AlgorithmSpecification={"TrainingImage": "image:1", "TrainingInputMode": "File"},
        RoleArn=f"arn:aws:iam::{OWN}:role/Trainer",
        InputDataConfig=[
            {
                "ChannelName": "train",
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/p"}},
            }
        ],
        OutputDataConfig={"S3OutputPath": "s3://b/o"},
        ResourceConfig={"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
        **more,
    )


@pytest.fixture(scope="module")
def moto():
    """(URL, the records that boto3's view of it means), by ARN; two accounts by two regions."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    assumed = client(url, "us-east-1", "sts").assume_role(
        RoleArn=f"arn:aws:iam::{OTHER}:role/{ROLE}", RoleSessionName="setup"
    )["Credentials"]
    wanted = {}
    for account, keys in ((OWN, None), (OTHER, assumed)):
        for region in REGIONS:
            sagemaker = client(url, region, keys=keys)
            count = MANY if (account, region) == (OTHER, REGIONS[0]) else 4
            for number in range(count):
                create(sagemaker, f"job-{account[:3]}-{number:03}", number)
            wanted |= seen_by_boto3(sagemaker, account)
            sagemaker.close()
    yield url, wanted
    server.stop()


def seen_by_boto3(sagemaker, account):
    """The records of one account and region as boto3 describes its jobs, by ARN."""
    found = {}
    for page in sagemaker.get_paginator("list_training_jobs").paginate():
        for summary in page["TrainingJobSummaries"]:
            answer = sagemaker.describe_training_job(TrainingJobName=summary["TrainingJobName"])
            arn = answer["TrainingJobArn"]
            pairs = sagemaker.list_tags(ResourceArn=arn)["Tags"]
            tags = {pair["Key"]: pair["Value"] for pair in pairs}
            found[arn] = expected(epochs(answer), account, tags)
    return found


def epochs(value):
    """boto3's datetimes as the epoch seconds that the wire carries."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).timestamp()
    if isinstance(value, dict):
        return {key: epochs(item) for key, item in value.items()}
    return [epochs(item) for item in value] if isinstance(value, list) else value


@pytest.mark.usefixtures("at_full_speed")
async def test_the_library_reads_all_that_boto3_does(moto):
    """Two accounts by two regions of moto, one with two pages: every record exact."""
    url, wanted = moto
    options = Settings(
        accounts=[OWN, OTHER], role_name=ROLE, regions=list(REGIONS), endpoint_url=url
    )
    async with Collector(options) as collector:
        records = [record async for record in collector.records()]
    assert len(wanted) == 3 * 4 + MANY
    assert {record["training_job_arn"]: record for record in records} == wanted
    assert len(records) == len(wanted)
    assert {len(record) for record in records} == {len(COLUMNS)}
    assert collector.complete
    rows = {(r["account_id"], r["region"]): r["emitted"] for r in collector.report["targets"]}
    assert rows == {
        (OWN, REGIONS[0]): 4,
        (OWN, REGIONS[1]): 4,
        (OTHER, REGIONS[0]): MANY,
        (OTHER, REGIONS[1]): 4,
    }


def test_the_command_line_reads_all_that_boto3_does(moto, tmp_path):
    """`collector run` with AWS_ENDPOINT_URL: a line for every job of moto, exactly."""
    url, wanted = moto
    report = tmp_path / "report.json"
    run = command(
        *("run", "--accounts", f"{OWN},{OTHER}", "--role-name", ROLE),
        *("--regions", ",".join(REGIONS), "--report", str(report)),
        AWS_ENDPOINT_URL=url,
    )
    run.records = [json.loads(line) for line in run.lines]
    run.report = json.loads(report.read_text())
    assert run.status == 0, run.stderr
    assert {record["training_job_arn"]: record for record in run.records} == wanted
    assert_sums(run)
