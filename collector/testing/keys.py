"""Access keys, secrets and session tokens that the fake AWS hands out and accepts.

Nothing is stored: an access key names its account and a token its session, both guarded by a
checksum, so keys work with every fake server and in every process.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import asdict, dataclass
from functools import lru_cache

import orjson

_SALT = b"collector.testing"
_USER = "collector"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a call: an account's user, or a session of a role in it.

    ``expires`` is in epoch seconds; None for a user, whose keys do not expire.
    """

    access_key: str
    account: str
    role: str = ""
    session: str = ""
    expires: float | None = None

    def arn(self, partition: str = "aws") -> str:
        if self.role:
            return (
                f"arn:{partition}:sts::{self.account}:assumed-role/"
                f"{self.role.rpartition('/')[2]}/{self.session}"
            )
        return f"arn:{partition}:iam::{self.account}:user/{_USER}"

    @property
    def user_id(self) -> str:
        if self.role:
            return f"AROA{_code(self.account + self.role, 17)}:{self.session}"
        return f"AIDA{_code(self.account, 17)}"


def credentials_for(account: str) -> tuple[str, str]:
    """(access key, secret key) of a user of ``account``, valid for ever."""
    number = base64.b32encode(int(account).to_bytes(5, "big")).decode()
    access_key = f"AKIA{number}{_code(account, 8)}"
    return access_key, secret_for(access_key)


@lru_cache(maxsize=4096)
def secret_for(access_key: str) -> str:
    """The secret key that belongs to ``access_key``, 40 characters as AWS's are."""
    return base64.b64encode(_mac(f"secret/{access_key}"))[:40].decode()


def issue(account: str, role: str, session: str, expires: float) -> tuple[Principal, str]:
    """A new session of ``role`` and its token. ``expires`` is in epoch seconds."""
    access_key = f"ASIA{_code(f'{account}/{role}/{session}/{expires}', 16)}"
    principal = Principal(access_key, account, role, session, expires)
    payload = orjson.dumps(asdict(principal))
    return principal, base64.b64encode(_mac(payload) + payload).decode()


@lru_cache(maxsize=4096)
def identify(access_key: str, token: str) -> Principal | None:
    """Whose keys these are; None if nobody's. Expiry is left to the caller."""
    if token:
        try:
            raw = base64.b64decode(token, validate=True)
            if not hmac.compare_digest(raw[:32], _mac(raw[32:])):
                return None
            principal = Principal(**orjson.loads(raw[32:]))
        except ValueError:
            return None
        return principal if principal.access_key == access_key else None
    try:
        account = f"{int.from_bytes(base64.b32decode(access_key[4:12]), 'big'):012d}"
        return Principal(access_key, account) if credentials_for(account)[0] == access_key else None
    except (ValueError, OverflowError):
        return None


def _mac(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return hmac.digest(_SALT, data, hashlib.sha256)


def _code(value: str, length: int) -> str:
    return base64.b32encode(_mac(value))[:length].decode()
