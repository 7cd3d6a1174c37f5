"""The README's section on deploying is held against the templates and the AWS CLI's commands.

`python -m tests.test_deploying` writes its tables of parameters anew.
"""

from __future__ import annotations

import re

import botocore.session
import pytest
from botocore import xform_name

from tests.cloudformation import DEPLOY, load, resolved
from tests.test_docs import PROSE, README, ROOT, TEXT, blocks, code, prose, simple_commands

TEMPLATES = sorted(path.name for path in DEPLOY.glob("*.yaml"))
JOBS = {"ecs.yaml": "ECS", "batch.yaml": "AWS Batch"}
MARKS = re.compile(
    r"(<!-- parameters of ([^:]*): [^>]*-->\n).*?(<!-- end of parameters -->)", re.DOTALL
)


def table(names):
    """The table of the parameters of one template, or of several that have most in common."""
    rows = {}
    for name in names:
        for key, each in load(name)["Parameters"].items():
            default = each.get("Default")
            shown = "none" if default == "" else code(f"{default or ''}")
            meaning = prose(each["Description"]).replace("|", "\\|")
            rows.setdefault((code(key), meaning, shown), []).append(name)
    lines = ["", "| parameter | meaning | default |", "| --- | --- | --- |"]
    for (key, meaning, shown), of in rows.items():
        alone = f"{JOBS[of[0]]}: " if len(of) < len(names) else ""
        lines.append(f"| {key} | {alone}{meaning} | {shown} |")
    return "\n".join([*lines, "", ""])


def with_tables(text):
    """The README with its tables of parameters made anew."""
    return MARKS.sub(lambda found: found[1] + table(found[2].split(" and ")) + found[3], text)


def test_parameters_are_the_templates():
    """Each template's parameters are listed, with their descriptions and defaults."""
    assert with_tables(TEXT) == TEXT, "run `python -m tests.test_deploying`"
    listed = [name for found in MARKS.finditer(TEXT) for name in found[2].split(" and ")]
    assert sorted(listed) == TEMPLATES


def test_outputs_are_the_templates():
    """Each output of each template is named."""
    for name in TEMPLATES:
        for output in load(name)["Outputs"]:
            assert f"`{output}`" in PROSE, output


AWS_CALLS = [
    words for script in blocks("bash") for words in simple_commands(script) if words[0] == "aws"
]
BY_THE_CLI = {"cloudformation deploy", "ecr get-login-password", "logs tail", "s3 cp"}
"""Commands that the AWS CLI has beside those of the API."""


def options(words):
    """The options of a command of the AWS CLI by their names, each with its values."""
    values, found = [], {}
    for word in words[3:]:
        if word.startswith("--"):
            values = found.setdefault(word[2:], [])
        else:
            values.append(word)
    return found


@pytest.mark.parametrize("words", AWS_CALLS, ids=lambda words: " ".join(words[1:3]))
def test_every_aws_command_is_one_of_the_apis(words):
    """Service, operation and options exist, what is required is given, files are there."""
    given = options(words)
    files = [value for values in given.values() for value in values if value[:7] == "file://"]
    files += given.get("template-file", [])
    made = {"caller-policy.json"}  # by the command before it
    assert [each for each in files if not (ROOT / each.removeprefix("file://")).exists()] == [
        f"file://{name}" for name in made if f"file://{name}" in files
    ]
    if " ".join(words[1:3]) in BY_THE_CLI:
        return
    model = botocore.session.Session().get_service_model(words[1])
    operations = {xform_name(name, "-"): name for name in model.operation_names}
    shape = model.operation_model(operations[words[2]]).input_shape
    members = {xform_name(name, "-"): name for name in shape.members}
    assert given.keys() <= members.keys()
    assert set(shape.required_members) <= {members[name] for name in given}


def deployed():
    """(template, parameters) of each command of the README that deploys one."""
    for words in AWS_CALLS:
        given = options(words)
        file = given.get("template-file", given.get("template-body"))
        if file:
            pairs = given.get("parameter-overrides", [])
            pairs += [
                pair.removeprefix("ParameterKey=").replace(",ParameterValue", "")
                for pair in given.get("parameters", [])
            ]
            yield file[0].rpartition("/")[2], dict(pair.split("=", 1) for pair in pairs)


@pytest.mark.parametrize(("name", "parameters"), list(deployed()))
def test_a_template_is_deployed_with_what_it_asks_for(name, parameters):
    """Each command gives the parameters without a default, and values that the template takes."""
    assert resolved(name, **parameters)


def test_every_template_is_deployed():
    """No template is left without the command that brings it into an account."""
    assert {name for name, _ in deployed()} == set(TEMPLATES)


if __name__ == "__main__":
    README.write_text(with_tables(TEXT), encoding="utf-8")
