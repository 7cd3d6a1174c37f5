"""The files under config/ and the Dockerfile fit the program."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from collector.iam import policy, trust_policy
from collector.settings import Settings, load_settings, setting_fields
from collector.tables import load_table
from tests.cloudformation import resolved

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "config/collector.yaml"
LINES = EXAMPLE.read_text(encoding="utf-8").splitlines()
COMMENTED = re.compile(r"# ([a-z_]+):( .*)?")


def load(tmp_path, lines):
    """The settings of a file with these lines."""
    file = tmp_path / "collector.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    return load_settings({}, file=file).model_dump()


def test_the_example_file_changes_nothing():
    """A run with the file as it is shipped is a run with the defaults."""
    assert load_settings({}, file=EXAMPLE).model_dump() == Settings().model_dump()


def test_the_example_file_shows_every_setting_and_its_default(tmp_path):
    """Each setting stands there once, in the help's order; uncommented it still is the default."""
    shown = [line for line in LINES if COMMENTED.fullmatch(line)]
    assert [COMMENTED.fullmatch(line)[1] for line in shown] == list(setting_fields())
    uncommented = [line.removeprefix("# ") for line in shown]
    assert load(tmp_path, uncommented) == Settings().model_dump()
    named = {key for key, value in yaml.safe_load("\n".join(uncommented)).items() if value != []}
    assert {"table", "max_rate", "progress"} <= named


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("#   ")])
def test_the_values_shown_beside_the_defaults_can_be_given(line, tmp_path):
    """Every further example in the file's comments is accepted, and is not the default."""
    name = line[4:].partition(":")[0]
    others = ["role_name: Reader", "accounts: organization"] if name == "include_ou" else []
    others += ["role_name: Reader"] if name == "accounts" else []
    assert load(tmp_path, [*others, line[4:]])[name] != getattr(Settings(), name)


def role(**parameters):
    """The role's properties as CloudFormation makes them of these parameters."""
    return resolved("reader-role.yaml", **parameters)["ReaderRole"]


def test_the_template_grants_the_policy():
    """The deployed role may do what `collector iam-policy` says, and no more."""
    (attached,) = role(CallerPrincipal="111122223333")["Policies"]
    assert attached["PolicyDocument"] == policy(load_table())


@pytest.mark.parametrize("organization", ["", "o-abcdefghij"])
@pytest.mark.parametrize("external_id", ["", "my-secret:word/1"])
@pytest.mark.parametrize("caller", ["111122223333", "arn:aws:iam::111122223333:role/path/Caller"])
def test_the_template_trusts_the_caller(caller, external_id, organization):
    """Whatever is asked for, the role's trust policy is that of `collector iam-policy --trust`."""
    made = role(CallerPrincipal=caller, ExternalId=external_id, OrganizationId=organization)
    expected = trust_policy(caller, external_id or None, organization or None)
    assert json.loads(json.dumps(made["AssumeRolePolicyDocument"])) == expected


@pytest.mark.parametrize("caller", ["*", "", "arn:aws:iam::111122223333:role/*", "11112222333"])
def test_the_template_trusts_nobody_at_large(caller):
    """A principal that is open to many, or no principal, is refused."""
    with pytest.raises(AssertionError, match="CallerPrincipal"):
        role(CallerPrincipal=caller)


def test_the_role_has_its_name_and_path():
    """Name and path are those that --role-name takes, and the defaults fit the README."""
    made = role(CallerPrincipal="111122223333", RolePath="/audit/")
    assert (made["Path"], made["RoleName"]) == ("/audit/", "InventoryReader")
    taken = Settings(accounts="organization", role_name="audit/InventoryReader").role_name
    assert f"{made['Path']}{made['RoleName']}" == f"/{taken}"


DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
STEPS = [
    tuple(line.split(None, 1)) for line in DOCKERFILE.splitlines() if re.match(r"[A-Z]+ ", line)
]


def steps(name):
    return [rest for word, rest in STEPS if word == name]


def last_stage():
    return STEPS[max(at for at, (word, _) in enumerate(STEPS) if word == "FROM") :]


def test_the_image_has_two_stages_of_one_pinned_base():
    """What is built in the first stage runs in the second: one Python, pinned to its patch."""
    build, final = (re.fullmatch(r"(\S+)(?: AS (\w+))?", stage) for stage in steps("FROM"))
    assert build[1] == final[1]
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+", final[1])
    assert any(word == "COPY" and f"--from={build[2]} " in rest for word, rest in last_stage())
    assert not any("pip" in rest for _, rest in last_stage())


def test_the_image_runs_the_collector_as_process_1():
    """In exec form, so that signals reach the collector and not a shell; `run` unless told else."""
    assert [json.loads(rest) for rest in steps("ENTRYPOINT")] == [["collector"]]
    assert [json.loads(rest) for rest in steps("CMD")] == [["run"]]


def test_the_image_does_not_run_as_root():
    """The user is a number other than 0, as Kubernetes asks for, set before the entry point."""
    (user,) = [rest for word, rest in last_stage() if word == "USER"]
    assert int(user) > 0
    assert [word for word, _ in last_stage()].index("USER") < len(last_stage()) - 2


def test_the_image_logs_for_machines():
    """The variables of the image are settings that a run accepts."""
    pairs = dict(pair.split("=", 1) for rest in steps("ENV") for pair in rest.split())
    assert pairs["PYTHONUNBUFFERED"] == "1"
    settings = load_settings({}, environ=pairs)
    assert (settings.log_format, settings.progress) == ("json", "off")


def test_the_image_is_built_from_what_docker_may_see():
    """Every file that is copied exists and is let through by .dockerignore."""
    let_through = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [rest.split()[:-1] for rest in steps("COPY") if "--from" not in rest]
    for name in [name for names in copied for name in names]:
        assert (ROOT / name).exists()
        assert f"!{name}" in let_through
