"""Object stores: parts as they are filled, a manifest last, no trace of what was cut off."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import boto3
import pytest
import zstandard
from moto.server import ThreadedMotoServer

from collector import Settings
from collector.errors import ConfigurationError
from collector.iam import policy, with_delivery
from collector.sinks import _layout, _parts, objects
from collector.sinks.base import Kept, Row, Run, open_sink, permissions
from collector.tables import load_table

BUCKET = "lake"
RUN = Run("things", "20260101T000000Z-abcd", 1_767_225_600.0, Settings())
FOLDER = "table=things/dt=2026-01-01/run=20260101T000000Z-abcd"


@pytest.fixture(scope="module")
def s3():
    """A bucket in moto's S3."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host if host != '0.0.0.0' else '127.0.0.1'}:{port}"
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=BUCKET)
    yield client
    server.stop()


@pytest.fixture
def bucket(s3, monkeypatch):
    """The bucket, empty, and the variables that lead to it."""
    for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        s3.delete_object(Bucket=BUCKET, Key=item["Key"])
    for upload in s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()):
        s3.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.meta.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return s3


@pytest.fixture(params=["s3", "file"])
def place(request, tmp_path):
    """A URI, and what is below it: path to content."""
    if request.param == "file":
        return f"file://{tmp_path}/out", lambda: folder_content(tmp_path / "out")
    client = request.getfixturevalue("bucket")
    return f"s3://{BUCKET}/out", lambda: bucket_content(client)


def folder_content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def bucket_content(client) -> dict[str, bytes]:
    return {
        item["Key"].removeprefix("out/"): client.get_object(Bucket=BUCKET, Key=item["Key"])[
            "Body"
        ].read()
        for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", ())
    }


def rows(first: int, count: int, size: int = 0) -> list[Row]:
    """Rows that are numbered, of ``size`` bytes or so that do not compress well."""
    return [
        Row(
            json.dumps({"n": n, "x": str(n * 7919**3)[:9] * (size // 9)}).encode() + b"\n",
            f"arn:{n}",
            f"{n % 3:012}",
            ("us-east-1", "eu-west-1")[n % 2],
        )
        for n in range(first, first + count)
    ]


def numbers(content: dict[str, bytes]) -> list[int]:
    """The rows in all parts, in the order of their names."""
    found = []
    for path in sorted(content):
        if not path.rpartition("/")[2].startswith("_"):
            data = content[path]
            if path.endswith(".gz"):
                data = gzip.decompress(data)
            elif path.endswith(".zst"):
                data = zstandard.ZstdDecompressor().stream_reader(data).read()
            found += [json.loads(line)["n"] for line in data.splitlines()]
    return found


def manifest(content: dict[str, bytes]) -> dict | None:
    (found,) = [v for k, v in content.items() if "_manifest" in k] or [b"null"]
    return json.loads(found)


@pytest.mark.parametrize("codec", ["gz", "zst", "none"])
async def test_parts_and_a_manifest_that_names_them(place, codec):
    """Everything once, in order; the manifest has every part, its rows and its bytes."""
    uri, content = place
    sink = open_sink(f"{uri}/?codec={codec}&part_bytes=2KB", RUN)
    assert await sink.open() is Kept.NOTHING
    for first in range(0, 100, 10):
        await sink.write(rows(first, 10, 90))
        assert manifest(content()) is None
    assert await sink.close(whole=True) is None
    assert await sink.close(whole=True) is None
    found = content()
    assert numbers(found) == list(range(100))
    whole = manifest(found)
    ending = _layout.CODECS[codec]
    assert [part["path"] for part in whole["parts"]] == sorted(
        path for path in found if "part-" in path
    )
    assert whole["parts"][0]["path"] == f"{FOLDER}/part-00001.ndjson{ending}"
    assert len(whole["parts"]) > 1 or codec != "none"
    assert whole["rows"] == sum(part["rows"] for part in whole["parts"]) == 100
    for part in whole["parts"]:
        assert part["bytes"] == len(found[part["path"]])
    assert (whole["run_id"], whole["table"]) == (RUN.run_id, "things")


async def test_an_empty_run_is_a_manifest_without_parts(place):
    """A reader can tell that there was nothing."""
    uri, content = place
    sink = open_sink(uri, RUN)
    await sink.open()
    await sink.flush()
    await sink.close(whole=True)
    assert manifest(content())["parts"] == []


async def test_a_large_part_goes_up_in_pieces(place, monkeypatch):
    """A multipart upload, when there is more than one chunk; nothing is seen before its end."""
    monkeypatch.setattr(_parts, "CHUNK", 5 << 20)
    uri, content = place
    sink = open_sink(f"{uri}?codec=none", RUN)
    await sink.open()
    for first in range(0, 12_000, 500):
        await sink.write(rows(first, 500, 1000))
    assert not [path for path in content() if path.endswith(".ndjson")]
    await sink.close(whole=True)
    assert numbers(content()) == list(range(12_000))
    assert len(manifest(content())["parts"]) == 1


async def test_a_run_that_was_cut_off_goes_on(place):
    """What was flushed stays, what came after is removed, and the whole has everything once."""
    uri, content = place
    first = open_sink(uri, RUN)
    await first.open()
    await first.write(rows(0, 50))
    position = json.loads(json.dumps(await first.flush()))
    await first.write(rows(50, 20))
    await first.flush()  # in place, and not acknowledged: the process was killed before
    assert numbers(content()) == list(range(70))

    other = Run("things", "another", 1_777_000_000.0, Settings())
    second = open_sink(uri, other)
    assert await second.open(position) is Kept.PART
    assert numbers(content()) == list(range(50))
    await second.write(rows(50, 30))
    await second.close(whole=True)
    assert numbers(content()) == list(range(80))
    assert manifest(content())["run_id"] == RUN.run_id
    assert [part["rows"] for part in manifest(content())["parts"]] == [50, 30]

    parts = [[p["path"], p["rows"], p["bytes"]] for p in manifest(content())["parts"]]
    third = open_sink(uri, other)
    assert await third.open(position | {"parts": parts}) is Kept.WHOLE


async def test_parts_that_are_gone_are_not_gone_on_with(place):
    """A part that somebody removed: the run begins anew, under its own name."""
    uri, content = place
    first = open_sink(uri, RUN)
    await first.open()
    await first.write(rows(0, 5))
    position = await first.flush()
    other = Run("things", "another", RUN.started_at, Settings())
    second = open_sink(uri, other)
    assert await second.open(position | {"parts": [["no/such/part", 1, 2]]}) is Kept.NOTHING
    await second.write(rows(5, 5))
    await second.close(whole=True)
    assert manifest(content())["run_id"] == "another"
    assert manifest(content())["rows"] == 5


async def test_a_run_that_is_not_whole_has_no_manifest(place):
    """close(whole=False): finished parts stay, and the sentence says where; no manifest."""
    uri, content = place
    sink = open_sink(uri, RUN)
    await sink.open()
    await sink.write(rows(0, 5))
    await sink.flush()
    await sink.write(rows(5, 5))
    note = await sink.close(whole=False)
    assert "without a manifest" in note
    assert FOLDER in note
    assert manifest(content()) is None
    assert numbers(content()) == list(range(5))


async def test_nothing_read_leaves_nothing(place):
    """No part, no manifest, no sign of having begun."""
    uri, content = place
    sink = open_sink(uri, RUN)
    await sink.open()
    assert list(content()) == [f"{FOLDER}/_started.json"]
    assert await sink.close(whole=False) is None
    assert content() == {}


async def test_old_parts_are_finished(tmp_path):
    """A part that is old enough is put in place, however small."""
    now = 0.0
    options = _layout.Options(_layout.TEMPLATE, 1 << 20, 60.0)
    sink = objects.ObjectSink(f"file://{tmp_path}", options, RUN, clock=lambda: now)
    assert sink.flush_every == 60.0
    await sink.open()
    await sink.write(rows(0, 1))
    now = 59.0
    await sink.write(rows(1, 1))
    assert numbers(folder_content(tmp_path)) == []
    now = 60.0
    await sink.write(rows(2, 1))
    assert numbers(folder_content(tmp_path)) == [0, 1, 2]


async def test_parts_by_account_and_region(tmp_path, monkeypatch):
    """A template splits the parts; few are open at once, and none is lost by that."""
    monkeypatch.setattr(objects, "MOST_OPEN", 2)
    template = "account={account_id}/region={region}/run={run_id}/{part}.ndjson"
    sink = open_sink(f"file://{tmp_path}?template={template}&codec=none", RUN)
    await sink.open()
    for first in range(0, 60, 6):
        await sink.write(rows(first, 6))
    await sink.close(whole=True)
    found = folder_content(tmp_path)
    assert sorted(numbers(found)) == list(range(60))
    for path, data in found.items():
        if path.startswith("account="):
            for line in data.splitlines():
                n = json.loads(line)["n"]
                assert f"account={n % 3:012}/region={('us-east-1', 'eu-west-1')[n % 2]}" in path
    assert f"_manifest-{RUN.run_id}.json" in found


@pytest.mark.parametrize(("shard", "name"), [("2/3", "2-of-3"), (None, "1-of-1")])
async def test_parts_are_named_after_their_shard(tmp_path, shard, name):
    """A template may hold the shard, also where a URI has its braces escaped."""
    template = "{table}/%7Bshard%7D/{run_id}/{part}.ndjson"
    run = replace(RUN, settings=Settings(shard=shard))
    sink = open_sink(f"file://{tmp_path}?template={template}&codec=none", run)
    await sink.open()
    await sink.write(rows(0, 3))
    await sink.close(whole=True)
    folder = f"{RUN.table}/{name}/{RUN.run_id}"
    assert sorted(folder_content(tmp_path)) == [
        f"{folder}/00001.ndjson", f"{folder}/_manifest.json", f"{folder}/_started.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3:///x", "name of a bucket"),
        ("s3://b/x?codek=gz", "did you mean codec"),
        ("s3://b/x?codec=xz", "gz, zst, none"),
        ("s3://b/x?part_bytes=big", "size"),
        ("s3://b/x?roll_after=soon", "duration"),
        ("s3://b/x?template=a/{part}", "{run_id}"),
        ("s3://b/x?template={nobody}/{run_id}/{part}", "{account_id}"),
        ("gs://b/x?kms_key=k", "s3:// only"),
        ("s3://b/x?acl=", "acl has no value"),
        ("s3://b/x?template=a/../{run_id}/{part}", "a name between every two slashes"),
        ("file:///x?template=a//{run_id}/{part}", "a name between every two slashes"),
    ],
)
def test_a_bad_uri_is_one_sentence(uri, words):
    """Unknown and bad options are named before anything is opened."""
    for use in (partial(open_sink, run=RUN), permissions):
        with pytest.raises(ConfigurationError) as raised:
            use(uri)
        assert words in str(raised.value)


def test_permissions_of_a_sink():
    """`iam-policy --sink` adds what is needed, and no more."""
    uri = "s3://lake/raw/?kms_key=arn:aws:kms:us-east-1:111122223333:key/k&acl=private"
    document = with_delivery(policy(load_table()), [uri, "jobs.ndjson", "-"], "s3://state/x")
    added = {s["Sid"]: s for s in document["Statement"][len(policy(load_table())["Statement"]) :]}
    assert added["WriteParts"]["Resource"] == ["arn:*:s3:::lake/raw/*"]
    assert "s3:PutObjectAcl" in added["WriteParts"]["Action"]
    assert added["EncryptParts"]["Resource"] == ["arn:aws:kms:us-east-1:111122223333:key/k"]
    assert added["KeepState"]["Resource"] == ["arn:*:s3:::state/x/*"]
    assert added["FindState"]["Resource"] == ["arn:*:s3:::state"]
    shards = with_delivery(
        policy(load_table()),
        ["s3://lake/{shard}/"],
        None,
        "s3://lake/reports/{shard}.json?region=x",
    )
    *_, parts, _, report = shards["Statement"]
    assert parts["Resource"] == ["arn:*:s3:::lake/*/*"]
    assert (report["Action"], report["Resource"]) == (
        ["s3:PutObject"],
        ["arn:*:s3:::lake/reports/*.json"],
    )


@pytest.mark.parametrize(
    ("key", "arn"),
    [
        (
            "arn:aws:kms:eu-west-1:1:key/k-1",
            "arn:aws:kms:eu-west-1:1:key/k-1",
        ),
        ("k-1", "arn:*:kms:*:*:key/k-1"),
        ("alias/lake", "arn:*:kms:*:*:key/*"),
        (
            "arn:aws:kms:eu-west-1:1:alias/lake",
            "arn:aws:kms:eu-west-1:1:key/*",
        ),
    ],
)
def test_the_policy_names_the_key_itself(key, arn):
    """A permission on an alias is none on its key: a key that is not known may be any."""
    (encrypt,) = (p for p in permissions(f"s3://b/x?kms_key={key}") if p.sid == "EncryptParts")
    assert encrypt.resources == [arn]


async def test_a_cancelled_write_can_be_closed(tmp_path):
    """A task that is cancelled in the middle of a write leaves a sink that closes."""
    sink = open_sink(f"file://{tmp_path}", RUN)
    await sink.open()
    writing = asyncio.create_task(sink.write(rows(0, 2_000, 900)))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await sink.close(whole=False)
    assert manifest(folder_content(tmp_path)) is None
