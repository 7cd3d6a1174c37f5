"""Streams of what was created or changed, by offsets on the service's clock."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from estates import TABLE, estate, options

from collector.testing import FakeAws
from collector.testing.estate import DEFAULT_NOW

MASTER = "local[2]"
HOUR = 3600.0
ONE, OTHER = ("111111111111", "us-east-1"), ("222222222222", "eu-west-1")


@pytest.fixture
def stage():
    """The stand-in, an hour after its jobs were last changed; ``at`` moves its clock."""

    class Stage:
        hour = 1.0

        def now(self):
            return DEFAULT_NOW + self.hour * HOUR

        def at(self, hour):
            """Changes are made at this hour."""
            self.hour = hour
            self.estate.now = self.now()
            return self.estate

    stage = Stage()
    stage.estate = estate(2, 8)
    with FakeAws(stage.estate, clock=stage.now).in_thread() as stage.aws:
        yield stage


@pytest.fixture
def run(spark, stage, tmp_path):
    """A scheduled job: reads what there is since its checkpoint, and ends. Gives all its rows."""

    def run(**changes):
        frame = spark.readStream.format(TABLE).options(**options(stage.aws, **changes)).load()
        writer = frame.writeStream.option("checkpointLocation", str(tmp_path / "checkpoint"))
        query = writer.trigger(availableNow=True).start(str(tmp_path / "jobs"))
        query.awaitTermination()
        return changes_in(pq.read_table(tmp_path / "jobs").to_pylist())

    return run


def changes_in(rows):
    """How often each state of each job is there: ARN and time of the change."""
    return Counter((row["training_job_arn"], row["last_modified_time"]) for row in rows)


def state(stage, target, name):
    """A job as it is now: its ARN and when it was changed, as far as it says."""
    job = stage.estate.describe(*target, name)
    changed = job.get("LastModifiedTime")
    return job["TrainingJobArn"], changed and datetime.fromtimestamp(changed, UTC)


def states(stage):
    """All jobs as they are now."""
    return Counter(
        state(stage, (account, region), name)
        for account in stage.estate.accounts
        for region in stage.estate.regions
        for name in stage.estate.jobs(account, region)
    )


def test_each_change_comes_once(run, stage):
    """Three scheduled runs: all jobs, then those created or changed; no others are described."""
    first = run()
    assert first == states(stage)
    assert stage.aws.calls["DescribeTrainingJob"] == len(first) == 2 * 3 * 8

    known = list(stage.estate.jobs(*OTHER))[-1]
    stage.at(2.0).add_job(*ONE, name="new")
    stage.estate.update_job(*OTHER, known, FailureReason="seen late")
    expected = first + Counter([state(stage, ONE, "new"), state(stage, OTHER, known)])
    stage.at(3.0)
    assert run() == expected
    assert stage.aws.calls["DescribeTrainingJob"] == len(first) + 2

    stage.at(3.5).update_job(*ONE, "new", TrainingJobStatus="Completed")
    expected += Counter([state(stage, ONE, "new")])
    stage.at(4.0)
    assert run() == expected
    assert stage.aws.calls["DescribeTrainingJob"] == len(first) + 3


def test_a_target_that_fails_skips_nothing(run, stage):
    """A batch fails with its target; the same batch, run again, brings what it would have."""
    first = run()
    stage.at(2.0).add_job(*ONE, name="new")
    stage.at(3.0)
    denied = [("222222222222", "us-west-2", "ListTrainingJobs")]
    stage.aws.policy, allowed = stage.aws.policy.__class__(denied=denied), stage.aws.policy
    with pytest.raises(Exception, match="Account 222222222222, region us-west-2 could not be read"):
        run()
    stage.aws.policy = allowed
    assert run() == first + Counter([state(stage, ONE, "new")])


def test_a_stream_that_goes_on_follows_the_changes(spark, stage, tmp_path):
    """Under a processing-time trigger new offsets come as the service's clock goes on."""
    frame = spark.readStream.format(TABLE).options(**options(stage.aws, pollEvery="0s")).load()
    writer = frame.writeStream.option("checkpointLocation", str(tmp_path / "checkpoint"))
    query = writer.trigger(processingTime="0 seconds").start(str(tmp_path / "jobs"))
    try:
        query.processAllAvailable()
        first = states(stage)
        stage.at(2.0).add_job(*ONE, name="new")
        stage.at(3.0)
        query.processAllAvailable()
    finally:
        query.stop()
    expected = first + Counter([state(stage, ONE, "new")])
    assert changes_in(pq.read_table(tmp_path / "jobs").to_pylist()) == expected
