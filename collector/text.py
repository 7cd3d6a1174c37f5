"""Text from outside, made fit to be shown."""

from __future__ import annotations

import re
import reprlib

_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, movements and so on (ECMA-48, "CSI")
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # titles, links
    r"|\x1b[ -/]*[0-~]"
)
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f"
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change of direction
    r"\u2028\u2029\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]+"
)
_LONGEST_MESSAGE = 400
_LOOKED_AT = 10 * _LONGEST_MESSAGE
"""Characters: a message of megabytes is cut before it is cleaned."""


def clean(text: object) -> str:
    """Text from outside, safe for a terminal: one line, no control characters, not too long."""
    # What is no text may be a structure of any size and depth: only its beginning is shown.
    whole = str(text) if isinstance(text, str | BaseException) else reprlib.repr(text)
    line = _CONTROL.sub(" ", _ESCAPE.sub(" ", whole[:_LOOKED_AT])).strip()
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + "…"
