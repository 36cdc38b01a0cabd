"""Who may be told apart: what persons said of personalisation, kept by anchor, with the owner that the anchor has now.

Scores are for those who have not switched personalisation off (PIPL 24); attributes are inferred only of those who have
switched it on. The strictest of a person's anchors counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chassis.consents import OPT_IN, OPT_OUT
from chassis.db import UnitOfWork
from services.scoring import store
from services.scoring.frame import Ids

PURPOSE: Final = "personalisation"
NEVER: Final = -1
# Where a grant has no end.
NO_END: Final = 2**63 - 1
_ALONE: Final = "SELECT pg_advisory_xact_lock(hashtext('scoring consents'))"


class Said(NamedTuple):
    """A statement about personalisation through an anchor; times in microseconds since the epoch, UTC.

    `sequence`: the place of its message in the stream.
    """

    anchor_id: int
    person_id: int
    given: bool
    stated_us: int
    expires_us: int
    sequence: int = 0


class Move(NamedTuple):
    """An anchor belongs to a person as of a version of the graph."""

    anchor_id: int
    person_id: int
    version: int


async def keep(uow: UnitOfWork, said: Sequence[Said], moves: Sequence[Move]) -> list[int]:
    """Keeps statements and owners, in whatever order they come and however often; returns persons whose answer may differ."""
    if not (said or moves):
        return []
    # Statements, moves and erasures come in several transactions: whoever is second must see what the first one did.
    await uow.rows(_ALONE)
    said, moves = await _of_the_living(uow, said, moves)
    concerned = set()
    if moves:
        anchors, persons, versions = (list(column) for column in zip(*moves, strict=True))
        await uow.execute(
            "INSERT INTO anchor_owner AS o (anchor_id, person_id, version)"
            " SELECT DISTINCT ON (1) * FROM unnest(CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]),"
            " CAST(:versions AS bigint[])) AS m(anchor_id, person_id, version) ORDER BY anchor_id, version DESC"
            " ON CONFLICT (anchor_id) DO UPDATE SET person_id = excluded.person_id, version = excluded.version"
            " WHERE o.version < excluded.version",
            anchors=anchors,
            persons=persons,
            versions=versions,
        )
        rows = await uow.rows(
            "UPDATE consent c SET person_id = o.person_id FROM consent was, anchor_owner o"
            " WHERE c.anchor_id = ANY(CAST(:anchors AS bigint[])) AND was.anchor_id = c.anchor_id"
            " AND o.anchor_id = c.anchor_id AND c.person_id <> o.person_id RETURNING c.person_id, was.person_id AS former",
            anchors=anchors,
        )
        concerned |= {person for row in rows for person in row}
    if said:
        columns = [list(column) for column in list(zip(*said, strict=True))[:5]]
        rows = await uow.rows(
            "INSERT INTO consent AS c (anchor_id, person_id, withdrawn_us, given_us, expires_us)"
            " SELECT s.anchor, coalesce(max(o.person_id), max(s.person)),"
            " coalesce(max(s.stated) FILTER (WHERE NOT s.given), -1), coalesce(max(s.stated) FILTER (WHERE s.given), -1),"
            " coalesce((array_agg(s.expires ORDER BY s.stated DESC, s.expires) FILTER (WHERE s.given))[1],"
            " CAST(:no_end AS bigint))"
            " FROM unnest(CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]), CAST(:given AS boolean[]),"
            " CAST(:stated AS bigint[]), CAST(:expires AS bigint[])) AS s (anchor, person, given, stated, expires)"
            " LEFT JOIN anchor_owner o ON o.anchor_id = s.anchor GROUP BY s.anchor ORDER BY s.anchor"
            " ON CONFLICT (anchor_id) DO UPDATE SET"
            " withdrawn_us = GREATEST(c.withdrawn_us, excluded.withdrawn_us),"
            " given_us = GREATEST(c.given_us, excluded.given_us), lapsed = false,"
            " expires_us = CASE WHEN excluded.given_us > c.given_us THEN excluded.expires_us"
            " WHEN excluded.given_us < c.given_us THEN c.expires_us ELSE LEAST(c.expires_us, excluded.expires_us) END"
            " RETURNING c.person_id",
            no_end=NO_END,
            **dict(zip(("anchors", "persons", "given", "stated", "expires"), columns, strict=True)),
        )
        concerned |= {row.person_id for row in rows}
    return sorted(concerned)


async def silent(uow: UnitOfWork, persons: Ids, regime: str, at: datetime) -> NDArray[np.bool_]:
    """Of whom nothing personal may be said at a moment; `regime` is opt_out (unless forbidden) or opt_in (only if allowed)."""
    rows = await uow.rows(
        # Of a grant and a withdrawal at one instant, the stricter counts.
        "SELECT person_id, bool_or(withdrawn_us >= given_us) AS forbidden,"
        " bool_or(given_us > withdrawn_us AND expires_us > :now) AS allowed"
        " FROM consent WHERE person_id = ANY(CAST(:ids AS bigint[])) GROUP BY person_id",
        ids=persons.tolist(),
        now=int(at.timestamp() * 1e6),
    )
    if regime == OPT_OUT:
        return np.isin(persons, [row.person_id for row in rows if row.forbidden])
    if regime != OPT_IN:
        raise ValueError(regime)
    return ~np.isin(persons, [row.person_id for row in rows if row.allowed and not row.forbidden])


async def forbidden(uow: UnitOfWork) -> Ids:
    """Everybody who has switched personalisation off, ascending."""
    rows = await uow.fetch("SELECT DISTINCT person_id FROM consent WHERE withdrawn_us >= given_us ORDER BY 1")
    return np.fromiter((row[0] for row in rows), np.int64, len(rows))


def regime_of(card: Mapping[str, object]) -> str:
    """The regime of a version, from its card."""
    return str(card.get("consent", OPT_OUT))


async def lapse(uow: UnitOfWork, at: datetime) -> list[int]:
    """Persons of whom a grant has ended by a moment, each end told once."""
    rows = await uow.rows(
        "UPDATE consent SET lapsed = true WHERE NOT lapsed AND expires_us <= :now RETURNING person_id",
        now=int(at.timestamp() * 1e6),
    )
    return sorted({row.person_id for row in rows})


async def forget(uow: UnitOfWork, erased: Mapping[int, int]) -> None:
    """Forgets what was said through anchors of erased persons, and whose they are.

    `erased`: anchors, each with the place of its erasure in the stream; what stands before it must not come back.
    """
    await uow.rows(_ALONE)
    for table in ("consent", "anchor_owner"):
        await uow.execute(f"DELETE FROM {table} WHERE anchor_id = ANY(CAST(:anchors AS bigint[]))", anchors=list(erased))  # noqa: S608
    await uow.execute(
        "INSERT INTO erased_anchor AS e (anchor_id, sequence)"
        " SELECT * FROM unnest(CAST(:anchors AS bigint[]), CAST(:sequences AS bigint[])) ORDER BY 1"
        " ON CONFLICT (anchor_id) DO UPDATE SET sequence = GREATEST(e.sequence, excluded.sequence)",
        anchors=list(erased),
        sequences=list(erased.values()),
    )


async def _of_the_living(uow: UnitOfWork, said: Sequence[Said], moves: Sequence[Move]) -> tuple[list[Said], list[Move]]:
    """Without what is said of erased persons, and what was said through their anchors before they were erased.

    A value that others use, too, may become somebody else's anchor afterwards: what she says then counts.
    """
    erased = await store.erased(uow, [*(each.person_id for each in said), *(each.person_id for each in moves)])
    rows = await uow.rows(
        "SELECT anchor_id, sequence FROM erased_anchor WHERE anchor_id = ANY(CAST(:ids AS bigint[]))",
        ids=[each.anchor_id for each in said],
    )
    since = {row.anchor_id: row.sequence for row in rows}
    return (
        [each for each in said if each.person_id not in erased and each.sequence >= since.get(each.anchor_id, 0)],
        [each for each in moves if each.person_id not in erased],
    )
