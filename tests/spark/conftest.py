"""A Spark of the tests' own: its executors find the stand-in's credentials in their environment.

All here is slow: `pytest -m slow`. It needs the extra `spark`, and Java.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.testing import credentials_for

HERE = Path(__file__).parent
CALLER = "111111111111"
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # the default loses the zone
    "spark.sql.shuffle.partitions": "2",
    "spark.log.level": "OFF",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "America/New_York",  # instants are instants, wherever one looks
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slow")
            # Spark's client leaves sockets to the garbage collector.
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(
                pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
            )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What Spark's processes inherit: the caller's keys and nothing else of AWS."""
    folder = tmp_path_factory.mktemp("spark")
    access_key, secret_key = credentials_for(CALLER)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith(("AWS_", "COLLECTOR_", "SPARK_")) or (
                name.lower().endswith("_proxy")
            ):
                patch.delenv(name)
        for name, value in {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(folder / "local"),
            "PYSPARK_PYTHON": sys.executable,
        }.items():
            patch.setenv(name, value)
        yield dict(os.environ)


@pytest.fixture(scope="module")
def spark(
    request: pytest.FixtureRequest,
    environment: dict[str, str],  # noqa: ARG001
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A session on the module's MASTER, with every table registered."""
    from pyspark.sql import SparkSession

    from collector.spark import register

    builder = SparkSession.builder.master(request.module.MASTER).config(map=SETTINGS)
    warehouse = str(tmp_path_factory.mktemp("warehouse"))
    session = builder.config("spark.sql.warehouse.dir", warehouse).getOrCreate()
    register(session)
    yield session
    session.stop()
