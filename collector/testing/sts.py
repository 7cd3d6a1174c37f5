"""STS: who am I, and sessions of roles."""

from __future__ import annotations

import re
import time

from collector.testing.keys import issue, secret_for
from collector.testing.world import AwsError, Call, World

_ROLE = re.compile(r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>\d{12}):role/(?P<name>\S+)")
_SESSION = re.compile(r"[\w+=,.@-]{2,64}")
_SHORTEST, _LONGEST = 900, 43_200
_HOUR = 3600
"""The longest session by default, and in any case where one role assumes another."""


def get_caller_identity(world: World, call: Call) -> str:
    who = call.principal
    return (
        f"<Arn>{who.arn(world.estate.partition)}</Arn><UserId>{who.user_id}</UserId>"
        f"<Account>{who.account}</Account>"
    )


def assume_role(world: World, call: Call) -> str:
    params, policy, estate = call.params, world.policy, world.estate
    for name in ("RoleArn", "RoleSessionName"):
        if not params.get(name):
            member = name[0].lower() + name[1:]
            raise AwsError(
                "ValidationError",
                f"1 validation error detected: Value null at '{member}' failed to satisfy "
                "constraint: Member must not be null",
            )
    arn, session = params["RoleArn"], params["RoleSessionName"]
    seconds = _duration(params.get("DurationSeconds"), policy.session_seconds, call)
    found = _ROLE.fullmatch(arn)
    if found is None:
        raise AwsError("ValidationError", f"{arn} is invalid")
    if not _SESSION.fullmatch(session):
        raise AwsError(
            "ValidationError",
            f"1 validation error detected: Value '{session}' at 'roleSessionName' failed to "
            "satisfy constraint: Member must satisfy regular expression pattern: [\\w+=,.@-]*",
        )
    account, role = found["account"], found["name"]
    allowed = (
        account in estate.accounts
        and found["partition"] == estate.partition
        and account not in policy.revoked
        and (policy.role_names is None or role in policy.role_names)
        and (policy.external_id is None or params.get("ExternalId") == policy.external_id)
        and not policy.denies(account, call.region, ("AssumeRole", "sts:AssumeRole"))
    )
    world.assumed.append({**params, "Caller": call.principal.arn(estate.partition), "Ok": allowed})
    if not allowed:
        raise AwsError(
            "AccessDenied",
            f"User: {call.principal.arn(estate.partition)} is not authorized to perform: "
            f"sts:AssumeRole on resource: {arn} {policy.denied_by or ''}".strip(),
            403,
        )
    expires = world.clock() + seconds
    principal, token = issue(account, role, session, expires)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires))
    return (
        f"<AssumedRoleUser><AssumedRoleId>{principal.user_id}</AssumedRoleId>"
        f"<Arn>{principal.arn(estate.partition)}</Arn></AssumedRoleUser>"
        f"<Credentials><AccessKeyId>{principal.access_key}</AccessKeyId>"
        f"<SecretAccessKey>{secret_for(principal.access_key)}</SecretAccessKey>"
        f"<SessionToken>{token}</SessionToken><Expiration>{stamp}</Expiration></Credentials>"
    )


def _duration(wanted: str | None, longest: float, call: Call) -> float:
    """Seconds that a session lasts."""
    if wanted is None:
        return longest
    if not wanted.isdigit() or not _SHORTEST <= int(wanted) <= _LONGEST:
        raise AwsError(
            "ValidationError",
            f"1 validation error detected: Value '{wanted}' at 'durationSeconds' failed to satisfy "
            "constraint: Member must have value greater than or equal to 900",
        )
    if int(wanted) > _HOUR and call.principal.role:
        raise AwsError(
            "ValidationError",
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by "
            "role chaining",
        )
    if int(wanted) > max(_HOUR, longest):
        raise AwsError(
            "ValidationError",
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        )
    return min(float(wanted), longest)
