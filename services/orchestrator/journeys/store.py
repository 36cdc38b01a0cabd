"""Journeys and their versions."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from chassis.db import UnitOfWork
from services.orchestrator.journeys.states import Journey, JourneyId, State

_SELECT = (
    "SELECT j.journey_id, j.state, j.version, COALESCE(j.running_version, 0) AS running_version, j.salt, v.document, v.author,"
    " COALESCE(v.submitted_by, '') AS submitted_by, COALESCE(v.approved_by, '') AS approved_by, v.stated_at, v.approved_at,"
    " j.created_at, j.started_at, j.finished_at, ARRAY(SELECT DISTINCT w.author FROM journey_version w"
    " WHERE w.journey_id = j.journey_id AND w.version > COALESCE((SELECT max(a.version) FROM journey_version a"
    " WHERE a.journey_id = j.journey_id AND a.version < j.version AND a.approved_by IS NOT NULL), 0) ORDER BY 1) AS authors"
    " FROM journey j JOIN journey_version v USING (journey_id, version)"
)

_CROSS = """
WITH given AS (
  SELECT * FROM unnest($2::bigint[], $3::smallint[], $4::bigint[]) AS g (person_id, above, scored_us)
), was AS (
  SELECT s.person_id, s.above FROM journey_side s JOIN given USING (person_id) WHERE s.journey_id = $1
), kept AS (
  INSERT INTO journey_side AS s (journey_id, person_id, above, scored_us)
  SELECT $1, person_id, above, scored_us FROM given ORDER BY person_id
  ON CONFLICT (journey_id, person_id) DO UPDATE SET above = EXCLUDED.above, scored_us = EXCLUDED.scored_us
  WHERE EXCLUDED.scored_us > s.scored_us
  RETURNING s.person_id, s.above
)
SELECT k.person_id, k.above, COALESCE(w.above, 0) AS was FROM kept k LEFT JOIN was w USING (person_id)
"""


class JourneyStore:
    """Journeys of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def by_request(self, request_id: str) -> Journey | None:
        """The journey that a request made before."""
        return _first(await self._uow.rows(_SELECT + " WHERE j.request_id = :r", r=request_id))

    async def add(self, document: str, request_id: str, author: str) -> JourneyId:
        """A new draft; the one made before when another transaction was faster with the same request."""
        rows = await self._uow.rows(
            "INSERT INTO journey (request_id, state, version, salt) VALUES (:request_id, 1, 1, :salt)"
            # The update changes nothing; it waits for the other transaction and makes RETURNING show its row.
            " ON CONFLICT (request_id) DO UPDATE SET request_id = EXCLUDED.request_id RETURNING journey_id",
            request_id=request_id or None,
            salt=secrets.token_bytes(16),
        )
        journey_id = JourneyId(rows[0].journey_id)
        await self._uow.execute(
            "INSERT INTO journey_version (journey_id, version, document, author) VALUES (:id, 1, :document, :author)"
            " ON CONFLICT DO NOTHING",
            id=journey_id,
            document=document,
            author=author,
        )
        return journey_id

    async def change(self, journey: Journey, document: str, author: str) -> None:
        """A new latest version; what runs, runs on."""
        await self._uow.execute(
            "INSERT INTO journey_version (journey_id, version, document, author) VALUES (:id, :version, :document, :author)",
            id=journey.journey_id,
            version=journey.version + 1,
            document=document,
            author=author,
        )
        await self._uow.execute(
            "UPDATE journey SET version = version + 1, state = CASE WHEN state < 4 THEN 1 ELSE state END"
            " WHERE journey_id = :id",
            id=journey.journey_id,
        )

    async def get(self, journey_id: JourneyId) -> Journey | None:
        """One journey."""
        return _first(await self._uow.rows(_SELECT + " WHERE j.journey_id = :id", id=journey_id))

    async def lock(self, journey_id: JourneyId) -> Journey | None:
        """One journey, kept from others until the transaction ends."""
        return _first(await self._uow.rows(_SELECT + " WHERE j.journey_id = :id FOR UPDATE OF j", id=journey_id))

    async def page(self, before: int, size: int) -> list[Journey]:
        """Journeys with ids below `before`, newest first."""
        rows = await self._uow.rows(
            _SELECT + " WHERE j.journey_id < :before ORDER BY j.journey_id DESC LIMIT :size", before=before, size=size
        )
        return [_journey(row) for row in rows]

    async def versions(self, journey_id: JourneyId) -> Sequence[Any]:
        """(version, author, submitted_by, approved_by, stated_at, approved_at), newest first."""
        return await self._uow.rows(
            "SELECT version, author, COALESCE(submitted_by, '') AS submitted_by, COALESCE(approved_by, '') AS approved_by,"
            " stated_at, approved_at FROM journey_version WHERE journey_id = :id ORDER BY version DESC",
            id=journey_id,
        )

    async def document(self, journey_id: int, version: int) -> str:
        """What a version says."""
        rows = await self._uow.rows(
            "SELECT document FROM journey_version WHERE journey_id = :id AND version = :version", id=journey_id, version=version
        )
        return str(rows[0].document)

    async def live(self) -> Sequence[Any]:
        """(journey_id, state, running_version, salt, started_at, version) of each version that people enter or may be in."""
        return await self._uow.rows(
            "SELECT j.journey_id, j.state, j.running_version, j.salt, j.started_at, v.version FROM journey j"
            " JOIN journey_version v ON v.journey_id = j.journey_id AND v.approved_at IS NOT NULL"
            " WHERE j.state IN (4, 5) ORDER BY j.journey_id, v.version"
        )

    async def days(self, journey_id: int, first: date) -> set[date]:
        """Days from `first` on whose dates were looked for."""
        rows = await self._uow.rows(
            "SELECT day FROM journey_day WHERE journey_id = :id AND day >= :first", id=journey_id, first=first
        )
        return {row.day for row in rows}

    async def mark(self, journey_id: int, day: date) -> bool:
        """A day's dates are being looked for; False when somebody was faster."""
        return bool(
            await self._uow.execute(
                "INSERT INTO journey_day (journey_id, day) VALUES (:id, :day) ON CONFLICT DO NOTHING", id=journey_id, day=day
            )
        )

    async def cross(self, journey_id: int, sides: Sequence[tuple[int, bool, int]], up: bool) -> list[int]:
        """Of (person, above, microseconds), one each or the newest counts: who came over to the side that is meant.

        Nobody's side before the first word is below; older words than the last change nothing.
        """
        newest: dict[int, tuple[int, bool]] = {}
        for person, above, at in sides:
            newest[person] = max(newest.get(person, (at, above)), (at, above))
        persons = sorted(newest)
        columns = [int(newest[each][1]) for each in persons], [newest[each][0] for each in persons]
        # Locked before they are compared: within one statement a row that it changes itself cannot be.
        await self._uow.fetch(
            "SELECT 1 FROM journey_side WHERE journey_id = $1 AND person_id = ANY($2::bigint[]) ORDER BY person_id FOR UPDATE",
            journey_id,
            persons,
        )
        rows = await self._uow.fetch(_CROSS, journey_id, persons, *columns)
        return [row["person_id"] for row in rows if (row["above"], row["was"]) == ((1, 0) if up else (0, 1))]

    async def seed_sides(self, journey_id: int, above: Sequence[int]) -> None:
        """Who stands above the line when the journey starts has not just crossed it."""
        await self._uow.execute(
            "INSERT INTO journey_side (journey_id, person_id, above, scored_us) SELECT :id, p, 1, 0"
            " FROM unnest(CAST(:persons AS bigint[])) AS p ON CONFLICT DO NOTHING",
            id=journey_id,
            persons=list(above),
        )

    async def runs(self, journey_id: int) -> bool:
        """Whether people may move."""
        return bool(await self._uow.rows("SELECT 1 FROM journey WHERE journey_id = :id AND state = 4", id=journey_id))

    async def take_hold(self) -> None:
        """Waits for all who act on states and running versions, and keeps them waiting; for those who change them."""
        await self._uow.execute("SELECT pg_advisory_xact_lock(hashtext('orchestrator journeys'))")

    async def submit(self, journey: Journey, caller: str) -> None:
        """The latest version waits for a second person."""
        await self._uow.execute(
            "UPDATE journey_version SET submitted_by = :caller WHERE journey_id = :id AND version = :version",
            id=journey.journey_id,
            version=journey.version,
            caller=caller,
        )
        if journey.state is State.DRAFT:
            await self.set_state(journey.journey_id, State.IN_REVIEW)

    async def approve(self, journey: Journey, caller: str) -> None:
        """The latest version may run."""
        await self._uow.execute(
            "UPDATE journey_version SET approved_by = :caller, approved_at = now()"
            " WHERE journey_id = :id AND version = :version",
            id=journey.journey_id,
            version=journey.version,
            caller=caller,
        )
        if journey.state is State.IN_REVIEW:
            await self.set_state(journey.journey_id, State.APPROVED)

    async def run(self, journey: Journey) -> None:
        """People enter the latest version from now on."""
        await self._uow.execute("UPDATE journey SET running_version = version WHERE journey_id = :id", id=journey.journey_id)

    async def set_state(self, journey_id: JourneyId, state: State, now: datetime | None = None) -> None:
        """Moves a journey; keeps when it first ran and when it finished."""
        await self._uow.execute(
            "UPDATE journey SET state = CAST(:state AS smallint), started_at = CASE WHEN CAST(:state AS smallint) = 4"
            " THEN COALESCE(started_at, CAST(:now AS timestamptz)) ELSE started_at END,"
            " finished_at = CASE WHEN CAST(:state AS smallint) = 6 THEN CAST(:now AS timestamptz) END WHERE journey_id = :id",
            id=journey_id,
            state=state.value,
            now=now,
        )


def _first(rows: Sequence[Any]) -> Journey | None:
    return _journey(rows[0]) if rows else None


def _journey(row: Any) -> Journey:
    return Journey(
        JourneyId(row.journey_id),
        State(row.state),
        row.version,
        row.running_version,
        bytes(row.salt),
        row.document,
        row.author,
        row.submitted_by,
        row.approved_by,
        row.stated_at,
        row.approved_at,
        row.created_at,
        row.started_at,
        row.finished_at,
        tuple(row.authors),
    )
