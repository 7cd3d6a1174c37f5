"""What the README and config/deploy/spark show, run as it stands, but for the places."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from estates import ROLE, estate, names

from collector.spread.options import PARTS
from collector.testing import FakeAws

MASTER = "local[2]"
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def aws():
    with FakeAws(estate(2, 8)).in_thread() as server:
        yield server


def example(label, aws, folder):
    """A block of the README: it reads the stand-in, and writes below ``folder``."""
    (source,) = re.findall(rf"<!-- {label} -->\n```python\n(.*?)```", README, re.DOTALL)
    place = f'roleName="InventoryReader", endpointUrl="{aws.url}", numPartitions="2"'
    return source.replace('roleName="InventoryReader"', place).replace("s3a://lake", str(folder))


def test_the_readmes_examples_run(spark, aws, tmp_path):
    """Batch and stream, as the README has them, each write every job once."""
    shared = {"spark": spark}
    for label in ("spark batch", "spark stream"):
        exec(compile(example(label, aws, tmp_path), label, "exec"), shared)
    for folder in ("training_jobs", "changes"):
        table = pq.read_table(tmp_path / folder)
        found = Counter(table["training_job_arn"].to_pylist())
        assert Counter(arn.rpartition("/")[2] for arn in found) == Counter(
            name for _, _, name in names(aws.estate)
        )
        assert table.num_rows == len(found)


def test_the_readmes_report_is_read(spark, aws, tmp_path):
    """Of a permissive read, the example brings a row for each target, with its outcome."""
    aws.policy.denied = [(aws.estate.accounts[1], "eu-west-1", "ListTrainingJobs")]
    options = {
        "accounts": ",".join(aws.estate.accounts),
        "regions": ",".join(aws.estate.regions),
        "roleName": ROLE,
        "endpointUrl": aws.url,
        "numPartitions": "2",
        "mode": "permissive",
        "reportPath": str(tmp_path / "reports"),
    }
    spark.read.format("aws_sagemaker_trainingjob").options(**options).load().count()
    source = example("spark report", aws, tmp_path).replace("s3://lake", str(tmp_path))
    shared = {"spark": spark}
    exec("report = " + source.strip(), shared)
    outcomes = Counter(row["outcome"] for row in shared["report"].collect())
    assert outcomes == {"complete": 2 * 3 - 1, "denied": 1}


def test_the_readmes_options_are_the_sources():
    """The table has the options that are not settings, each with its default."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| (?:`(\w+)`)? *\|$", spark_section(), re.MULTILINE)
    assert dict(rows) == {
        "numPartitions": str(PARTS),
        "mode": "failfast",
        "reportPath": "",
        "columns": "",
        "pollEvery": "1m",
    }


def spark_section():
    return README.partition("\n### Spark\n")[2].partition("\n## ")[0]


def test_the_scheduled_job_runs(aws, environment, tmp_path):
    """job.py, in a process of its own, appends every job once."""
    command = [
        sys.executable, str(ROOT / "config/deploy/spark/job.py"), "--lake", str(tmp_path),
        f"accounts={','.join(aws.estate.accounts)}", f"regions={','.join(aws.estate.regions)}",
        f"roleName={ROLE}", f"endpointUrl={aws.url}", "numPartitions=2",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(pq.read_table(tmp_path / "changes").to_pylist()) == 2 * 3 * 8
    assert aws.calls["DescribeTrainingJob"] == 2 * 3 * 8
