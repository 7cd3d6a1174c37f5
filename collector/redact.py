"""Values that must not leave the process become ``***``; keys stay.

A value is taken for a secret by its key (password, token, ...) or by its shape (an AWS key, a
private key, a JSON Web Token).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from collector.model import Record

MASK = "***"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS = frozenset(
    {
        *("auth", "authorization", "bearer", "cookie", "credential", "credentials", "dsn", "jwt"),
        *("pass", "passphrase", "passwd", "password", "pwd", "sas", "secret", "secrets"),
        *("signature", "token"),
    }
)
_KEYS = ("access", "account", "api", "encryption", "private", "secret", "signing", "ssh")
_SECRET_PAIRS = frozenset({*(f"{kind} key" for kind in _KEYS), "connection string", "session id"})
_SECRET_PART = re.compile(
    r"passw|passphrase|secret|credential|api_?key|access_?key|private_?key|token$", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"(?:^|[^A-Z0-9])(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}(?:$|[^A-Z0-9])"  # AWS access key ids
    r"|-----BEGIN [A-Z0-9 ]*PRIVATE KEY"
    r"|[\w-]{8}\.eyJ[\w-]{8,}+\."  # JSON Web Token
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22,}|glpat-[\w-]{20}"
    r"|xox[abprs]-[\w-]{10,}|hf_[A-Za-z0-9]{30,}|sk-[\w-]{20,}"
    r"|[A-Za-z][A-Za-z0-9+.-]{0,30}://[^/\s:@]*:[^/\s@]+@"  # a password in a URL
)
_NAME = r"(?:passw(?:or)?d|passphrase|secret|token|credentials?|api[_-]?key|access[_-]?key)"
_SECRET_INSIDE = re.compile(
    # JSON, YAML or a command line in a value: "db_password": "...", --api-key ...
    _NAME + r"[\"']?\s*[:=]\s*[\"']?[^\s\"',}]|(?<![\w-])-[\w-]*" + _NAME + r"\s+[^\s-]",
    re.IGNORECASE,
)
_LONGEST_READ = 100_000
"""Characters: AWS allows a few thousand, and every one is looked at by all of these patterns. What
is longer is masked unread. None of the patterns may take more than linear time."""

_AWS_SECRET = re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])")


def is_secret(key: str, value: str) -> bool:
    """Whether a value looks like one that must not be shown."""
    return bool(
        max(len(key), len(value)) > _LONGEST_READ
        or _names_secret(key)
        or _SECRET_VALUE.search(value)
        or _SECRET_INSIDE.search(value)
        or any(map(_mixed, _AWS_SECRET.findall(value)))
    )


def _names_secret(key: str) -> bool:
    """By whole words, so that max_tokens, tokenizer and author stay."""
    words = [word.lower() for word in _WORD.findall(key)]
    pairs = {f"{first} {second}" for first, second in pairwise(words)}
    return bool(
        _SECRET_WORDS.intersection(words)
        or _SECRET_PAIRS.intersection(pairs)
        or _SECRET_PART.search(key)
    )


def _mixed(run: str) -> bool:
    """An AWS secret mixes cases and digits; a hex digest or a path of 40 characters does not."""
    return (
        any(c.isupper() for c in run)
        and any(c.islower() for c in run)
        and any(c.isdigit() for c in run)
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
