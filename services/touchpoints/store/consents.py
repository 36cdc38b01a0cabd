"""The projection of consent: facts by anchor, the person's answer derived over the anchors that are theirs now."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.db import UnitOfWork
from services.touchpoints.domain.deliveries import Channel
from services.touchpoints.events import ConsentChange


async def save_consents(uow: UnitOfWork, changes: Sequence[ConsentChange]) -> None:
    """Keeps the latest statement for each anchor and channel; of two at one instant the stricter."""
    latest: dict[tuple[int, str], ConsentChange] = {}
    for change in changes:
        key = (change.anchor_id, change.channel)
        if key not in latest or _rank(change) > _rank(latest[key]):
            latest[key] = change
    kept = [latest[key] for key in sorted(latest)]
    await uow.execute(
        "INSERT INTO consent AS c (anchor_id, channel, person_id, opted_out, stated_at)"
        " SELECT * FROM unnest(CAST(:anchors AS bigint[]), CAST(:channels AS text[]), CAST(:persons AS bigint[]),"
        " CAST(:out AS boolean[]), CAST(:stated AS timestamptz[]))"
        " ON CONFLICT (anchor_id, channel) DO UPDATE SET person_id = excluded.person_id, opted_out = excluded.opted_out,"
        " stated_at = excluded.stated_at WHERE (excluded.stated_at, excluded.opted_out) > (c.stated_at, c.opted_out)",
        anchors=[c.anchor_id for c in kept],
        channels=[c.channel for c in kept],
        persons=[c.person_id for c in kept],
        out=[c.opted_out for c in kept],
        stated=[c.stated_at for c in kept],
    )


def _rank(change: ConsentChange) -> tuple[float, bool]:
    return change.stated_at.timestamp(), change.opted_out


async def move_anchors(uow: UnitOfWork, moves: Sequence[tuple[int, int, int]]) -> None:
    """Applies (anchor, person, version); an older version never overrides a newer one."""
    newest: dict[int, tuple[int, int, int]] = {}
    for move in moves:
        if move[0] not in newest or move[2] > newest[move[0]][2]:
            newest[move[0]] = move
    kept = [newest[anchor] for anchor in sorted(newest)]
    await uow.execute(
        "INSERT INTO anchor_owner AS o (anchor_id, person_id, version)"
        " SELECT * FROM unnest(CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]), CAST(:versions AS bigint[]))"
        " ON CONFLICT (anchor_id) DO UPDATE SET person_id = excluded.person_id, version = excluded.version"
        " WHERE excluded.version > o.version",
        anchors=[m[0] for m in kept],
        persons=[m[1] for m in kept],
        versions=[m[2] for m in kept],
    )


async def opted_out(uow: UnitOfWork, pushes: Sequence[tuple[str, int, int, Channel]]) -> set[str]:
    """Of (delivery, person, anchor or 0, channel) the deliveries that somebody forbade: the strictest over the anchors.

    An anchor's owner is the newest move's, and without any move whoever it belonged to when the consent was stated.
    """
    rows = await uow.rows(
        "SELECT DISTINCT p.delivery FROM unnest(CAST(:deliveries AS text[]), CAST(:persons AS bigint[]),"
        " CAST(:anchors AS bigint[]), CAST(:channels AS text[])) AS p(delivery, person, anchor, channel)"
        " JOIN LATERAL ("
        "   SELECT c.channel FROM consent c WHERE c.anchor_id = p.anchor AND c.opted_out"
        "   UNION ALL SELECT c.channel FROM consent c WHERE c.person_id = p.person AND c.opted_out"
        "     AND NOT EXISTS (SELECT FROM anchor_owner o WHERE o.anchor_id = c.anchor_id)"
        "   UNION ALL SELECT c.channel FROM anchor_owner o JOIN consent c USING (anchor_id)"
        "     WHERE o.person_id = p.person AND c.opted_out"
        " ) forbidden ON forbidden.channel IN ('all', p.channel)",
        deliveries=[p[0] for p in pushes],
        persons=[p[1] for p in pushes],
        anchors=[p[2] for p in pushes],
        channels=[p[3].label for p in pushes],
    )
    return {row.delivery for row in rows}
