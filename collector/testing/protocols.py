"""Requests read and answers written, in the protocols that the services speak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import orjson

from collector.model import Wire
from collector.testing import organizations, regions, sagemaker, sts, tagging
from collector.testing.world import AwsError, Call, World

Handler = Callable[[World, Call], Any]

JSON, REST, QUERY, EC2 = "json", "rest-json", "query", "ec2"
HTTP_429 = 429
HTTP_5XX = 500

TARGETS = {
    "SageMaker": "sagemaker",
    "ResourceGroupsTaggingAPI_20170126": "tagging",
    "AWSOrganizationsV20161128": "organizations",
}
VERSIONS = {"2011-06-15": "sts", "2016-11-15": "ec2"}
ACTIONS = {"tagging": "tag"}
"""Prefixes of IAM actions, where they are not the name that the service is signed with."""

HANDLERS: dict[tuple[str, str], Handler] = {
    ("sagemaker", "ListTrainingJobs"): sagemaker.list_training_jobs,
    ("sagemaker", "DescribeTrainingJob"): sagemaker.describe_training_job,
    ("sagemaker", "ListTags"): sagemaker.list_tags,
    ("tagging", "GetResources"): tagging.get_resources,
    ("organizations", "DescribeOrganization"): organizations.describe_organization,
    ("organizations", "ListAccounts"): organizations.list_accounts,
    ("organizations", "ListAccountsForParent"): organizations.list_accounts_for_parent,
    ("organizations", "ListOrganizationalUnitsForParent"): organizations.list_units,
    ("organizations", "ListRoots"): organizations.list_roots,
    ("account", "ListRegions"): regions.list_regions,
    ("ec2", "DescribeRegions"): regions.describe_regions,
    ("sts", "GetCallerIdentity"): sts.get_caller_identity,
    ("sts", "AssumeRole"): sts.assume_role,
}


@dataclass(slots=True)
class Asked:
    """A request as far as it can be read without knowing who sent it."""

    service: str
    operation: str
    protocol: str
    body: bytes

    def params(self) -> Wire:
        """Raises AwsError if the body is not what the protocol carries."""
        if self.protocol in {QUERY, EC2}:
            return dict(parse_qsl(self.body.decode(), keep_blank_values=True))
        try:
            params = orjson.loads(self.body or b"{}")
        except ValueError:
            params = None
        if not isinstance(params, dict):
            raise AwsError("SerializationException", "The request is not a JSON object.")
        return params

    def handler(self) -> Handler:
        found = HANDLERS.get((self.service, self.operation))
        if found is None:
            if self.protocol in {QUERY, EC2}:
                raise AwsError("InvalidAction", f"Could not find operation {self.operation}")
            raise AwsError("UnknownOperationException", "")
        return found


def read(path: str, query: str, headers: Mapping[str, str], body: bytes) -> Asked:
    """What a request asks for, from its target, path or form."""
    target = headers.get("x-amz-target")
    if target:
        prefix, _, operation = target.partition(".")
        if not headers.get("content-type", "").startswith("application/x-amz-json-1."):
            operation = ""
        return Asked(TARGETS.get(prefix, ""), operation, JSON, body)
    if path == "/listRegions":
        return Asked("account", "ListRegions", REST, body)
    form = body or query.encode()
    params = dict(parse_qsl(form.decode("utf-8", "replace")))
    service = VERSIONS.get(params.get("Version", ""), "")
    protocol = EC2 if service == "ec2" else QUERY
    return Asked(service, params.get("Action", ""), protocol, form)


def answer(asked: Asked, result: Any, request_id: str) -> tuple[bytes, str]:
    """(body, content type) of a successful answer."""
    name = asked.operation
    if asked.protocol == QUERY:
        text = (
            f'<{name}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<{name}Result>{result}</{name}Result><ResponseMetadata>"
            f"<RequestId>{request_id}</RequestId></ResponseMetadata></{name}Response>"
        )
        return text.encode(), "text/xml"
    if asked.protocol == EC2:
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<{name}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            f"<requestId>{request_id}</requestId>{result}</{name}Response>"
        )
        return text.encode(), "text/xml;charset=UTF-8"
    body = result if isinstance(result, bytes) else sagemaker.as_java(orjson.dumps(result))
    return body, _content_type(asked.protocol)


def failure(asked: Asked, error: AwsError, request_id: str) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of an error answer."""
    code, message = error.code, error.message
    if asked.protocol == QUERY:
        side = "Receiver" if error.status >= HTTP_5XX else "Sender"
        text = (
            '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error>'
            f"<Type>{side}</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
        return text.encode(), {"Content-Type": "text/xml"}
    if asked.protocol == EC2:
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
            f"<Code>{code}</Code><Message>{escape(message)}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
        return text.encode(), {"Content-Type": "text/xml;charset=UTF-8"}
    headers = {"Content-Type": _content_type(asked.protocol)}
    if asked.protocol == REST:
        headers["x-amzn-ErrorType"] = code
        return orjson.dumps({"message": message}), headers
    # The layer that authorizes writes a capital M; the services themselves a small one.
    member = "Message" if code in {"AccessDeniedException", "SerializationException"} else "message"
    return orjson.dumps({"__type": code, member: message}), headers


def _content_type(protocol: str) -> str:
    return "application/json" if protocol == REST else "application/x-amz-json-1.1"


_THROTTLED = {
    "sagemaker": AwsError("ThrottlingException", "Rate exceeded"),
    "tagging": AwsError("ThrottledException", "Rate exceeded"),
    "organizations": AwsError(
        "TooManyRequestsException", "You have sent too many requests in too short a time."
    ),
    "account": AwsError("TooManyRequestsException", "Too Many Requests", HTTP_429),
    "sts": AwsError("Throttling", "Rate exceeded"),
    "ec2": AwsError("RequestLimitExceeded", "Request limit exceeded.", 503),
}


def throttled(service: str, *, plain_429: bool = False) -> AwsError:
    """How a service says that it is asked too often."""
    if plain_429:
        return AwsError("TooManyRequestsException", "Rate exceeded", HTTP_429)
    error = _THROTTLED[service]
    return AwsError(error.code, error.message, error.status)
