"""Who is seen again: the database's rule against one that is written down plainly, and its plans."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.db import Database
from chassis.testing import DatabaseFactory
from services.touchpoints.arrivals import store
from services.touchpoints.arrivals.store import Arrival, CardState, Sighting

NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
REPEATS = timedelta(minutes=10)
LEASE = timedelta(seconds=25)


class Look(NamedTuple):
    """A sight: seconds since the one before, who, by which device, what its clock shows, in seconds, if it has one."""

    after_s: int
    subject: int
    device: str
    clock_s: int | None


# Around the edges of ten minutes and of ten seconds.
LOOKS = st.lists(
    st.builds(
        Look,
        st.sampled_from([0, 299, 600, 601, 900]),
        st.integers(0, 1),
        st.sampled_from(["", "a", "b"]),
        st.sampled_from([None, 0, 5, 10, 11, 21]),
    ),
    max_size=12,
)


def arrivals(looks: list[Look]) -> list[bool]:
    """For each look whether somebody arrives."""
    last: dict[int, tuple[datetime, str, datetime | None]] = {}
    found, now = [], NOW
    for look in looks:
        now += timedelta(seconds=look.after_s)
        camera = None if look.clock_s is None else NOW + timedelta(seconds=look.clock_s)
        seen = last.get(look.subject)
        same_shot = bool(
            seen
            and look.device
            and seen[1] == look.device
            and camera
            and seen[2]
            and abs(camera - seen[2]) <= timedelta(seconds=10)
        )
        found.append(seen is None or not (now - seen[0] <= REPEATS or same_shot))
        last[look.subject] = (now, look.device, camera)
    return found


async def look_in(database: Database, dealer: str, looks: list[Look]) -> list[bool]:
    found, now = [], NOW
    for number, look in enumerate(looks):
        now += timedelta(seconds=look.after_s)
        camera = None if look.clock_s is None else NOW + timedelta(seconds=look.clock_s)
        sighting = Sighting(dealer, bytes([look.subject]), look.device, camera, now, REPEATS)
        arrival = Arrival(f"{dealer}-{number}", "gate", dealer, now, b"")
        async with database.transaction() as uow:
            found.append(await store.take(uow, sighting, arrival, CardState.WAITING, LEASE))
    return found


@pytest.fixture(scope="module")
async def database(databases: DatabaseFactory) -> AsyncIterator[Database]:
    async with databases.database("touchpoints") as database:
        yield database


@settings(max_examples=40, deadline=None)
@given(looks=LOOKS)
async def test_repeats_are_what_the_rule_says(database: Database, looks: list[Look]) -> None:
    # Each example has a forecourt of its own.
    assert arrivals(looks) == await look_in(database, secrets.token_hex(8), looks)


async def test_replicas_that_see_the_same_car_at_once_agree_on_one_arrival(database: Database) -> None:
    async def replica(number: int) -> bool:
        async with database.transaction() as uow:
            sighting = Sighting("D001", b"car", str(number), None, NOW, REPEATS)
            return await store.take(uow, sighting, Arrival(str(number), "gate", "D001", NOW, b""), CardState.WAITING, LEASE)

    assert 1 == sum(await asyncio.gather(*(replica(number) for number in range(8))))


async def test_due_cards_are_found_by_their_index(database: Database) -> None:
    async with database.transaction() as uow:
        await uow.execute(
            "INSERT INTO arrival (arrival_id, door, dealer_code, arrived_at, state, sealed, due_at) SELECT 'x' || i, 'gate',"
            " 'D001', now(), CASE WHEN i % 500 = 0 THEN 1 ELSE 2 END, '', now() FROM generate_series(1, 20000) i"
        )
        await uow.execute("ANALYZE arrival")
        rows = await uow.rows(f"EXPLAIN {store.CLAIM}", lease=LEASE, most=32)
        assert "ix_arrival_due_at" in "\n".join(row[0] for row in rows)
