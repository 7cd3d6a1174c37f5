"""The command line and the sinks of the cloud: exit status, report, what is left where."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Iterator

import boto3
import pytest
from harness import REGIONS, is_one_sentence, run_command, start
from moto.server import ThreadedMotoServer
from state_setup import wait_until

from collector.testing import Estate, FakeAws, Limits

ACCOUNT = "111111111111"
LONG = 1_100_000


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """Moto with a bucket, and a Firehose stream of that name which delivers to it."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    keys = {"aws_access_key_id": "moto", "aws_secret_access_key": "moto"}
    clients = [
        boto3.client(service, endpoint_url=url, region_name="us-east-1", **keys)
        for service in ("s3", "firehose")
    ]
    clients[0].create_bucket(Bucket="lake")
    clients[1].create_delivery_stream(
        DeliveryStreamName="lake",
        ExtendedS3DestinationConfiguration={
            "RoleARN": "arn:aws:iam::123456789012:role/Firehose",
            "BucketARN": "arn:aws:s3:::lake",
            "Prefix": "stream/",
        },
    )
    for client in clients:
        client.close()
    yield url
    server.stop()


def content(url: str, prefix: str) -> dict[str, bytes]:
    keys = {"aws_access_key_id": "moto", "aws_secret_access_key": "moto"}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
    found = client.list_objects_v2(Bucket="lake", Prefix=prefix).get("Contents", ())
    objects = {
        item["Key"]: client.get_object(Bucket="lake", Key=item["Key"])["Body"].read()
        for item in found
    }
    client.close()
    return objects


def test_a_record_above_a_services_limit_is_status_3(moto, tmp_path):
    """It is named with the sink as its operation; every other record is delivered."""
    estate = Estate.generate(1, REGIONS, 5)
    arn = estate.add_job(ACCOUNT, "us-east-1", name="long", HyperParameters={"text": "x" * LONG})
    with FakeAws(estate).in_thread() as aws:
        run = run_command(
            aws, tmp_path, "--sink", "firehose://lake", AWS_ENDPOINT_URL_FIREHOSE=moto
        )
    assert run.status == 3
    (failure,) = run.report["failures"]
    assert (failure["arn"], failure["operation"]) == (arn, "firehose://lake")
    assert "the Firehose stream takes at most 1,024,000 a record" in failure["error"]
    assert run.target(ACCOUNT, "us-east-1")["outcome"] == "partial"
    assert run.target(ACCOUNT, "eu-west-1")["outcome"] == "complete"
    lines = b"".join(content(moto, "stream/").values()).splitlines()
    arns = [json.loads(line)["training_job_arn"] for line in lines]
    assert len(arns) == len(set(arns)) == run.report["totals"]["emitted"] == 10
    assert arn not in arns


def test_an_interrupted_run_leaves_no_manifest_in_a_bucket(moto, tmp_path):
    """SIGTERM: what was read is in whole parts, the warning says where, the status is 143."""
    limits = Limits({"DescribeTrainingJob": (15.0, 5.0)})
    places = ("--regions", "us-east-1", "--report", str(tmp_path / "report.json"))
    with (
        FakeAws(Estate.generate(1, ("us-east-1",), 200), limits=limits).in_thread() as aws,
        start(
            "run", *places, "--sink", "s3://lake/cut", aws=aws, AWS_ENDPOINT_URL_S3=moto
        ) as process,
    ):
        wait_until(lambda: aws.calls["DescribeTrainingJob"] > 20)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert any("s3://lake/cut/table=" in warning for warning in report["warnings"])
    found = content(moto, "cut/")
    assert not [key for key in found if "_manifest" in key]
    lines = [
        line
        for key, data in found.items()
        if key.endswith(".gz")
        for line in gzip.decompress(data).splitlines()
    ]
    assert len(lines) == report["totals"]["emitted"] > 0


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        ("s3://no-such-bucket/x", "there is no such bucket or object"),
        ("firehose://missing", "There is no Firehose stream missing in us-east-1"),
        ("kinesis://missing", "There is no Kinesis stream missing in us-east-1"),
        ("file:///dev/null/x", "Cannot write to file:///dev/null/x: "),
        ("s3://lake/x?template=../{run_id}/{part}", "template is a path with a name between"),
        ("s3://lake/x?codek=gz", "did you mean codec?"),
    ],
)
def test_a_place_that_is_not_there_is_one_sentence_before_any_call(moto, tmp_path, sink, said):
    """Status 1, or 2 where the URI is to blame; nothing was asked of the crawled accounts."""
    variables = {f"AWS_ENDPOINT_URL_{name}": moto for name in ("S3", "FIREHOSE", "KINESIS")}
    with FakeAws(Estate.generate(1, REGIONS, 5)).in_thread() as aws:
        run = run_command(aws, tmp_path, "--sink", sink, **variables)
        assert not aws.calls
    assert run.status == (2 if "?" in sink else 1)
    assert is_one_sentence(run.stderr), run.stderr
    assert said in run.stderr
