"""The projection of consent: facts by anchor, the person's answer derived over the anchors that are theirs now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from chassis.consents import ALL_CHANNELS, OPT_OUT, SEPARATE, regime, uses
from chassis.db import Reader, UnitOfWork
from chassis.merges import present
from services.touchpoints.domain.consents import Statement, kept
from services.touchpoints.domain.deliveries import Channel

OPTED_OUT, NO_CONSENT = "opted_out", "no_consent"

# Of uses of data (number, person, anchor or 0, purpose, channel, separate: only separate consent counts), whether somebody
# withdrew it and whether somebody gave it, over the anchors of the person, or of whom it went into. An anchor's owner is the
# newest move's, and without any move whoever it belonged to when the consent was stated.
STANDING = f"""
SELECT u.number, bool_or(s.withdrawn) AS withdrawn, bool_or(s.given) AS given
FROM (SELECT a.number, {present("a.person")} AS person, a.anchor, a.purpose, a.channel, a.separate
    FROM unnest(CAST(:numbers AS int[]), CAST(:persons AS bigint[]), CAST(:anchors AS bigint[]), CAST(:purposes AS text[]),
        CAST(:channels AS text[]), CAST(:separate AS boolean[])) AS a(number, person, anchor, purpose, channel, separate)
    -- Worked out once for each.
    OFFSET 0) AS u
JOIN LATERAL (
    SELECT said.withdrawn_us >= said.given_us OR (said.withdrawn_us >= 0 AND NOT said.lasts) AS withdrawn,
        said.given_us > said.withdrawn_us AND said.lasts AS given
    FROM (
        SELECT max(c.withdrawn_us) AS withdrawn_us, coalesce(max(c.given_us) FILTER (WHERE c.counts), -1) AS given_us,
            coalesce((array_agg(c.expires_us ORDER BY c.given_us DESC, c.expires_us) FILTER (WHERE c.counts))[1], 0)
                > CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS bigint) AS lasts
        FROM (
            SELECT *, (NOT u.separate OR separate) AND given_us >= 0 AS counts FROM (
                SELECT c.* FROM consent c WHERE c.anchor_id = u.anchor
                UNION ALL SELECT c.* FROM consent c WHERE c.person_id = u.person
                    AND NOT EXISTS (SELECT FROM anchor_owner o WHERE o.anchor_id = c.anchor_id)
                UNION ALL SELECT c.* FROM anchor_owner o JOIN consent c USING (anchor_id) WHERE o.person_id = u.person
            ) AS theirs WHERE purpose = u.purpose AND channel IN ('{ALL_CHANNELS}', u.channel)
        ) AS c GROUP BY c.anchor_id
    ) AS said WHERE said.withdrawn_us >= 0 OR said.given_us >= 0
) AS s ON true GROUP BY u.number
"""  # noqa: S608  (a constant of ours)
# The same straight from the driver, for the sender, which asks it of every push.
STANDING_NOW = STANDING
for _number, _name in enumerate(("numbers", "persons", "anchors", "purposes", "channels", "separate"), 1):
    STANDING_NOW = STANDING_NOW.replace(f":{_name} ", f"${_number} ")


class Asked(NamedTuple):
    """A push that wants to go: to whom, through which anchor (0 for none), what for."""

    delivery_id: str
    person_id: int
    anchor_id: int
    purpose: str
    channel: Channel


async def save_consents(uow: UnitOfWork, statements: Sequence[Statement]) -> None:
    """Keeps what was said; order and repetition do not matter."""
    rows = kept(statements)
    await uow.execute(
        "INSERT INTO consent AS c (anchor_id, purpose, channel, separate, person_id, withdrawn_us, given_us, expires_us)"
        " SELECT * FROM unnest(CAST(:anchors AS bigint[]), CAST(:purposes AS text[]), CAST(:channels AS text[]),"
        " CAST(:separate AS boolean[]), CAST(:persons AS bigint[]), CAST(:withdrawn AS bigint[]), CAST(:given AS bigint[]),"
        " CAST(:expires AS bigint[]))"
        " ON CONFLICT (anchor_id, purpose, channel, separate) DO UPDATE SET"
        " person_id = CASE WHEN GREATEST(excluded.withdrawn_us, excluded.given_us) >= GREATEST(c.withdrawn_us, c.given_us)"
        " THEN excluded.person_id ELSE c.person_id END,"
        " withdrawn_us = GREATEST(c.withdrawn_us, excluded.withdrawn_us), given_us = GREATEST(c.given_us, excluded.given_us),"
        " expires_us = CASE WHEN excluded.given_us > c.given_us THEN excluded.expires_us"
        " WHEN excluded.given_us < c.given_us THEN c.expires_us ELSE LEAST(c.expires_us, excluded.expires_us) END"
        " WHERE excluded.withdrawn_us > c.withdrawn_us OR excluded.given_us >= c.given_us",
        anchors=[r.anchor_id for r in rows],
        purposes=[r.purpose for r in rows],
        channels=[r.channel for r in rows],
        separate=[r.separate for r in rows],
        persons=[r.person_id for r in rows],
        withdrawn=[r.withdrawn_us for r in rows],
        given=[r.given_us for r in rows],
        expires=[r.expires_us for r in rows],
    )


async def move_anchors(uow: UnitOfWork, moves: Sequence[tuple[int, int, int]]) -> None:
    """Applies (anchor, person, version); an older version never overrides a newer one."""
    newest: dict[int, tuple[int, int, int]] = {}
    for move in moves:
        if move[0] not in newest or move[2] > newest[move[0]][2]:
            newest[move[0]] = move
    latest = [newest[anchor] for anchor in sorted(newest)]
    await uow.execute(
        "INSERT INTO anchor_owner AS o (anchor_id, person_id, version)"
        " SELECT * FROM unnest(CAST(:anchors AS bigint[]), CAST(:persons AS bigint[]), CAST(:versions AS bigint[]))"
        " ON CONFLICT (anchor_id) DO UPDATE SET person_id = excluded.person_id, version = excluded.version"
        " WHERE excluded.version > o.version",
        anchors=[m[0] for m in latest],
        persons=[m[1] for m in latest],
        versions=[m[2] for m in latest],
    )


async def forbidden(reader: Reader, pushes: Sequence[Asked], regimes: Mapping[str, str]) -> dict[str, str]:
    """Of pushes those that may not go now, with the reason: forbidden by the person, or not allowed where that is needed."""
    asked = [
        (push, use, regime(regimes, use, push.channel.consent_channel))
        for push in pushes
        for use in uses(push.purpose, push.channel.consent_channel)
    ]
    rows = await reader.fetch(
        STANDING_NOW,
        list(range(len(asked))),
        [push.person_id for push, _, _ in asked],
        [push.anchor_id for push, _, _ in asked],
        [use for _, use, _ in asked],
        [push.channel.consent_channel for push, _, _ in asked],
        [needs == SEPARATE for _, _, needs in asked],
    )
    standing = {row["number"]: (row["withdrawn"], row["given"]) for row in rows}
    found: dict[str, str] = {}
    for number, (push, _, needs) in enumerate(asked):
        withdrawn, given = standing.get(number, (False, False))
        if withdrawn:
            found[push.delivery_id] = OPTED_OUT
        elif needs != OPT_OUT and not given:
            found.setdefault(push.delivery_id, NO_CONSENT)
    return found
