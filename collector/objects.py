"""Object stores by their URI, opened with the credentials and endpoints that the SDK would use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, ObjectStore, S3Store, from_url

from collector.aws.retry import EXPIRED
from collector.aws.sessions import Sdk
from collector.errors import CollectorError, ConfigurationError, SinkError
from collector.settings import Settings
from collector.text import clean

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

SCHEMES = ("s3", "gs", "az")

PATIENCE = 60.0
"""Seconds for which a request that fails is made again, where nothing else is said."""

_CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=10),
    "timeout": timedelta(seconds=60),
    "allow_http": True,
}
_RETRIES: RetryConfig = {"max_retries": 10_000}
"""Time is what ends them: counted, its short first waits are over in seconds."""

_ELSEWHERE = frozenset(
    {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
)
"""Codes of S3 for a bucket of another region (API Reference, "Error responses")."""

TAKEN = (AlreadyExistsError, PreconditionError)
"""A conditional write came too late: somebody else has written there."""

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
"""What S3 and Google Cloud Storage, and Azure, call a bucket that is not there."""

ABSENT = (NotFoundError, FileNotFoundError)
ERRORS = (BaseError, OSError)

Opener = Callable[[float], ObjectStore]
"""Opens a place, with patience in seconds: how long a request that fails is made again."""


async def open_objects(uri: str, settings: Settings) -> ObjectStore:
    """The bucket or container of ``uri``, below its prefix. Raises ConfigurationError."""
    return (await opener(uri, settings))(PATIENCE)


async def opener(uri: str, settings: Settings) -> Opener:
    """What opens the bucket, container or folder of ``uri``. Raises ConfigurationError."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return lambda _: LocalStore(folder(uri), mkdir=True)
    if not parts.netloc:
        raise ConfigurationError(f"{uri} lacks the name of a bucket.")
    if parts.scheme == "s3":
        return await Bucket(uri, settings).opener()

    def elsewhere(patience: float) -> ObjectStore:
        try:
            return from_url(
                uri.partition("?")[0], client_options=_CLIENT, retry_config=_retries(patience)
            )
        except ERRORS as error:
            raise ConfigurationError(f"{uri} cannot be opened: {sentence(error)}.") from error

    return elsewhere


async def read_object(uri: str, settings: Settings) -> bytes:
    """The content of one object. Raises one of ERRORS, or ConfigurationError."""
    place, name = split_object(uri)
    answer = await obstore.get_async(await open_objects(place, settings), name)
    return bytes(await answer.bytes_async())


async def write_object(uri: str, settings: Settings, data: bytes) -> None:
    """Put one object, again where that fails. Raises one of ERRORS, or ConfigurationError."""
    place, name = split_object(uri)
    await obstore.put_async(await open_objects(place, settings), name, data, use_multipart=False)


async def lacks_bucket(uri: str, settings: Settings) -> bool:
    """Whether an object's bucket is known not to be there, which takes no permission to be told.

    Without one to read, a store says whether it has the bucket and not whether it has the object.
    Raises one of ERRORS if there is no answer, or ConfigurationError.
    """
    place, name = split_object(uri)
    store = await open_objects(place, settings)
    try:
        await obstore.get_async(store, name)  # nobody reads it: the answer is what counts
    except ABSENT as error:
        return any(code in str(error) for code in _NO_BUCKET)
    except (PermissionDeniedError, UnauthenticatedError):
        return False
    return False


def split_object(uri: str) -> tuple[str, str]:
    """The URI of what an object is in, and the object's own name. Raises ConfigurationError."""
    parts = urlsplit(uri)
    folder, _, name = parts.path.rpartition("/")
    if not parts.netloc or not name:
        raise ConfigurationError(f"{uri} is not the URI of an object, as s3://bucket/key.")
    return urlunsplit(parts._replace(path=folder)), name


def folder(uri: str) -> Path:
    """The folder that a file:// URI names."""
    parts = urlsplit(uri)
    return Path(unquote(parts.netloc + parts.path))


def _retries(patience: float) -> RetryConfig:
    return {**_RETRIES, "retry_timeout": timedelta(seconds=patience)}


class Bucket:
    """The bucket of an s3:// URI, below its prefix, as the SDK sees it.

    ``?region=`` may name its region, where that is not the SDK's own. All but `opener` is what
    the library cannot do; it raises SinkError.
    """

    def __init__(self, uri: str, settings: Settings) -> None:
        parts = urlsplit(uri)
        self._name, self._prefix = parts.netloc, parts.path.strip("/")
        self._sdk = Sdk(profile=settings.profile, endpoint_url=settings.endpoint_url)
        given = parse_qs(parts.query).get("region")
        self._region = given[0] if given else self._sdk.home_region()

    async def opener(self, config: Mapping[str, Any] | None = None) -> Opener:
        """What opens it; ``config`` is what else the store is to be opened with."""
        sdk, client = self._sdk, {**_CLIENT}
        endpoint, keys = await sdk.endpoint("s3", self._region), sdk.key_provider()
        if trusted := sdk.ca_bundle():
            client["root_certificate"] = trusted
        return lambda patience: S3Store(
            self._name,
            prefix=self._prefix or None,
            region=self._region,
            endpoint=endpoint,
            credential_provider=keys,
            client_options=cast("ClientConfig", client),
            retry_config=_retries(patience),
            config=cast("S3Config", dict(config or {})),
        )

    async def set_acl(self, path: str, acl: str) -> None:
        """Give an object a canned ACL."""
        await self._call("PutObjectAcl", {"Key": self._key(path), "ACL": acl})

    async def abort_uploads(self, path: str, owned: str) -> list[str]:
        """Abort the multipart uploads below ``path`` whose key has ``owned`` in it.

        Returns the keys of the others. A process that is killed leaves uploads behind, unseen and
        paid for.
        """
        others: list[str] = []
        query: dict[str, Any] = {"Prefix": self._key(path)}
        while True:
            answer = await self._call("ListMultipartUploads", query)
            for upload in answer.get("Uploads", ()):
                if owned in upload["Key"]:
                    found = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    await self._call("AbortMultipartUpload", found)
                else:
                    others.append(upload["Key"])
            if not answer.get("IsTruncated"):
                return others
            query["KeyMarker"] = answer["NextKeyMarker"]
            query["UploadIdMarker"] = answer["NextUploadIdMarker"]

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}".lstrip("/")

    async def _call(self, operation: str, params: dict[str, Any]) -> Any:
        try:
            return await self._sdk.call(
                "s3", self._region, operation, {"Bucket": self._name, **params}
            )
        except CollectorError as error:
            why = str(error).rstrip(".")
            raise SinkError(f"Cannot write to s3://{self._name} ({why}).") from error


def sentence(error: BaseException) -> str:
    """What went wrong with an object store, in few words."""
    # The rest of the text is meant for those who wrote the library.
    text, _, rest = str(error).partition("Debug source")
    code, message, region = (_member(name, text) for name in ("Code", "Message", "Region"))
    said = f"{code}: {message}" if message else code
    if code in EXPIRED:
        return f"the credentials have expired ({said}): renew them, and run the same command again"
    if code in _ELSEWHERE or "redirect without LOCATION" in text:
        what = f"add ?region={region} to" if region else "add its region, as ?region=eu-west-1, to"
        return f"the bucket is in {region or 'another region'}: {what} the URI"
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return "access is denied" + (f" ({said})" if code not in ("", "AccessDenied") else "")
    if isinstance(error, ABSENT):
        return "there is no such bucket or object"
    if kind := _NETWORK.search(rest):
        reasons = ["".join(found) for found in _REASON.findall(rest)]
        return f"the network brought no answer ({clean([kind[1].lower(), *reasons][-1])})"
    return said or clean(_NOISE.sub("", text)).rstrip(":. ")


_NETWORK = re.compile(r"HttpError \{\s+kind: (\w+)")
_REASON = re.compile(r"(?:message|error): \"([^\"]+)|InvalidCertificate\(\s*(\w+)")
_NOISE = re.compile(
    r"Generic \w+ error: |Error performing \w+ \S+ in [^-]*?- |Server returned non-2xx |"
    r" \(os error \d+\)"
)


def _member(name: str, text: str) -> str:
    """A member of an error that an object store tells in XML, or nothing."""
    found = re.search(f"<{name}>([^<]*)</{name}>", text)
    return clean(found[1]).rstrip(". ") if found else ""
