"""Values that must not leave the process become ``***``; keys stay.

A value is taken for a secret by its key (password, token, ...) or by its shape (an AWS key, a
private key, a JSON Web Token).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from collector.model import Record

MASK = "***"

_SECRET_KEY = re.compile(
    r"passw|passphrase|pwd|secret|token|credential|api.?key|access.?key|private.?key|auth|"
    r"signature|connection.?string|dsn|bearer|session.?id|cookie|encryption.?key|sas.?key",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(?:^|[^A-Z0-9])(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}(?:$|[^A-Z0-9])"  # AWS access key ids
    r"|-----BEGIN [A-Z0-9 ]*PRIVATE KEY"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"  # JSON Web Token
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22,}|glpat-[\w-]{20}"
    r"|xox[abprs]-[\w-]{10,}|hf_[A-Za-z0-9]{30,}|sk-[\w-]{20,}"
    r"|[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s@]+@"  # user:password in a URL
)
_AWS_SECRET = re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])")


def is_secret(key: str, value: str) -> bool:
    """Whether a value looks like one that must not be shown."""
    return bool(
        _SECRET_KEY.search(key)
        or _SECRET_VALUE.search(value)
        or (_AWS_SECRET.search(value) and _mixed(value))
    )


def _mixed(value: str) -> bool:
    """An AWS secret mixes cases and digits; a hex digest or a path of 40 characters does not."""
    run = _AWS_SECRET.search(value)
    text = run[0] if run else ""
    return (
        any(c.isupper() for c in text)
        and any(c.islower() for c in text)
        and any(c.isdigit() for c in text)
    )


def redact(record: Record, rules: Mapping[str, str]) -> None:
    """Mask ``record`` in place. ``rules`` maps a map column to ``values`` or ``matching``."""
    for column, rule in rules.items():
        values = record.get(column)
        if values:
            record[column] = {
                key: MASK if rule == "values" or is_secret(key, value) else value
                for key, value in values.items()
            }
