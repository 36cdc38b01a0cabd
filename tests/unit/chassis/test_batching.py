"""Work done together: everybody gets their own answer, batches grow with the load, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from chassis.batching import Batching


async def test_what_comes_while_a_batch_is_under_way_is_the_next_one() -> None:
    batches: list[int] = []

    async def double(numbers: Sequence[int]) -> list[int]:
        batches.append(len(numbers))
        await asyncio.sleep(0.01)
        return [2 * number for number in numbers]

    together: Batching[int, int] = Batching()
    lane = asyncio.create_task(together.run(double))
    first = asyncio.create_task(together.ask(1))
    await asyncio.sleep(0.005)
    rest = await asyncio.gather(*(together.ask(number) for number in range(50)))
    assert 2 == await first
    assert [2 * number for number in range(50)] == rest
    assert [1, 50] == batches
    lane.cancel()


async def test_at_a_pace_who_comes_alone_goes_at_once_and_those_behind_together() -> None:
    batches: list[list[int]] = []

    async def note(numbers: Sequence[int]) -> list[int]:
        batches.append(list(numbers))
        return list(numbers)

    together: Batching[int, int] = Batching()
    lane = asyncio.create_task(together.run(note, pace_s=0.2))
    began = asyncio.get_running_loop().time()
    await together.ask(0)
    asked = []
    for number in (1, 2, 3):
        asked.append(asyncio.create_task(together.ask(number)))
        await asyncio.sleep(0)
    assert [1, 2, 3] == await asyncio.gather(*asked)
    assert [[0], [1, 2, 3]] == batches
    assert asyncio.get_running_loop().time() - began >= 0.2
    lane.cancel()


async def test_an_error_is_that_of_its_batch_and_the_next_one_goes_on() -> None:
    async def picky(numbers: Sequence[int]) -> list[int]:
        if 13 in numbers:
            raise ValueError("thirteen")
        # Too few answers are a fault of the batch as well.
        return list(numbers) if 14 not in numbers else []

    together: Batching[int, int] = Batching()
    lane = asyncio.create_task(together.run(picky))
    with pytest.raises(ValueError, match="thirteen"):
        await together.ask(13)
    with pytest.raises(RuntimeError, match="0 answers to 1 questions"):
        await together.ask(14)
    assert 7 == await together.ask(7)
    lane.cancel()


async def test_who_gives_up_takes_nobody_along_and_who_waits_at_the_end_is_told() -> None:
    going_on = asyncio.Event()
    seen: list[Sequence[int]] = []

    async def slow(numbers: Sequence[int]) -> list[int]:
        seen.append(numbers)
        await going_on.wait()
        return list(numbers)

    together: Batching[int, int] = Batching()
    lane = asyncio.create_task(together.run(slow))
    under_way = asyncio.create_task(together.ask(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gone, waiting = (asyncio.create_task(together.ask(number)) for number in (2, 3))
    await asyncio.sleep(0)
    gone.cancel()
    going_on.set()
    assert (1, 3) == (await under_way, await waiting)
    assert [[1], [3]] == [list(each) for each in seen]
    going_on.clear()
    last = asyncio.create_task(together.ask(4))
    await asyncio.sleep(0.01)
    late = asyncio.create_task(together.ask(5))
    await asyncio.sleep(0.01)
    lane.cancel()
    for each in (last, late):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(each, 1)
