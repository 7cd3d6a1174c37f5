"""The state file: what was written is read again, and anything else is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import StateError
from collector.model import Coverage, Cursor, Job, Outcome
from collector.state import (
    FORMAT,
    VERSION,
    DoneTarget,
    OpenTarget,
    State,
    TargetState,
    UnfinishedRun,
    dump,
    load,
)

TABLE, PLACE = "aws_sagemaker_trainingjob", "/var/lib/collector/state.json"

texts = st.text(max_size=12)
counts = st.integers(0, 2**63 - 1)
times = st.floats(0, 4e9, allow_nan=False)
creations = st.floats(allow_nan=False, allow_infinity=False)
keys = st.from_regex(r"[0-9]{12}/[a-z]{2}(-[a-z]{1,9}){1,2}-[0-9]", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | creations | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
coverages = st.builds(
    Coverage,
    watermark=times,
    after=st.none() | times,
    before=st.none() | times,
    status=st.none() | texts,
)
jobs = st.builds(
    Job,
    arn=texts,
    created=creations,
    modified=st.none() | creations,
    status=texts,
    params=st.dictionaries(texts, values, max_size=2),
)
job_keys = st.tuples(texts, creations)
cursors = st.builds(
    Cursor,
    last_created=st.none() | creations,
    seen=st.lists(job_keys, max_size=3).map(tuple),
    ended=st.booleans(),
)
targets = st.builds(
    TargetState,
    coverage=coverages,
    full_at=times,
    listed=counts,
    rates=st.dictionaries(texts, times, max_size=3),
)
done = st.builds(
    DoneTarget,
    state=targets,
    incremental=st.booleans(),
    emitted=counts,
    unchanged=counts,
    gone=counts,
)
opened = st.builds(
    OpenTarget,
    coverage=st.none() | coverages,
    as_of=times,
    cursor=cursors,
    pending=st.lists(jobs, max_size=3).map(tuple),
    emitted=counts,
    unchanged=counts,
    gone=counts,
    outcome=st.none() | st.sampled_from([str(outcome) for outcome in Outcome]),
    error=st.none() | texts,
)
runs = st.builds(
    UnfinishedRun,
    run_id=texts,
    started_at=times,
    settings=st.dictionaries(texts, texts, max_size=3),
    position=st.none() | st.dictionaries(texts, values, max_size=3),
    bytes=counts,
    delivered=st.booleans(),
    done=st.dictionaries(keys, done, max_size=2),
    open=st.dictionaries(keys, opened, max_size=2),
)
states = st.builds(
    State,
    table=st.just(TABLE),
    saved_at=times,
    targets=st.dictionaries(keys, targets, max_size=3),
    run=st.none() | runs,
)

KNOWN = TargetState(Coverage(1_750_000_000.25, 5.0, None, "Failed"), 1_749_000_000.0, 7, {"Op": 9})
SAMPLE = State(
    TABLE,
    1_750_000_100.5,
    {"111111111111/us-east-1": KNOWN},
    UnfinishedRun(
        run_id="20250615T150640Z-0a1b2c3d",
        started_at=1_750_000_000.0,
        settings={"table": "00ff"},
        position={"path": "/tmp/é.ndjson", "offset": 5, "tail": "ab"},
        bytes=5,
        delivered=False,
        done={"222222222222/eu-west-1": DoneTarget(KNOWN, incremental=True, emitted=1,
                                                   unchanged=2, gone=3)},
        open={
            "111111111111/us-east-1": OpenTarget(
                coverage=None,
                as_of=1_750_000_001.0,
                cursor=Cursor(1_700_000_000.125, (("arn:a", 1_700_000_000.125),), ended=True),
                pending=(Job("arn:b", 1.5, None, "InProgress", {"TrainingJobName": "b"}),),
                emitted=4,
                unchanged=0,
                gone=0,
                outcome="partial",
                error="1 jobs could not be read",
            )
        },
    ),
)  # fmt: skip


def refusal(data: bytes, table: str = TABLE) -> str:
    """The error that a document gives: one line that names the place and what to do."""
    with pytest.raises(StateError) as caught:
        load(data, table, PLACE)
    message = str(caught.value)
    assert PLACE in message
    assert "--state" in message
    assert "\n" not in message
    assert len(message) < 400
    return message


def signed(body: Any, **head: Any) -> bytes:
    """A document around ``body``, with a digest that fits."""
    raw = orjson.dumps(body)
    digest = hashlib.sha256(raw).hexdigest()
    return orjson.dumps(
        {"format": FORMAT, "version": VERSION, "sha256": digest, **head, "state": body}
    )


@settings(deadline=None, max_examples=200)
@given(states)
def test_what_is_written_is_read_again(state):
    """Any state comes back equal, and writing it again gives the same document."""
    data = dump(state)
    assert load(data, TABLE, PLACE) == state
    assert dump(load(data, TABLE, PLACE)) == data
    assert orjson.loads(data)["version"] == VERSION
    assert data.endswith(b"}\n")


def test_the_sample_is_read_again():
    """So does one with every member set."""
    assert load(dump(SAMPLE), TABLE, PLACE) == SAMPLE
    assert load(dump(State(TABLE)), TABLE, PLACE) == State(TABLE)


def load_or_refuse(data: bytes) -> State | None:
    try:
        return load(data, TABLE, PLACE)
    except StateError:
        return None


@settings(deadline=None, max_examples=100)
@given(state=states, data=st.data())
def test_a_changed_byte_is_found(state, data):
    """A byte flipped or lost anywhere is an error, or has changed nothing; never another state."""
    document = dump(state)
    where = data.draw(st.integers(0, len(document) - 1))
    value = data.draw(st.integers(0, 255))
    flipped = document[:where] + bytes([value]) + document[where + 1 :]
    assert load_or_refuse(flipped) in (None, state)
    assert load_or_refuse(document[:where] + document[where + 1 :]) in (None, state)
    assert load_or_refuse(document[:where]) in (None, state)


def test_no_bit_of_a_document_changes_what_it_says():
    """Each bit of each byte of a whole document, flipped, is an error or changes nothing."""
    document = dump(SAMPLE)
    for where in range(len(document)):
        for bit in range(8):
            flipped = bytearray(document)
            flipped[where] ^= 1 << bit
            assert load_or_refuse(bytes(flipped)) in (None, SAMPLE)
        assert load_or_refuse(document[:where]) in (None, SAMPLE)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"\x00" * 4096, "not JSON"),
        (b"{", "not JSON"),
        (b'{"format": NaN}', "not JSON"),
        (b'{"format": "\\ud800"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"null", "not a state of this program"),
        (b"[]", "not a state of this program"),
        (b"7", "not a state of this program"),
        (b"{}", "not a state of this program"),
        (b'{"format": ["aws-resource-collector state"]}', "not a state of this program"),
        (b'{"version": 3, "terraform_version": "1.9"}', "not a state of this program"),
    ],
)
def test_foreign_documents_are_refused(data, why):
    """What is not a state of this program is an error that says so, never an empty state."""
    assert why in refusal(data)


@pytest.mark.parametrize(
    ("version", "text"), [(2, "2"), (0, "0"), ("1", "1"), (None, "None"), ([1], "[1]")]
)
def test_another_version_is_refused_by_its_number(version, text):
    """A state of a later release is left alone; the error gives both versions."""
    message = refusal(signed(orjson.loads(dump(SAMPLE))["state"], version=version))
    assert f"has version {text}, and this release reads {VERSION}" in message


def test_a_missing_version_is_another_version():
    """A document without a version is not taken for one of this release."""
    document = orjson.loads(dump(SAMPLE))
    del document["version"]
    assert "has version None" in refusal(orjson.dumps(document))


def test_a_version_of_many_words_stays_one_short_line():
    """A version that is a whole text, with control characters, is not thrown at a terminal."""
    message = refusal(signed({}, version="\x1b[2J\n" + "x" * 10_000))
    assert "\x1b" not in message


def test_the_state_of_another_table_is_refused():
    """Two tables do not share a state, and the error names the other one."""
    data = dump(replace(SAMPLE, table="aws_sagemaker_processingjob"))
    assert "belongs to the table aws_sagemaker_processingjob" in refusal(data)


@pytest.mark.parametrize("digest", ["", "0" * 64, None, 5])
def test_a_wrong_digest_is_refused(digest):
    """A state that was changed by hand is told from one that was written."""
    assert "digest is wrong" in refusal(signed(orjson.loads(dump(SAMPLE))["state"], sha256=digest))


def test_a_state_that_is_missing_is_refused():
    """A head without a body is damaged."""
    document = orjson.loads(dump(SAMPLE))
    del document["state"]
    assert "is damaged" in refusal(orjson.dumps(document))


@pytest.mark.parametrize("depth", [100, 300, 900])
def test_a_state_of_deep_lists_is_refused(depth):
    """Nesting, however deep, is an error like any other."""
    head = b'{"format":"%s","version":%d,"sha256":"0","state":' % (FORMAT.encode(), VERSION)
    refusal(head + b"[" * depth + b"]" * depth + b"}")


def changed(path: str, value: Any) -> bytes:
    """The sample with another value at a dotted path, and a digest that fits."""
    body = orjson.loads(dump(SAMPLE))["state"]
    *parents, last = path.split(".")
    place = body
    for parent in parents:
        place = place[parent]
    place[last] = value
    return signed(body)


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("saved_at", -1.0, "saved_at"),
        ("saved_at", None, "saved_at"),
        ("saved_at", "1.0", "saved_at"),
        ("saved_at", True, "saved_at"),
        ("added", 1, "added"),
        ("targets", [], "targets"),
        ("targets.nowhere", {}, "targets.nowhere"),
        ("targets.111111111111/us-east-1.full_at", None, "full_at"),
        ("targets.111111111111/us-east-1.full_at", -5, "full_at"),
        ("targets.111111111111/us-east-1.listed", 1.5, "listed"),
        ("targets.111111111111/us-east-1.listed", -1, "listed"),
        ("targets.111111111111/us-east-1.rates", {"Op": "9"}, "rates.Op"),
        ("targets.111111111111/us-east-1.more", 1, "more"),
        ("targets.111111111111/us-east-1.coverage", None, "coverage"),
        ("targets.111111111111/us-east-1.coverage.watermark", None, "coverage.watermark"),
        ("targets.111111111111/us-east-1.coverage.watermark", "x", "coverage.watermark"),
        ("targets.111111111111/us-east-1.coverage.after", "x", "coverage.after"),
        ("run", [], "run"),
        ("run.run_id", 7, "run.run_id"),
        ("run.delivered", 1, "run.delivered"),
        ("run.bytes", -1, "run.bytes"),
        ("run.position", "here", "run.position"),
        ("run.open.111111111111/us-east-1.pending", None, "pending"),
        ("run.open.111111111111/us-east-1.cursor", {"seen": [["arn"]]}, "cursor.seen"),
        ("run.open.111111111111/us-east-1.as_of", None, "as_of"),
    ],
)
def test_values_of_a_wrong_kind_are_refused(path, value, where):
    """A document whose digest fits is still read strictly, and the error says where it is wrong."""
    message = refusal(changed(path, value))
    assert "is damaged" in message
    assert where.rpartition(".")[2] in message
