"""SQL of what must stay forgotten: anchors of erased persons, as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chassis.db import UnitOfWork


class Tombstone(NamedTuple):
    """An anchor of an erased person, and the last version that is known to have shown it with that person (0: none)."""

    anchor_id: int
    person_id: int
    version: int = 0

    def covers(self, entity_id: int, version: int) -> bool:
        """Whether who says that the anchor belongs to this entity since this version speaks of the time before the erasure.

        A value that others used, too, may become somebody else's anchor afterwards: that is told with a newer version.
        """
        return entity_id == self.person_id or version <= self.version


async def tombstones(uow: UnitOfWork, anchor_ids: Iterable[int]) -> dict[int, Tombstone]:
    """Those of some anchors that were an erased person's."""
    rows = await uow.rows(
        "SELECT anchor_id, person_id, version FROM erased_anchor WHERE anchor_id = ANY(CAST(:ids AS bigint[]))",
        ids=sorted(anchor_ids),
    )
    return {row.anchor_id: Tombstone(*row) for row in rows}


async def erased_persons(uow: UnitOfWork, person_ids: Iterable[int]) -> set[int]:
    """Those of some persons that were erased."""
    rows = await uow.rows(
        "SELECT DISTINCT person_id FROM erased_anchor WHERE person_id = ANY(CAST(:ids AS bigint[]))", ids=sorted(person_ids)
    )
    return {row.person_id for row in rows}


async def bury(uow: UnitOfWork, stones: Sequence[Tombstone]) -> None:
    """Deletes all that hangs on anchors and leaves tombstones; what they said of cars goes, and the cars stay."""
    anchors = [stone.anchor_id for stone in stones]
    await uow.execute(
        "INSERT INTO erased_anchor AS e (anchor_id, person_id, version) SELECT * FROM unnest(CAST(:anchors AS bigint[]),"
        " CAST(:persons AS bigint[]), CAST(:versions AS bigint[])) ORDER BY 1"
        " ON CONFLICT (anchor_id) DO UPDATE SET version = GREATEST(e.version, EXCLUDED.version)",
        anchors=anchors,
        persons=[stone.person_id for stone in stones],
        versions=[stone.version for stone in stones],
    )
    await uow.execute("DELETE FROM relation WHERE person_anchor = ANY(CAST(:anchors AS bigint[]))", anchors=anchors)
    await uow.execute(
        "DELETE FROM anchor WHERE entity_kind = 1 AND anchor_id = ANY(CAST(:anchors AS bigint[]))", anchors=anchors
    )
    # Beside the partner's file a line would say who it was.
    await uow.execute("DELETE FROM import_line WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))", anchors=anchors)
    await uow.execute(
        "DELETE FROM told_relation WHERE subject_kind = 1 AND subject_id = ANY(CAST(:persons AS bigint[]))",
        persons=sorted({stone.person_id for stone in stones}),
    )
