"""Object stores by their URI, opened with the credentials and endpoints that the SDK would use."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore, S3Store, from_url

from collector.aws.sessions import CallerCredentials, Sdk
from collector.errors import ConfigurationError
from collector.settings import Settings
from collector.text import clean

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Credential

SCHEMES = ("s3", "gs", "az")

_ASK_AGAIN = timedelta(minutes=5)
"""How long keys from the SDK's chain are used before it is asked again, which renews them."""

_CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=10),
    "timeout": timedelta(seconds=60),
    "allow_http": True,
}
_RETRIES: RetryConfig = {"max_retries": 8, "retry_timeout": timedelta(seconds=60)}

TAKEN = (AlreadyExistsError, PreconditionError)
"""A conditional write came too late: somebody else has written there."""

ABSENT = (NotFoundError, FileNotFoundError)
ERRORS = (BaseError, OSError)


async def open_objects(uri: str, settings: Settings) -> ObjectStore:
    """The bucket or container of ``uri``, below its prefix. Raises ConfigurationError.

    For S3, ``?region=`` may name the bucket's region, where it is not the SDK's own.
    """
    parts = urlsplit(uri)
    if not parts.netloc:
        raise ConfigurationError(f"{uri} lacks the name of a bucket.")
    if parts.scheme != "s3":
        try:
            return from_url(uri, client_options=_CLIENT, retry_config=_RETRIES)
        except ERRORS as error:
            raise ConfigurationError(f"{uri} cannot be opened: {sentence(error)}.") from error
    sdk = Sdk(profile=settings.profile, endpoint_url=settings.endpoint_url)
    region = parse_qs(parts.query).get("region", [sdk.home_region()])[0]
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        region=region,
        endpoint=await sdk.endpoint("s3", region),
        credential_provider=_keys(CallerCredentials(sdk)),
        client_options=_CLIENT,
        retry_config=_RETRIES,
    )


def _keys(source: CallerCredentials) -> Callable[[], Coroutine[Any, Any, S3Credential]]:
    async def keys() -> S3Credential:
        found = await source.get()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + _ASK_AGAIN,
        }

    return keys


def sentence(error: BaseException) -> str:
    """What went wrong with an object store, in few words."""
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return "access is denied"
    if isinstance(error, ABSENT):
        return "there is no such bucket or object"
    # The rest of the text is meant for those who wrote the library.
    return clean(str(error).split("Debug source")[0]).rstrip(". ")
