"""Who is seen again: the database's rule against one that is written down plainly, and its plans."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.db import Database
from chassis.outbox import Outgoing
from chassis.testing import DatabaseFactory
from services.touchpoints.arrivals import store
from services.touchpoints.arrivals.store import Arrival, CardState, Entry, Sighting
from services.touchpoints.arrivals.taking import keep

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


def entry(number: str, dealer: str, look: Look, now: datetime, **more: Any) -> Entry:
    camera = None if look.clock_s is None else NOW + timedelta(seconds=look.clock_s)
    sighting = Sighting(dealer, bytes([look.subject]), look.device, camera, now, REPEATS)
    given_: dict[str, Any] = {"state": CardState.WAITING, "post": "", "late": False, "event": None, "key": b"key"} | more
    return Entry(Arrival(f"{dealer}-{number}", "gate", dealer, now, b""), sighting, **given_)


async def look_in(database: Database, dealer: str, looks: list[Look], together: int) -> list[bool | Exception]:
    """So many looks are kept at a time."""
    entries, now = [], NOW
    for number, look in enumerate(looks):
        now += timedelta(seconds=look.after_s)
        entries.append(entry(str(number), dealer, look, now))
    return [
        found for start in range(0, len(entries), together) for found in await keep(database, entries[start : start + together])
    ]


@pytest.fixture(scope="module")
async def database(databases: DatabaseFactory) -> AsyncIterator[Database]:
    async with databases.database("touchpoints") as database:
        yield database


@settings(max_examples=40, deadline=None)
@given(looks=LOOKS, together=st.sampled_from([1, 3, 12]))
async def test_repeats_are_what_the_rule_says_however_many_come_together(
    database: Database, looks: list[Look], together: int
) -> None:
    # Each example has a forecourt of its own.
    assert arrivals(looks) == await look_in(database, secrets.token_hex(8), looks, together)


async def test_what_is_kept_together_is_one_arrival_per_post_with_its_event(database: Database) -> None:
    dealer, event = secrets.token_hex(8), Outgoing.now("troika.events.observed.v1", b"+sealed")
    first, second = Look(0, 1, "a", None), Look(0, 2, "a", None)
    entries = [
        entry("0", dealer, first, NOW, post="p1", event=event),
        # The same post again; the same car by another post; another car that a camera kept while it was offline, twice.
        entry("1", dealer, second, NOW, post="p1"),
        entry("2", dealer, first, NOW, post="p2"),
        entry("3", dealer, second, NOW, post="p3", late=True, event=dataclasses.replace(event, message_id="~late")),
        # One more car under the same key, and one under another.
        entry("7", dealer, Look(0, 4, "a", None), NOW, event=dataclasses.replace(event, message_id="~other")),
        entry(
            "6", dealer, Look(0, 3, "a", None), NOW, post="p5", event=dataclasses.replace(event, message_id="key"), key=b"k2"
        ),
        entry("4", dealer, second, NOW, post="p3", late=True),
        entry("5", dealer, second, NOW, post="p4", state=CardState.UNKNOWN),
    ]
    async with database.transaction() as uow:
        await uow.execute("DELETE FROM outbox")
        await uow.execute("DELETE FROM inbox")
    assert [True, False, False, True, True, True, False, True] == await keep(database, entries)
    async with database.read() as uow:
        kept = await uow.rows("SELECT arrival_id, state FROM arrival WHERE dealer_code = :d ORDER BY arrival_id", d=dealer)
        told = await uow.rows("SELECT message_id, subject, payload, headers FROM outbox ORDER BY id")
    assert [(f"{dealer}-0", 1), (f"{dealer}-5", 5), (f"{dealer}-6", 1), (f"{dealer}-7", 1)] == [tuple(row) for row in kept]
    # What is kept together and sealed under one key is one message; the late one had to wait for the same car's other post.
    wanted = {event.message_id: b"key+sealed+sealed", "key": b"k2+sealed", "~late": b"key+sealed"}
    assert wanted == {row.message_id: row.payload for row in told}
    assert [(event.subject, event.headers)] * 3 == [(row.subject, row.headers) for row in told]


async def test_what_the_database_refuses_spoils_no_other(database: Database) -> None:
    dealer = secrets.token_hex(8)
    looks = [Look(0, number, "a", None) for number in range(3)]
    good, bad, other = (entry(str(look.subject), dealer, look, NOW) for look in looks)
    bad = bad._replace(post="\0")
    found = await keep(database, [good, bad, other])
    assert [True, True] == [found[0], found[2]] and isinstance(found[1], Exception)


async def test_replicas_that_see_the_same_car_at_once_agree_on_one_arrival(database: Database) -> None:
    looks = [Look(0, subject, "a", None) for subject in (7, 8, 9)]

    async def replica(number: int) -> list[bool | Exception]:
        order = looks[number % 3 :] + looks[: number % 3]
        return await keep(
            database, [entry(f"{number}-{look.subject}", "D001", look, NOW, post=f"p{look.subject}") for look in order]
        )

    found = [each for answers in await asyncio.gather(*(replica(number) for number in range(8))) for each in answers]
    assert (24, 3) == (len(found), found.count(True)) and not [each for each in found if isinstance(each, Exception)]


async def test_due_cards_are_found_by_their_index(database: Database) -> None:
    async with database.transaction() as uow:
        await uow.execute(
            "INSERT INTO arrival (arrival_id, door, dealer_code, arrived_at, state, sealed, due_at) SELECT 'x' || i, 'gate',"
            " 'D001', now(), CASE WHEN i % 500 = 0 THEN 1 ELSE 2 END, '', now() FROM generate_series(1, 20000) i"
        )
        await uow.execute("ANALYZE arrival")
        rows = await uow.rows(f"EXPLAIN {store.CLAIM}", lease=LEASE, most=32)
        assert "ix_arrival_due_at" in "\n".join(row[0] for row in rows)
