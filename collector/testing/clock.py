"""A clock that tests move by hand, or that moves by itself when somebody sleeps."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

_PASSES = 10
"""Turns of the event loop that an automatic clock waits before it moves on.

Tasks that are ready to run get to register their own, perhaps shorter, sleeps first.
"""


class ManualClock:
    """Seconds that pass only when told to; ``clock()`` is ``clock.now()``.

    With ``auto`` a sleep takes no real time: as soon as the event loop has nothing better to do,
    the clock jumps to the earliest sleeper, wakes it, and so on in order of time. Without it,
    sleepers wait for ``advance``. For use in one event loop.
    """

    def __init__(self, start: float = 0.0, *, auto: bool = False) -> None:
        self._now = start
        self._auto = auto
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._order = count()
        self._passes = 0
        self._moving = False

    def __call__(self) -> float:
        return self._now

    def now(self) -> float:
        """Seconds that have passed, counted from where the clock was set to begin."""
        return self._now

    @property
    def sleepers(self) -> int:
        """How many tasks sleep at the moment."""
        return sum(not sleeper.done() for _, _, sleeper in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has moved by ``seconds``."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), sleeper))
        for wanted, waiter in self._waiting:
            if not waiter.done() and self.sleepers >= wanted:
                waiter.set_result(None)
        if self._auto:
            self._passes = _PASSES
            if not self._moving:
                self._moving = True
                loop.call_soon(self._move, loop)
        await sleeper

    async def until_asleep(self, tasks: int = 1) -> None:
        """Return once at least so many tasks sleep, so that ``advance`` will find them."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]
        self._waiting.append((tasks, waiter))
        if self.sleepers < tasks:
            await waiter
        else:
            waiter.cancel()

    def advance(self, seconds: float) -> None:
        """Move the clock and wake whoever is due, the earliest first."""
        if seconds < 0:
            raise ValueError("A clock does not run backwards.")
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            self._wake()

    def _wake(self) -> bool:
        """Wake the earliest sleeper; False if it had been cancelled."""
        due, _, sleeper = heapq.heappop(self._sleepers)
        if sleeper.done():
            return False
        self._now = max(self._now, due)
        sleeper.set_result(None)
        return True

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        self._passes -= 1
        if self._passes <= 0:
            while self._sleepers and not self._wake():
                pass
            self._passes = _PASSES
        self._moving = bool(self._sleepers)
        if self._moving:
            loop.call_soon(self._move, loop)
