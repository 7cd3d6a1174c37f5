"""The Spark job under config/deploy/spark fits the program and the service that runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import botocore.session
from botocore.validate import ParamValidator

from collector.iam import policy
from collector.spread.options import read_options
from collector.tables import load_table

FOLDER = Path(__file__).parents[1] / "config/deploy/spark"
TEMPLATE = FOLDER / "emr-serverless.yaml"


def template():
    from cfnlint.decode import decode_str

    document, problems = decode_str(TEMPLATE.read_text(encoding="utf-8"))
    assert not problems
    return document


def start_job_run():
    """What the schedule sends, with something in place of each reference."""
    schedule = template()["Resources"]["EveryRun"]["Properties"]
    return json.loads(
        re.sub(r"\$\{[\w.]+\}", "ReferenceToSomethingElse", schedule["Target"]["Input"]["Fn::Sub"])
    )


def lowered(value):
    """Members as the API spells them: the scheduler writes their first letter large."""
    if isinstance(value, dict):
        return {name[0].lower() + name[1:]: lowered(each) for name, each in value.items()}
    return value


def test_the_template_is_sound():
    """cfn-lint finds nothing to say about it, not even in passing."""
    from cfnlint.api import ManualArgs, lint_file

    assert lint_file(TEMPLATE, config=ManualArgs(include_checks=["I"])) == []


def test_the_schedule_sends_a_request_that_the_service_takes():
    """Its input is a StartJobRun of EMR Serverless by the SDK's own model."""
    model = botocore.session.Session().get_service_model("emr-serverless")
    shape = model.operation_model("StartJobRun").input_shape
    sent = lowered(start_job_run())
    assert not set(sent) - set(shape.members)
    assert ParamValidator().validate(sent, shape).generate_report() == ""


def test_the_jobs_arguments_are_options_of_the_source():
    """What the schedule hands to job.py after the lake are options that a stream takes."""
    submit = start_job_run()["JobDriver"]["SparkSubmit"]
    flag, _, *options = submit["EntryPointArguments"]
    assert flag == "--lake"
    given = dict(option.split("=", 1) for option in options)
    assert read_options(load_table(), given).for_stream().settings.accounts == "organization"
    assert submit["EntryPoint"].endswith(next(FOLDER.glob("*.py")).name)


def test_the_jobs_role_may_read_its_own_account():
    """It has what the reader's policy has, and may assume the reader."""
    (own,) = template()["Resources"]["JobRole"]["Properties"]["Policies"]
    granted = set()
    for statement in own["PolicyDocument"]["Statement"]:
        actions = statement["Action"]
        granted |= {actions} if isinstance(actions, str) else set(actions)
    for statement in policy(load_table())["Statement"]:
        actions = statement["Action"]
        assert ({actions} if isinstance(actions, str) else set(actions)) <= granted
    assert "sts:AssumeRole" in granted
