"""Real SDK clients, pointed at the fake."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import boto3
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.config import Config

from collector.testing import FakeAws, credentials_for

ACCOUNT = "111111111111"
REGION = "eu-west-1"


def options(aws: FakeAws, *, account=ACCOUNT, region=REGION, keys=None, token=None) -> dict:
    """What both SDKs need to talk to the fake; ``keys`` are (access key, secret)."""
    access_key, secret = keys or credentials_for(account)
    return {
        "region_name": region,
        "endpoint_url": aws.url,
        "aws_access_key_id": access_key,
        "aws_secret_access_key": secret,
        "aws_session_token": token,
    }


def session_options(credentials: dict) -> dict:
    """``keys`` and ``token`` from what AssumeRole returned."""
    return {
        "keys": (credentials["AccessKeyId"], credentials["SecretAccessKey"]),
        "token": credentials["SessionToken"],
    }


def blocking(aws: FakeAws, service: str, *, verify: str | None = None, **changes: Any):
    """A boto3 client that tries once."""
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5)
    return boto3.client(service, config=config, verify=verify, **options(aws, **changes))


@pytest.fixture
async def connect():
    """Makes aiobotocore clients that try once, and closes them."""
    config = AioConfig(
        retries={"total_max_attempts": 1},
        connect_timeout=5,
        read_timeout=5,
        parameter_validation=False,
    )
    async with AsyncExitStack() as stack:

        async def create(aws: FakeAws, service: str = "sagemaker", **changes: Any):
            client = get_session().create_client(service, config=config, **options(aws, **changes))
            return await stack.enter_async_context(client)

        yield create


Connect = Callable[..., Any]
