"""What the SDK is for: credentials from its chain, endpoints from its rules, requests it builds.

An SDK client is made for each service and region, asked to build the requests we need, and closed:
it never sends one. So FIPS, dual-stack, AWS_ENDPOINT_URL and profiles work as everywhere else.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.awsrequest import create_request_object
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import get_cert_path
from botocore.parsers import create_parser
from botocore.utils import get_environ_proxies
from yarl import URL

import collector
from collector.aws.sigv4 import Credentials
from collector.aws.wire import Answer, Template
from collector.errors import ConfigurationError, CredentialsError, RejectedError
from collector.text import clean

_ASK_AGAIN = timedelta(minutes=5)
"""How long keys are used for an object store before the SDK is asked again, which renews them."""

_NO_KEYS = (
    "No AWS credentials were found: set AWS_PROFILE, run `aws sso login` or `aws configure`, or "
    "attach a role to this machine or container."
)
_SIGNED = ("content-type", "host")
_NOT_SENT = ("content-length", "host")


class CredentialSource(Protocol):
    """Where the keys of one account come from."""

    async def get(self) -> Credentials:
        """Keys that are good now. Raises CredentialsError or CallError."""

    def expire(self, used: Credentials) -> None:
        """AWS says that ``used`` ran out: the next ``get`` brings others, if there are any."""

    def doubt(self) -> None:
        """A region that knew the keys does so no more: if they are not just made, get others."""


@dataclass(frozen=True, slots=True)
class Built:
    """A request as the SDK builds it, and what reads its answer."""

    template: Template
    body: bytes
    protocol: str
    output_shape: Any

    def parse(self, answer: Answer) -> dict[str, Any]:
        """The answer's members, read by the SDK's parser for the service's protocol."""
        parser = create_parser(self.protocol)
        raw = {"status_code": answer.status, "headers": answer.headers, "body": answer.body}
        parsed: dict[str, Any] = parser.parse(raw, self.output_shape)
        return parsed


class Sdk:
    """One SDK session: the caller's profile, its credentials and its view of the world."""

    def __init__(self, *, profile: str | None = None, endpoint_url: str | None = None) -> None:
        self._profile = profile
        self._endpoint_url = endpoint_url
        self._session = self._new_session()
        self._templates: dict[tuple[str, str, str], Template] = {}
        self._building = asyncio.Lock()

    def _new_session(self) -> AioSession:
        session = AioSession(profile=self._profile)
        # Tokens of the global endpoint are refused by opt-in regions.
        session.set_config_variable("sts_regional_endpoints", "regional")
        return session

    def renew(self) -> AioSession:
        """A fresh session, which reads files and variables again; the one in use from now on."""
        self._session = self._new_session()
        return self._session

    @property
    def session(self) -> AioSession:
        return self._session

    def home_region(self, wanted: Iterable[str] = ()) -> str:
        """Region for calls that belong to none: the configured one, else the first wanted one."""
        with sdk_errors():
            configured = self._session.get_config_variable("region")
        return str(configured or os.environ.get("AWS_REGION") or next(iter(wanted), "us-east-1"))

    def ssl_context(self) -> ssl.SSLContext:
        """Trusts AWS_CA_BUNDLE or the profile's ca_bundle, else what the SDK trusts."""
        bundle = self._bundle() or get_cert_path(verify=True)
        try:
            return ssl.create_default_context(cafile=bundle)
        except OSError as error:
            raise _unreadable(bundle, error) from error

    def ca_bundle(self) -> bytes | None:
        """The certificates of AWS_CA_BUNDLE or of the profile's ca_bundle, as PEM, if it is set."""
        bundle = self._bundle()
        try:
            return Path(bundle).read_bytes() if bundle else None
        except OSError as error:
            raise _unreadable(bundle, error) from error

    def _bundle(self) -> Any:
        with sdk_errors():
            return self._session.get_config_variable("ca_bundle")

    async def regions(self, service: str, partition: str) -> list[str]:
        """Regions of ``partition`` where the SDK knows ``service``, sorted."""
        names: list[str] = await self._session.get_available_regions(service, partition)
        return sorted(names)

    def key_provider(self) -> Any:
        """The caller's keys for obstore, which asks for them from threads of its own."""
        import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - takes a tenth of a second, and is for object stores only
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415

        with sdk_errors():
            session = boto3.Session(profile_name=self._profile)
            if session.get_credentials() is None:
                raise CredentialsError(_NO_KEYS)
            return Boto3CredentialProvider(session, ttl=_ASK_AGAIN)

    async def endpoint(self, service: str, region: str) -> str:
        """URL that calls to ``service`` go to: AWS_ENDPOINT_URL_*, FIPS and so on are heard."""
        with sdk_errors():
            async with self._session.create_client(
                service, region_name=region, endpoint_url=self._endpoint_url
            ) as client:
                return str(client.meta.endpoint_url)

    async def call(
        self, service: str, region: str, operation: str, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        """One call made by the SDK itself, for what happens once in a while.

        Raises RejectedError where the service refuses, else what `sdk_errors` does.
        """
        with sdk_errors():
            async with self._session.create_client(
                service, region_name=region, endpoint_url=self._endpoint_url
            ) as client:
                method = getattr(client, _method_name(client, operation))
                try:
                    answer: dict[str, Any] = await method(**params)
                except ClientError as error:
                    said = error.response.get("Error", {})
                    code, message = clean(said.get("Code", "")), clean(said.get("Message", ""))
                    raise RejectedError(operation, code, message) from error
                return answer

    async def build(
        self, service: str, region: str, operation: str, params: Mapping[str, Any]
    ) -> Built:
        """The request of ``operation`` with ``params``, ready to be signed and sent."""
        with sdk_errors():
            config = AioConfig(
                parameter_validation=False,
                user_agent_extra=f"aws-resource-collector/{collector.__version__}",
            )
            async with self._session.create_client(
                service,
                region_name=region,
                endpoint_url=self._endpoint_url,
                config=config,
                # Never used: the client sends nothing. It keeps the SDK from looking for some.
                aws_access_key_id="unused",
                aws_secret_access_key="unused",  # noqa: S106
            ) as client:
                # A handler that answers for the network: the call returns what would be sent.
                client.meta.events.register("before-call", _capture)
                method = _method_name(client, operation)
                built: Built = (await getattr(client, method)(**params))["Built"]
                return built

    async def template(self, service: str, region: str, operation: str) -> Template:
        """The request of a JSON-protocol operation without its body.

        One client is made for each service and region; its operations differ in the target alone.
        """
        key = (service, region, operation)
        if key not in self._templates:
            async with self._building:
                known = (t for place, t in self._templates.items() if place[:2] == key[:2])
                first = next(known, None)
                if first is None:
                    first = (await self.build(service, region, operation, {})).template
                prefix = first.headers["x-amz-target"].rpartition(".")[0]
                headers = {**first.headers, "x-amz-target": f"{prefix}.{operation}"}
                self._templates[key] = replace(first, operation=operation, headers=headers)
        return self._templates[key]


def _unreadable(bundle: object, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"The CA bundle {bundle} (AWS_CA_BUNDLE) cannot be read: {error.strerror or error}."
    )


def _method_name(client: Any, operation: str) -> str:
    for method, name in client.meta.method_to_api_mapping.items():
        if name == operation:
            return str(method)
    raise ConfigurationError(f"The installed botocore does not know the operation {operation}.")


def _capture(
    *, model: Any, params: dict[str, Any], request_signer: Any, context: dict[str, Any], **_: Any
) -> tuple[Any, dict[str, Any]]:
    prepared = create_request_object(params).prepare()
    body = prepared.body or b""
    url = URL(prepared.url, encoded=True)
    headers = {name.lower(): _plain(value) for name, value in prepared.headers.items()}
    port = "" if url.is_default_port() else f":{url.port}"
    headers["host"] = f"{url.raw_host}{port}"
    signed = {n: v for n, v in headers.items() if n in _SIGNED or n.startswith("x-amz-")}
    unsigned = {n: v for n, v in headers.items() if n not in signed and n not in _NOT_SENT}
    signing = context.get("signing", {})
    template = Template(
        operation=model.name,
        url=url,
        path=url.raw_path or "/",
        headers=signed,
        unsigned=unsigned,
        signing_name=signing.get("signing_name") or request_signer.signing_name,
        signing_region=signing.get("region") or request_signer.region_name,
        # HTTPS_PROXY, NO_PROXY and so on, read as the SDK reads them.
        proxy=_proxy(get_environ_proxies(prepared.url).get(url.scheme)),
    )
    built = Built(
        template,
        body.encode() if isinstance(body, str) else bytes(body),
        model.service_model.resolved_protocol,
        model.output_shape,
    )
    return SimpleNamespace(status_code=200), {"Built": built}


def _proxy(url: str | None) -> str | None:
    return f"http://{url}" if url and "://" not in url else url or None


def _plain(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class CallerCredentials:
    """The caller's own keys, from the SDK's chain, refreshed by the SDK."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk
        self._expired: Credentials | None = None

    async def get(self) -> Credentials:
        with sdk_errors():
            source = await self._sdk.session.get_credentials()
            if source is None:
                raise CredentialsError(_NO_KEYS)
            frozen = await source.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def expire(self, used: Credentials) -> None:
        # Once for each set of keys: a thousand calls may report the same ones.
        if used != self._expired:
            self._expired = used
            self._sdk.renew()

    def doubt(self) -> None:
        """The SDK has no others."""


class sdk_errors:  # noqa: N801 - reads as the statement it is
    """Turns what the SDK raises about credentials and configuration into one sentence."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        text = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, BotoCoreError | ClientError):
            raise CredentialsError(f"The AWS SDK cannot be set up: {text}.") from error
        if isinstance(error, ValueError):
            raise ConfigurationError(f"The AWS SDK cannot be set up: {text}.") from error
