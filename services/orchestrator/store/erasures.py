"""Erased persons: what is theirs goes, what only counts stays without them, and what comes late finds a tombstone.

Of a decision stays what the theme's report counts: outcome, channel, band of the score, whether it was handed over and how
far the push came, whether the goal was reached. Without it the rates of a finished experiment would change, and with them its
verdict. The row stands under a number below 0 that means nobody, its push under a new random id, its moments as days; place,
dealer, channels, probability and the score itself are gone. What was put off is dropped (outcome "erased").
Decisions of slots are deleted: what was learnt from them is sums over many.
Exposures to experiments and the events they measure are deleted: an experiment counts on without the person. Of leads stays
what a dealer's targets count, as a day of nobody's (leads/erasing.py). Ways through journeys and referrals are deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from chassis.db import UnitOfWork
from chassis.merges import below
from services.orchestrator.journeys import forgetting as journeys
from services.orchestrator.leads import erasing as leads
from services.orchestrator.reports.cells import BAND_WIDTH, BANDS

# Decisions of these persons, each with the number and the id that stand for nobody from now on, and whether it counts as won.
_FORGET = f"""
WITH gone AS (
  SELECT * FROM unnest(CAST(:persons AS bigint[]), CAST(:roots AS bigint[])) AS g (person_id, root)
), via AS (
  SELECT * FROM unnest(CAST(:anchors AS bigint[]), CAST(:anchor_roots AS bigint[])) AS v (anchor_id, root)
), lowest AS (
  SELECT t.theme_id, LEAST(0, (SELECT min(person_id) FROM decision m WHERE m.theme_id = t.theme_id)) AS floor FROM theme t
), reached AS (
  SELECT g.theme_id, via.root FROM goal g JOIN via USING (anchor_id)
  UNION SELECT g.theme_id, gone.root FROM goal g JOIN gone USING (person_id)
), theirs AS MATERIALIZED (
  SELECT d.theme_id, d.person_id, d.occasion, d.delivery_id,
    l.floor - dense_rank() OVER (PARTITION BY d.theme_id ORDER BY d.person_id) AS nobody,
    'erased-' || gen_random_uuid() AS push, (d.theme_id, g.root) IN (SELECT theme_id, root FROM reached) AS won
  FROM lowest l CROSS JOIN gone g JOIN decision d ON d.theme_id = l.theme_id AND d.person_id = g.person_id
), pushes AS (
  UPDATE delivery v SET delivery_id = t.push, reason = '', answer = '', occurred_at = date_trunc('day', v.occurred_at)
  FROM theirs t WHERE v.delivery_id = t.delivery_id
), cleared AS (
  DELETE FROM goal WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))
), others AS (
  UPDATE goal SET person_id = 0
  WHERE person_id = ANY(CAST(:persons AS bigint[])) AND NOT anchor_id = ANY(CAST(:anchors AS bigint[]))
), goals AS (
  INSERT INTO goal (theme_id, anchor_id, person_id, version, occurred_at)
  SELECT DISTINCT theme_id, nobody, nobody, 0, date_trunc('day', now()) FROM theirs WHERE won
)
UPDATE decision d SET person_id = t.nobody,
  outcome = CASE WHEN d.outcome = 'deferred' THEN 'erased' ELSE d.outcome END, reason = '', due_at = NULL,
  expires_at = date_trunc('day', d.expires_at), delivery_id = CASE WHEN d.delivery_id IS NOT NULL THEN t.push END,
  score = CASE WHEN d.score < 0 THEN -1 ELSE LEAST(floor(d.score / {BAND_WIDTH}), {BANDS - 1}) * {BAND_WIDTH} END,
  probability = 0, value = 0, position = 0, call_rank = 0, channels = 0, opted_out = 0, closed = 0, recent_pushes = 0,
  dealer_code = '', time_zone = '', decided_at = date_trunc('day', d.decided_at)
FROM theirs t WHERE d.theme_id = t.theme_id AND d.person_id = t.person_id AND d.occasion = t.occasion
"""  # noqa: S608  (constants of ours)


class Tombstone(NamedTuple):
    """An anchor of an erased person, and the last version that is known to have shown it with that person (0: none)."""

    anchor_id: int
    person_id: int
    version: int = 0

    def covers(self, person_id: int, version: int) -> bool:
        """Whether who says that the anchor belongs to this person since this version speaks of the time before the erasure.

        A value that others used, too, may become somebody else's anchor afterwards: that is told with a newer version.
        """
        return person_id == self.person_id or version <= self.version


class ErasureStore:
    """Erasures of one transaction. Repeats change nothing."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def tombstones(self, anchors: Iterable[int]) -> Mapping[int, Tombstone]:
        """Those of some anchors that were an erased person's."""
        rows = await self._uow.rows(
            "SELECT anchor_id, person_id, version FROM erased_anchor WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))",
            anchors=sorted(set(anchors)),
        )
        return {row.anchor_id: Tombstone(*row) for row in rows}

    async def erased(self, persons: Iterable[int]) -> set[int]:
        """Those of some persons that were erased."""
        rows = await self._uow.rows(
            "SELECT DISTINCT person_id FROM erased_anchor WHERE person_id = ANY(CAST(:persons AS bigint[]))",
            persons=sorted(set(persons)),
        )
        return {row.person_id for row in rows}

    async def erase(self, stones: Sequence[Tombstone], persons: Iterable[int] = ()) -> None:
        """Forgets the persons of the stones, further persons, and all who went into them.

        One at a time, and never in the arbiter's turn: a decision either knows the tombstones or is seen here.
        """
        await self._uow.execute("SELECT pg_advisory_xact_lock(hashtext('orchestrator arbiter'))")
        await self._uow.execute("SELECT pg_advisory_xact_lock(hashtext('orchestrator erasure'))")
        await self.bury(stones)
        gone = await self._uow.rows(
            f"SELECT DISTINCT ON (person_id) * FROM ({below('CAST(:persons AS bigint[])')}) AS gone"  # noqa: S608  (likewise)
            " ORDER BY person_id, root",
            persons=sorted({stone.person_id for stone in stones} | set(persons)),
        )
        persons, anchors = [row.person_id for row in gone], [stone.anchor_id for stone in stones]
        await self._uow.execute(
            _FORGET,
            persons=persons,
            roots=[row.root for row in gone],
            anchors=anchors,
            anchor_roots=[stone.person_id for stone in stones],
        )
        await leads.forget(self._uow, persons, anchors)
        await journeys.forget(self._uow, persons)
        await self._uow.execute(
            "DELETE FROM person_alias WHERE person_id = ANY(CAST(:persons AS bigint[]))"
            " OR survivor_id = ANY(CAST(:persons AS bigint[]))",
            persons=persons,
        )
        await self._uow.execute("DELETE FROM offer_decision WHERE person_id = ANY(CAST(:persons AS bigint[]))", persons=persons)
        # By experiment, because exposures are found by experiment and person.
        await self._uow.execute(
            "DELETE FROM exposure x USING experiment e, unnest(CAST(:persons AS bigint[])) AS gone"
            " WHERE x.experiment_id = e.experiment_id AND x.person_id = gone",
            persons=persons,
        )
        for table in ("consent", "anchor_owner", "experiment_event"):
            await self._uow.execute(
                f"DELETE FROM {table} WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))",  # noqa: S608
                anchors=anchors,
            )

    async def bury(self, stones: Sequence[Tombstone]) -> None:
        """Leaves tombstones, with the version that is known from the stone or from an earlier move."""
        await self._uow.execute(
            "INSERT INTO erased_anchor AS e (anchor_id, person_id, version)"
            " SELECT s.anchor_id, s.person_id, GREATEST(s.version, o.version) FROM unnest(CAST(:anchors AS bigint[]),"
            " CAST(:persons AS bigint[]), CAST(:versions AS bigint[])) AS s (anchor_id, person_id, version)"
            " LEFT JOIN anchor_owner o ON o.anchor_id = s.anchor_id AND o.person_id = s.person_id ORDER BY 1"
            " ON CONFLICT (anchor_id) DO UPDATE SET version = GREATEST(e.version, EXCLUDED.version)",
            anchors=[stone.anchor_id for stone in stones],
            persons=[stone.person_id for stone in stones],
            versions=[stone.version for stone in stones],
        )
