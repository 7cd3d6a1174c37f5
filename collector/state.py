"""What a run leaves for the next one: watermarks, cursors, learned rates, last counts.

One document a table, which is always true: it moves only after the sink has acknowledged the
records it speaks of. Written whole, with a version and a digest:

{"format", "version", "sha256", "state": {"table", "saved_at",
  "targets": {"111111111111/us-east-1": TargetState, ...},
  "run": UnfinishedRun or null}}
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, Any

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from collector.errors import StateError
from collector.model import Coverage, Cursor, Job
from collector.text import clean

FORMAT = "aws-resource-collector state"
VERSION = 1

_EXACT = ConfigDict(extra="forbid")

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Key = Annotated[str, Field(pattern=r"^\d{12}/([a-z0-9-]+|\*)$")]
"""Account id and region of a target; ``*`` where an account's regions could not be found out."""


@dataclass(frozen=True, slots=True)
class TargetState:
    """What is known of a target since its last complete crawl.

    ``full_at`` is the watermark of the last one that was not incremental, ``listed`` how many jobs
    were listed, ``rates`` the calls a second that were found to be allowed.
    """

    __pydantic_config__ = _EXACT
    coverage: Coverage
    full_at: Seconds
    listed: Count
    rates: dict[str, Seconds]


@dataclass(frozen=True, slots=True)
class DoneTarget:
    """A target that an unfinished run has read whole: its next state, and what was read."""

    __pydantic_config__ = _EXACT
    state: TargetState
    incremental: bool
    emitted: Count
    unchanged: Count
    gone: Count


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """A target that an unfinished run has begun: how far it came, and what is not settled.

    ``pending`` are jobs before the cursor whose records the sink had not acknowledged. ``outcome``
    and ``error`` are set once the crawl of the target has ended, if not whole. ``as_of`` is 0 where
    nothing could be listed.
    """

    __pydantic_config__ = _EXACT
    coverage: Coverage | None
    as_of: Seconds
    cursor: Cursor
    pending: tuple[Job, ...]
    emitted: Count
    unchanged: Count
    gone: Count
    outcome: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class UnfinishedRun:
    """A run that has not ended, as of its last checkpoint.

    ``settings`` are digests of those that shape its output, ``position`` is where its sink goes
    on, ``delivered`` says that nothing was left but to close it.
    """

    __pydantic_config__ = _EXACT
    run_id: str
    started_at: Seconds
    settings: dict[str, str]
    position: dict[str, Any] | None
    bytes: Count
    delivered: bool
    done: dict[Key, DoneTarget]
    open: dict[Key, OpenTarget]


@dataclass(frozen=True, slots=True)
class State:
    """The whole document."""

    __pydantic_config__ = _EXACT
    table: str
    saved_at: Seconds = 0.0
    targets: dict[Key, TargetState] = field(default_factory=dict)
    run: UnfinishedRun | None = None


_STATE = TypeAdapter(State)


def dump(state: State) -> bytes:
    """The document of ``state``, as JSON."""
    body = orjson.dumps(state)
    head = orjson.dumps({"format": FORMAT, "version": VERSION, "sha256": _digest(body)})
    return head[:-1] + b',"state":' + body + b"}\n"


def load(data: bytes, table: str, place: str) -> State:
    """The state in the document ``data``, found at ``place``. Raises StateError.

    Nothing is guessed: what is not exactly a document of this format, version and table is refused.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _refusal(place, "is damaged: it is not JSON") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _refusal(place, "is not a state of this program")
    if document.get("version") != VERSION:
        version = clean(document.get("version"))[:20]
        raise _refusal(place, f"has version {version}, and this release reads {VERSION}")
    try:
        body = orjson.dumps(document.get("state"))
    except orjson.JSONEncodeError as error:
        raise _refusal(place, "is damaged: it is nested too deeply") from error
    if document.get("sha256") != _digest(body):
        raise _refusal(place, "is damaged, or was changed by hand: its digest is wrong")
    try:
        state = _STATE.validate_json(body, strict=True)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))[:80]
        raise _refusal(place, f"is damaged: {where} is not as it should be") from error
    if state.table != table:
        raise _refusal(place, f"belongs to the table {state.table[:80]}")
    return state


def _refusal(place: str, why: str) -> StateError:
    return StateError(
        f"The state {place} {why}. Put back a copy of it, or give another --state: a new one "
        "begins with a full run."
    )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
