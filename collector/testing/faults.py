"""What goes wrong on the way to AWS and back, dealt by chance but repeatably."""

from __future__ import annotations

import random
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field

SCALE = 2**32

DEALT = (
    "error_500",
    "error_503",
    "reset",
    "truncated",
    "garbage",
    "emptied",
    "hang",
    "dribble",
)
"""Faults of a whole answer, in the order in which they are drawn."""


@dataclass(slots=True)
class Faults:
    """Probabilities (0 to 1) for each call, which may be changed while the server runs.

    error_500, error_503
        The service's own error answers.
    reset
        The connection is reset before any answer.
    truncated
        Status 200 and the full Content-Length, but half a body and a closed connection.
    garbage
        Status 200 with a page of HTML, as a proxy would send it.
    emptied
        Status 200 with no body at all.
    hang
        No answer for ``hang_seconds``, then a closed connection.
    dribble
        The whole answer, but each byte ``dribble_seconds`` after the last.
    empty_pages
        A page of a list without items but with a NextToken.
    token_calls
        A NextToken is refused once it has carried a listing through so many calls.
    vanish
        The share of jobs that are deleted between List and Describe. Which ones depends on
        ``seed`` and the job alone, so each is gone however often it is asked for.

    ``only`` restricts all of them to some operations; None means every operation.
    """

    error_500: float = 0.0
    error_503: float = 0.0
    reset: float = 0.0
    truncated: float = 0.0
    garbage: float = 0.0
    emptied: float = 0.0
    hang: float = 0.0
    hang_seconds: float = 30.0
    dribble: float = 0.0
    dribble_seconds: float = 1.0
    empty_pages: float = 0.0
    token_calls: int | None = None
    vanish: float = 0.0
    only: Collection[str] | None = None
    seed: int = 0
    _rng: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)  # noqa: S311 - repeatable on purpose

    def touches(self, operation: str) -> bool:
        """Whether ``only`` lets faults befall this operation."""
        return self.only is None or operation in self.only

    def draw(self, operation: str) -> str | None:
        """Which of ``DEALT`` befalls this call, if any."""
        if not self.touches(operation):
            return None
        chance = self._rng.random()
        for name in DEALT:
            chance -= getattr(self, name)
            if chance < 0:
                return name
        return None

    def empties(self, operation: str) -> bool:
        """Whether this page is to come without items."""
        return (
            self.empty_pages > 0
            and self.touches(operation)
            and self._rng.random() < self.empty_pages
        )

    def expired(self, operation: str, calls: int) -> bool:
        """Whether a token that has served ``calls`` calls is too old."""
        return (
            self.token_calls is not None and self.touches(operation) and calls >= self.token_calls
        )

    def takes(self, operation: str, identity: str) -> bool:
        """Whether the job of this identity has been deleted meanwhile."""
        if self.vanish <= 0 or not self.touches(operation):
            return False
        return zlib.crc32(f"{self.seed}/{identity}".encode()) < self.vanish * SCALE
