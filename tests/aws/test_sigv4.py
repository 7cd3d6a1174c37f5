"""Our signatures, compared with those of the SDK's own signer."""

from __future__ import annotations

import datetime as dt
import string

import botocore.auth
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SdkCredentials
from hypothesis import given
from hypothesis import strategies as st

from collector.aws.sigv4 import Credentials, _signing_key, sign

WORD = string.ascii_letters + string.digits
values = st.text(WORD + "-_./:;=+ ", min_size=1, max_size=20).map(lambda v: " ".join(v.split()))
names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8).map(
    "x-amz-x-{}".format
)


def sdk_authorization(
    *, credentials: Credentials, service: str, region: str, path: str, headers, body, now: float
) -> str:
    """The Authorization header that the SDK gives to the same request."""
    moment = dt.datetime.fromtimestamp(int(now), dt.UTC)
    request = AWSRequest(
        "POST", f"https://{headers['host']}{path}", headers=dict(headers), data=body
    )
    signer = SigV4Auth(
        SdkCredentials(credentials.access_key, credentials.secret_key, credentials.token),
        service,
        region,
    )
    original = botocore.auth.get_current_datetime
    botocore.auth.get_current_datetime = lambda *_, **__: moment.replace(tzinfo=None)
    try:
        signer.add_auth(request)
    finally:
        botocore.auth.get_current_datetime = original
    return request.headers["Authorization"]


@given(
    access_key=st.text(string.ascii_uppercase + string.digits, min_size=16, max_size=20),
    secret_key=st.text(WORD + "/+", min_size=1, max_size=40),
    token=st.none() | st.text(WORD + "/+=", min_size=1, max_size=200),
    extra=st.dictionaries(names, values.filter(bool), max_size=4),
    request_=st.fixed_dictionaries(
        {
            "service": st.sampled_from(["sagemaker", "tagging", "sts", "organizations"]),
            "region": st.sampled_from(["us-east-1", "cn-north-1", "eusc-de-east-1"]),
            "path": st.sampled_from(["/", "/list-regions", "/a/b_c-d.e~f"]),
            "body": st.binary(max_size=200),
            "now": st.integers(0, 4_000_000_000) | st.floats(0, 4e9),
        }
    ),
)
def test_signatures_equal_those_of_the_sdk(access_key, secret_key, token, extra, request_):
    """Any keys, token, headers, body, place and moment give the SDK's Authorization header."""
    headers = {"host": "example.amazonaws.com", "content-type": "application/x-amz-json-1.1"}
    headers |= extra
    request = {
        **request_,
        "credentials": Credentials(access_key, secret_key, token),
        "headers": headers,
    }
    signed = sign(**request)
    assert signed.pop("authorization") == sdk_authorization(**request)
    assert signed.pop("x-amz-security-token", None) == token
    assert set(signed) == {*headers, "x-amz-date"}


def test_the_signing_key_changes_with_the_day():
    """The last second of a day and the first of the next have their own date, key and signature."""
    keys = Credentials("AKIAEXAMPLEEXAMPLE00", "secret")
    headers = {"host": "sagemaker.us-east-1.amazonaws.com"}
    place = {"service": "sagemaker", "region": "us-east-1", "path": "/", "body": b"{}"}
    midnight = 1_700_006_400.0
    found = {}
    for now in (midnight - 1, midnight, midnight - 0.001):
        request = {**place, "credentials": keys, "headers": headers, "now": now}
        found[now] = sign(**request)
        assert found[now]["authorization"] == sdk_authorization(**request)
    assert found[midnight - 1]["x-amz-date"] == "20231114T235959Z"
    assert found[midnight]["x-amz-date"] == "20231115T000000Z"
    assert "/20231115/us-east-1/sagemaker/aws4_request" in found[midnight]["authorization"]


def test_keys_are_kept_apart():
    """A cached key of one secret, day, region or service never signs for another."""
    variants = [
        ("a", "20240101", "us-east-1", "sagemaker"),
        ("b", "20240101", "us-east-1", "sagemaker"),
        ("a", "20240102", "us-east-1", "sagemaker"),
        ("a", "20240101", "us-east-2", "sagemaker"),
        ("a", "20240101", "us-east-1", "tagging"),
    ]
    assert len({_signing_key(*variant) for variant in variants}) == len(variants)


def test_secrets_are_not_shown():
    """The text of credentials, as in a log or a traceback, holds neither secret nor token."""
    shown = repr(Credentials("AKIA", "hidden-secret", "hidden-token"))
    assert "hidden" not in shown
    assert "AKIA" in shown
