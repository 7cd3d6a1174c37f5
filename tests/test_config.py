"""The files under config/ fit the program."""

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
