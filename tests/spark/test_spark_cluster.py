"""Reads by executors that are processes of their own, one of which may die."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from estates import estate, load, names, names_in

from collector.testing import FakeAws, Limits

MASTER = "local-cluster[2,1,1024]"
LONGEST = 120.0


def children(pid: int) -> list[int]:
    """Processes that a process has started, and those that these have."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *children(child)]
    return found


def executors(spark) -> list[int]:
    """The Java processes that run this session's tasks."""
    jvm = spark.sparkContext._gateway.proc.pid
    return [
        pid
        for pid in children(jvm)
        if b"CoarseGrainedExecutorBackend" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_every_job_comes_once(spark, tmp_path):
    """4 accounts by 3 regions, over two executor processes: every job is there once."""
    with FakeAws(estate()).in_thread() as aws:
        load(spark, aws).write.parquet(str(tmp_path / "jobs"))
    assert names_in(pq.read_table(tmp_path / "jobs").to_pylist()) == names(aws.estate)
    assert len(executors(spark)) == 2


def test_an_executor_that_dies_costs_nothing(spark, tmp_path):
    """One is killed in mid-stage: Spark runs its tasks again, and every job is there once."""
    limits = Limits({"DescribeTrainingJob": (25, 25)})
    failures: list[BaseException] = []

    def write():
        try:
            load(spark, aws).write.parquet(str(tmp_path / "jobs"))
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    with FakeAws(estate(), limits=limits).in_thread() as aws:
        writing = threading.Thread(target=write)
        writing.start()
        began = time.monotonic()
        while aws.calls["DescribeTrainingJob"] < 300:
            assert writing.is_alive()
            assert time.monotonic() - began < LONGEST
            time.sleep(0.01)
        victim = executors(spark)[0]
        os.kill(victim, signal.SIGKILL)
        writing.join(LONGEST)
        assert not writing.is_alive()
    if failures:
        pytest.fail(f"the query has failed: {failures[0]}")
    assert names_in(pq.read_table(tmp_path / "jobs").to_pylist()) == names(aws.estate)
    described = aws.calls["DescribeTrainingJob"] - sum(aws.throttled.values())
    assert described > 4 * 3 * 150, "what the dead one had read was read again"
