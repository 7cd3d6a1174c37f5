"""A report as a file or an object: whole or not there, and found out before where it cannot be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import boto3
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from collector import Settings, objects
from collector.errors import CollectorError, ConfigurationError
from collector.report_file import check_report, read_report, write_report
from tests.sinks.flaky import flaky

BUCKET = "reports"
REPORT = {"complete": True, "targets": [{"region": "us-east-1"}]}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 by moto, with one bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(
        Bucket=BUCKET
    )
    yield url
    server.stop()


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    """Keys that moto takes, and no waits between two attempts."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    soon = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2)}
    monkeypatch.setitem(objects._RETRIES, "backoff", {**soon, "base": 2})


@asynccontextmanager
async def refusing(code: str, status: int) -> AsyncIterator[tuple[Settings, list[str]]]:
    """An S3 that answers everything with one error; the methods that it was asked with."""
    methods: list[str] = []

    async def refuse(request: web.Request) -> web.Response:
        methods.append(request.method)
        text = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
        return web.Response(status=status, text=text, content_type="application/xml")

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", refuse)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Settings(endpoint_url=f"http://127.0.0.1:{runner.addresses[0][1]}"), methods
    finally:
        await runner.cleanup()


def keys_in(url: str, prefix: str) -> list[str]:
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for item in found.get("Contents", ())]


@pytest.mark.parametrize("key", ["alone.json", "a/b/report.json"])
@pytest.mark.parametrize("query", ["", "?region=us-east-1"])
async def test_an_object_is_written_and_read(s3, key, query):
    """Under its very key, in the place of an earlier one; the check before leaves no trace."""
    settings, uri = Settings(endpoint_url=s3), f"s3://{BUCKET}/{len(query)}/{key}{query}"
    await check_report(uri, settings)
    assert keys_in(s3, f"{len(query)}/{key}") == []
    for complete in (False, True):
        await write_report(uri, {**REPORT, "complete": complete}, settings)
        await check_report(uri, settings)
        assert await read_report(uri, settings) == {**REPORT, "complete": complete}
    assert keys_in(s3, f"{len(query)}/{key}") == [f"{len(query)}/{key}"]


async def test_a_write_that_fails_is_made_again(s3):
    """Faults of the store cost no report."""
    async with flaky(s3) as proxy:
        settings = Settings(endpoint_url=proxy.url)
        proxy.fail_next(3)
        await write_report(f"s3://{BUCKET}/flaky.json", REPORT, settings)
        assert proxy.failed == 3
    assert await read_report(f"s3://{BUCKET}/flaky.json", Settings(endpoint_url=s3)) == REPORT


async def test_a_bucket_that_is_not_there_is_said_before(s3):
    """Not after the run, hours later; also where it is read."""
    settings, uri = Settings(endpoint_url=s3), "s3://no-such-bucket/report.json"
    with pytest.raises(ConfigurationError, match=r"cannot be written: no such bucket\.$"):
        await check_report(uri, settings)
    with pytest.raises(ConfigurationError, match=r"cannot be read: there is no such bucket"):
        await read_report(uri, settings)
    with pytest.raises(CollectorError, match=r"^Cannot write the report .*no such bucket"):
        await write_report(uri, REPORT, settings)


async def test_the_check_needs_no_permission():
    """Who may only write is not told that reading is denied; a write that is denied is told."""
    async with refusing("AccessDenied", 403) as (settings, methods):
        await check_report(f"s3://{BUCKET}/report.json", settings)
        assert methods == ["GET"]
        with pytest.raises(CollectorError, match=r"Cannot write .*report\.json: access is denied"):
            await write_report(f"s3://{BUCKET}/report.json", REPORT, settings)
    async with refusing("PermanentRedirect", 301) as (settings, _):
        with pytest.raises(ConfigurationError, match="cannot be written") as raised:
            await check_report(f"s3://{BUCKET}/report.json", settings)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ftp://host/report.json", r"no report in ftp://"),
        ("s3:///report.json", r"is not the URI of an object"),
        ("s3://bucket", r"is not the URI of an object"),
        ("s3://bucket/folder/", r"is not the URI of an object"),
        ("gs://bucket", r"is not the URI of an object"),
    ],
)
async def test_a_place_that_can_be_none_is_one_sentence(uri, words):
    """Found out without a call: checked, written or read."""
    for action in (
        check_report(uri, Settings()),
        write_report(uri, REPORT, Settings()),
        read_report(uri, Settings()),
    ):
        with pytest.raises(ConfigurationError, match=words):
            await action


async def test_a_file_may_be_named_by_a_uri(tmp_path):
    """file:/// is the path; the file alone is left behind."""
    uri = f"file://{tmp_path}/report.json"
    await check_report(uri, Settings())
    await write_report(uri, REPORT, Settings())
    assert await read_report(str(tmp_path / "report.json"), Settings()) == REPORT
    assert list(tmp_path.iterdir()) == [tmp_path / "report.json"]


async def test_a_file_that_cannot_be_is_one_sentence(tmp_path):
    """A folder that is not there, a folder in the file's place, and no file to read."""
    for place in (tmp_path / "missing/report.json", tmp_path):
        with pytest.raises(ConfigurationError, match=str(place)):
            await check_report(str(place), Settings())
        with pytest.raises(CollectorError, match=r"^Cannot write the report .*\.$"):
            await write_report(str(place), REPORT, Settings())
        with pytest.raises(ConfigurationError, match="cannot be read: "):
            await read_report(str(place), Settings())
    (tmp_path / "report.json").write_text("not json")
    with pytest.raises(ConfigurationError, match="is not the report of a run"):
        await read_report(str(tmp_path / "report.json"), Settings())
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
