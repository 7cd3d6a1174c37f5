import pytest
from botocore.exceptions import ClientError
from fake_clients import ACCOUNT, REGION, Connect

from collector.testing import Estate, FakeAws, Limits, ManualClock

KEY = (ACCOUNT, REGION, "ListTrainingJobs")


def test_a_bucket_admits_its_burst_and_then_its_rate():
    """Five at once, then two for each second that passes, however long the pause before."""
    clock = ManualClock()
    limits = Limits({"ListTrainingJobs": (2, 5)})
    admitted = [limits.admit(KEY, clock) for _ in range(8)]
    assert admitted == [True] * 5 + [False] * 3
    clock.advance(1)
    assert [limits.admit(KEY, clock) for _ in range(3)] == [True, True, False]
    clock.advance(1000)
    assert sum(limits.admit(KEY, clock) for _ in range(50)) == 5


def test_buckets_are_apart_and_rates_can_change():
    """Another region has its own bucket; "*" covers the rest; set takes effect at once."""
    clock = ManualClock()
    limits = Limits({"ListTrainingJobs": (1, 1), "*": (3, 3), "ListTags": None})
    assert limits.admit(KEY, clock)
    assert not limits.admit(KEY, clock)
    assert limits.admit((ACCOUNT, "us-east-1", "ListTrainingJobs"), clock)
    assert sum(limits.admit((ACCOUNT, REGION, "Other"), clock) for _ in range(9)) == 3
    assert all(limits.admit((ACCOUNT, REGION, "ListTags"), clock) for _ in range(99))
    limits.set("ListTrainingJobs", 10)
    clock.advance(1)
    assert sum(limits.admit(KEY, clock) for _ in range(99)) == 10
    limits.set("ListTrainingJobs", None)
    assert all(limits.admit(KEY, clock) for _ in range(99))


def test_a_region_can_have_a_rate_of_its_own():
    """It goes before the rate for all regions, also where it is none at all."""
    clock = ManualClock()
    limits = Limits({"*": (1, 2), (REGION, "ListTags"): (1, 5), ("us-east-1", "ListTags"): None})
    for region, admitted in ((REGION, 5), ("us-east-1", 9), ("us-west-2", 2)):
        key = (ACCOUNT, region, "ListTags")
        assert sum(limits.admit(key, clock) for _ in range(9)) == admitted
    assert sum(limits.admit(KEY, clock) for _ in range(9)) == 2


@pytest.mark.parametrize(
    ("service", "operation", "code", "status"),
    [
        ("sagemaker", "list_training_jobs", "ThrottlingException", 400),
        ("resourcegroupstaggingapi", "get_resources", "ThrottledException", 400),
        ("organizations", "list_accounts", "TooManyRequestsException", 400),
        ("account", "list_regions", "TooManyRequestsException", 429),
        ("sts", "get_caller_identity", "Throttling", 400),
        ("ec2", "describe_regions", "RequestLimitExceeded", 503),
    ],
)
async def test_every_service_throttles_in_its_own_way(
    connect: Connect, service, operation, code, status
):
    """The second call is refused with the service's error and counted."""
    async with FakeAws(Estate.generate(jobs=1), limits=Limits({"*": (1e-9, 1)})) as aws:
        call = getattr(await connect(aws, service), operation)
        await call()
        with pytest.raises(ClientError) as caught:
            await call()
        response = caught.value.response
        assert response["Error"]["Code"] == code
        assert response["ResponseMetadata"]["HTTPStatusCode"] == status
        assert aws.throttled.total() == 1


async def test_throttles_can_come_as_http_429(connect: Connect):
    """With http_429 at one, every refusal is a TooManyRequestsException with that status."""
    limits = Limits({"*": (1e-9, 1)}, http_429=1.0)
    async with FakeAws(Estate.generate(jobs=1), limits=limits) as aws:
        client = await connect(aws)
        await client.list_training_jobs()
        with pytest.raises(ClientError, match="TooManyRequestsException") as caught:
            await client.list_training_jobs()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
