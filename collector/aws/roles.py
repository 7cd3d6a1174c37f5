"""Assumed roles: one AssumeRole for each account, whatever the number of its regions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from collector.aws.client import Access, AwsClient, Patience
from collector.aws.retry import EXPIRED, RETRYABLE
from collector.aws.sigv4 import Credentials
from collector.errors import CallError, DeniedError, RejectedError

REFRESH_AHEAD = 300.0
"""Seconds before the end of a session at which it is renewed, or a fifth of short ones' life."""

KEYS_SPREAD = 1.0
"""Seconds in which new keys become known in a region."""
_NAMES_A_POLICY = re.compile(r"(with an explicit deny|because no \S+ )[\w :/-]*", re.IGNORECASE)
"""How AWS ends a refusal whose reason it tells, as where a service control policy denies it."""


class RoleCredentials:
    """Keys of one account's role, assumed when first needed and renewed ahead of time.

    A refusal is remembered, so that the regions of an account that denies the role cost one call.
    """

    def __init__(
        self,
        sts: AwsClient,
        access: Access,
        *,
        role_arn: str,
        session_name: str,
        external_id: str | None,
        now: Callable[[], float],
    ) -> None:
        self._sts = sts
        self._access = access
        self._params: dict[str, Any] = {"RoleArn": role_arn, "RoleSessionName": session_name}
        if external_id:
            self._params["ExternalId"] = external_id
        self._now = now
        self._keys: Credentials | None = None
        self._assumed_at = self._renew_at = 0.0
        self._refusal: CallError | None = None
        self._assuming = asyncio.Lock()

    async def get(self) -> Credentials:
        if self._refusal is not None:
            raise self._refusal
        if self._keys is not None and self._now() < self._renew_at:
            return self._keys
        if self._keys is not None and self._good_for() > 0 and self._assuming.locked():
            return self._keys  # another call is renewing them: no need to wait for it
        async with self._assuming:
            if self._refusal is not None:
                raise self._refusal
            if self._keys is None or self._now() >= self._renew_at:
                await self._assume()
            if self._keys is None:
                raise RuntimeError("AssumeRole brought no keys")
            return self._keys

    def expire(self, used: Credentials) -> None:
        if self._keys is used:
            self._keys = None

    def doubt(self) -> None:
        # A role that was deleted takes the keys of its sessions with it, as AWS answers.
        if self._now() - self._assumed_at > KEYS_SPREAD:
            self._keys = None

    def _good_for(self) -> float:
        """Seconds that the present keys still serve."""
        return 0.0 if self._keys is None else (self._keys.expires or 0.0) - self._now()

    async def _assume(self) -> None:
        access = self._access
        if (left := self._good_for()) > 0:
            # Not to be tried for so long that the old keys run out over it.
            access = replace(access, patience=Patience(left / 2, self._sts.clock))
        try:
            answer = await self._sts.built(
                access, "sts", "AssumeRole", self._params, required=("Credentials",)
            )
        except RETRYABLE as error:
            if (left := self._good_for()) <= 0:
                # Retried already, for as long as the patience goes: not again for each region.
                self._refusal = error
                raise
            self._renew_at = self._now() + left / 4
            return
        except CallError as error:
            self._refusal = _explained(error, self._params["RoleArn"])
            raise self._refusal from error
        given = answer["Credentials"]
        try:
            expires = _epoch(given["Expiration"])
            keys = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        except (KeyError, TypeError, ValueError) as error:
            self._refusal = RejectedError(
                "AssumeRole", "UnreadableAnswer", "the keys are not whole"
            )
            raise self._refusal from error
        self._assumed_at = self._now()
        lifetime = expires - self._assumed_at
        self._keys = Credentials(*keys, expires)
        self._renew_at = expires - min(REFRESH_AHEAD, lifetime / 5)


def _explained(error: CallError, role_arn: str) -> CallError:
    """The refusal of a role, with what is most likely behind it."""
    if not isinstance(error, DeniedError) or error.code in EXPIRED:
        return error
    why = (
        "it does not exist, it does not trust the caller (see its trust policy and the external "
        "id), or the caller may not sts:AssumeRole"
    )
    if found := _NAMES_A_POLICY.search(error.message):
        why = f"refused {found[0]}"
    return DeniedError(
        error.operation,
        error.code,
        f"role {role_arn} cannot be assumed: {why}",
        status=error.status,
        request_id=error.request_id,
    )


def _epoch(value: Any) -> float:
    return value.timestamp() if isinstance(value, datetime) else float(value)
