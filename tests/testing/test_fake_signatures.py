import asyncio
import time

import aiohttp
import pytest
from botocore.exceptions import ClientError
from fake_clients import ACCOUNT, REGION, Connect, blocking, session_options

from collector.testing import Estate, FakeAws, credentials_for

MEMBER = "222222222222"
ROLE = f"arn:aws:iam::{MEMBER}:role/team/Reader"
SERVICES = {
    "sagemaker": ("list_training_jobs", "UnrecognizedClientException", "InvalidSignatureException"),
    "resourcegroupstaggingapi": (
        "get_resources",
        "UnrecognizedClientException",
        "InvalidSignatureException",
    ),
    "organizations": ("list_accounts", "UnrecognizedClientException", "InvalidSignatureException"),
    "account": ("list_regions", "UnrecognizedClientException", "InvalidSignatureException"),
    "sts": ("get_caller_identity", "InvalidClientTokenId", "SignatureDoesNotMatch"),
    "ec2": ("describe_regions", "AuthFailure", "AuthFailure"),
}


@pytest.fixture
async def aws():
    async with FakeAws(Estate.generate(jobs=20)) as server:
        yield server


async def code_of(call) -> tuple[str, int, str]:
    """(code, HTTP status, message) of the error that the call ends with."""
    with pytest.raises(ClientError) as caught:
        await call
    response = caught.value.response
    error = response["Error"]
    return error["Code"], response["ResponseMetadata"]["HTTPStatusCode"], error["Message"]


@pytest.mark.parametrize("service", SERVICES)
async def test_every_service_accepts_the_sdks_signature(aws, connect: Connect, service):
    """What aiobotocore and boto3 sign, in six services and four protocols, verifies."""
    client = await connect(aws, service)
    await getattr(client, SERVICES[service][0])()
    sync = blocking(aws, service)
    await asyncio.to_thread(getattr(sync, SERVICES[service][0]))
    sync.close()
    assert aws.calls.total() == 2


@pytest.mark.parametrize("service", SERVICES)
async def test_a_wrong_secret_is_refused(aws, connect: Connect, service):
    """A signature made with another secret fails, with each service's own error."""
    operation, _, expected = SERVICES[service]
    keys = (credentials_for(ACCOUNT)[0], "x" * 40)
    client = await connect(aws, service, keys=keys)
    code, status, _ = await code_of(getattr(client, operation)())
    assert code == expected
    assert status in {400, 401, 403}


@pytest.mark.parametrize("service", SERVICES)
async def test_an_unknown_access_key_is_refused(aws, connect: Connect, service):
    """A key that was never given out is nobody's, even with a fitting secret."""
    operation, expected, _ = SERVICES[service]
    client = await connect(aws, service, keys=("AKIAIOSFODNN7EXAMPLE", "secret"))
    assert (await code_of(getattr(client, operation)()))[0] == expected
    stranger = await connect(aws, service, account="987654321098")
    assert (await code_of(getattr(stranger, operation)()))[0] == expected


async def test_an_assumed_role_sees_its_own_account(aws, connect: Connect):
    """AssumeRole gives keys that work, for the role's account and under the role's name."""
    sts = await connect(aws, "sts")
    answer = await sts.assume_role(RoleArn=ROLE, RoleSessionName="tests")
    user = answer["AssumedRoleUser"]["Arn"]
    assert user == f"arn:aws:sts::{MEMBER}:assumed-role/Reader/tests"
    session = session_options(answer["Credentials"])
    assert session["keys"][0].startswith("ASIA")
    who = await (await connect(aws, "sts", **session)).get_caller_identity()
    assert (who["Account"], who["Arn"]) == (MEMBER, user)
    client = await connect(aws, **session)
    page = await client.list_training_jobs(MaxResults=1)
    assert f":{MEMBER}:" in page["TrainingJobSummaries"][0]["TrainingJobArn"]
    assert aws.calls_by[MEMBER, REGION, "ListTrainingJobs"] == 1
    assert [(call["RoleArn"], call["Ok"]) for call in aws.assumed] == [(ROLE, True)]


async def test_a_session_without_its_token_is_nobody(aws, connect: Connect):
    """Temporary keys are refused without their token, and with another session's."""
    sts = await connect(aws, "sts")
    one = (await sts.assume_role(RoleArn=ROLE, RoleSessionName="one"))["Credentials"]
    two = (await sts.assume_role(RoleArn=ROLE, RoleSessionName="two"))["Credentials"]
    keys = session_options(one)["keys"]
    for token in (None, two["SessionToken"], "nonsense"):
        client = await connect(aws, keys=keys, token=token)
        assert (await code_of(client.list_training_jobs()))[0] == "UnrecognizedClientException"


@pytest.mark.parametrize(
    ("service", "expected", "status"),
    [
        ("sagemaker", "ExpiredTokenException", 400),
        ("resourcegroupstaggingapi", "ExpiredTokenException", 400),
        ("sts", "ExpiredToken", 403),
        ("account", "ExpiredTokenException", 403),
        ("ec2", "RequestExpired", 400),
    ],
)
async def test_an_expired_session_is_refused(connect: Connect, service, expected, status):
    """Keys stop working after session_seconds, with the error of each protocol."""
    offset = 0.0
    async with FakeAws(
        Estate.generate(jobs=1), session_seconds=60, clock=lambda: time.time() + offset
    ) as aws:
        sts = await connect(aws, "sts")
        answer = await sts.assume_role(RoleArn=ROLE, RoleSessionName="tests")
        client = await connect(aws, service, **session_options(answer["Credentials"]))
        call = getattr(client, SERVICES[service][0])
        await call()
        offset = 61.0
        assert (await code_of(call()))[:2] == (expected, status)


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_clock_that_is_off_is_refused(connect: Connect, minutes):
    """Ten minutes off is too much either way, and the Date header carries the server's clock."""
    async with FakeAws(Estate.generate(jobs=1), clock=lambda: time.time() + 60 * minutes) as aws:
        code, status, message = await code_of((await connect(aws)).list_training_jobs())
        assert (code, status) == ("InvalidSignatureException", 400)
        expected = "Signature expired" if minutes > 0 else "Signature not yet current"
        assert message.startswith(expected)
        sts = await code_of((await connect(aws, "sts")).get_caller_identity())
        assert sts[:2] == ("SignatureDoesNotMatch", 403)
        ec2 = await code_of((await connect(aws, "ec2")).describe_regions())
        assert ec2[:2] == ("RequestExpired", 400)


async def test_requests_are_refused_unsigned_or_changed_on_the_way(aws):
    """No signature, an unsigned header or another body than was signed: each is refused."""
    headers = {
        "X-Amz-Target": "SageMaker.ListTrainingJobs",
        "Content-Type": "application/x-amz-json-1.1",
    }
    async with aiohttp.ClientSession() as http:
        async with http.post(aws.url, data=b"{}", headers=headers) as response:
            assert response.status == 400
            body = await response.json(content_type=None)
            assert body["__type"] == "MissingAuthenticationTokenException"
        key = credentials_for(ACCOUNT)[0]
        scope = f"{time.strftime('%Y%m%d', time.gmtime())}/{REGION}/sagemaker/aws4_request"
        headers["X-Amz-Date"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders=host;x-amz-date, "
            f"Signature={'0' * 64}"
        )
        async with http.post(aws.url, data=b"{}", headers=headers) as response:
            body = await response.json(content_type=None)
            assert body["__type"] == "InvalidSignatureException"
            assert "must be a 'SignedHeader'" in body["message"]


async def test_signatures_need_not_be_checked(connect: Connect):
    """With check_signatures off, strangers are the management account."""
    async with FakeAws(Estate.generate(jobs=1), check_signatures=False) as aws:
        sts = await connect(aws, "sts", keys=("testing", "testing"))
        assert (await sts.get_caller_identity())["Account"] == ACCOUNT


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"RoleArn": "arn:aws:iam::999999999999:role/Reader"}, "AccessDenied"),
        ({"RoleArn": f"arn:aws:iam::{MEMBER}:role/Other"}, "AccessDenied"),
        ({"ExternalId": "wrong"}, "AccessDenied"),
        ({"RoleArn": f"arn:aws:iam::{MEMBER}:user/Reader"}, "ValidationError"),
        ({"RoleSessionName": "no spaces please"}, "ValidationError"),
        ({"DurationSeconds": 60}, "ValidationError"),
        ({"DurationSeconds": 7200}, "ValidationError"),
    ],
)
async def test_assume_role_is_particular(connect: Connect, changes, expected):
    """Unknown accounts and roles, wrong external ids and bad parameters are refused."""
    async with FakeAws(
        Estate.generate(jobs=1), external_id="s3cret", role_names={"team/Reader"}
    ) as aws:
        sts = await connect(aws, "sts")
        params = {"RoleArn": ROLE, "RoleSessionName": "tests", "ExternalId": "s3cret"}
        await sts.assume_role(**params)
        assert (await code_of(sts.assume_role(**params | changes)))[0] == expected


async def test_denials_name_the_caller_and_the_action(connect: Connect):
    """What is denied is denied alone, and the message says who may not do what."""
    denied = {(ACCOUNT, "sagemaker:ListTags"), ("*", "GetResources"), (MEMBER, "AssumeRole")}
    async with FakeAws(Estate.generate(jobs=20), denied=denied) as aws:
        client = await connect(aws)
        arn = (await client.list_training_jobs())["TrainingJobSummaries"][0]["TrainingJobArn"]
        code, status, message = await code_of(client.list_tags(ResourceArn=arn))
        assert (code, status) == ("AccessDeniedException", 400)
        assert f"arn:aws:iam::{ACCOUNT}:user/" in message
        assert "not authorized to perform: sagemaker:ListTags on resource: arn:" in message
        tagging = await connect(aws, "resourcegroupstaggingapi")
        assert (await code_of(tagging.get_resources()))[0] == "AccessDeniedException"
        sts = await connect(aws, "sts")
        refused = await code_of(sts.assume_role(RoleArn=ROLE, RoleSessionName="tests"))
        assert refused[:2] == ("AccessDenied", 403)
        assert f"sts:AssumeRole on resource: {ROLE}" in refused[2]


async def test_a_revoked_account_is_denied_from_then_on(aws, connect: Connect):
    """After revoke an account's calls are denied; who it is may still be asked."""
    client = await connect(aws)
    await client.list_training_jobs()
    aws.revoke(ACCOUNT)
    assert (await code_of(client.list_training_jobs()))[0] == "AccessDeniedException"
    await (await connect(aws, "sts")).get_caller_identity()
    aws.restore(ACCOUNT)
    await client.list_training_jobs()


async def test_a_region_that_is_not_enabled_refuses_good_keys(connect: Connect):
    """There SageMaker and tagging answer as to unknown keys, STS says what the matter is."""
    async with FakeAws(Estate.generate(jobs=1), not_enabled={(ACCOUNT, "eu-west-1")}) as aws:
        code, status, _ = await code_of((await connect(aws)).list_training_jobs())
        assert (code, status) == ("UnrecognizedClientException", 400)
        tagging = await connect(aws, "resourcegroupstaggingapi")
        assert (await code_of(tagging.get_resources()))[0] == "UnrecognizedClientException"
        sts = await connect(aws, "sts")
        assert (await code_of(sts.get_caller_identity()))[:2] == ("InvalidClientTokenId", 403)
        refused = await code_of(sts.assume_role(RoleArn=ROLE, RoleSessionName="tests"))
        assert refused[:2] == ("RegionDisabledException", 403)
        await (await connect(aws, region="us-east-1")).list_training_jobs()
        await (await connect(aws, account=MEMBER)).list_training_jobs()
