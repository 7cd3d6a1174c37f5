"""Endpoints, credentials and trust, as the SDK knows them; and answers in its other protocols."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from multidict import CIMultiDict

from collector.aws.retry import read_built
from collector.aws.sessions import CallerCredentials, Sdk
from collector.aws.sigv4 import Credentials
from collector.aws.wire import Answer
from collector.errors import (
    CallError,
    ConfigurationError,
    CredentialsError,
    DeniedError,
    NotEnabledError,
    ThrottledError,
    TransientError,
)
from collector.testing import Estate, FakeAws, credentials_for


@pytest.mark.parametrize(
    ("region", "environment", "url"),
    [
        ("us-east-1", {}, "https://api.sagemaker.us-east-1.amazonaws.com/"),
        ("eu-west-1", {}, "https://api.sagemaker.eu-west-1.amazonaws.com/"),
        ("cn-north-1", {}, "https://api.sagemaker.cn-north-1.amazonaws.com.cn/"),
        ("us-gov-west-1", {}, "https://api.sagemaker.us-gov-west-1.amazonaws.com/"),
        (
            "us-east-1",
            {"AWS_USE_FIPS_ENDPOINT": "true"},
            "https://api-fips.sagemaker.us-east-1.amazonaws.com/",
        ),
        (
            "us-gov-west-1",
            {"AWS_USE_FIPS_ENDPOINT": "true"},
            "https://api-fips.sagemaker.us-gov-west-1.amazonaws.com/",
        ),
        (
            "us-east-1",
            {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
            "https://api.sagemaker.us-east-1.api.aws/",
        ),
        ("us-east-1", {"AWS_ENDPOINT_URL": "http://localhost:4566"}, "http://localhost:4566/"),
        (
            "us-east-1",
            {"AWS_ENDPOINT_URL_SAGEMAKER": "https://vpce.example.com"},
            "https://vpce.example.com/",
        ),
        (
            "us-east-1",
            {"AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_SAGEMAKER": "http://b:2"},
            "http://b:2/",
        ),
    ],
)
async def test_a_template_goes_where_the_sdk_would_go(region, environment, url, monkeypatch):
    """Region, partition, FIPS, dual-stack and endpoint variables lead to the SDK's own endpoint."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    template = await Sdk().template("sagemaker", region, "DescribeTrainingJob")
    assert str(template.url) == url
    assert template.headers["host"] == url.split("/")[2]
    assert template.headers["x-amz-target"] == "SageMaker.DescribeTrainingJob"
    assert template.headers["content-type"] == "application/x-amz-json-1.1"
    assert (template.signing_name, template.signing_region) == ("sagemaker", region)
    assert (template.operation, template.path) == ("DescribeTrainingJob", "/")


async def test_an_endpoint_given_to_us_wins(monkeypatch):
    """The endpoint of the settings is used for every service, whatever the environment says."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", "http://elsewhere:1")
    sdk = Sdk(endpoint_url="http://127.0.0.1:9")
    for service in ("sagemaker", "resourcegroupstaggingapi"):
        operation = {"sagemaker": "ListTags"}.get(service, "GetResources")
        assert (await sdk.template(service, "us-east-1", operation)).url.port == 9


async def test_templates_of_one_service_differ_in_the_target_alone():
    """Each operation is its own template, made once, equal to one that is made on its own."""
    sdk = Sdk()
    for operation in ("ListTrainingJobs", "DescribeTrainingJob", "ListTags"):
        template = await sdk.template("sagemaker", "us-east-1", operation)
        assert template == await Sdk().template("sagemaker", "us-east-1", operation)
        assert template is await sdk.template("sagemaker", "us-east-1", operation)
    other = await sdk.template("resourcegroupstaggingapi", "us-east-1", "GetResources")
    assert other.signing_name == "tagging"


async def test_the_user_agent_names_the_collector():
    """AWS's logs can tell our calls from others, and no key of the machine is in a template."""
    template = await Sdk().template("sagemaker", "us-east-1", "ListTags")
    assert "aws-resource-collector/" in template.unsigned["user-agent"]
    assert "authorization" not in {*template.headers, *template.unsigned}


async def test_sts_is_asked_in_the_region():
    """Opt-in regions refuse tokens of the global endpoint, so STS is always regional."""
    built = await Sdk().build("sts", "us-east-1", "GetCallerIdentity", {})
    assert built.template.url.host == "sts.us-east-1.amazonaws.com"
    assert built.template.signing_region == "us-east-1"
    assert b"Action=GetCallerIdentity" in built.body


async def test_an_unknown_operation_is_one_sentence():
    """An operation that the installed SDK lacks is told in a sentence."""
    with pytest.raises(ConfigurationError, match="does not know the operation Invented"):
        await Sdk().build("sts", "us-east-1", "Invented", {})


@pytest.mark.parametrize(
    "use",
    [
        lambda: Sdk(profile="nobody").home_region(),
        lambda: Sdk(profile="nobody").ssl_context(),
        lambda: asyncio.run(CallerCredentials(Sdk(profile="nobody")).get()),
        lambda: asyncio.run(Sdk(profile="nobody").template("sagemaker", "us-east-1", "ListTags")),
    ],
)
def test_a_missing_profile_is_one_sentence(use):
    """A profile that does not exist is a CredentialsError that names it."""
    with pytest.raises(CredentialsError) as caught:
        use()
    text = str(caught.value)
    assert "nobody" in text
    assert "\n" not in text
    assert text.endswith(".")


async def test_credentials_come_from_the_environment(monkeypatch):
    """Keys and token of the environment are the caller's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    assert await CallerCredentials(Sdk()).get() == Credentials("AKIAENV", "secret", "token")


async def test_credentials_come_from_a_profile(monkeypatch, tmp_path):
    """A named profile of the shared file is read, by setting or by AWS_PROFILE."""
    file = tmp_path / "credentials"
    file.write_text("[work]\naws_access_key_id = AKIAFILE\naws_secret_access_key = hidden\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert (await CallerCredentials(Sdk(profile="work")).get()).access_key == "AKIAFILE"
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert (await CallerCredentials(Sdk()).get()).access_key == "AKIAFILE"


async def test_no_credentials_is_one_sentence():
    """Where there are none, the sentence says what to do."""
    with pytest.raises(CredentialsError, match="No AWS credentials were found: set AWS_PROFILE"):
        await CallerCredentials(Sdk()).get()


async def test_expired_keys_are_read_again_once(monkeypatch, tmp_path):
    """Keys that ran out are looked for anew, but the same ones only once."""
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    text = "[default]\naws_access_key_id = {}\naws_secret_access_key = s\n"
    file.write_text(text.format("OLD"))
    sdk = Sdk()
    source = CallerCredentials(sdk)
    old = await source.get()
    file.write_text(text.format("NEW"))
    assert (await source.get()).access_key == "OLD"
    source.expire(old)
    session = sdk.session
    source.expire(old)
    assert sdk.session is session
    assert (await source.get()).access_key == "NEW"


async def test_the_home_region_is_the_configured_one(monkeypatch):
    """Calls without a region go to the configured one, else to the first that is wanted."""
    assert Sdk().home_region() == "us-east-1"
    assert Sdk().home_region(["eu-west-1", "us-west-2"]) == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    assert Sdk().home_region(["eu-west-1"]) == "ap-south-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "sa-east-1")
    assert Sdk().home_region(["eu-west-1"]) == "sa-east-1"


async def test_a_missing_ca_bundle_is_one_sentence(monkeypatch, tmp_path):
    """AWS_CA_BUNDLE that names no file is a ConfigurationError that names it."""
    path = tmp_path / "none.pem"
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    with pytest.raises(ConfigurationError, match=r"none\.pem \(AWS_CA_BUNDLE\) cannot be read"):
        Sdk().ssl_context()


async def test_a_ca_bundle_that_is_none_is_one_sentence(monkeypatch, tmp_path):
    """AWS_CA_BUNDLE that holds no certificate is a ConfigurationError too."""
    path = tmp_path / "empty.pem"
    path.write_text("nothing\n")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    with pytest.raises(ConfigurationError, match=r"empty\.pem"):
        Sdk().ssl_context()


async def test_regions_are_those_of_the_partition():
    """Each partition has its own regions, sorted."""
    sdk = Sdk()
    assert await sdk.regions("sagemaker", "aws-cn") == ["cn-north-1", "cn-northwest-1"]
    commercial = await sdk.regions("sagemaker", "aws")
    assert "us-east-1" in commercial
    assert commercial == sorted(commercial)


# --- answers in XML ----------------------------------------------------------------------------

STS_ERROR = (
    b'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
    b"<Code>%s</Code><Message>why</Message></Error><RequestId>r</RequestId></ErrorResponse>"
)
EC2_ERROR = (
    b'<?xml version="1.0"?><Response><Errors><Error><Code>%s</Code><Message>why</Message></Error>'
    b"</Errors><RequestID>r</RequestID></Response>"
)


@pytest.mark.parametrize(
    ("service", "status", "body", "kind", "code"),
    [
        ("sts", 403, STS_ERROR % b"AccessDenied", DeniedError, "AccessDenied"),
        ("sts", 403, STS_ERROR % b"InvalidClientTokenId", NotEnabledError, "InvalidClientTokenId"),
        ("sts", 400, STS_ERROR % b"Throttling", ThrottledError, "Throttling"),
        ("sts", 503, STS_ERROR % b"ServiceUnavailable", TransientError, "ServiceUnavailable"),
        ("sts", 502, b"Bad Gateway", TransientError, "HTTP502"),
        ("sts", 429, b"", ThrottledError, "HTTP429"),
        ("sts", 403, b"<html>no</html>", DeniedError, "HTTP403"),
        ("sts", 200, b"", TransientError, "UnreadableAnswer"),
        ("sts", 200, b"<html><p>hello</html>", TransientError, "UnreadableAnswer"),
        ("ec2", 403, EC2_ERROR % b"UnauthorizedOperation", DeniedError, "UnauthorizedOperation"),
        ("ec2", 503, EC2_ERROR % b"RequestLimitExceeded", ThrottledError, "RequestLimitExceeded"),
        ("ec2", 401, EC2_ERROR % b"AuthFailure", NotEnabledError, "AuthFailure"),
        ("ec2", 500, EC2_ERROR % b"InternalError", TransientError, "InternalError"),
        ("ec2", 200, b"<cut", TransientError, "UnreadableAnswer"),
        ("ec2", 200, b"<html><body>x</body></html>", TransientError, "UnreadableAnswer"),
    ],
)
async def test_an_xml_answer_means_one_error(service, status, body, kind, code):
    """Errors of the query and EC2 protocols are understood like those in JSON."""
    operation, member = {
        "sts": ("GetCallerIdentity", "Account"),
        "ec2": ("DescribeRegions", "Regions"),
    }[service]
    built = await Sdk().build(service, "us-east-1", operation, {})
    headers = CIMultiDict({"x-amzn-RequestId": "r-1"})
    with pytest.raises(CallError) as caught:
        read_built(built, Answer(0.0, status, headers, body), (member,))
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.status, error.request_id) == (code, status, "r-1")
    assert error.operation == operation
    if body.count(b"why"):
        assert error.message == "why"


async def test_a_profile_that_assumes_a_role_is_followed(monkeypatch, tmp_path: Path):
    """A profile with role_arn gives the role's keys, through the configured endpoint."""
    access_key, secret = credentials_for("111111111111")
    config = tmp_path / "config"
    config.write_text(
        "[profile base]\n"
        f"aws_access_key_id = {access_key}\naws_secret_access_key = {secret}\n"
        "[profile reader]\nregion = us-east-1\nsource_profile = base\n"
        "role_arn = arn:aws:iam::222222222222:role/Reader\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    async with FakeAws(Estate.generate(jobs=1)) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        keys = await CallerCredentials(Sdk(profile="reader")).get()
    assert keys.access_key.startswith("ASIA")
    assert keys.token
    assert len(aws.assumed) == 1
