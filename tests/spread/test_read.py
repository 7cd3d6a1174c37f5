"""A part, read by the library's own crawl."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from collector.aws import throttle
from collector.errors import SinkError
from collector.model import Span
from collector.settings import Settings
from collector.spread import reports
from collector.spread.options import read_options
from collector.spread.parts import Run, find_targets, make_parts
from collector.spread.read import BATCH, UnreadError, check_found, read_part
from collector.tables import load_table
from collector.testing import Estate, FakeAws, credentials_for
from collector.testing.estate import DEFAULT_NOW

ONE, OTHER = ("111111111111", "us-east-1"), ("222222222222", "eu-west-1")
REGIONS = ("us-east-1", "eu-west-1")
RUN = Run("20260101T000000Z-00000000", DEFAULT_NOW)


@pytest.fixture(autouse=True)
def caller(clean_environment, monkeypatch):  # noqa: ARG001
    access_key, secret_key = credentials_for(ONE[0])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(throttle, "INITIAL_RATE", 2_000.0)  # how it is found is tested elsewhere


@pytest.fixture
def aws():
    with FakeAws(Estate.generate(2, REGIONS, 8)).in_thread() as server:
        yield server


def options(aws, **given):
    values = {
        "accounts": ",".join(aws.estate.accounts),
        "regions": ",".join(aws.estate.regions),
        "roleName": "R",
        "endpointUrl": aws.url,
    }
    return read_options(load_table(), values | given)


def read(aws, *targets, span=None, **given):
    """Rows of these targets; of all where none is given."""
    every = [(account, region) for account in aws.estate.accounts for region in aws.estate.regions]
    (part,) = make_parts(dict.fromkeys(targets or every, span), {}, 1, RUN)
    batches = list(read_part(options(aws, **given), part, "0"))
    return [row for batch in batches for row in batch.to_pylist()]


def names(rows):
    return Counter(row["training_job_name"] for row in rows)


def test_a_part_is_its_targets_and_no_others(aws):
    """Of two accounts by two regions, the two that cross are read and the others not called."""
    rows = read(aws, ONE, OTHER)
    expected = [*aws.estate.jobs(*ONE), *aws.estate.jobs(*OTHER)]
    assert names(rows) == Counter(expected)
    listed = {key[:2] for key in aws.calls_by if key[2] == "ListTrainingJobs"}
    assert listed == {ONE, OTHER}


def test_batches_are_bounded_and_typed():
    """No batch is longer than BATCH, and each has the table's schema, times in microseconds."""
    with FakeAws(Estate.generate(1, REGIONS, BATCH)).in_thread() as aws:
        (part,) = make_parts({ONE: None, (ONE[0], "eu-west-1"): None}, {}, 1, RUN)
        sizes = []
        for batch in read_part(options(aws, columns="creation_time,environment"), part, "0"):
            sizes.append(batch.num_rows)
            assert batch.schema.types == [
                pa.timestamp("us", tz="UTC"),
                pa.map_(pa.string(), pa.string()),
            ]
    assert sizes == [BATCH, BATCH]


def test_without_tags_no_tag_is_read(aws):
    """Columns that are not asked for cost no calls."""
    read(aws, columns="training_job_arn,training_job_status")
    assert not {"GetResources", "ListTags"} & aws.calls.keys()
    read(aws, columns="tags")
    assert aws.calls["GetResources"]


def test_closing_early_leaves_nothing_behind():
    """A reader that stops after one batch ends the crawl, and its thread."""
    with FakeAws(Estate.generate(1, REGIONS, 2 * BATCH), latency=0.01).in_thread() as slow:
        (part,) = make_parts({ONE: None}, {}, 1, RUN)
        before = set(threading.enumerate())
        batches = read_part(options(slow), part, "0")
        next(batches)
        assert set(threading.enumerate()) > before
        batches.close()
        assert set(threading.enumerate()) == before
        assert slow.calls["DescribeTrainingJob"] < 2 * BATCH


def test_what_changed_in_a_span_is_read_and_nothing_else_described(aws):
    """Borders are half open: a change at ``since`` is in, one at ``until`` is in the next."""
    noon = DEFAULT_NOW + 12 * 3600
    jobs = ["just-before", "at-the-border", "just-before-the-next"]
    for job, moment in zip(jobs, (noon - 0.001, noon, noon + 59.999), strict=True):
        aws.estate.add_job(*ONE, name=job, creation_time=DEFAULT_NOW, LastModifiedTime=moment)
    aws.estate.add_job(*OTHER, name="new", creation_time=noon + 60)
    spans = [Span(0, noon), Span(noon, noon + 60), Span(noon + 60, noon + 120)]
    found = [names(read(aws, span=span)) for span in spans]
    everything = [job for target in aws.estate.accounts for r in REGIONS
                  for job in aws.estate.jobs(target, r)]  # fmt: skip
    assert found[1] == Counter(jobs[1:])
    assert found[2] == Counter(["new"])
    assert sum(found, Counter()) == Counter(everything)
    assert aws.calls["DescribeTrainingJob"] == len(everything)


def test_a_job_that_changes_under_the_reader_is_left_to_its_own_span(aws):
    """Listed before a change and described after it, it comes once: with the span it changed in."""
    noon = DEFAULT_NOW + 12 * 3600
    job = list(aws.estate.jobs(*ONE))[-1]
    aws.estate.update_job(*ONE, job, TrainingJobStatus="Stopped", LastModifiedTime=noon + 10)
    describe, changed = aws.estate.describe, []

    def change_first(account, region, name):
        if name == job and not changed:
            changed.append(name)
            aws.estate.update_job(*ONE, job, FailureReason="late", LastModifiedTime=noon + 100)
        return describe(account, region, name)

    aws.estate.describe = change_first
    assert names(read(aws, span=Span(noon, noon + 60))) == Counter()
    (row,) = read(aws, span=Span(noon + 60, noon + 120))
    assert changed
    assert row["last_modified_time"] in (None, datetime.fromtimestamp(noon + 100, UTC))
    assert row["training_job_name"] == job


def test_a_denied_target_fails_with_one_sentence_that_names_it(aws):
    """By default a part that cannot be read whole raises, and says where and why."""
    aws.policy.denied = [(*OTHER, "ListTrainingJobs")]
    with pytest.raises(UnreadError) as error:
        read(aws)
    said = str(error.value)
    assert said.startswith(f"Account {OTHER[0]}, region {OTHER[1]} could not be read whole (denied")
    assert "ListTrainingJobs" in said
    assert said.endswith("mode=permissive reads what can be read.")
    with pytest.raises(UnreadError):
        read(aws, OTHER)  # also where no record comes after it


def test_a_job_that_fails_fails_the_part(aws):
    """Not only targets: one describe that is refused for good is enough."""
    aws.policy.denied = [(*OTHER, "DescribeTrainingJob")]
    with pytest.raises(UnreadError, match="1 job failed"):
        read(aws)


def test_permissive_leaves_a_report(aws, tmp_path):
    """The rest is read; what is missing is a row of the reports, with the jobs' own failures."""
    aws.policy.denied = [(*OTHER, "DescribeTrainingJob")]
    rows = read(aws, mode="permissive", reportPath=str(tmp_path))
    assert len(rows) == 3 * 8
    found = list(reports.rows(reports.read_reports(f"file://{tmp_path}", Settings())))
    failed = {(row["account_id"], row["region"]): row for row in found if row["failed"]}
    assert set(failed) == {OTHER}
    assert len(failed[OTHER]["failures"]) == failed[OTHER]["failed"] == 8
    assert {row["run_id"] for row in found} == {RUN.id}
    assert reports.sizes(reports.read_reports(f"file://{tmp_path}", Settings(), last=True)) == {
        (row["account_id"], row["region"]): 8 for row in found
    }


def test_a_part_that_fails_leaves_its_report_too(aws, tmp_path):
    """Where reports are asked for, a failed attempt has one: why Spark ran it again is kept."""
    aws.policy.denied = [(*OTHER, "ListTrainingJobs")]
    with pytest.raises(UnreadError):
        read(aws, reportPath=str(tmp_path))
    (report,) = reports.read_reports(f"file://{tmp_path}", Settings())
    assert not report["complete"]


def test_reports_that_cannot_be_written_are_an_error(aws, tmp_path):
    """Permissive without its report would lose what it passed over."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be written"):
        read(aws, mode="permissive", reportPath=str(tmp_path / "file"))


def test_targets_are_found_without_reading_a_job(aws):
    """The search gives accounts and regions, the partition and AWS's own time."""
    aws.clock = lambda: DEFAULT_NOW + 5
    found = find_targets(options(aws).settings)
    assert set(found.keys) == {(a, r) for a in aws.estate.accounts for r in REGIONS}
    assert (found.partition, found.unreachable) == ("aws", ())
    assert found.now == pytest.approx(DEFAULT_NOW + 5, abs=2)
    assert "ListTrainingJobs" not in aws.calls


def test_an_account_out_of_reach_is_not_an_empty_one(aws, tmp_path):
    """Where its regions cannot even be asked for, a read fails, or reports it if permissive."""
    aws.policy.denied = [(OTHER[0], "AssumeRole")]
    wide = options(aws, regions="all")
    found = find_targets(wide.settings)
    assert [each.target.key for each in found.unreachable] == [(OTHER[0], "*")]
    with pytest.raises(UnreadError, match=f"Account {OTHER[0]} could not be read whole"):
        check_found(wide, found, RUN)
    place = str(tmp_path)
    check_found(options(aws, mode="permissive", reportPath=place), found, RUN)
    (row,) = reports.rows(reports.read_reports(f"file://{place}", Settings()))
    assert (row["account_id"], row["region"], row["outcome"]) == (OTHER[0], "*", "denied")
