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
# (person, uses withdrawn, uses given), masks of the numbers of the uses ($3 to $7), of whoever said anything about them.
_SAID = """
SELECT person_id, bit_or(CASE WHEN withdrawn THEN 1 << number ELSE 0 END) AS withdrawn,
  bit_or(CASE WHEN given THEN 1 << number ELSE 0 END) AS given FROM (
  SELECT person_id, number, needed,
    withdrawn_us >= given_us OR (withdrawn_us >= 0 AND expires_us <= $1) AS withdrawn,
    given_us > withdrawn_us AND expires_us > $1 AS given FROM (
    SELECT t.person_id, t.anchor_id, u.number, u.needed, max(t.withdrawn_us) AS withdrawn_us,
      coalesce(max(t.given_us) FILTER (WHERE separate OR NOT only_separate), -1) AS given_us,
      coalesce((array_agg(t.expires_us ORDER BY t.given_us DESC, t.expires_us)
        FILTER (WHERE separate OR NOT only_separate))[1], 0) AS expires_us
    FROM ({said}) AS t JOIN unnest($3::int[], $4::text[], $5::text[], $6::boolean[], $7::boolean[])
      AS u (number, use, via, needed, only_separate) ON t.purpose = u.use AND t.channel IN ($2, u.via)
    GROUP BY 1, 2, 3, 4
  ) AS a WHERE withdrawn_us >= 0 OR given_us >= 0
) AS s WHERE withdrawn OR (given AND needed) GROUP BY person_id ORDER BY person_id
"""
_WORDS = "c.anchor_id, c.purpose, c.channel, c.separate, c.withdrawn_us, c.given_us, c.expires_us"
_BY_ALL = (
    f"SELECT coalesce(o.person_id, c.person_id) AS person_id, {_WORDS} FROM consent c"  # noqa: S608
    " LEFT JOIN anchor_owner o USING (anchor_id)"
)
# What they said through anchors that never moved, and through those that they have now. A lateral question with a limit is
# asked by index, whatever the planner believes of the number of persons.
_BY_SOME = (
    f"SELECT c.person_id, {_WORDS} FROM consent c"  # noqa: S608
    " LEFT JOIN LATERAL (SELECT true AS moved FROM anchor_owner o WHERE o.anchor_id = c.anchor_id LIMIT 1) AS m ON true"
    " WHERE c.person_id = ANY($8::bigint[]) AND m.moved IS NULL"
    f" UNION ALL SELECT o.person_id, {_WORDS} FROM anchor_owner o JOIN consent c ON c.anchor_id = o.anchor_id"
    " WHERE o.person_id = ANY($8::bigint[])"
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
        rows = await self._uow.fetch(
            _SAID.format(said=_BY_ALL if among is None else _BY_SOME),
            int(now.timestamp() * 1_000_000),
            ALL_CHANNELS,
            list(range(len(asked))),
            [use for use, _, _, _ in asked],
            [channel for _, channel, _, _ in asked],
            [needs != OPT_OUT for _, _, _, needs in asked],
            [needs == SEPARATE for _, _, _, needs in asked],
            *([] if among is None else [list(among)]),
        )
        table = np.array([tuple(row) for row in rows], np.int64).reshape(-1, 3)
        persons, withdrawn, given = table[:, 0], table[:, 1], table[:, 2]
        masks, others = np.zeros(len(persons), np.int64), 0
        for number, (_, _, bit, needs) in enumerate(asked):
            closed = withdrawn >> number & 1
            if needs != OPT_OUT:
                others |= bit
                closed = closed | (given >> number & 1 ^ 1)
            masks |= closed * bit
        return Forbidden(persons, masks, others)
