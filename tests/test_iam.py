from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import pytest

from collector.errors import ConfigurationError
from collector.iam import caller_policy, policy, trust_policy, with_delivery
from collector.tables import load_table

TABLE = load_table()
READER_POLICY = Path(__file__).parents[1] / "config/iam/reader-policy.json"


@pytest.fixture(scope="module")
def services():
    """AWS's own list of actions and the resource types each can be scoped to, by service."""
    text = files("cfnlint.data.AdditionalSpecs").joinpath("Policies.json").read_text("utf-8")
    return json.loads(text)


def actions(document):
    return [action for each in document["Statement"] for action in each["Action"]]


SINKS = ["s3://lake/raw?kms_key=k&acl=private", "firehose://jobs", "kinesis://jobs", "gs://b/x"]
DOCUMENTS = [
    policy(TABLE),
    caller_policy(TABLE, "InventoryReader"),
    with_delivery(policy(TABLE), [*SINKS, *SINKS], "s3://state/x"),
]


def test_the_shipped_policy_is_the_generated_one():
    """The file that people attach to their role says what the code says."""
    assert READER_POLICY.read_text() == json.dumps(policy(TABLE), indent=2) + "\n"


def test_reader_may_do_what_a_crawl_calls_and_no_more():
    """The reader role gets the table's actions, tags in bulk and regions, all of them reads."""
    assert sorted(actions(policy(TABLE))) == [
        "account:ListRegions",
        "ec2:DescribeRegions",
        "sagemaker:DescribeTrainingJob",
        "sagemaker:ListTags",
        "sagemaker:ListTrainingJobs",
        "tag:GetResources",
    ]


def test_settings_that_need_less_ask_for_less():
    """Without bulk tags and region discovery only the table's own actions remain."""
    least = policy(TABLE, bulk_tags=False, find_regions=False)
    assert sorted(actions(least)) == sorted(TABLE.iam_actions)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_action_exists(document, services):
    """No action is misspelt: AWS lists each of them."""
    for action in actions(document):
        service, _, name = action.partition(":")
        assert name.lower() in services[service]["Actions"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_can_be_scoped_is_scoped(document, services):
    """A statement is open to every resource just when AWS knows no resource for its actions."""
    for statement in document["Statement"]:
        for action in statement["Action"]:
            service, _, name = action.partition(":")
            supported = services[service]["Actions"][name.lower()].get("Resources", [])
            assert (statement["Resource"] == "*") == (not supported), action


@pytest.mark.parametrize("document", DOCUMENTS)
def test_statements_are_wellformed(document):
    """Sids are distinct and alphanumeric, and scoped ARNs hold in every partition."""
    sids = [statement["Sid"] for statement in document["Statement"]]
    assert len(set(sids)) == len(sids)
    assert all(sid.isalnum() for sid in sids)
    for statement in document["Statement"]:
        resources = statement["Resource"]
        for arn in [resources] if isinstance(resources, str) else resources:
            assert arn == "*" or (arn.startswith("arn:*:") and arn.count(":") >= 5)


def test_resource_follows_the_tables_arn():
    """Another table's ARN format becomes the resource of its reading actions."""
    other = dataclasses.replace(
        TABLE,
        arn_format="arn:{partition}:glue:{region}:{account_id}:job/{name}",
        iam_actions=("glue:GetJob",),
    )
    first, *_ = policy(other)["Statement"]
    assert first["Action"] == ["glue:GetJob"]
    assert first["Resource"] == "arn:*:glue:*:*:job/*"


def test_caller_can_read_its_own_account_and_find_and_enter_the_others():
    """The caller has the reader's permissions, may assume that one role, and lists accounts."""
    document = caller_policy(TABLE, "/audit/InventoryReader")
    assert document["Statement"][: len(policy(TABLE)["Statement"])] == policy(TABLE)["Statement"]
    by_sid = {statement["Sid"]: statement for statement in document["Statement"]}
    assume = by_sid["AssumeReaderRole"]
    assert assume["Resource"] == "arn:*:iam::*:role/audit/InventoryReader"
    assert set(actions(document)) - set(actions(policy(TABLE))) == {
        "sts:AssumeRole",
        "organizations:ListAccounts",
        "organizations:ListAccountsForParent",
        "organizations:ListOrganizationalUnitsForParent",
    }


@pytest.mark.parametrize("name", ["", "*", "Reader*", "a b", "x" * 65, "arn:aws:iam::1:role/R"])
def test_a_role_name_cannot_widen_the_policy(name):
    """What is not a role's name, a wildcard above all, is refused."""
    with pytest.raises(ConfigurationError, match="not the name of a role"):
        caller_policy(TABLE, name)


def test_trust_names_one_principal_and_its_conditions():
    """External id and organization become conditions that must both hold."""
    (statement,) = trust_policy("111122223333", "s3cret/x", "o-abcdefghij")["Statement"]
    assert statement["Principal"] == {"AWS": "111122223333"}
    assert statement["Action"] == "sts:AssumeRole"
    assert statement["Condition"] == {
        "StringEquals": {"sts:ExternalId": "s3cret/x", "aws:PrincipalOrgID": "o-abcdefghij"}
    }


def test_trust_without_conditions_has_no_condition():
    """An empty Condition block is not written."""
    (statement,) = trust_policy("arn:aws-cn:iam::111122223333:role/team/Crawler")["Statement"]
    assert "Condition" not in statement


def test_trust_in_a_whole_organization():
    """Everybody may be trusted within an organization, and only there."""
    (statement,) = trust_policy("*", organization_id="o-abcdefghij")["Statement"]
    assert statement["Condition"] == {"StringEquals": {"aws:PrincipalOrgID": "o-abcdefghij"}}
    with pytest.raises(ConfigurationError, match="organization id"):
        trust_policy("*", "an-external-id-is-no-secret")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("12345",), "neither an account id nor"),
        (("arn:aws:iam::111122223333:*",), "neither an account id nor"),
        (("arn:aws:s3:::bucket",), "neither an account id nor"),
        (("111122223333", ""), "not an external id"),
        (("111122223333", "with space"), "not an external id"),
        (("111122223333", None, "*"), "not an organization id"),
    ],
)
def test_bad_trust_is_refused(arguments, message):
    """A principal, external id or organization id that AWS would refuse is refused here."""
    with pytest.raises(ConfigurationError, match=message):
        trust_policy(*arguments)
