"""The CloudFormation templates of config/deploy fit the program, its image and its permissions."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import boto3
import botocore.session
import pytest
from botocore.validate import ParamValidator
from moto.events.models import EventPattern
from moto.server import ThreadedMotoServer

from collector import console
from collector.iam import caller_policy, with_delivery
from collector.settings import load_settings, unknown_variables
from collector.tables import load_table
from collector.testing import Estate, FakeAws, credentials_for
from tests.cloudformation import DEPLOY, load, resolved

TEMPLATES = sorted(path.name for path in DEPLOY.glob("*.yaml"))
JOBS = ("ecs.yaml", "batch.yaml")
KEY = "arn:aws:kms:us-east-1:111122223333:key/0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
IMAGE = "111122223333.dkr.ecr.us-east-1.amazonaws.com/aws-resource-collector:0.1.0"
STATUSES = (1, 2, 3, 130, 137, 143)
"""What the collector may end with but 0, and 137, which is SIGKILL."""


def made(template, **parameters):
    """The resources of a template with what it asks for and these parameters."""
    given = {"BucketName": "my-lake"}
    if template in JOBS:
        given |= {"ImageUri": IMAGE, "Subnets": ["subnet-1"], "SecurityGroups": ["sg-1"]}
    return resolved(template, **given | parameters)


def container(resources):
    """The container of a task or a job, in the words of ECS."""
    if "TaskDefinition" in resources:
        (found,) = resources["TaskDefinition"]["ContainerDefinitions"]
        return found
    return resources["JobDefinition"]["ContainerProperties"]


def variables(template, **parameters):
    """The environment of the container, with what AWS Batch adds to it."""
    pairs = container(made(template, **parameters))["Environment"]
    batch = {"AWS_BATCH_JOB_ARRAY_INDEX": "2", "AWS_BATCH_JOB_ARRAY_SIZE": "16"}
    return {each["Name"]: each["Value"] for each in pairs} | (
        batch if template == "batch.yaml" else {}
    )


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_is_sound(template):
    """cfn-lint finds nothing to say about it, not even in passing."""
    from cfnlint.api import ManualArgs, lint_file

    assert lint_file(DEPLOY / template, config=ManualArgs(include_checks=["I"])) == []


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_parameter_is_explained_and_in_a_group(template):
    """Whoever fills in the form reads what each is for, and what it may be."""
    read = load(template)
    groups = read["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    named = [name for group in groups for name in group["Parameters"]]
    assert sorted(named) == sorted(read["Parameters"])
    for name, each in read["Parameters"].items():
        assert each["Description"].endswith("."), name
        bounds = {"AllowedPattern", "AllowedValues", "MinValue"} & each.keys()
        assert bounds or "AWS::EC2::" in each["Type"], name


# ------------------------------------------------------------------------------ what is run


@pytest.mark.parametrize("template", JOBS)
def test_the_container_has_settings_that_load(template):
    """Every COLLECTOR_ variable is a setting, and what the parameters give is what a run gets."""
    environ = variables(
        template, Accounts="111111111111,222222222222", Regions="us-east-1", ExternalId="my/id"
    )
    assert unknown_variables(environ) == []
    settings = load_settings({}, environ=environ)
    assert settings.accounts == ("111111111111", "222222222222")
    assert settings.regions == ("us-east-1",)
    assert (settings.role_name, settings.external_id) == ("InventoryReader", "my/id")
    assert settings.sink == ("s3://my-lake/inventory/",)
    assert settings.state == "s3://my-lake/state"
    name = "report-3-of-16" if template == "batch.yaml" else "report"
    assert settings.report == f"s3://my-lake/reports/{name}.json"
    assert settings.redact == {"environment": "values", "hyper_parameters": "matching"}
    assert settings.metrics == ("emf",)
    assert environ["AWS_REGION"] == "us-east-1"  # the bucket's, and the first that is asked


@pytest.mark.parametrize("template", JOBS)
def test_what_is_left_empty_is_left_out(template):
    """With the defaults alone the settings load: an organization, without an external id."""
    settings = load_settings({}, environ=variables(template, Redact=""))
    assert (settings.accounts, settings.external_id) == ("organization", None)
    assert settings.redact == {}


@pytest.mark.parametrize("key", ["", KEY])
@pytest.mark.parametrize("template", JOBS)
def test_the_task_may_do_what_iam_policy_prints(template, key):
    """The role has the policy for this caller, sink, state and report, and nothing else."""
    resources = made(template, RoleName="audit/Reader", KmsKeyArn=key)
    environ = variables(template, RoleName="audit/Reader", KmsKeyArn=key)
    (attached,) = resources["TaskRole"]["Policies"]
    assert "ManagedPolicyArns" not in resources["TaskRole"]
    assert attached["PolicyDocument"] == with_delivery(
        caller_policy(load_table(), "audit/Reader"),
        [environ["COLLECTOR_SINK"]],
        environ["COLLECTOR_STATE"],
        environ["COLLECTOR_REPORT"],
    )
    assert ("kms:Decrypt" in json.dumps(attached)) == bool(key)


@pytest.mark.parametrize("template", JOBS)
def test_the_container_is_shut_in(template):
    """The image's own user, who is not root, and a root that nobody writes to."""
    dockerfile = (DEPLOY.parents[1] / "Dockerfile").read_text(encoding="utf-8")
    (user,) = re.findall(r"^USER (\d+)", dockerfile, re.MULTILINE)
    found = container(made(template))
    assert found["User"] == user
    assert found["ReadonlyRootFilesystem"] is True
    assert "Privileged" not in found


def test_a_task_has_time_to_stop():
    """ECS waits longer than the collector takes after SIGTERM: the grace, then the sink's time."""
    needed = load_settings({}, environ=variables("ecs.yaml")).grace + console._FLUSH_TIME
    assert needed < container(made("ecs.yaml"))["StopTimeout"] <= 120
    # AWS Batch on Fargate has no such setting; it waits 30 s.
    assert load_settings({}, environ=variables("batch.yaml")).grace + console._FLUSH_TIME < 30


@pytest.fixture
def bucket(monkeypatch):
    """A bucket in moto's S3, jobs in a fake AWS, and the variables that lead to both."""
    estate = Estate.generate(1, ("us-east-1",), 30)
    access_key, secret_key = credentials_for(estate.accounts[0])
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with FakeAws(estate).in_thread() as aws:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="my-lake")
        yield "my-lake"
    server.stop()


WATCHED = """
import os, sys
def hook(event, arguments):
    if event == "open":
        path, _, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path != os.devnull:
            os.write(2, f"WRITTEN {path}\\n".encode())
    elif event in {"os.mkdir", "os.rename", "os.link", "os.symlink", "tempfile.mkstemp"}:
        os.write(2, f"WRITTEN {event} {arguments}\\n".encode())
sys.addaudithook(hook)
from collector.__main__ import main
main()
"""


def test_a_run_into_a_bucket_writes_no_file(bucket):
    """So the root may be read-only, and no /tmp is needed where none can be had (AWS Batch)."""
    sink, state, report = (f"s3://{bucket}/{name}" for name in ("inventory/", "state", "r.json"))
    options = ["--sink", sink, "--state", state, "--report", report, "--log-format", "json"]
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED, "run", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WRITTEN" not in done.stderr
    keys = [each["Key"] for each in boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
    assert {key.partition("/")[0] for key in keys} == {"inventory", "r.json", "state"}


# ----------------------------------------------------------------------- when it is started


@pytest.mark.parametrize("template", JOBS)
def test_the_schedule_is_kept(template):
    """On the minute, in its time zone; what cannot be started is tried again, and then kept."""
    schedule = made(template, ScheduleTimezone="Europe/Berlin")["Schedule"]
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert schedule["ScheduleExpressionTimezone"] == "Europe/Berlin"
    assert schedule["Target"]["DeadLetterConfig"] == {"Arn": "<NotStarted.Arn>"}
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] > 0


def granted(resources, role):
    (attached,) = resources[role]["Policies"]
    return {each["Action"]: each["Resource"] for each in attached["PolicyDocument"]["Statement"]}


def test_the_scheduler_may_start_this_task_alone():
    """It runs this family in this cluster, and passes these two roles, to ECS."""
    resources = made("ecs.yaml")
    family = resources["TaskDefinition"]["Family"]
    assert granted(resources, "SchedulerRole") == {
        "ecs:RunTask": f"arn:aws:ecs:us-east-1:111122223333:task-definition/{family}:*",
        "iam:PassRole": ["<TaskRole.Arn>", "<ExecutionRole.Arn>"],
        "sqs:SendMessage": "<NotStarted.Arn>",
    }
    target = resources["Schedule"]["Target"]
    assert target["EcsParameters"]["TaskDefinitionArn"] == "<TaskDefinition>"
    assert target["Arn"] == "<Cluster.Arn>"


def test_the_scheduler_submits_a_job_that_batch_takes():
    """The input is one of SubmitJob, as the SDK's own model has it, with as many children."""
    resources = made("batch.yaml", Shards=40)
    assert granted(resources, "SchedulerRole") == {
        "batch:SubmitJob": ["<JobQueue>", "<JobDefinition>"],
        "sqs:SendMessage": "<NotStarted.Arn>",
    }
    target = resources["Schedule"]["Target"]
    assert target["Arn"].endswith(":aws-sdk:batch:submitJob")
    given = json.loads(target["Input"])
    assert all(name[0].isupper() for name in given)  # as the scheduler wants it, unlike Batch
    model = botocore.session.Session().get_service_model("batch").operation_model("SubmitJob")
    problems = ParamValidator().validate(lower(given), model.input_shape)
    assert not problems.has_errors(), problems.generate_report()
    assert given["ArrayProperties"] == {"Size": 40}


def lower(value):
    """Members' names as AWS Batch spells them."""
    if not isinstance(value, dict):
        return value
    return {name[0].lower() + name[1:]: lower(inner) for name, inner in value.items()}


def test_batch_tries_again_what_may_pass():
    """Statuses of the collector that another attempt can mend are retried; the others end it."""
    strategy = made("batch.yaml")["JobDefinition"]["RetryStrategy"]
    assert strategy["Attempts"] == 3
    found = set()
    for status in STATUSES:
        # The first rule that fits decides, and where none does, Batch tries again.
        rules = [each for each in strategy["EvaluateOnExit"] if each["OnExitCode"] == str(status)]
        if not rules or rules[0]["Action"] == "RETRY":
            found.add(status)
    assert found == {1, 130, 137, 143}


# --------------------------------------------------------------------------- who is told


def told(template, detail):
    """Whether the rule about failures takes an event of this detail."""
    rule = made(template)["Failed"]
    kind, source = rule["EventPattern"]["detail-type"][0], rule["EventPattern"]["source"][0]
    pattern = EventPattern.load(json.dumps(rule["EventPattern"]))
    return pattern.matches_event({"detail-type": kind, "source": source, "detail": detail})


# EventBridge looks into lists, so one container stands for the list of it; moto does not.
@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ({"lastStatus": "STOPPED", "containers": {"exitCode": 0}}, False),
        *(
            ({"lastStatus": "STOPPED", "containers": {"exitCode": status}}, True)
            for status in STATUSES
        ),
        ({"lastStatus": "STOPPED", "containers": {}, "stopCode": "TaskFailedToStart"}, True),
        ({"lastStatus": "RUNNING", "containers": {}}, False),
    ],
)
def test_a_task_that_failed_is_told(detail, expected):
    """Every status but 0 is told, and a task that did not start; nothing else is."""
    assert told("ecs.yaml", {"clusterArn": "<Cluster.Arn>", **detail}) is expected
    assert not told("ecs.yaml", {"clusterArn": "another", **detail})


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ({"status": "FAILED", "arrayProperties": {"size": 16}}, True),
        ({"status": "FAILED", "arrayProperties": {"size": 16, "index": 3}}, False),
        ({"status": "SUCCEEDED", "arrayProperties": {"size": 16}}, False),
    ],
)
def test_an_array_that_failed_is_told_once(detail, expected):
    """The array as a whole is told, not each of its children."""
    assert told("batch.yaml", {"jobQueue": "<JobQueue>", **detail}) is expected


@pytest.fixture(scope="module")
def log():
    """The log of a real run, event by event."""
    demo = [sys.executable, "-m", "collector", "demo", "--jobs", "1", "--log-format", "json"]
    done = subprocess.run(demo, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize("template", JOBS)
def test_a_complete_run_is_seen_in_its_log(template, log):
    """The filter takes the last event of a real run, and there is an alarm without it."""
    resources = made(template, HoursWithoutSuccess=50)
    pattern = resources["CompleteRuns"]["FilterPattern"]
    event, member = re.fullmatch(
        r'\{ \(\$\.event = "([a-z ]+)"\) && \(\$\.(\w+) IS TRUE\) \}', pattern
    ).groups()
    assert [line[member] for line in log if line["event"] == event] == [True]

    (metric,) = resources["CompleteRuns"]["MetricTransformations"]
    alarm = resources["NoCompleteRun"]
    assert alarm["MetricName"] == metric["MetricName"]
    assert alarm["Namespace"] == metric["MetricNamespace"]
    assert alarm["TreatMissingData"] == "breaching"
    # Any hour with a complete run keeps it quiet, for so many hours.
    assert alarm["DatapointsToAlarm"] == alarm["EvaluationPeriods"] == 50
    assert alarm["Period"] == 3600


@pytest.mark.parametrize("template", JOBS)
def test_alarms_go_to_the_topic(template):
    """Both alarms end in the topic, which lets them in, and in a mail if there is an address."""
    resources = made(template, AlarmEmail="team@example.com")
    assert resources["NoCompleteRun"]["AlarmActions"] == ["<Alarms>"]
    assert [target["Arn"] for target in resources["Failed"]["Targets"]] == ["<Alarms>"]
    statements = resources["AlarmsPolicy"]["PolicyDocument"]["Statement"]
    let_in = {each["Principal"]["Service"]: each.get("Condition") for each in statements}
    # EventBridge gives SNS nothing to hold a condition against: with one it would be kept out.
    assert let_in["events.amazonaws.com"] is None
    assert "cloudwatch.amazonaws.com" in let_in
    assert resources["Mail"]["Endpoint"] == "team@example.com"
    assert "Mail" not in made(template)


# -------------------------------------------------------------------------------- the lake


def test_the_bucket_is_closed():
    """Encrypted, versioned, no public access, owner's objects only, and TLS or nothing."""
    resources = made("lake.yaml")
    bucket = resources["Bucket"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    (deny,) = resources["BucketPolicy"]["PolicyDocument"]["Statement"]
    assert (deny["Effect"], deny["Action"], deny["Principal"]) == ("Deny", "s3:*", "*")
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert deny["Resource"] == ["<Bucket.Arn>", "<Bucket.Arn>/*"]
    assert load("lake.yaml")["Resources"]["Bucket"]["DeletionPolicy"] == "Retain"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("", {"SSEAlgorithm": "AES256"}),
        (KEY, {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}),
    ],
)
def test_the_bucket_is_encrypted(key, expected):
    """With the key that is given, or with S3's own."""
    configuration = made("lake.yaml", KmsKeyArn=key)["Bucket"]["BucketEncryption"]
    (rule,) = configuration["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == expected


@pytest.mark.parametrize("template", JOBS)
def test_what_expires_is_what_is_written(template):
    """Records and reports expire, after the next full run; state never does; uploads are ended."""
    bucket = made("lake.yaml")["Bucket"]
    rules = {each["Id"]: each for each in bucket["LifecycleConfiguration"]["Rules"]}
    expiring = {each["Prefix"]: each for each in rules.values() if "ExpirationInDays" in each}
    settings = load_settings({}, environ=variables(template))
    (sink,) = settings.sink
    for uri in (sink, settings.report, settings.state):
        key = uri.removeprefix("s3://my-lake/")
        expires = [each for prefix, each in expiring.items() if key.startswith(prefix)]
        assert len(expires) == (0 if uri == settings.state else 1), uri
        assert all(each["ExpirationInDays"] * 86_400 > settings.full_every for each in expires)
    assert any("AbortIncompleteMultipartUpload" in each for each in rules.values())
