"""Readers of live audiences: what they get, and what ends them."""

from __future__ import annotations

import asyncio

import pytest
from pyroaring import BitMap

from chassis.errors import NotFound, ResourceExhausted
from services.tags.audiences.live import Change, Followed, Watch
from services.tags.audiences.membership import Membership
from services.tags.audiences.previewing import sample
from services.tags.audiences.telling import BLOCK, blocks_of
from services.tags.domain.catalogue import Kind
from services.tags.domain.terms import Constant
from services.tags.questions import ids_in
from tests.unit.tags.index.worlds import NOW, World


def watch(most_ids: int = 10) -> Watch:
    return Watch(Followed(Membership(World().index(), Kind.PERSON, Constant(True), NOW), 1), most_ids)


def change(*entered: int, left: tuple[int, ...] = ()) -> Change:
    return Change(BitMap(entered), BitMap(left), 1, NOW, 0, 1)


async def test_changes_are_read_in_order_and_silence_is_silence() -> None:
    reading = watch()
    reading.offer(change(1))
    reading.offer(change(2, left=(1,)))
    first, second = await reading.next(1), await reading.next(1)
    assert (BitMap([1]), BitMap([2])) == (first and first.entered, second and second.entered)
    assert await reading.next(0.01) is None


async def test_a_reader_that_does_not_keep_up_is_cut_off_and_frees_what_waited() -> None:
    reading = watch(most_ids=10)
    for number in range(6):
        reading.offer(change(2 * number, 2 * number + 1))
    assert not reading._waiting
    with pytest.raises(ResourceExhausted) as caught:
        await reading.next(1)
    assert "READER_TOO_SLOW" == caught.value.reason


async def test_what_was_read_makes_room() -> None:
    reading = watch(most_ids=10)
    for number in range(20):
        reading.offer(change(2 * number, 2 * number + 1))
        assert await reading.next(1)


async def test_an_end_wakes_who_waits() -> None:
    reading = watch()
    waiting = asyncio.create_task(reading.next(10))
    await asyncio.sleep(0)
    reading.end(NotFound("gone", reason="AUDIENCE_ENDED"))
    with pytest.raises(NotFound):
        await waiting


def test_blocks_are_those_that_changed_and_say_who_is_in_them_now() -> None:
    members = BitMap([1, BLOCK + 1, BLOCK + 2, 5 * BLOCK])
    blocks = blocks_of(members, BitMap([BLOCK + 2, 2 * BLOCK]))
    assert [1, 2] == sorted(blocks)
    assert BitMap([BLOCK + 1, BLOCK + 2]) == BitMap.deserialize(blocks[1])
    assert b"" == blocks[2]


def test_a_sample_is_not_the_lowest_ids_and_stays_while_its_members_stay() -> None:
    members = BitMap(range(1, 100_001))
    drawn = sample(ids_in(members), 50, seed=7)
    assert 50 == len(set(drawn)) and max(drawn) > 50_000
    assert drawn != sample(ids_in(members), 50, seed=8)
    # Who joins may push out a few; who leaves is replaced; nobody else changes places.
    gone = drawn[0]
    assert drawn[1:] == sample(ids_in(members - BitMap([gone])), 49, seed=7)
    assert sample(ids_in(BitMap([3, 5])), 10, 7) in ([3, 5], [5, 3])
    assert [] == sample(ids_in(BitMap()), 10, 7)
