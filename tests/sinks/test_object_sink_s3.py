"""S3: with whose keys, where and how parts are put, what is left of uploads, what goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiohttp import web
from flaky import flaky
from lake import BUCKET, Lake, s3_server
from test_object_sink import FOLDER, RUN, rows

from collector import Collector, Settings, objects
from collector.aws import sessions
from collector.errors import ConfigurationError, SinkError
from collector.sinks import _parts
from collector.sinks.base import Kept, Run, open_sink
from collector.testing import Estate, FakeAws, credentials_for

URI = f"s3://{BUCKET}/out"
IMPATIENT = Run("things", RUN.run_id, RUN.started_at, Settings(give_up_after=0))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def caller(clean_environment, monkeypatch):  # noqa: ARG001
    """A caller with keys and a region; what is tried again is tried again at once."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "moto")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "moto")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    soon = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2)}
    monkeypatch.setitem(objects._RETRIES, "backoff", {**soon, "base": 2})


@pytest.fixture
def bucket(s3, monkeypatch):
    """A client of the bucket, which is empty, and the variable that leads to it."""
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    for upload in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()):
        found = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
        client.abort_multipart_upload(Bucket=BUCKET, **found)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3)
    return client


def keys_of(bucket) -> list[str]:
    return [item["Key"] for item in bucket.list_objects_v2(Bucket=BUCKET).get("Contents", ())]


def uploads_of(bucket) -> list[str]:
    return [
        upload["Key"] for upload in bucket.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())
    ]


async def deliver(uri: str, run: Run = RUN) -> None:
    """A whole run of three records."""
    sink = open_sink(uri, run)
    await sink.open()
    await sink.write(rows(0, 3))
    await sink.close(whole=True)


@asynccontextmanager
async def recorded(s3: str, monkeypatch: Any) -> AsyncIterator[list[tuple[str, str, Any]]]:
    """Method, path and headers of the requests to the bucket, which lies behind a proxy."""
    seen: list[tuple[str, str, Any]] = []
    async with flaky(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield seen
        for request, headers in zip(proxy.seen, proxy.headers, strict=True):
            method, _, path = request.partition(" ")
            seen.append((method, path, headers))


def signer(headers: Any) -> tuple[str, str]:
    """Access key and region that a request was signed with."""
    scope = headers["Authorization"].partition("Credential=")[2].split("/")
    return scope[0], scope[2]


@pytest.mark.usefixtures("bucket")
async def test_every_object_is_encrypted_and_has_its_acl(s3, monkeypatch):
    """kms_key and acl go with parts and manifest alike: a reader needs both of them."""
    async with recorded(s3, monkeypatch) as seen:
        await deliver(f"S3{URI[2:]}?kms_key=alias/lake&acl=bucket-owner-full-control")
    puts = {path: headers for method, path, headers in seen if method == "PUT"}
    objects_put = [path for path in puts if not path.endswith("?acl")]
    assert [path.rpartition("/")[2] for path in objects_put] == [
        "_started.json",
        "part-00001.ndjson.gz",
        "_manifest.json",
    ]
    for path in objects_put:
        encryption = {k.lower(): v for k, v in puts[path].items() if "encryption" in k.lower()}
        assert encryption == {
            "x-amz-server-side-encryption": "aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id": "alias/lake",
        }
        assert puts[f"{path}?acl"]["x-amz-acl"] == "bucket-owner-full-control"


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("uri", "region"), [(URI, "us-west-2"), (f"{URI}?region=eu-west-1", "eu-west-1")]
)
async def test_a_bucket_may_be_in_another_region(s3, monkeypatch, uri, region):
    """Requests are signed for the region in the URI, else for the SDK's."""
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    async with recorded(s3, monkeypatch) as seen:
        await deliver(uri)
    assert {signer(headers) for _, _, headers in seen} == {("moto", region)}


@pytest.mark.usefixtures("bucket")
async def test_a_profile_may_assume_a_role(s3, monkeypatch, tmp_path):
    """The SDK's chain is followed: with a role in the profile, its keys and its token sign."""
    (tmp_path / "no-aws-config").write_text(
        "[profile lake]\nrole_arn = arn:aws:iam::123456789012:role/Writer\nregion = us-east-1\n"
        "source_profile = me\n[profile me]\naws_access_key_id = mine\naws_secret_access_key = x\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3)
    run = Run("things", RUN.run_id, RUN.started_at, Settings(profile="lake"))
    async with recorded(s3, monkeypatch) as seen:
        await deliver(URI, run)
    assert len({signer(headers) for _, _, headers in seen}) <= 2  # obstore's, and the SDK's own
    assert all(signer(headers)[0] not in {"mine", "moto"} for _, _, headers in seen)
    assert all(headers["x-amz-security-token"] for _, _, headers in seen)


@pytest.mark.usefixtures("bucket")
async def test_keys_that_end_soon_are_renewed(s3, monkeypatch, tmp_path):
    """The SDK is asked again in the middle of a run, and brings new keys in time."""
    script = tmp_path / "keys.py"
    script.write_text(
        "import datetime, json, pathlib\n"
        f"path = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "count = len(path.read_text()) if path.exists() else 0\n"
        "path.write_text('x' * (count + 1))\n"
        "end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'key-{count}', 'SecretAccessKey': 's',"
        " 'SessionToken': 't', 'Expiration': end.isoformat()}))\n"
    )
    (tmp_path / "no-aws-config").write_text(
        f"[default]\nregion = us-east-1\ncredential_process = {sys.executable} {script}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(sessions, "_ASK_AGAIN", timedelta(0))
    async with recorded(s3, monkeypatch) as seen:
        await deliver(URI)
    ours = [signer(h)[0] for _, path, h in seen if path.endswith((".gz", "_manifest.json"))]
    assert len(ours) == len(set(ours)) == 2


@pytest.mark.usefixtures("bucket")
async def test_trouble_of_a_while_is_borne(s3, monkeypatch):
    """A hundred refusals in a row are no failure: only give_up_after ends the patience."""
    async with flaky(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        sink = open_sink(URI, RUN)
        await sink.open()
        proxy.fail_next(100)
        await sink.write(rows(0, 3))
        await sink.flush()
        await sink.close(whole=True)
    assert proxy.failed == 100
    assert len(Lake(s3, "out").lines()) == 3


@pytest.mark.usefixtures("bucket")
async def test_without_patience_the_first_trouble_ends_it(s3, monkeypatch):
    """give_up_after=0: one request, one sentence, no object, and nothing but that is said."""
    async with flaky(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        sink = open_sink(URI, IMPATIENT)
        await sink.open()
        proxy.broken = "."
        await sink.write(rows(0, 3))
        before = len(proxy.seen)
        with pytest.raises(SinkError) as caught:
            await sink.flush()
        assert len(proxy.seen) == before + 1
        assert await sink.close(whole=False) is None
    assert (
        str(caught.value)
        == f"Cannot write to {URI}: status code: 503 Service Unavailable: SlowDown."
    )


MOVED = "the bucket is in"
RENEW = "renew them, and run the same command again"


def told(code: str, message: str, more: str = "") -> str:
    return f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, told("AccessDenied", "Access Denied"), "access is denied."),
        (
            403,
            told("InvalidAccessKeyId", "The key does not exist."),
            "access is denied (InvalidAccessKeyId: The key does not exist).",
        ),
        (404, told("NoSuchBucket", "No."), "there is no such bucket or object."),
        (
            301,
            told("PermanentRedirect", "Elsewhere."),
            f"{MOVED} another region: add its region, as ?region=eu-west-1, to the URI.",
        ),
        (
            400,
            told("AuthorizationHeaderMalformed", "Wrong.", "<Region>eu-west-1</Region>"),
            f"{MOVED} eu-west-1: add ?region=eu-west-1 to the URI.",
        ),
        (
            400,
            told("ExpiredToken", "Over."),
            f"the credentials have expired (ExpiredToken: Over): {RENEW}.",
        ),
        (400, told("KMS.DisabledException", "It is off."), "KMS.DisabledException: It is off."),
    ],
)
async def test_what_s3_says_is_told_in_one_sentence(monkeypatch, status, body, words):
    """No URL, no markup, no word of the library's: what is wrong, and what to do where it shows."""
    async with s3_that_says(status, body) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        with pytest.raises(SinkError) as caught:
            await open_sink(URI, RUN).open()
    assert str(caught.value) == f"Cannot write to {URI}: {words}"


@asynccontextmanager
async def s3_that_says(
    status: int, body: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """The URL of an S3 that gives one answer to all."""

    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(status=status, text=body, headers={"ETag": '"e"'})

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1", "Connection refused"),
        ("http://nowhere.invalid", "failed to lookup address information: .+"),
    ],
)
async def test_a_network_that_does_not_answer_is_told_in_one_sentence(monkeypatch, url, why):
    """The library says no more than that a request could not be sent; here it is why."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    with pytest.raises(SinkError) as caught:
        await open_sink(URI, IMPATIENT).open()
    assert re.fullmatch(
        rf"Cannot write to {URI}: the network brought no answer \({why}\)\.", str(caught.value)
    )


async def test_the_sdks_ca_bundle_is_trusted(certificate, monkeypatch):
    """AWS_CA_BUNDLE holds for the bucket as for every other service; without it, nobody is."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with s3_that_says(200, "<ListMultipartUploadsResult/>", tls) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        with pytest.raises(SinkError, match=r"brought no answer \(UnknownIssuer\)"):
            await open_sink(URI, IMPATIENT).open()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        sink = open_sink(URI, RUN)
        assert await sink.open() is Kept.NOTHING
        await sink.close(whole=True)
    monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such/bundle")
    with pytest.raises(ConfigurationError, match=r"CA bundle /no/such/bundle .+ cannot be read"):
        await open_sink(URI, RUN).open()


async def test_a_failed_upload_is_aborted(bucket, monkeypatch):
    """Cut off in the middle of a part: no object, and no multipart upload stays behind."""
    monkeypatch.setattr(_parts, "CHUNK", 5 << 20)
    sink = open_sink(f"{URI}?codec=none", RUN)
    await sink.open()
    for first in range(0, 12_000, 500):
        await sink.write(rows(first, 500, 1000))
    assert uploads_of(bucket)
    await sink.close(whole=False)
    assert not uploads_of(bucket)
    assert keys_of(bucket) == []


@pytest.mark.parametrize("broken", ["PUT .*partNumber=2", "POST .*uploadId="])
async def test_an_upload_that_s3_fails_is_aborted(s3, bucket, monkeypatch, broken):
    """A chunk, or the end of the upload, that never gets through leaves nothing behind either."""
    monkeypatch.setattr(_parts, "CHUNK", 5 << 20)
    run = Run("things", RUN.run_id, RUN.started_at, Settings(give_up_after=0.2))
    async with flaky(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        proxy.broken = broken
        sink = open_sink(f"{URI}?codec=none", run)
        await sink.open()

        async def whole() -> None:
            for first in range(0, 12_000, 500):
                await sink.write(rows(first, 500, 1000))
            await sink.flush()

        with pytest.raises(SinkError, match="503"):
            await whole()
        assert await sink.close(whole=False) is None
    assert not uploads_of(bucket)
    assert keys_of(bucket) == []


KILLED = """
import asyncio, json, os, signal, sys
from test_object_sink import RUN, rows
from collector.sinks import _parts
from collector.sinks.base import open_sink
_parts.CHUNK = 5 << 20

async def main():
    sink = open_sink(sys.argv[1], RUN)
    await sink.open()
    await sink.write(rows(0, 50))
    print(json.dumps(await sink.flush()), flush=True)
    for first in range(50, 12_050, 500):
        await sink.write(rows(first, 500, 1000))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def killed(uri: str) -> dict[str, Any]:
    """The position of a run that SIGKILL ends in the middle of its second part's upload."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, uri],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    position: dict[str, Any] = json.loads(done.stdout)
    return position


async def test_uploads_of_a_killed_run_are_aborted_by_the_one_that_goes_on(bucket):
    """A process killed in mid-upload: no manifest, an upload, and none once it is gone on with."""
    uri = f"{URI}?codec=none"
    position = killed(uri)
    assert uploads_of(bucket) == [f"out/{FOLDER}/part-00002.ndjson"]
    assert not [key for key in keys_of(bucket) if "_manifest" in key]
    again = open_sink(uri, RUN)
    assert await again.open(position) is Kept.PART
    assert uploads_of(bucket) == []
    assert await again.close(whole=True) is None


async def test_uploads_of_a_killed_run_are_named_by_any_other(bucket):
    """Without state nobody goes on with it: the next run, of any day, says what it left behind."""
    uri = f"{URI}?codec=none"
    killed(uri)
    other = open_sink(uri, Run("things", "another", RUN.started_at + 86_400, Settings()))
    assert await other.open() is Kept.NOTHING
    note = await other.close(whole=True)
    assert note.startswith(f"{URI} has 1 unfinished multipart uploads of other runs, such as out/")
    assert f"{FOLDER}/part-00002.ndjson: " in note
    assert len(uploads_of(bucket)) == 1


async def test_uploads_of_other_runs_are_named_not_aborted(bucket):
    """Beside those of the run that is gone on with: they may be those of one that is under way."""
    uri = f"{URI}?template=all/{{run_id}}-{{part}}.ndjson"
    sink = open_sink(uri, RUN)
    await sink.open()
    position = await sink.flush()
    for run_id in (RUN.run_id, "of-another"):
        bucket.create_multipart_upload(Bucket=BUCKET, Key=f"out/all/{run_id}-00001.ndjson.gz")
    again = open_sink(uri, RUN)
    assert await again.open(position) is Kept.PART
    assert uploads_of(bucket) == ["out/all/of-another-00001.ndjson.gz"]
    assert "1 unfinished multipart uploads" in await again.close(whole=True)


async def test_a_file_that_a_killed_run_had_staged_is_removed(tmp_path):
    """In a folder, too: what the library writes a part to until it is whole does not stay."""
    uri = f"file://{tmp_path}/a%20lake?codec=none"
    position = killed(uri)
    folder = tmp_path / "a lake"
    staged = {"part-00001.ndjson", "part-00002.ndjson#1"}
    assert {path.name for path in folder.rglob("part-*")} == staged
    again = open_sink(uri, RUN)
    assert await again.open(position) is Kept.PART
    assert [path.name for path in folder.rglob("part-*")] == ["part-00001.ndjson"]
    await again.close(whole=True)


async def test_all_pages_of_uploads_are_looked_at():
    """S3 lists a thousand at once: those on the second page are aborted and named as well."""
    aborted, upload = [], "<Upload><Key>{}</Key><UploadId>u</UploadId></Upload>"

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.method == "DELETE":
            aborted.append(request.path)
            return web.Response(status=204)
        second = request.query.get("key-marker") == "k"
        found = upload.format("x/mine" if second else "x/theirs")
        more = (
            ""
            if second
            else "<NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>"
        )
        text = (
            f"<ListMultipartUploadsResult><IsTruncated>{str(not second).lower()}</IsTruncated>"
            f"{more}{found}</ListMultipartUploadsResult>"
        )
        return web.Response(text=text, content_type="application/xml")

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = Settings(endpoint_url=f"http://127.0.0.1:{runner.addresses[0][1]}")
    bucket = objects.Bucket("s3://lake/x", settings)
    try:
        assert await bucket.abort_uploads("", "mine") == ["x/theirs"]
    finally:
        await runner.cleanup()
    assert aborted == ["/lake/x/mine"]


async def test_uploads_that_may_not_be_listed_are_a_note(bucket, s3, monkeypatch):
    """A caller without s3:ListBucketMultipartUploads writes all the same, and is told."""
    async with flaky(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        proxy.broken = "GET .*uploads"
        sink = open_sink(URI, RUN)
        await sink.open()
        note = await sink.close(whole=True)
    assert note.startswith(
        f"Unfinished uploads could not be looked for (Cannot write to s3://{BUCKET} ("
    )
    assert "ListMultipartUploads: 503" in note
    assert any("_manifest" in key for key in keys_of(bucket))


async def test_a_bucket_that_is_not_there_is_said_at_open(bucket):  # noqa: ARG001
    """Before anything is asked of AWS."""
    with pytest.raises(SinkError, match="no such bucket"):
        await open_sink("s3://no-such-bucket/x", RUN).open()


async def test_a_run_without_its_manifest_is_not_complete(s3, monkeypatch, tmp_path):
    """All was read, and the manifest fails: the report says so, and the next run puts it there."""
    for name, value in zip(
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), credentials_for("111111111111"), strict=True
    ):
        monkeypatch.setenv(name, value)
    async with flaky(s3) as proxy, FakeAws(Estate.generate(1, ("us-east-1",), 60)) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        settings = Settings(
            regions=["us-east-1"],
            sink=f"s3://{BUCKET}/late",
            state=str(tmp_path / "state"),
            give_up_after=1,
        )
        proxy.broken = "PUT .*_manifest"
        first = Collector(settings)
        with pytest.raises(SinkError, match="503"):
            await first.run()
        assert first.report["complete"] is False
        assert first.report["totals"]["emitted"] == 60
        assert "did not end by itself: Cannot write to" in first.report["warnings"][0]
        assert Lake(s3, "late").lines() == []
        proxy.broken = None
        report = await Collector(settings).run()
    assert report["complete"] is True
    assert report["run_id"] == first.report["run_id"]
    lines = Lake(s3, "late").lines()
    assert Counter(Counter(lines).values()) == {1: 60}
