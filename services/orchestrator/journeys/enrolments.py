"""People in journeys, by the ten thousand: claimed, moved, entered, ended, followed through merges, deleted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from chassis.db import UnitOfWork

PERSON_COLUMNS = "enrolment_id, person_id, present_id, step, visit, phase"

# Due people of a journey, oldest first; who asks other rooms (phase 3) is leased meanwhile: if the asker dies, they come again.
_CLAIM = f"""
SELECT {PERSON_COLUMNS}, version FROM enrolment
WHERE journey_id = $1 AND ended_at IS NULL AND due_at <= $2
  AND EXISTS (SELECT FROM journey WHERE journey_id = $1 AND state = 4)
ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED
"""  # noqa: S608  (columns of ours)

# Those who asked, if they still stand where they asked; in order, so that nobody waits for each other. Looked up one by one on
# purpose: how many are asking is never what statistics say, and a join planned by these reads everybody.
_AGAIN = f"""
SELECT e.* FROM unnest($1::bigint[], $2::integer[]) AS asked (enrolment_id, visit) CROSS JOIN LATERAL (
  SELECT {PERSON_COLUMNS}, version FROM enrolment
  WHERE enrolment_id = asked.enrolment_id AND visit = asked.visit AND ended_at IS NULL AND phase = 3 FOR UPDATE SKIP LOCKED
) AS e WHERE EXISTS (SELECT FROM journey WHERE journey_id = $3 AND state = 4) AND e.version = $4
"""  # noqa: S608

_MOVE = """
UPDATE enrolment e SET version = u.version, step = u.step, visit = u.visit, phase = u.phase, due_at = u.due_at,
  arrived_at = CASE WHEN u.visit > e.visit OR u.version <> e.version THEN $8 ELSE e.arrived_at END,
  ended_at = CASE WHEN u.reason <> '' THEN $8 END, end_reason = u.reason
FROM unnest($1::bigint[], $2::integer[], $3::smallint[], $4::integer[], $5::smallint[], $6::timestamptz[], $7::text[])
  AS u (enrolment_id, version, step, visit, phase, due_at, reason)
WHERE e.enrolment_id = u.enrolment_id
"""

# `again`: -1 once, 0 always, else so many seconds after the last entry. Nobody is twice under way with one object.
_ENTER = f"""
INSERT INTO enrolment (journey_id, version, person_id, present_id, object, step, visit, phase, due_at, since_at, entered_at,
  arrived_at, end_reason)
SELECT DISTINCT ON (g.journey_id, g.person_id, g.object) g.journey_id, g.version, g.person_id, g.person_id, g.object, 0, 0, 0,
  $7::timestamptz, g.since_at, $7::timestamptz, $7::timestamptz, ''
FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::text[], $5::bigint[], $6::timestamptz[])
  AS g (journey_id, version, person_id, object, again, since_at)
WHERE NOT EXISTS (
  SELECT 1 FROM enrolment e WHERE e.journey_id = g.journey_id AND e.present_id = g.person_id AND e.object = g.object
  AND (e.ended_at IS NULL OR g.again < 0 OR e.entered_at + make_interval(secs => g.again) > $7::timestamptz))
ORDER BY g.journey_id, g.person_id, g.object, g.since_at
ON CONFLICT (journey_id, present_id, object) WHERE ended_at IS NULL DO NOTHING
RETURNING {PERSON_COLUMNS}, journey_id, version
"""  # noqa: S608

# Whoever has several enrolments of one journey and object under way goes on with the oldest.
_FOLLOW = """
WITH RECURSIVE theirs AS (
  SELECT enrolment_id, journey_id, person_id, present_id, object, entered_at, ended_at FROM enrolment
  WHERE present_id = ANY(CAST(:persons AS bigint[]))
), way (person_id, present_id) AS (
  SELECT DISTINCT person_id, person_id FROM theirs
  UNION SELECT w.person_id, a.survivor_id FROM way w JOIN person_alias a ON a.person_id = w.present_id
  AND a.survivor_id IS NOT NULL
), present AS (
  SELECT w.person_id, w.present_id FROM way w
  WHERE NOT EXISTS (SELECT 1 FROM person_alias a WHERE a.person_id = w.present_id AND a.survivor_id IS NOT NULL)
), placed AS (
  SELECT t.enrolment_id, p.present_id, t.present_id AS was, t.ended_at IS NULL AND row_number() OVER (
    PARTITION BY t.journey_id, p.present_id, t.object, t.ended_at IS NULL ORDER BY t.entered_at, t.enrolment_id) > 1 AS second
  FROM theirs t JOIN present p USING (person_id)
)
"""
_END_SECONDS = (
    _FOLLOW  # noqa: S608
    + "UPDATE enrolment e SET ended_at = CAST(:now AS timestamptz), end_reason = 'merged'"
    " FROM placed WHERE placed.enrolment_id = e.enrolment_id AND placed.second"
)
_RENAME = (
    _FOLLOW  # noqa: S608
    + "UPDATE enrolment e SET present_id = placed.present_id"
    " FROM placed WHERE placed.enrolment_id = e.enrolment_id AND placed.present_id <> placed.was"
)


# (enrolment, visit, version, step, outcome, when) of a step that was left.
Left = tuple[int, int, int, int, str, datetime]
# Fewer are not worth a COPY of their own.
FEW = 1_000


class Entrant(NamedTuple):
    """Somebody who meets a trigger. `again` as _ENTER has it."""

    journey_id: int
    version: int
    person_id: int
    object: str
    again: int
    since_at: datetime


class EnrolmentStore:
    """Enrolments of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def with_due(self, now: datetime) -> Sequence[Any]:
        """(journey_id, salt) of journeys that run and have somebody due."""
        return await self._uow.rows(
            "SELECT journey_id, salt FROM journey j WHERE state = 4 AND EXISTS (SELECT 1 FROM enrolment e"
            " WHERE e.journey_id = j.journey_id AND e.ended_at IS NULL AND e.due_at <= :now) ORDER BY journey_id",
            now=now,
        )

    async def left_over(self) -> list[int]:
        """Journeys that are over and still have somebody in them."""
        rows = await self._uow.rows(
            "SELECT journey_id FROM journey j WHERE state = 6 AND EXISTS (SELECT 1 FROM enrolment e"
            " WHERE e.journey_id = j.journey_id AND e.ended_at IS NULL) ORDER BY journey_id"
        )
        return [row.journey_id for row in rows]

    async def claim(self, journey_id: int, now: datetime, most: int) -> Sequence[Any]:
        """Due people of a journey that runs, locked for this transaction; others' are passed over."""
        return await self._uow.fetch(_CLAIM, journey_id, now, most)

    async def again(self, journey_id: int, version: int, enrolments: Sequence[int], visits: Sequence[int]) -> Sequence[Any]:
        """Of those who asked the ones that still wait for the answer, locked; nobody of a journey that does not run."""
        return await self._uow.fetch(_AGAIN, enrolments, visits, journey_id, version)

    async def of_persons(self, persons: Iterable[int]) -> Sequence[Any]:
        """What some persons are under way in, locked, with what events are compared with."""
        return await self._uow.fetch(
            f"SELECT {PERSON_COLUMNS}, version, journey_id, object, since_at FROM enrolment"  # noqa: S608
            " WHERE present_id = ANY($1::bigint[]) AND ended_at IS NULL ORDER BY enrolment_id FOR UPDATE",
            sorted(set(persons)),
        )

    async def move(self, columns: Sequence[Sequence[Any]], now: datetime) -> None:
        """(enrolments, versions, steps, visits, phases, due, reasons): where people stand now, or why they ended."""
        await self._uow.fetch(_MOVE, *columns, now)

    async def enter(self, entrants: Sequence[Entrant], now: datetime) -> Sequence[Any]:
        """Those who enter, as rows with journey and version; who may not, is passed over."""
        if not entrants:
            return []
        columns = [list(column) for column in zip(*entrants, strict=True)]
        return await self._uow.fetch(_ENTER, *columns, now)

    async def end(self, enrolments: Sequence[int], reasons: Sequence[str], now: datetime) -> None:
        """Ends some where they stand."""
        await self._uow.execute(
            "UPDATE enrolment e SET ended_at = CAST(:now AS timestamptz), end_reason = u.reason FROM"
            " unnest(CAST(:ids AS bigint[]), CAST(:reasons AS text[])) AS u (id, reason) WHERE e.enrolment_id = u.id",
            ids=list(enrolments),
            reasons=list(reasons),
            now=now,
        )

    async def call(self, enrolments: Sequence[int], now: datetime) -> None:
        """What some waited for came: they are due, and will go on as called."""
        await self._uow.execute(
            "UPDATE enrolment SET phase = 2, due_at = CAST(:now AS timestamptz)"
            " WHERE enrolment_id = ANY(CAST(:ids AS bigint[]))",
            ids=list(enrolments),
            now=now,
        )

    async def end_some(self, journey_id: int, reason: str, now: datetime, most: int) -> int:
        """Ends up to `most` of a journey that is over."""
        return await self._uow.execute(
            "UPDATE enrolment SET ended_at = CAST(:now AS timestamptz), end_reason = :reason WHERE enrolment_id IN ("
            " SELECT enrolment_id FROM enrolment WHERE journey_id = :id AND ended_at IS NULL ORDER BY due_at LIMIT :most"
            " FOR UPDATE SKIP LOCKED)",
            id=journey_id,
            reason=reason,
            now=now,
            most=most,
        )

    async def transfer(self, journey_id: int, columns: Sequence[Sequence[int]], to: int, restart: bool, now: datetime) -> int:
        """Moves people from (versions, steps) to the steps of version `to`.

        `restart` or another kind of step there (again = 1): they arrive anew; else they wait on as they did.
        """
        return await self._uow.execute(
            "UPDATE enrolment e SET version = :to, step = u.target,"
            " phase = CASE WHEN u.anew = 1 THEN 0 ELSE e.phase END,"
            " arrived_at = CASE WHEN u.anew = 1 THEN CAST(:now AS timestamptz) ELSE e.arrived_at END,"
            " due_at = CASE WHEN u.anew = 1 THEN CAST(:now AS timestamptz) ELSE e.due_at END"
            " FROM unnest(CAST(:versions AS integer[]), CAST(:steps AS smallint[]), CAST(:targets AS smallint[]),"
            " CAST(:anew AS smallint[])) AS u (version, step, target, anew)"
            " WHERE e.journey_id = :id AND e.ended_at IS NULL AND e.version = u.version AND e.step = u.step",
            id=journey_id,
            to=to,
            now=now,
            versions=list(columns[0]),
            steps=list(columns[1]),
            targets=list(columns[2]),
            anew=[1] * len(columns[0]) if restart else list(columns[3]),
        )

    async def follow(self, persons: Iterable[int], now: datetime) -> None:
        """After persons became one or parted: enrolments are whose they are now, and of two alike the older goes on."""
        ids = sorted(set(persons))
        await self._uow.execute("SELECT pg_advisory_xact_lock(hashtext('orchestrator merge'))")
        await self._uow.execute(_END_SECONDS, persons=ids, now=now)
        await self._uow.execute(_RENAME, persons=ids)

    async def pass_by(self, plain: Sequence[Left], numbered: Sequence[Left]) -> list[int]:
        """Notes steps that were left; a second one of a visit is an error. Returns the numbers of the numbered."""
        few = [*plain, *numbered] if len(plain) < FEW else list(numbered)
        if len(few) == len(numbered):
            await self._uow.copy(
                "journey_passage", ("enrolment_id", "visit", "version", "step", "outcome", "left_at"), list(plain)
            )
        if not few:
            return []
        rows = await self._uow.fetch(
            "INSERT INTO journey_passage (enrolment_id, visit, version, step, outcome, left_at) SELECT * FROM"
            " unnest($1::bigint[], $2::integer[], $3::integer[], $4::smallint[], $5::text[], $6::timestamptz[])"
            " RETURNING enrolment_id, visit, effect_id",
            *[list(column) for column in zip(*few, strict=True)],
        )
        number = {(row[0], row[1]): row[2] for row in rows}
        return [number[each[0], each[1]] for each in numbered]
