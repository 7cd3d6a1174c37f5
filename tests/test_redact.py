"""What is masked, and what is not."""

from __future__ import annotations

import copy
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.redact import _LONGEST_READ, MASK, is_secret, redact

AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY1"[:40]


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "DB_PASSWORD",
        "dbPasswd",
        "PGPASSPHRASE",
        "pwd",
        "client-secret",
        "SECRET",
        "HF_TOKEN",
        "aws_session_token",
        "credentials",
        "API_KEY",
        "apikey",
        "api-key",
        "access_key",
        "private-key",
        "AUTHORIZATION",
        "signature",
        "connectionString",
        "CONNECTION_STRING",
        "sentry_dsn",
        "Bearer",
        "session_id",
        "cookie",
        "encryption_key",
        "SAS_KEY",
    ],
)
def test_a_telling_key_is_enough(key):
    """A value under such a key is a secret, whatever it looks like."""
    assert is_secret(key, "plain")


@pytest.mark.parametrize(
    "value",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "key=ASIAIOSFODNN7EXAMPLE;",
        AWS_SECRET,
        f"secret is {AWS_SECRET}.",
        "-----BEGIN PRIVATE KEY-----\nabc",
        "-----BEGIN RSA PRIVATE KEY-----",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.sig-nature_",
        "ghp_" + "a1" * 18,
        "github_pat_" + "a" * 22,
        "glpat-" + "a" * 20,
        "xoxb-1234567890-abc",
        "hf_" + "a" * 34,
        "sk-" + "a" * 40,
        "postgres://user:hunter2@db.example.com/x",
        "see https://me:pa55@example.com",
        "a" * 100 + "+x://me:pa55@example.com",
        f"da39a3ee5e6b4b0d3255bfef95601890afd80709 {AWS_SECRET}",
        "train.py --lr 1 --api-key abc",
        "-secret-token\tabc",
        "x" * (_LONGEST_READ + 1),
    ],
)
def test_a_telling_shape_is_enough(value):
    """Such a value is a secret, whatever its key."""
    assert is_secret("x", value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", "0.001"),
        ("epochs", "10"),
        ("sagemaker_submit_directory", "s3://bucket/prefix/sourcedir.tar.gz"),
        ("sagemaker_program", "train.py"),
        ("region", "us-east-1"),
        ("digest", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("role", "arn:aws:iam::111111111111:role/Reader"),
        ("url", "https://example.com:8080/path"),
        ("empty", ""),
        ("path", "/opt/ml/input/data/training/part/aaaaaaaaaaaaaa"),
        ("classes", '["cat", "dog"]'),
        ("NAME", "AKIA"),
    ],
)
def test_plain_values_are_no_secrets(key, value):
    """What training jobs commonly carry is left to be read."""
    assert not is_secret(key, value)


NASTY = [
    *("a", "-", "-a", "eyJ", ".eyJ", "eyJaaaaaaaa.", "token", "--token", "token ", "-token\t"),
    *("token:", "a://", "a://b:", "-----BEGIN ", "P", "Aa0", "A_", "a=", " ", "\n", "-api-", "/"),
]


@pytest.mark.parametrize("part", NASTY)
def test_no_text_takes_long_to_look_at(part):
    """Time grows with a value's length and no faster: nobody stalls a run with one variable."""
    text = (part * _LONGEST_READ)[:_LONGEST_READ]
    began = time.monotonic()
    for key, value in (("x", text), (text, "x"), ("x", "token" + text), ("x", "a://b:" + text)):
        is_secret(key, value)
    is_secret("x", part * 10**6)
    assert time.monotonic() - began < 5


def record() -> dict:
    return {
        "environment": {"HF_TOKEN": "t", "STAGE": "prod"},
        "hyper_parameters": {"password": "p", "epochs": "3"},
        "role_arn": "arn",
    }


def test_matching_masks_secrets_alone():
    """With ``matching`` secrets become ***, everything else and every key stays."""
    row = record()
    redact(row, {"environment": "matching", "hyper_parameters": "matching"})
    assert row == {
        "environment": {"HF_TOKEN": MASK, "STAGE": "prod"},
        "hyper_parameters": {"password": MASK, "epochs": "3"},
        "role_arn": "arn",
    }


def test_values_masks_every_value():
    """With ``values`` nothing but the keys is left of a column; other columns are untouched."""
    row = record()
    redact(row, {"environment": "values"})
    assert row == record() | {"environment": {"HF_TOKEN": MASK, "STAGE": MASK}}


@pytest.mark.parametrize("empty", [None, {}])
@pytest.mark.parametrize("rule", ["values", "matching"])
def test_what_is_not_there_stays_so(empty, rule):
    """A null or empty column stays null or empty, and is not invented where it is missing."""
    row = {"environment": empty}
    redact(row, {"environment": rule, "hyper_parameters": rule})
    assert row == {"environment": empty}


def test_the_answer_itself_is_not_touched():
    """Masking puts a new map into the record: the map that came from AWS stays as it was."""
    row = record()
    before = copy.deepcopy(row["environment"])
    original = row["environment"]
    redact(row, {"environment": "values"})
    assert original == before


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=60)))
def test_masking_keeps_keys_and_can_be_repeated(values):
    """Keys and their order stay, masked or not, and a second pass changes nothing."""
    row = {"environment": dict(values)}
    redact(row, {"environment": "matching"})
    assert list(row["environment"]) == list(values)
    for key, value in row["environment"].items():
        assert value == (MASK if is_secret(key, values[key]) else values[key])
    again = copy.deepcopy(row)
    redact(again, {"environment": "matching"})
    assert again == row
