"""In a crowd everybody gets a turn, in their order, and others get the event loop in between."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from jupyter_swarm.coordinator.turns import MOST, Turns

pytestmark = pytest.mark.asyncio


async def heartbeat(beats: list[int], said: list[int]) -> None:
    """In each go of the event loop, how many have been heard so far."""
    while True:
        beats.append(len(said))
        await asyncio.sleep(0)


async def test_others_get_the_loop_between_the_turns_of_a_crowd() -> None:
    turns, said, beats = Turns(), list[int](), list[int]()

    async def speak(number: int) -> None:
        for _ in range(2):
            await turns.mine()
            said.append(number)

    other = asyncio.create_task(heartbeat(beats, said))
    await asyncio.gather(*(speak(number) for number in range(10 * MOST)))
    other.cancel()
    assert sorted(said) == sorted(2 * list(range(10 * MOST)))
    assert max(later - earlier for earlier, later in itertools.pairwise(beats)) <= MOST
    assert said[: 9 * MOST] == sorted(said[: 9 * MOST]), "whoever came first is first"


async def test_alone_nobody_waits() -> None:
    turns = Turns()
    for _ in range(3):
        for _ in range(MOST):
            waiting = turns.mine()
            with pytest.raises(StopIteration):
                waiting.send(None)
        for _ in range(2):
            await asyncio.sleep(0)


async def test_whoever_goes_holds_nobody_up() -> None:
    turns = Turns()
    crowd = [asyncio.create_task(turns.mine()) for _ in range(5 * MOST)]
    await asyncio.sleep(0)
    for task in crowd[1::2]:
        task.cancel()
    await asyncio.wait_for(asyncio.gather(*crowd[0::2]), 10)
