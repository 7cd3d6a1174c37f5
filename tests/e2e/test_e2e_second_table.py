"""Another table is one file: found by its entry point, crawled by the same code."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest
from aiohttp import web
from processing_jobs import TABLE

from collector import Collector, Settings, iam, tables
from collector.schema import FORMATS, render
from collector.tables import load_table, table_names
from collector.validate import validate_lines

ACCOUNT, REGION = "111111111111", "us-east-1"
JOBS, PAGE = 25, 10
DELETED = "job-07"
CREATED = 1_700_000_000.5


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The table's package is installed: it has an entry point in the group of tables."""
    point = EntryPoint("processing_jobs", "processing_jobs:TABLE", "collector.tables")
    monkeypatch.setattr(
        tables, "entry_points", lambda *, group: [point] if group == point.group else []
    )


def arn(name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:processing-job/{name}"


class Service:
    """Just enough of SageMaker's processing jobs, of tagging and of STS."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict]] = []

    async def __call__(self, request: web.Request) -> web.Response:
        target = request.headers.get("x-amz-target")
        if target is None:
            return web.Response(text=WHO, content_type="text/xml")
        operation = target.rpartition(".")[2]
        params = await request.json()
        self.calls.append((operation, params))
        status, answer = ANSWERS[operation](params)
        return web.json_response(answer, status=status)


WHO = (
    '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
    f"<GetCallerIdentityResult><Arn>arn:aws:iam::{ACCOUNT}:user/someone</Arn>"
    f"<UserId>AIDA</UserId><Account>{ACCOUNT}</Account></GetCallerIdentityResult>"
    "</GetCallerIdentityResponse>"
)


def listed(params):
    first = int(params.get("NextToken", 0))
    page = {
        "ProcessingJobSummaries": [
            {
                "ProcessingJobName": f"job-{n:02}",
                "ProcessingJobArn": arn(f"job-{n:02}"),
                "CreationTime": CREATED + n,
                "ProcessingJobStatus": "Completed",
            }
            for n in range(first, min(first + PAGE, JOBS))
        ]
    }
    if first + PAGE < JOBS:
        page["NextToken"] = str(first + PAGE)
    return 200, page


def described(params):
    name = params["ProcessingJobName"]
    if name == DELETED:
        return 400, {"__type": "ResourceNotFound", "message": "Could not find it."}
    number = int(name[-2:])
    return 200, {
        "ProcessingJobName": name,
        "ProcessingJobArn": arn(name),
        "ProcessingJobStatus": "Completed",
        "CreationTime": CREATED + number,
        "AppSpecification": {"ImageUri": "image:1", "ContainerArguments": ["--n", name]},
        "Environment": {"camelCase": "kept", "TOKEN": "secret"},
        "ProcessingInputs": [{"InputName": "in", "S3Input": {"S3Uri": "s3://b/p", "Mode": "File"}}],
        "Score": "NaN" if number == 3 else 0.5,
        "NetworkConfig": {"EnableNetworkIsolation": True},
    }


def tagged(params):
    even = [each for each in params["ResourceARNList"] if int(each[-2:]) % 2 == 0]
    tags = [{"Key": "team", "Value": "data"}]
    return 200, {"ResourceTagMappingList": [{"ResourceARN": each, "Tags": tags} for each in even]}


ANSWERS = {
    "ListProcessingJobs": listed,
    "DescribeProcessingJob": described,
    "GetResources": tagged,
}


@pytest.fixture
async def service():
    """The service on a port of its own."""
    handler = Service()
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    handler.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield handler
    await runner.cleanup()


def wanted(number: int) -> dict:
    name = f"job-{number:02}"
    second = int(CREATED) + number - 1_700_000_000
    return {
        "account_id": ACCOUNT,
        "app_specification": {"container_arguments": ["--n", name], "image_uri": "image:1"},
        "creation_time": f"2023-11-14T22:13:{20 + second}.500Z",
        "environment": {"camelCase": "***", "TOKEN": "***"},
        "processing_inputs": [{"input_name": "in", "s3_input": {"s3_uri": "s3://b/p"}}],
        "processing_job_arn": arn(name),
        "processing_job_name": name,
        "processing_job_status": "Completed",
        "score": None if number == 3 else 0.5,
        "stopping_condition": None,
        "tags": ["team:data"] if number % 2 == 0 else [],
    }


@pytest.mark.usefixtures("at_full_speed")
async def test_a_table_of_one_file_is_crawled_by_the_same_code(service):
    """Listed by pages, described, tagged, redacted, a deleted one counted: each record exact."""
    options = Settings(
        table="processing_jobs",
        regions=[REGION],
        endpoint_url=service.url,
        redact="environment=values",
    )
    async with Collector(options) as collector:
        records = [record async for record in collector.records()]
    found = {record["processing_job_name"]: record for record in records}
    assert found == {f"job-{n:02}": wanted(n) for n in range(JOBS) if f"job-{n:02}" != DELETED}
    assert {tuple(record) for record in records} == {tuple(c.name for c in TABLE.columns)}
    report = collector.report
    assert report["table"] == "processing_jobs"
    assert report["complete"] is True
    totals = report["totals"]
    assert (totals["listed"], totals["emitted"], totals["gone"]) == (JOBS, JOBS - 1, 1)
    assert report["schema_drift"] == {
        "NetworkConfig": JOBS - 1,
        "ProcessingInputs[].S3Input.Mode": JOBS - 1,
    }
    first = next(params for operation, params in service.calls)
    assert first == {"SortBy": "CreationTime", "SortOrder": "Ascending", "MaxResults": 100}
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    assert list(validate_lines(load_table("processing_jobs"), lines)) == []


def test_the_rest_of_the_program_knows_it_too():
    """It is among the tables, has a policy of its own actions, and is printed in every format."""
    assert "processing_jobs" in table_names()
    table = load_table("processing_jobs")
    assert table is TABLE
    policy = json.dumps(iam.policy(table))
    assert "sagemaker:DescribeProcessingJob" in policy
    assert "TrainingJob" not in policy
    for form in FORMATS:
        assert "processing_job_name" in render(table, form)


@pytest.mark.parametrize(
    "changes",
    [
        {"redact": "hyper_parameters=values"},
        {"status": "Deleting"},
        {"max_rate": "ListTrainingJobs=1"},
    ],
)
def test_its_settings_are_its_own(changes):
    """Columns to redact, states and operations are those of the table that was chosen."""
    with pytest.raises(ValueError, match=r"takes environment|InProgress|mean ListProcessingJobs"):
        Settings(table="processing_jobs", **changes)
