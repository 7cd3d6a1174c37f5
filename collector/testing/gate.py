"""Who is calling, and whether they may: signatures, expiry, regions, permissions."""

from __future__ import annotations

import hmac
import time
from calendar import timegm

from collector.testing import sigv4
from collector.testing.keys import Principal, credentials_for, identify, secret_for
from collector.testing.protocols import ACTIONS, EC2, JSON, QUERY, Asked
from collector.testing.world import AwsError, Call, World

SKEW = 300
"""Seconds that a caller's clock may be off."""

_STAMP = "%Y%m%dT%H%M%SZ"
_INVALID_TOKEN = "The security token included in the request is invalid."  # noqa: S105
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your "
    "AWS Secret Access Key and signing method. Consult the service documentation for details."
)


class Gate:
    """Lets requests in. With ``check_signatures`` off, anybody is somebody."""

    def __init__(self, world: World, *, check_signatures: bool) -> None:
        self._world = world
        self._check = check_signatures

    def enter(self, asked: Asked, sent: sigv4.Sent) -> tuple[Principal, str]:
        """(who calls, which region). Raises AwsError for whoever cannot prove to be somebody."""
        headers = sent.headers
        header = headers.get("authorization")
        auth = sigv4.parse(header) if header else None
        token = headers.get("x-amz-security-token", "")
        who = identify(auth.access_key, token) if auth else None
        if not self._check:
            account = self._world.estate.management_account
            anybody = Principal(credentials_for(account)[0], account)
            return who or anybody, auth.region if auth else "us-east-1"
        if auth is None:
            raise _incomplete(asked, header)
        if auth.service != asked.service:
            raise _mismatch(
                asked, f"Credential should be scoped to correct service: '{asked.service}'."
            )
        missing = sigv4.unsigned(auth, headers)
        if missing:
            raise _mismatch(asked, f"'{missing[0]}' must be a 'SignedHeader'")
        if who is None or who.account not in self._world.estate.accounts:
            raise _invalid(asked)
        self._check_date(asked, auth, headers.get("x-amz-date", ""))
        expected = sigv4.signature(auth, secret_for(auth.access_key), sent)
        if not hmac.compare_digest(expected, auth.signature):
            raise _mismatch(asked, _MISMATCH)
        if who.expires is not None and self._world.clock() >= who.expires:
            raise _expired(asked)
        return who, auth.region

    def authorize(self, call: Call) -> None:
        """Raise AwsError unless the region is enabled and the caller may do this."""
        policy = self._world.policy
        if (call.account, call.region) in policy.not_enabled:
            if call.operation == "AssumeRole":
                raise AwsError(
                    "RegionDisabledException",
                    f"STS is not activated in this region for account:{call.account}. Your account "
                    "administrator can activate STS in this region using the IAM Console.",
                    403,
                )
            raise _invalid(call)
        if call.operation == "GetCallerIdentity":
            return  # nobody can be forbidden to ask this
        prefix = ACTIONS.get(call.service, call.service)
        action = f"{prefix}:{call.operation}"
        # Whether a role may be assumed is up to its own account, see sts.py.
        actions = ("*",) if call.operation == "AssumeRole" else ("*", call.operation, action)
        if call.account in policy.revoked or policy.denies(call.account, call.region, actions):
            raise self._denied(call, action)

    def _check_date(self, asked: Asked, auth: sigv4.Authorization, stamp: str) -> None:
        try:
            signed = timegm(time.strptime(stamp, _STAMP))
        except ValueError:
            raise _incomplete(asked, stamp) from None
        if not stamp.startswith(auth.date):
            raise _mismatch(
                asked, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version"
            )
        now = self._world.clock()
        if abs(now - signed) <= SKEW:
            return
        if asked.protocol == EC2:
            raise AwsError("RequestExpired", "Request has expired.")
        here = _stamp(now)
        if signed < now:
            limit = _stamp(now - SKEW)
            text = f"Signature expired: {stamp} is now earlier than {limit} ({here} - 5 min.)"
        else:
            limit = _stamp(now + SKEW)
            text = (
                f"Signature not yet current: {stamp} is still later than {limit} ({here} + 5 min.)"
            )
        raise _mismatch(asked, text)

    def _denied(self, call: Call, action: str) -> AwsError:
        partition = self._world.estate.partition
        user = f"User: {call.principal.arn(partition)} is not authorized to perform: {action}"
        by_default = f"because no identity-based policy allows the {action} action"
        reason = self._world.policy.denied_by or by_default
        if call.protocol == EC2:
            text = f"You are not authorized to perform this operation. {user} {reason}"
            return AwsError("UnauthorizedOperation", text, 403)
        if call.protocol == QUERY:
            return AwsError(
                "AccessDenied", f"{user} on resource: {call.params.get('RoleArn')}", 403
            )
        if call.service == "sagemaker":
            name = call.params.get("TrainingJobName", "*")
            place = f"arn:{partition}:sagemaker:{call.region}:{call.account}"
            arn = call.params.get("ResourceArn", f"{place}:training-job/{name}")
            user = f"{user} on resource: {arn}"
        status = 400 if call.protocol == JSON else 403
        return AwsError("AccessDeniedException", f"{user} {reason}", status)


def _stamp(seconds: float) -> str:
    return time.strftime(_STAMP, time.gmtime(seconds))


def _incomplete(asked: Asked, header: str | None) -> AwsError:
    if asked.protocol == EC2:
        return _invalid(asked)
    suffix = "" if asked.protocol == QUERY else "Exception"
    if header is None:
        status = 400 if asked.protocol == JSON else 403
        return AwsError(
            f"MissingAuthenticationToken{suffix}", "Missing Authentication Token", status
        )
    status = 400 if asked.protocol in {JSON, QUERY} else 403
    return AwsError(f"IncompleteSignature{suffix}", "Authorization header is incomplete.", status)


def _invalid(asked: Asked | Call) -> AwsError:
    """A key that AWS does not know, or not in this region."""
    if asked.protocol == EC2:
        return AwsError(
            "AuthFailure", "AWS was not able to validate the provided access credentials", 401
        )
    if asked.protocol == QUERY:
        return AwsError("InvalidClientTokenId", _INVALID_TOKEN, 403)
    status = 400 if asked.protocol == JSON else 403
    return AwsError("UnrecognizedClientException", _INVALID_TOKEN, status)


def _mismatch(asked: Asked, message: str) -> AwsError:
    if asked.protocol == EC2:
        return _invalid(asked)
    if asked.protocol == QUERY:
        return AwsError("SignatureDoesNotMatch", message, 403)
    status = 400 if asked.protocol == JSON else 403
    return AwsError("InvalidSignatureException", message, status)


def _expired(asked: Asked) -> AwsError:
    message = "The security token included in the request is expired"
    if asked.protocol == EC2:
        return AwsError("RequestExpired", "Request has expired.")
    if asked.protocol == QUERY:
        return AwsError("ExpiredToken", message, 403)
    status = 400 if asked.protocol == JSON else 403
    return AwsError("ExpiredTokenException", message, status)
