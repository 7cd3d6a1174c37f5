"""Object stores by their URI, opened with the credentials and endpoints that the SDK would use."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit, urlunsplit

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

from collector.aws.sessions import Sdk
from collector.errors import CollectorError, ConfigurationError, SinkError
from collector.settings import Settings
from collector.text import clean

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

SCHEMES = ("s3", "gs", "az")

_CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=10),
    "timeout": timedelta(seconds=60),
    "allow_http": True,
}
_RETRIES: RetryConfig = {"max_retries": 8, "retry_timeout": timedelta(seconds=60)}

TAKEN = (AlreadyExistsError, PreconditionError)
"""A conditional write came too late: somebody else has written there."""

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
"""What S3 and Google Cloud Storage, and Azure, call a bucket that is not there."""

ABSENT = (NotFoundError, FileNotFoundError)
ERRORS = (BaseError, OSError)


async def open_objects(
    uri: str, settings: Settings, config: Mapping[str, Any] | None = None
) -> ObjectStore:
    """The bucket, container or folder of ``uri``, below its prefix. Raises ConfigurationError.

    For S3, ``?region=`` may name the bucket's region, where it is not the SDK's own, and
    ``config`` what else the store is to be opened with.
    """
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return LocalStore(parts.netloc + parts.path, mkdir=True)
    if not parts.netloc:
        raise ConfigurationError(f"{uri} lacks the name of a bucket.")
    if parts.scheme != "s3":
        try:
            return from_url(uri.partition("?")[0], client_options=_CLIENT, retry_config=_RETRIES)
        except ERRORS as error:
            raise ConfigurationError(f"{uri} cannot be opened: {sentence(error)}.") from error
    sdk, region = _sdk(uri, settings)
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        region=region,
        endpoint=await sdk.endpoint("s3", region),
        credential_provider=sdk.key_provider(),
        client_options=_CLIENT,
        retry_config=_RETRIES,
        config=cast("S3Config", dict(config or {})),
    )


def _sdk(uri: str, settings: Settings) -> tuple[Sdk, str]:
    """The SDK, and the region of a bucket."""
    sdk = Sdk(profile=settings.profile, endpoint_url=settings.endpoint_url)
    return sdk, parse_qs(urlsplit(uri).query).get("region", [sdk.home_region()])[0]


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


async def set_acl(uri: str, settings: Settings, path: str, acl: str) -> None:
    """Give an object below ``uri`` a canned ACL, which the library cannot. Raises SinkError."""
    await _s3(uri, settings, "PutObjectAcl", {"Key": _key(uri, path), "ACL": acl})


async def abort_uploads(uri: str, settings: Settings, path: str, owned: str) -> int:
    """Abort the multipart uploads below ``path`` whose key has ``owned`` in it; counts the others.

    A process that is killed leaves them behind, unseen and paid for. Raises SinkError.
    """
    answer = await _s3(uri, settings, "ListMultipartUploads", {"Prefix": _key(uri, path)})
    others = 0
    for upload in answer.get("Uploads", ()):
        if owned not in upload["Key"]:
            others += 1
            continue
        found = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
        await _s3(uri, settings, "AbortMultipartUpload", found)
    return others


def _key(uri: str, path: str) -> str:
    return f"{urlsplit(uri).path.strip('/')}/{path}".lstrip("/")


async def _s3(uri: str, settings: Settings, operation: str, params: dict[str, Any]) -> Any:
    sdk, region = _sdk(uri, settings)
    try:
        return await sdk.call("s3", region, operation, {"Bucket": urlsplit(uri).netloc, **params})
    except CollectorError as error:
        raise SinkError(f"{operation} in {urlsplit(uri).netloc} has failed: {error}") from error


def sentence(error: BaseException) -> str:
    """What went wrong with an object store, in few words."""
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return "access is denied"
    if isinstance(error, ABSENT):
        return "there is no such bucket or object"
    # The rest of the text is meant for those who wrote the library.
    return clean(str(error).split("Debug source")[0]).rstrip(". ")
