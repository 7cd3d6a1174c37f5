"""Shards: whose target is whose, and which shard a process is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import Settings
from collector.errors import ConfigurationError
from collector.settings import load_settings, unknown_variables
from collector.shards import Shard, shared_outputs

ACCOUNTS = st.from_regex(r"\d{12}", fullmatch=True)
REGIONS = st.one_of(st.from_regex(r"[a-z]{2}-[a-z]{4,9}-\d", fullmatch=True), st.just("*"))
BATCH = "AWS_BATCH_JOB_ARRAY_INDEX"


@given(targets=st.sets(st.tuples(ACCOUNTS, REGIONS), max_size=60), of=st.integers(1, 40))
def test_shards_are_the_whole_without_overlap(targets, of):
    """Every account and region falls to exactly one shard of as many as there are."""
    shards = [Shard(index, of) for index in range(1, of + 1)]
    holders = Counter(target for shard in shards for target in targets if shard.holds(*target))
    assert holders == dict.fromkeys(targets, 1)


def test_a_target_stays_where_it_is():
    """Releases and machines agree on whose a target is: limits and states depend on it."""
    regions = ("us-east-1", "eu-west-1", "ap-southeast-2", "*")
    found = [
        shard.index
        for region in regions
        for shard in (Shard(index, 16) for index in range(1, 17))
        if shard.holds("111122223333", region)
    ]
    assert found == [7, 8, 14, 14]  # one more than the last digit that `sha256sum` prints


def test_no_shard_is_much_larger_than_another():
    """17,000 targets over 16 shards: none has a fifth more or less than its part."""
    targets = [(f"{n:012}", f"region-{m}") for n in range(1_000) for m in range(17)]
    sizes = [sum(Shard(k, 16).holds(*target) for target in targets) for k in range(1, 17)]
    part = len(targets) / 16
    assert sum(sizes) == len(targets)
    assert max(abs(size - part) for size in sizes) < part / 5


@pytest.mark.parametrize(
    ("text", "shard"),
    [
        ("3/16", Shard(3, 16)),
        ("16/16", Shard(16, 16)),
        ("0/16", Shard(16, 16)),
        ("1/1", Shard(1, 1)),
        ("0/1", Shard(1, 1)),
        (" 2/3 ", Shard(2, 3)),
        ("none", None),
    ],
)
@pytest.mark.parametrize("layer", ["flag", "variable", "file", "library"])
def test_a_shard_is_given(text, shard, layer, tmp_path):
    """From 1 to N or from 0 to N - 1, both are the whole; in every layer."""
    if layer == "library":
        found = Settings(shard=text)
    else:
        file = tmp_path / "collector.yaml"
        file.write_text(f"shard: {text}\n" if layer == "file" else "")
        environ = {"COLLECTOR_SHARD": text} if layer == "variable" else {}
        flags = {"shard": text} if layer == "flag" else {}
        found = load_settings(flags, file=file, environ=environ)
    assert found.shard == shard
    assert Settings(shard=shard).shard == shard
    assert Settings(**found.model_dump()) == found


@pytest.mark.parametrize(
    "text", ["17/16", "1/0", "3", "a/b", "-1/4", "1/99999", "auto", "auto/4", "1/4/4", "", 3]
)
def test_a_shard_that_is_none_is_one_sentence(text):
    """Bad values are told of with the name of the setting; auto without an index is one."""
    with pytest.raises(ConfigurationError) as raised:
        load_settings({"shard": text}, environ={})
    assert str(raised.value).startswith("--shard: ")
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="shard"):
        Settings(shard=text)


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        ({}, None),
        ({BATCH: "0", "AWS_BATCH_JOB_ARRAY_SIZE": "16"}, Shard(1, 16)),
        ({BATCH: "15", "AWS_BATCH_JOB_ARRAY_SIZE": "16"}, Shard(16, 16)),
        ({"JOB_COMPLETION_INDEX": "2", "COLLECTOR_SHARDS": "4"}, Shard(3, 4)),
        ({"JOB_COMPLETION_INDEX": "2", "COLLECTOR_SHARD": "auto/4"}, Shard(3, 4)),
        ({BATCH: "2", "COLLECTOR_SHARD": "auto/4"}, Shard(3, 4)),
        ({"JOB_COMPLETION_INDEX": "0", "COLLECTOR_SHARD": "auto/1"}, Shard(1, 1)),
        ({"JOB_COMPLETION_INDEX": "2", "COLLECTOR_SHARD": "none"}, None),
        ({BATCH: "2", "AWS_BATCH_JOB_ARRAY_SIZE": "4", "COLLECTOR_SHARD": "1/2"}, Shard(1, 2)),
        ({"AWS_BATCH_JOB_ARRAY_SIZE": "4"}, None),
    ],
)
def test_a_shard_is_taken_from_the_environment(environ, shard):
    """Indexes count from 0, shards from 1; what is given in words wins."""
    found = load_settings({}, environ=environ).shard
    assert found == shard
    if found is not None:
        assert found.found is (environ.get("COLLECTOR_SHARD", "auto").startswith("auto"))
    assert unknown_variables(environ) == []


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"JOB_COMPLETION_INDEX": "2"}, "COLLECTOR_SHARD=auto/N"),
        ({BATCH: "2"}, "COLLECTOR_SHARD=auto/N"),
        ({"JOB_COMPLETION_INDEX": "2", "AWS_BATCH_JOB_ARRAY_SIZE": "4"}, "COLLECTOR_SHARD=auto/N"),
        ({"COLLECTOR_SHARDS": "4"}, "COLLECTOR_SHARDS is set"),
        ({"JOB_COMPLETION_INDEX": "4", "COLLECTOR_SHARD": "auto/4"}, "JOB_COMPLETION_INDEX is 4"),
        ({"JOB_COMPLETION_INDEX": "x", "COLLECTOR_SHARDS": "4"}, "whole number"),
        ({"JOB_COMPLETION_INDEX": "1", "COLLECTOR_SHARDS": "0"}, "not 0"),
        ({BATCH: "1", "AWS_BATCH_JOB_ARRAY_SIZE": "-4"}, "AWS_BATCH_JOB_ARRAY_SIZE"),
    ],
)
def test_half_an_environment_is_not_the_whole(environ, words):
    """A process that cannot know its part does not read everything: one sentence, exit 2."""
    with pytest.raises(ConfigurationError) as raised:
        load_settings({}, environ=environ)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_library_takes_no_shard_by_itself(monkeypatch):
    """`Settings` reads no environment, and is told so where it is asked to."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    monkeypatch.setenv("COLLECTOR_SHARDS", "4")
    assert Settings().shard is None
    with pytest.raises(ValueError, match="give K/N"):
        Settings(shard="auto/4")


@pytest.mark.parametrize(("shard", "name"), [("3/16", "3-of-16"), (None, "1-of-1")])
def test_outputs_are_named_after_their_shard(shard, name):
    """{shard} in a sink, in the report and in the report of an earlier run."""
    found = Settings(
        shard=shard,
        sink=["jobs-{shard}.ndjson", "s3://lake/{shard}/?template={table}/{shard}/{run_id}-{part}"],
        report="s3://lake/{shard}.json",
        retry_failed="old-{shard}.json",
    )
    assert found.sink == (
        f"jobs-{name}.ndjson",
        f"s3://lake/{name}/?template={{table}}/{name}/{{run_id}}-{{part}}",
    )
    assert (found.report, found.retry_failed) == (f"s3://lake/{name}.json", f"old-{name}.json")


def test_a_bad_shard_does_not_hide_what_else_is_bad():
    """Every bad setting is told at once, also those that the shard has a part in."""
    with pytest.raises(ConfigurationError) as raised:
        load_settings({"shard": "9/4", "headroom": "2", "sink": [""], "report": ""}, environ={})
    assert len(str(raised.value).splitlines()) == 4


def test_outputs_that_shards_share_are_warned_of():
    """Those that replace each other's, and only where the command is the same for all."""
    found = Shard(3, 16, found=True)
    sinks = ("-", "jobs.ndjson", "jobs-3-of-16.ndjson", "s3://lake/x/", "/dev/null", "kinesis://x")
    warnings = shared_outputs(found, "s3://lake/report.json", sinks)
    assert [warning.split()[6] for warning in warnings] == ["s3://lake/report.json", "jobs.ndjson"]
    assert shared_outputs(found, "report-3-of-16.json", ("-",)) == []
    assert shared_outputs(found, None, ("-",)) == []
    for other in (None, Shard(3, 16), Shard(1, 1, found=True)):
        assert shared_outputs(other, "report.json", sinks) == []
