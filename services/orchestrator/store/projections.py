"""What other rooms said, as the orchestrator remembers it: deliveries, goals, who became whom."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from chassis.db import UnitOfWork

Update = tuple[str, int, str, str, datetime]
GoalReached = tuple[int, int, int, int, datetime]
Move = tuple[int, int, int]
Alias = tuple[int, int | None, int]


class ProjectionStore:
    """Projections of one transaction. Every write is idempotent and the order of arrival does not matter."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def update_deliveries(self, updates: Sequence[Update]) -> None:
        """(delivery, state, reason, answer, at), one per delivery: the furthest state wins, an answer stays."""
        ids, states, reasons, answers, moments = _columns(updates, 5)
        await self._uow.execute(
            "INSERT INTO delivery (delivery_id, state, reason, answer, occurred_at) SELECT u.delivery_id, u.state, u.reason,"
            " u.answer, u.at FROM unnest(CAST(:ids AS text[]), CAST(:states AS smallint[]), CAST(:reasons AS text[]),"
            " CAST(:answers AS text[]), CAST(:moments AS timestamptz[])) AS u (delivery_id, state, reason, answer, at)"
            " JOIN decision USING (delivery_id) ORDER BY 1 ON CONFLICT (delivery_id) DO UPDATE SET"
            " state = GREATEST(delivery.state, EXCLUDED.state),"
            " reason = CASE WHEN EXCLUDED.state > delivery.state THEN EXCLUDED.reason ELSE delivery.reason END,"
            " answer = CASE WHEN EXCLUDED.answer <> '' THEN EXCLUDED.answer ELSE delivery.answer END,"
            " occurred_at = CASE WHEN EXCLUDED.state > delivery.state THEN EXCLUDED.occurred_at ELSE delivery.occurred_at END"
            " WHERE EXCLUDED.state > delivery.state OR EXCLUDED.answer <> ''",
            ids=ids,
            states=states,
            reasons=reasons,
            answers=answers,
            moments=moments,
        )

    async def reach_goals(self, goals: Sequence[GoalReached]) -> None:
        """(theme, anchor, person then, version, at), one per theme and anchor: the earliest wins."""
        themes, anchors, persons, versions, moments = _columns(goals, 5)
        await self._uow.execute(
            "INSERT INTO goal (theme_id, anchor_id, person_id, version, occurred_at) SELECT * FROM"
            " unnest(CAST(:themes AS bigint[]), CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]),"
            " CAST(:versions AS bigint[]), CAST(:moments AS timestamptz[])) ORDER BY 1, 2"
            " ON CONFLICT (theme_id, anchor_id) DO UPDATE SET person_id = EXCLUDED.person_id, version = EXCLUDED.version,"
            " occurred_at = EXCLUDED.occurred_at WHERE EXCLUDED.occurred_at < goal.occurred_at",
            themes=themes,
            anchors=anchors,
            persons=persons,
            versions=versions,
            moments=moments,
        )

    async def move_anchors(self, moves: Sequence[Move]) -> None:
        """(anchor, person, version), one per anchor: the newest version wins."""
        anchors, persons, versions = _columns(moves, 3)
        await self._uow.execute(
            "INSERT INTO anchor_owner (anchor_id, person_id, version) SELECT * FROM"
            " unnest(CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]), CAST(:versions AS bigint[])) ORDER BY 1"
            " ON CONFLICT (anchor_id) DO UPDATE SET person_id = EXCLUDED.person_id, version = EXCLUDED.version"
            " WHERE EXCLUDED.version > anchor_owner.version",
            anchors=anchors,
            persons=persons,
            versions=versions,
        )

    async def alias(self, aliases: Sequence[Alias]) -> None:
        """(person, who it went into or None when it is on its own, ledger entry), one per person: the newest entry wins."""
        persons, survivors, ops = _columns(aliases, 3)
        await self._uow.execute(
            "INSERT INTO person_alias (person_id, survivor_id, op_id) SELECT * FROM"
            " unnest(CAST(:persons AS bigint[]), CAST(:survivors AS bigint[]), CAST(:ops AS bigint[])) ORDER BY 1"
            " ON CONFLICT (person_id) DO UPDATE SET survivor_id = EXCLUDED.survivor_id, op_id = EXCLUDED.op_id,"
            " changed_at = now() WHERE EXCLUDED.op_id > person_alias.op_id",
            persons=persons,
            survivors=survivors,
            ops=ops,
        )


def _columns(records: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    return [list(column) for column in zip(*records, strict=True)] or [[] for _ in range(width)]
