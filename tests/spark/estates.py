"""The estate that the Spark tests read, and what has to come out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from collector import Settings, collect
from collector.testing import Estate, FakeAws

TABLE = "aws_sagemaker_trainingjob"
REGIONS = ("us-east-1", "eu-west-1", "us-west-2")
ROLE = "InventoryReader"


def estate(accounts: int = 4, jobs: int = 150, **changes: Any) -> Estate:
    return Estate.generate(accounts, REGIONS, jobs, **changes)


def options(aws: FakeAws, **changes: Any) -> dict[str, str]:
    """Options that lead to everything that the stand-in has."""
    values = {
        "accounts": ",".join(aws.estate.accounts),
        "regions": ",".join(aws.estate.regions),
        "roleName": ROLE,
        "endpointUrl": aws.url,
        "numPartitions": "4",
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


def load(spark: Any, aws: FakeAws, **changes: Any) -> Any:
    return spark.read.format(TABLE).options(**options(aws, **changes)).load()


def names(estate: Estate) -> Counter[tuple[str, str, str]]:
    """Every job that there is: account, region and name."""
    return Counter(
        (account, region, name)
        for account in estate.accounts
        for region in estate.regions
        for name in estate.jobs(account, region)
    )


def names_in(rows: Iterable[Any]) -> Counter[tuple[str, str, str]]:
    """The same of rows or records."""
    return Counter(
        (row["account_id"], row["training_job_arn"].split(":")[3], row["training_job_name"])
        for row in rows
    )


def records(aws: FakeAws, access_key: str, secret_key: str, monkeypatch: Any) -> list[Any]:
    """What the library itself reads."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    settings = Settings(
        accounts=aws.estate.accounts,
        regions=aws.estate.regions,
        role_name=ROLE,
        endpoint_url=aws.url,
    )
    return list(collect(settings))
