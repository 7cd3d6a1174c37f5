"""The same crawl by Spark with 1, 2 and 4 executors.

    python -m tests.benchmarks.spark [--jobs 300]

64 targets, answers that take 50 ms, and 20 describes a second allowed in each account and region.
The biggest target has --jobs jobs, the next half of them, the others a twentieth. Executors are
processes of one core; each count of them reads as many partitions as it has executors, and 8.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from typing import Any

from collector.demo import REGIONS
from collector.testing import Estate, FakeAws, Limits
from tests.benchmarks.harness import environment_of

TABLE = "aws_sagemaker_trainingjob"
ACCOUNTS, LATENCY, RATE = 8, 0.05, 20.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=300)
    options = parser.parse_args()
    print("executors  partitions  seconds  longest target  describes  refused")
    for executors in (1, 2, 4):
        session = start(executors)
        try:
            for partitions in sorted({executors, 8}):
                measure(session, executors, partitions, options.jobs)
        finally:
            session.stop()


def start(executors: int) -> Any:
    """A session whose executors are up, and have loaded what they need."""
    from pyspark.sql import SparkSession

    from collector.spark import register

    clean = environment_of("http://127.0.0.1:1", os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    more = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    os.environ.update(clean | more)
    master = f"local-cluster[{executors},1,1024]"
    builder = SparkSession.builder.master(master).config("spark.ui.enabled", "false")
    builder = builder.config("spark.scheduler.minRegisteredResourcesRatio", "1.0")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    session = builder.config("spark.log.level", "OFF").getOrCreate()
    register(session)
    estate = Estate.generate(ACCOUNTS, REGIONS[:1], 1)
    with FakeAws(estate).in_thread() as aws:
        read(session, aws, executors)
    return session


def measure(session: Any, executors: int, partitions: int, jobs: int) -> None:
    """One read, and a line on it."""
    accounts = Estate.generate(ACCOUNTS, REGIONS[:1], 0).accounts
    targets = [(account, region) for account in accounts for region in REGIONS[:8]]
    sizes = dict.fromkeys(targets, jobs // 20) | {targets[0]: jobs, targets[9]: jobs // 2}
    limits = Limits({"DescribeTrainingJob": (RATE, RATE)})
    estate = Estate.generate(ACCOUNTS, REGIONS[:8], sizes)
    with (
        tempfile.TemporaryDirectory() as place,
        FakeAws(estate, limits=limits, latency=LATENCY).in_thread() as aws,
    ):
        began = time.perf_counter()
        rows = read(session, aws, partitions, reportPath=place)
        seconds = time.perf_counter() - began
        if rows != sum(sizes.values()):
            raise RuntimeError(f"{rows} rows of {sum(sizes.values())} jobs")
        reports = session.read.format(f"{TABLE}_report").option("reportPath", place).load()
        longest = reports.agg({"seconds": "max"}).collect()[0][0]
    describes = aws.calls["DescribeTrainingJob"]
    refused = sum(aws.throttled.values()) / describes
    print(
        f"{executors:9}  {partitions:10}  {seconds:7.1f}  {longest:14.1f}  {describes:9,}  "
        f"{refused:7.1%}",
        flush=True,
    )


def read(session: Any, aws: FakeAws, partitions: int, **options: str) -> int:
    given = {
        "accounts": ",".join(aws.estate.accounts),
        "regions": ",".join(aws.estate.regions),
        "roleName": "Reader",
        "endpointUrl": aws.url,
        "numPartitions": str(partitions),
        **options,
    }
    frame = session.read.format(TABLE).options(**given).load()
    return int(frame.count())


if __name__ == "__main__":
    main()
