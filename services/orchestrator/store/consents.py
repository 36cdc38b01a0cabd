"""Who allowed and forbade what, as the orchestrator remembers it: kept by anchor, answered by person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chassis.consents import ALL_CHANNELS, OPT_OUT, SEPARATE, regime, uses
from chassis.db import UnitOfWork

Ints = NDArray[np.int64]
# Where a grant has no end.
NO_END = 2**63 - 1
# Restricts a question to the anchors that some persons have now, by index.
_OF_PERSONS = (
    " AND c.anchor_id IN (SELECT k.anchor_id FROM consent k WHERE k.person_id = ANY(CAST(:persons AS bigint[]))"
    " UNION SELECT w.anchor_id FROM anchor_owner w WHERE w.person_id = ANY(CAST(:persons AS bigint[])))"
)


class Statement(NamedTuple):
    """Somebody allowed or forbade a use of their data through an anchor; times in microseconds since the epoch, UTC."""

    anchor_id: int
    person_id: int
    purpose: str
    channel: str
    separate: bool
    given: bool
    stated_us: int
    expires_us: int


@dataclass(frozen=True)
class Forbidden:
    """Masks of channels that consent closes: of `persons` (ascending), and of everybody else."""

    persons: Ints
    masks: Ints
    others: int


class ConsentStore:
    """Consents of one transaction. Writing is idempotent and the order of arrival does not matter."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def keep(self, statements: Sequence[Statement]) -> None:
        """Keeps, of each anchor, purpose and channel, the latest withdrawal and the latest grant (of two, the shorter)."""
        columns = list(zip(*statements, strict=True)) or [()] * len(Statement._fields)
        await self._uow.execute(
            "INSERT INTO consent (anchor_id, purpose, channel, separate, person_id, withdrawn_us, given_us, expires_us)"
            " SELECT anchor, purpose, channel, separate, max(person), coalesce(max(stated) FILTER (WHERE NOT given), -1),"
            " coalesce(max(stated) FILTER (WHERE given), -1),"
            " coalesce((array_agg(expires ORDER BY stated DESC, expires) FILTER (WHERE given))[1], CAST(:no_end AS bigint))"
            " FROM unnest(CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]), CAST(:purposes AS text[]),"
            " CAST(:channels AS text[]), CAST(:separate AS boolean[]), CAST(:given AS boolean[]), CAST(:stated AS bigint[]),"
            " CAST(:expires AS bigint[])) AS s (anchor, person, purpose, channel, separate, given, stated, expires)"
            " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
            " ON CONFLICT (anchor_id, purpose, channel, separate) DO UPDATE SET person_id = EXCLUDED.person_id,"
            " withdrawn_us = GREATEST(consent.withdrawn_us, EXCLUDED.withdrawn_us),"
            " given_us = GREATEST(consent.given_us, EXCLUDED.given_us),"
            " expires_us = CASE WHEN EXCLUDED.given_us > consent.given_us THEN EXCLUDED.expires_us"
            " WHEN EXCLUDED.given_us < consent.given_us THEN consent.expires_us"
            " ELSE LEAST(consent.expires_us, EXCLUDED.expires_us) END",
            no_end=NO_END,
            **{
                name: list(column)
                for name, column in zip(
                    ("anchors", "persons", "purposes", "channels", "separate", "given", "stated", "expires"),
                    columns,
                    strict=True,
                )
            },
        )

    async def forbidden(
        self,
        purpose: str,
        bits: Mapping[str, int],
        regimes: Mapping[str, str],
        now: datetime,
        among: Sequence[int] | None = None,
    ) -> Forbidden:
        """Channels (with their bit) that may not carry a purpose: the strictest over all anchors a person has now.

        Only of those persons `among` whom to look, where that is given; they are to be named as they are now.
        """
        asked = [
            (use, channel, bit, regime(regimes, use, channel))
            for channel, bit in bits.items()
            for use in uses(purpose, channel)
        ]
        rows = await self._uow.rows(
            "SELECT person_id, bit_or(CASE WHEN withdrawn THEN 1 << number ELSE 0 END) AS withdrawn,"
            " bit_or(CASE WHEN given THEN 1 << number ELSE 0 END) AS given FROM ("
            " SELECT coalesce(o.person_id, a.person_id) AS person_id, a.number, a.needed,"
            " a.withdrawn_us >= a.given_us OR (a.withdrawn_us >= 0 AND a.expires_us <= :now_us) AS withdrawn,"
            " a.given_us > a.withdrawn_us AND a.expires_us > :now_us AS given FROM ("
            " SELECT c.anchor_id, u.number, u.needed, max(c.person_id) AS person_id, max(c.withdrawn_us) AS withdrawn_us,"
            " coalesce(max(c.given_us) FILTER (WHERE separate OR NOT only_separate), -1) AS given_us,"
            " coalesce((array_agg(c.expires_us ORDER BY c.given_us DESC, c.expires_us)"
            " FILTER (WHERE separate OR NOT only_separate))[1], 0) AS expires_us"
            " FROM unnest(CAST(:numbers AS int[]), CAST(:purposes AS text[]), CAST(:channels AS text[]),"
            " CAST(:needed AS boolean[]), CAST(:only_separate AS boolean[]))"
            " AS u (number, use, via, needed, only_separate)"
            " JOIN consent c ON c.purpose = u.use AND c.channel IN (:all_channels, u.via) /* among */"
            " GROUP BY c.anchor_id, u.number, u.needed) AS a LEFT JOIN anchor_owner o USING (anchor_id)"
            " WHERE a.withdrawn_us >= 0 OR a.given_us >= 0) AS s"
            " WHERE withdrawn OR (given AND needed) GROUP BY person_id ORDER BY person_id".replace(
                "/* among */", "" if among is None else _OF_PERSONS
            ),
            now_us=int(now.timestamp() * 1_000_000),
            all_channels=ALL_CHANNELS,
            numbers=list(range(len(asked))),
            purposes=[use for use, _, _, _ in asked],
            channels=[channel for _, channel, _, _ in asked],
            needed=[needs != OPT_OUT for _, _, _, needs in asked],
            only_separate=[needs == SEPARATE for _, _, _, needs in asked],
            **({} if among is None else {"persons": list(among)}),
        )
        table = np.array([(row.person_id, row.withdrawn, row.given) for row in rows], np.int64).reshape(-1, 3)
        persons, withdrawn, given = table[:, 0], table[:, 1], table[:, 2]
        masks, others = np.zeros(len(persons), np.int64), 0
        for number, (_, _, bit, needs) in enumerate(asked):
            closed = withdrawn >> number & 1
            if needs != OPT_OUT:
                others |= bit
                closed = closed | (given >> number & 1 ^ 1)
            masks |= closed * bit
        return Forbidden(persons, masks, others)
