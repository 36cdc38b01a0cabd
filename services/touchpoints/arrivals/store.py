"""SQL of arrivals: doors, who stands on a forecourt, and cards on their way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any, NamedTuple

from chassis import outbox
from chassis.db import Reader, UnitOfWork
from chassis.merges import present
from chassis.outbox import Outgoing
from services.touchpoints.store.consents import STANDING


class CardState(IntEnum):
    """What became of an arrival's card; the numbers are stored, the larger ones are ends."""

    WAITING = 1
    SENT = 2
    # The dealer's system will never take it, or there is none.
    REFUSED = 3
    EXPIRED = 4
    # Nobody is known by what was seen, or nothing may be told of them: no card.
    UNKNOWN = 5


@dataclass(frozen=True)
class Door:
    """A way in for the devices of one forecourt."""

    name: str
    dealer_code: str
    networks: tuple[str, ...]
    min_confidence: int
    repeat_minutes: int
    direction: str


class DoorRow(NamedTuple):
    """A door with what opens it."""

    door: Door
    token_sha256: bytes
    previous_sha256: bytes | None
    previous_until: datetime | None
    disabled_at: datetime | None


_COLUMNS = "name, dealer_code, networks, min_confidence, repeat_minutes, direction"


def _row(row: Any) -> DoorRow:
    door = Door(row.name, row.dealer_code, tuple(row.networks), row.min_confidence, row.repeat_minutes, row.direction)
    return DoorRow(door, row.token_sha256, row.previous_sha256, row.previous_until, row.disabled_at)


async def doors(uow: UnitOfWork) -> list[DoorRow]:
    """All doors by name, disabled ones too."""
    rows = await uow.rows(
        f"SELECT {_COLUMNS}, token_sha256, previous_sha256, previous_until, disabled_at FROM arrival_door ORDER BY name"  # noqa: S608
    )
    return [_row(row) for row in rows]


async def save_door(uow: UnitOfWork, door: Door, token_sha256: bytes) -> bool:
    """Makes a door, or changes one's rules and turns it on again; True when it is new. An existing one keeps its token."""
    made = await uow.rows(
        f"INSERT INTO arrival_door AS d ({_COLUMNS}, token_sha256) VALUES (:name, :dealer, CAST(:networks AS text[]),"  # noqa: S608
        " :confidence, :minutes, :direction, :token) ON CONFLICT (name) DO UPDATE SET dealer_code = excluded.dealer_code,"
        " networks = excluded.networks, min_confidence = excluded.min_confidence, repeat_minutes = excluded.repeat_minutes,"
        " direction = excluded.direction, disabled_at = NULL RETURNING (xmax = 0) AS made",
        name=door.name,
        dealer=door.dealer_code,
        networks=list(door.networks),
        confidence=door.min_confidence,
        minutes=door.repeat_minutes,
        direction=door.direction,
        token=token_sha256,
    )
    return bool(made[0].made)


async def rotate_door(uow: UnitOfWork, name: str, token_sha256: bytes, grace: timedelta) -> bool:
    """Gives a door a new token; the one before opens it for the grace. False when there is no such door."""
    changed = await uow.execute(
        "UPDATE arrival_door SET previous_sha256 = token_sha256, previous_until = now() + :grace, token_sha256 = :token"
        " WHERE name = :name",
        name=name,
        token=token_sha256,
        grace=grace,
    )
    return changed == 1


async def disable_door(uow: UnitOfWork, name: str) -> bool:
    """Shuts a door at once; False when there is none of that name."""
    changed = await uow.execute(
        "UPDATE arrival_door SET disabled_at = COALESCE(disabled_at, now()) WHERE name = :name", name=name
    )
    return changed == 1


async def door_counts(uow: UnitOfWork) -> Mapping[str, tuple[int, datetime]]:
    """Door → arrivals of the last 24 hours and when the last one was."""
    rows = await uow.rows(
        "SELECT door, count(*) AS arrivals, max(arrived_at) AS last FROM arrival WHERE arrived_at > now() - interval '24 hours'"
        " GROUP BY door"
    )
    return {row.door: (row.arrivals, row.last) for row in rows}


class Sighting(NamedTuple):
    """Somebody seen on a forecourt. `subject`: a keyed hash, nothing of the plate or person can be read from it."""

    dealer_code: str
    subject: bytes
    device: str
    camera_time: datetime | None
    received: datetime
    repeats: timedelta


@dataclass(frozen=True)
class Arrival:
    """An arrival whose card is on its way. `sealed`: whom it is about, under the settings key, until the card has its end."""

    arrival_id: str
    door: str
    dealer_code: str
    arrived_at: datetime
    sealed: bytes
    attempts: int = 0


class Entry(NamedTuple):
    """A sighting that may be an arrival. `post`: the device's own number of it, to know it again by; empty without one."""

    arrival: Arrival
    sighting: Sighting
    state: CardState
    post: str
    # Kept by a camera that was offline: an event and nothing else.
    late: bool
    # What is published if, and only if, it is an arrival: an ObservedBatch without the key that it is sealed under, and the key
    # (serialised, too), so that those of one key make one message.
    event: Outgoing | None
    key: bytes
    # Why there will be no card.
    reason: str = ""


# All in one statement, so that it is one trip and one commit however many come together. Under the row's lock, so that of two
# replicas that see the same car at once one finds an arrival and the other its repeat.
# Seen again within the door's minutes it is the same arrival and goes on; so it is, however late, when the same device says
# that it was within ten seconds of what it said last. Both tables are written in the order of their keys: no deadlock.
TAKE = """
WITH seen AS MATERIALIZED (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::smallint[], $7::bytea[], $8::text[],
        $9::bytea[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::interval[], $14::boolean[],
        $15::text[], $16::bytea[], $17::text[], $18::text[], $19::bytea[], $20::jsonb[])
    AS s(arrival_id, door, dealer_code, arrived_at, state, sealed, post, subject, device, camera_at, received_at, repeats, late,
        reason, key, message_id, subject_to, payload, headers)
), fresh AS (
    INSERT INTO inbox (consumer, message_id) SELECT 'arrivals:' || door, post FROM seen WHERE post <> '' ORDER BY 1, 2
    ON CONFLICT DO NOTHING RETURNING consumer, message_id
), news AS MATERIALIZED (
    SELECT s.* FROM seen s LEFT JOIN fresh f ON f.consumer = 'arrivals:' || s.door AND f.message_id = s.post
    WHERE s.post = '' OR f.message_id IS NOT NULL
), present AS (
    INSERT INTO arrival_presence AS p (dealer_code, subject, device, camera_at, last_seen, arrival_id)
    SELECT dealer_code, subject, device, camera_at, received_at, arrival_id FROM news WHERE NOT late
    ORDER BY dealer_code, subject
    ON CONFLICT (dealer_code, subject) DO UPDATE SET
        arrival_id = CASE WHEN excluded.last_seen - p.last_seen
                <= (SELECT n.repeats FROM news n WHERE n.arrival_id = excluded.arrival_id)
            OR (p.device <> '' AND p.device = excluded.device
                AND abs(extract(epoch FROM excluded.camera_at - p.camera_at)) <= 10)
            THEN p.arrival_id ELSE excluded.arrival_id END,
        device = excluded.device, camera_at = excluded.camera_at, last_seen = GREATEST(p.last_seen, excluded.last_seen)
    RETURNING arrival_id
), made AS (
    INSERT INTO arrival (arrival_id, door, dealer_code, arrived_at, state, reason, sealed, due_at)
    SELECT n.arrival_id, n.door, n.dealer_code, n.arrived_at, n.state, n.reason, n.sealed, n.received_at + $1::interval
    FROM news n JOIN present USING (arrival_id)
    RETURNING arrival_id
), arrived AS MATERIALIZED (
    SELECT arrival_id FROM made UNION ALL SELECT arrival_id FROM news WHERE late
), told AS (
    INSERT INTO outbox (message_id, subject, payload, headers)
    SELECT min(n.message_id), n.subject_to, n.key || string_agg(n.payload, ''), (array_agg(n.headers))[1]
    FROM news n JOIN arrived USING (arrival_id) WHERE n.message_id <> '' GROUP BY n.subject_to, n.key
)
SELECT arrival_id FROM arrived
"""


async def take(reader: Reader, entries: Sequence[Entry], lease: timedelta) -> set[str]:
    """Notes sightings, each car and each post once; returns the ids of those that are arrivals and no repeats of one."""
    nothing = outbox.NOTHING
    rows = await reader.fetch(
        TAKE,
        lease,
        [e.arrival.arrival_id for e in entries],
        [e.arrival.door for e in entries],
        [e.arrival.dealer_code for e in entries],
        [e.arrival.arrived_at for e in entries],
        [int(e.state) for e in entries],
        [e.arrival.sealed if e.state is CardState.WAITING else b"" for e in entries],
        [e.post for e in entries],
        [e.sighting.subject for e in entries],
        [e.sighting.device for e in entries],
        [e.sighting.camera_time for e in entries],
        [e.sighting.received for e in entries],
        [e.sighting.repeats for e in entries],
        [e.late for e in entries],
        [e.reason for e in entries],
        [e.key for e in entries],
        *outbox.columns([e.event or nothing for e in entries]),
    )
    return {row[0] for row in rows}


# By places, for one statement by itself is one trip. Marks of plates have 16 bytes, those of nobody one more.
PLATES = """
SELECT count(*) FROM (
    SELECT FROM arrival_presence WHERE dealer_code = $1 AND octet_length(subject) = 16 AND last_seen > now() - interval '1 day'
    LIMIT $2
) AS seen
"""


async def plates(reader: Reader, dealer_code: str, most: int) -> int:
    """Different plates and known visitors at a dealer's doors within a day, counted up to `most`."""
    ((count,),) = await reader.fetch(PLATES, dealer_code, most)
    return int(count)


# What a sender that vanished had leased, and what is to be tried again (index ix_arrival_due_at).
CLAIM = """
UPDATE arrival a SET due_at = now() + CAST(:lease AS interval) FROM (
    SELECT arrival_id FROM arrival WHERE state = 1 AND due_at <= now() ORDER BY due_at LIMIT :most FOR UPDATE SKIP LOCKED
) AS due WHERE a.arrival_id = due.arrival_id
RETURNING a.arrival_id, a.door, a.dealer_code, a.arrived_at, a.sealed, a.attempts
"""


async def claim(uow: UnitOfWork, most: int, lease: timedelta) -> list[Arrival]:
    """Cards that are due and nobody else holds."""
    return [Arrival(**row._mapping) for row in await uow.rows(CLAIM, most=most, lease=lease)]


class Note(NamedTuple):
    """What an attempt made of a card. `wait_s`: seconds until it is tried again, of those that have no end yet."""

    arrival_id: str
    state: CardState
    reason: str
    left_out: Sequence[str] = ()
    wait_s: float = 0.0


NOTE = """
UPDATE arrival a SET state = n.state, reason = n.reason, attempts = a.attempts + 1,
    left_out = CASE WHEN n.left_out = '' THEN '{}' ELSE string_to_array(n.left_out, ' ') END,
    sealed = CASE WHEN n.state = 1 THEN a.sealed ELSE '' END,
    due_at = CASE WHEN n.state = 1 THEN now() + n.wait_s * interval '1 second' ELSE a.due_at END
FROM unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::double precision[])
    AS n(arrival_id, state, reason, left_out, wait_s)
WHERE a.arrival_id = n.arrival_id AND a.state = 1
RETURNING a.arrival_id
"""


async def note(reader: Reader, notes: Sequence[Note]) -> None:
    """Keeps what became of cards; with its end whom a card was about is forgotten. A statement by itself."""
    await reader.fetch(
        NOTE,
        [n.arrival_id for n in notes],
        [int(n.state) for n in notes],
        [n.reason for n in notes],
        [" ".join(n.left_out) for n in notes],
        [n.wait_s for n in notes],
    )


async def forget(uow: UnitOfWork, keep: timedelta) -> None:
    """Arrivals and presences older than that go: they are counted, and nothing else is asked of them."""
    await uow.execute("DELETE FROM arrival WHERE arrived_at < now() - CAST(:keep AS interval) AND state > 1", keep=keep)
    # The longest time within which a car that is seen again is the same arrival is a day.
    await uow.execute("DELETE FROM arrival_presence WHERE last_seen < now() - interval '25 hours'")


class Asked(NamedTuple):
    """Whether a person agreed to purposes towards dealers; (purpose, only separate consent counts)."""

    person_id: int
    purposes: tuple[tuple[str, bool], ...]


# Beside what was said whether the person was erased, as the negative number less one. By places, for one statement by itself is
# one trip.
_ASKED = ("numbers", "persons", "anchors", "purposes", "channels", "separate")
_STANDING = f"""{STANDING} UNION ALL
SELECT -u.number - 1, true, true FROM unnest(CAST(:numbers AS int[]), CAST(:persons AS bigint[])) AS u(number, person)
WHERE EXISTS (SELECT FROM erased_person e WHERE e.person_id = {present("u.person")})
"""  # noqa: S608  (a constant of ours)
STANDING_OR_ERASED = re.sub(rf":({'|'.join(_ASKED)})\b", lambda m: f"${_ASKED.index(m[1]) + 1}", _STANDING)
# Nothing was said.
_SILENCE = (False, False)


async def standing(reader: Reader, asked: Sequence[Asked]) -> list[list[tuple[bool, bool]] | None]:
    """For each purpose of each who is asked about: whether the person withdrew it, and gave it.

    None for somebody who was erased.
    """
    uses = [(each.person_id, *purpose) for each in asked for purpose in each.purposes]
    size = len(uses)
    rows = await reader.fetch(
        STANDING_OR_ERASED,
        list(range(size)),
        [person for person, _, _ in uses],
        [0] * size,
        [purpose for _, purpose, _ in uses],
        ["dealer"] * size,
        [separate for _, _, separate in uses],
    )
    found = {row[0]: (bool(row[1]), bool(row[2])) for row in rows}
    answers: list[list[tuple[bool, bool]] | None] = []
    first = 0
    for each in asked:
        numbers = range(first, first := first + len(each.purposes))
        erased = any(-number - 1 in found for number in numbers)
        answers.append(None if erased else [found.get(number, _SILENCE) for number in numbers])
    return answers
