import asyncio

import pytest

from collector.testing import ManualClock


async def test_a_manual_clock_wakes_sleepers_only_when_it_is_advanced():
    """A sleeper stays asleep until the clock has been moved past its time."""
    clock = ManualClock(100.0)
    task = asyncio.create_task(clock.sleep(10))
    await clock.until_asleep()
    await clock.until_asleep()
    clock.advance(9.5)
    await asyncio.sleep(0)
    assert not task.done()
    assert clock.sleepers == 1
    clock.advance(0.5)
    await task
    assert clock() == clock.now() == 110.0


async def test_an_automatic_clock_wakes_sleepers_in_order_of_time():
    """Sleeps take no real time, and whoever is due first wakes first and sees its own time."""
    clock = ManualClock(auto=True)
    woken = []

    async def sleeper(name: str, *naps: float):
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.now()))

    await asyncio.gather(sleeper("a", 10, 10), sleeper("b", 1, 2, 30), sleeper("c", 15))
    assert woken == [("b", 1), ("b", 3), ("a", 10), ("c", 15), ("a", 20), ("b", 33)]


async def test_a_cancelled_sleeper_neither_wakes_nor_moves_the_clock():
    """Time does not pass for a task that has been cancelled."""
    clock = ManualClock(auto=True)
    task = asyncio.create_task(clock.sleep(1000))
    await asyncio.sleep(0)
    task.cancel()
    await clock.sleep(5)
    assert clock.now() == 5
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_clock_does_not_run_backwards():
    """A negative advance is refused, and a sleep of nothing returns at once."""
    clock = ManualClock()
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
    await clock.sleep(0)
    assert clock.now() == 0
