"""Buckets of three clouds on this machine, and what a reader of a lake finds in them."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import boto3
from blob_server import blob_server
from flaky import Flaky, flaky
from stream_server import moto_server

BUCKET = "lake"
_SIGNED = (
    "AWS4-HMAC-SHA256 Credential=moto/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, "
    "Signature=unchecked"
)


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 by moto, with one bucket."""
    with moto_server() as server:
        url = server.replace("0.0.0.0", "127.0.0.1")
        keys = {"aws_access_key_id": "moto", "aws_secret_access_key": "moto"}
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield url


@asynccontextmanager
async def google(s3: str, monkeypatch: Any) -> AsyncIterator[Flaky]:
    """The bucket as one of Google's: its XML API is S3's, but for the signatures."""
    async with flaky(s3, signs=_SIGNED) as proxy:
        account = {"gcs_base_url": proxy.url, "disable_oauth": True}
        nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account | nobody))
        yield proxy


@asynccontextmanager
async def azure(monkeypatch: Any) -> AsyncIterator[Any]:
    """A container, by the variables that lead to Azure's own emulator."""
    async with blob_server() as server:
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", server.url)
        yield server


class Lake:
    """What is below a prefix of the bucket. What was read once is kept: objects do not change."""

    def __init__(self, url: str, prefix: str) -> None:
        keys = {"aws_access_key_id": "moto", "aws_secret_access_key": "moto"}
        self._client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
        self._prefix = prefix
        self._read: dict[str, bytes] = {}

    def content(self, path: str) -> bytes:
        if path not in self._read:
            found = self._client.get_object(Bucket=BUCKET, Key=f"{self._prefix}/{path}")
            self._read[path] = found["Body"].read()
        return self._read[path]

    def paths(self) -> list[str]:
        """The oldest first."""
        found = self._client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self._prefix}/")
        objects = sorted(
            (item["LastModified"], item["Key"].removeprefix(f"{self._prefix}/"))
            for item in found.get("Contents", ())
        )
        return [path for _, path in objects]

    def lines(self) -> list[bytes]:
        return lines_of_manifests(self.paths(), self.content)


def folder_lines(folder: Path) -> list[bytes]:
    manifests = sorted(folder.rglob("_manifest*"), key=lambda path: path.stat().st_mtime_ns)
    paths = [str(path.relative_to(folder)) for path in manifests]
    return lines_of_manifests(paths, lambda path: (folder / path).read_bytes())


def blob_lines(blobs: dict[str, bytes], prefix: str) -> list[bytes]:
    paths = [name.removeprefix(f"{prefix}/") for name in blobs if name.startswith(f"{prefix}/")]
    return lines_of_manifests(paths, lambda path: blobs[f"{prefix}/{path}"])


def lines_of_manifests(paths: Iterable[str], content: Callable[[str], bytes]) -> list[bytes]:
    """The records of all whole runs, the oldest run first."""
    return [
        line
        for path in paths
        if "_manifest" in path
        for part in json.loads(content(path))["parts"]
        for line in gzip.decompress(content(part["path"])).splitlines(keepends=True)
    ]
