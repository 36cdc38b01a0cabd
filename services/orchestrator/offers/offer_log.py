"""The log of decisions, what came of them, and the sums that were learnt from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from chassis.db import Pinned, Reader, UnitOfWork
from services.orchestrator.offers.choosing import WHYS
from services.orchestrator.offers.contexts import FEATURES

Floats = NDArray[np.float64]

# States of a decision: nothing is learnt from it; it waits for its window to close; its failure or success is in the sums.
UNLEARNT, WAITING, FAILED, SUCCEEDED = range(4)
OUTCOMES: Final = ("opened", "clicked", "answered", "declined")
# Sums are kept as little-endian doubles; what was kept before a feature came has fewer columns.
_KIND: Final = np.dtype("<f8")

_SELECT: Final = (
    "SELECT decision_id, person_id, slot, channel, language, offer_id, offer_version, why, propensity, rate, sd, matched,"
    " arms_id, learnt, codes, active, words::text AS words, decided_at, due_at, state, outcomes, rewarded_at"
    " FROM offer_decision"
)
# Whoever was erased between being asked about and now is nobody. `is_erased` waits for an erasure under way, and keeps the
# next one waiting until this is committed.
_INSERT: Final = """
INSERT INTO offer_decision (decision_id, person_id, slot, channel, language, offer_id, offer_version, why, propensity, rate, sd,
  matched, arms_id, learnt, codes, active, words, decided_at, due_at, state, outcomes)
SELECT n.decision_id, CASE WHEN n.person_id > 0 AND is_erased(n.person_id) THEN 0 ELSE n.person_id END, n.slot, n.channel,
  n.language, n.offer_id, n.offer_version, n.why, n.propensity, n.rate, n.sd, n.matched, n.arms_id, n.learnt, n.codes, n.active,
  n.words, n.decided_at, n.due_at, n.state, 0
FROM unnest($1::bytea[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::int[], $8::smallint[],
  $9::float8[], $10::float8[], $11::float8[], $12::float8[], $13::bigint[], $14::bigint[], $15::bytea[], $16::bytea[],
  $17::jsonb[], $18::timestamptz[], $19::timestamptz[], $20::smallint[])
  AS n (decision_id, person_id, slot, channel, language, offer_id, offer_version, why, propensity, rate, sd, matched, arms_id,
  learnt, codes, active, words, decided_at, due_at, state)
ON CONFLICT (decision_id) DO NOTHING RETURNING decision_id
"""


class Decided(NamedTuple):
    """A decision as it is stored; `codes` one byte per offer of the arms, `active` one per feature that was 1."""

    decision_id: bytes
    person_id: int
    slot: str
    channel: str
    language: str
    offer_id: int
    offer_version: int
    why: int
    propensity: float
    rate: float
    sd: float
    matched: float
    arms_id: int
    learnt: int
    codes: bytes
    active: bytes
    words: str
    decided_at: datetime
    due_at: datetime
    state: int


class Kept(NamedTuple):
    """A decision as it was read, with what came of it: bits of OUTCOMES, and when it became a success."""

    decided: Decided
    outcomes: int
    rewarded_at: datetime | None


@dataclass(frozen=True)
class Arms:
    """Offers that competed, in order of id, and what each was about."""

    offers: tuple[int, ...]
    content: tuple[frozenset[str], ...]


class Said(NamedTuple):
    """What came of a decision; `person_id`: who did it (0 nobody known), None when the teller knows whose decision it was."""

    decision_id: bytes
    outcome: int
    success: bool
    at: datetime
    person_id: int | None = None


class OfferLog:
    """The log of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def record(self, said: Sequence[Said], early_s: float) -> list[str]:
        """Keeps what came of decisions; empty or an UPPER_SNAKE refusal for each."""
        ids = sorted({each.decision_id for each in said})
        # Locked in one order, so that batches wait for one another and never deadlock.
        rows = await self._uow.fetch(
            "SELECT decision_id, person_id, offer_id, decided_at - make_interval(secs => $2) AS first, due_at"
            " FROM offer_decision WHERE decision_id = ANY($1::bytea[]) ORDER BY decision_id FOR UPDATE",
            ids,
            early_s,
        )
        known = {row["decision_id"]: row for row in rows}
        asked = {each.person_id for each in said if each.person_id is not None} | {row["person_id"] for row in rows}
        present = await present_of(self._uow, asked)
        verdicts = [_verdict(each, known.get(each.decision_id), present) for each in said]
        taken = [each for each, verdict in zip(said, verdicts, strict=True) if not verdict]
        await self._uow.fetch(
            "UPDATE offer_decision d SET outcomes = d.outcomes | t.bits, rewarded_at = LEAST(d.rewarded_at, t.won_at) FROM ("
            " SELECT id, bit_or(bit)::smallint AS bits, min(at) FILTER (WHERE success) AS won_at"
            " FROM unnest($1::bytea[], $2::smallint[], $3::boolean[], $4::timestamptz[]) AS s (id, bit, success, at)"
            " GROUP BY id) AS t WHERE d.decision_id = t.id",
            [each.decision_id for each in taken],
            [1 << each.outcome for each in taken],
            [each.success for each in taken],
            [each.at for each in taken],
        )
        return verdicts

    async def to_learn(self, late_s: float, limit: int) -> Sequence[Any]:
        """(id, offer, active, matched, state, success) of decisions that the sums do not hold as they are, locked.

        Those whose window closed `late_s` ago, and those that turned out to be a success afterwards.
        """
        return await self._uow.fetch(
            "SELECT decision_id, offer_id, active, matched, state, rewarded_at IS NOT NULL AS success FROM offer_decision"
            " WHERE state = 1 AND due_at <= now() - make_interval(secs => $1)"
            " UNION ALL SELECT decision_id, offer_id, active, matched, state, true FROM offer_decision"
            " WHERE state = 2 AND rewarded_at IS NOT NULL LIMIT $2",
            late_s,
            limit,
        )

    async def learnt(self, ids: Sequence[bytes], states: Sequence[int]) -> None:
        """Marks decisions as held by the sums."""
        await self._uow.fetch(
            "UPDATE offer_decision d SET state = l.state FROM unnest($1::bytea[], $2::smallint[]) AS l (id, state)"
            " WHERE d.decision_id = l.id",
            list(ids),
            list(states),
        )

    async def hold_sums(self) -> None:
        """Keeps other learners waiting until this transaction ends: versions of sums are committed in their order."""
        await self._uow.rows("SELECT pg_advisory_xact_lock(hashtext('orchestrator offer sums'))")

    async def add_to_sums(self, sums: Mapping[int, tuple[Floats, Floats]]) -> None:
        """Adds (sum of x x', sum of r x) by offer, under hold_sums."""
        held = await sums_since(self._uow, -1, list(sums))
        offers, outers, rewards = [], [], []
        for offer_id, (outer, rewarded) in sorted(sums.items()):
            _, before, before_rewarded = held.get(offer_id, (0, 0.0, 0.0))
            offers.append(offer_id)
            outers.append((outer + before).astype(_KIND).tobytes())
            rewards.append((rewarded + before_rewarded).astype(_KIND).tobytes())
        await self._uow.fetch(
            "INSERT INTO offer_sums AS s (offer_id, version, outer_sum, reward_sum)"
            " SELECT n.offer_id, (SELECT coalesce(max(version), 0) + 1 FROM offer_sums), n.outer_sum, n.reward_sum"
            " FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS n (offer_id, outer_sum, reward_sum)"
            " ON CONFLICT (offer_id) DO UPDATE SET version = EXCLUDED.version, outer_sum = EXCLUDED.outer_sum,"
            " reward_sum = EXCLUDED.reward_sum",
            offers,
            outers,
            rewards,
        )

    async def arms_id(self, arms: Arms) -> int:
        """The number under which these offers are kept; the same offers have the same number for all processes."""
        rows = await self._uow.fetch(
            # The update changes nothing; it waits for the other transaction and makes RETURNING show its row.
            "INSERT INTO offer_arms AS a (fingerprint, offers, content) VALUES ($1, $2, $3::jsonb)"
            " ON CONFLICT (fingerprint) DO UPDATE SET fingerprint = EXCLUDED.fingerprint RETURNING arms_id",
            _fingerprint(arms),
            list(arms.offers),
            orjson.dumps([sorted(tags) for tags in arms.content]).decode(),
        )
        return int(rows[0]["arms_id"])

    async def forget_before(self, moment: datetime, limit: int) -> int:
        """Deletes some of the decisions whose window closed before a moment; returns how many."""
        return await self._uow.execute(
            "DELETE FROM offer_decision WHERE decision_id IN"
            " (SELECT decision_id FROM offer_decision WHERE due_at < :before AND state <> 1 ORDER BY due_at LIMIT :most)",
            before=moment,
            most=limit,
        )


async def add(alone: Pinned | UnitOfWork, decisions: Sequence[Decided]) -> set[bytes]:
    """Keeps decisions durably; returns the ids of those that were not there before.

    One statement is a transaction by itself, in one trip to the server instead of four.
    """
    rows = await alone.fetch(_INSERT, *(list(column) for column in zip(*decisions, strict=True)))
    return {row["decision_id"] for row in rows}


async def kept(reader: Reader, ids: Sequence[bytes]) -> dict[bytes, Kept]:
    """Decisions by id."""
    rows = await reader.fetch(
        f"{_SELECT} WHERE decision_id = ANY($1::bytea[])",
        list(ids),
    )
    return {row["decision_id"]: _kept(row) for row in rows}


async def judged(reader: Reader, slot: str, since: datetime, most: int) -> list[Kept]:
    """The newest drawn decisions whose window is over, at most so many."""
    rows = await reader.fetch(
        f"{_SELECT} WHERE due_at <= now() AND decided_at >= $2 AND why = $3 AND ($1 = '' OR slot = $1)"
        " ORDER BY due_at DESC LIMIT $4",
        slot,
        since,
        WHYS.index("drawn"),
        most,
    )
    return [_kept(row) for row in rows]


async def arms_of(reader: Reader, numbers: Sequence[int]) -> dict[int, Arms]:
    """The offers that competed, by number."""
    rows = await reader.fetch(
        "SELECT arms_id, offers, content FROM offer_arms WHERE arms_id = ANY($1::bigint[])", sorted(set(numbers))
    )
    return {row["arms_id"]: Arms(tuple(row["offers"]), tuple(frozenset(tags) for tags in row["content"])) for row in rows}


async def sums_since(reader: Reader, version: int, offers: Sequence[int] = ()) -> dict[int, tuple[int, Floats, Floats]]:
    """(version, sum of x x', sum of r x) of offers whose sums are newer than a version; of some offers, of all without any."""
    rows = await reader.fetch(
        "SELECT offer_id, version, outer_sum, reward_sum FROM offer_sums WHERE version > $1"
        " AND (cardinality($2::bigint[]) = 0 OR offer_id = ANY($2::bigint[]))",
        version,
        list(offers),
    )
    return {row["offer_id"]: (row["version"], *_widened(row["outer_sum"], row["reward_sum"])) for row in rows}


async def present_of(reader: Reader, persons: set[int]) -> dict[int, int]:
    """Who each person is now."""
    rows = await reader.fetch(
        "WITH RECURSIVE up (person_id, present_id, steps) AS (SELECT id, id, 0 FROM unnest($1::bigint[]) AS id"
        " UNION ALL SELECT up.person_id, a.survivor_id, up.steps + 1 FROM up JOIN person_alias a ON a.person_id = up.present_id"
        " WHERE a.survivor_id IS NOT NULL AND up.steps < 100)"
        " SELECT DISTINCT ON (person_id) person_id, present_id FROM up ORDER BY person_id, steps DESC",
        sorted(persons),
    )
    return {row["person_id"]: row["present_id"] for row in rows}


def _fingerprint(arms: Arms) -> bytes:
    said = orjson.dumps([arms.offers, [sorted(tags) for tags in arms.content]])
    return hashlib.blake2b(said, digest_size=16).digest()


def _verdict(said: Said, known: Any, present: Mapping[int, int]) -> str:
    if known is None:
        return "DECISION_NOT_FOUND"
    # What somebody does tells nothing of what was shown to somebody else; to nobody known, anybody may have been.
    if said.person_id is not None and known["person_id"] and present[said.person_id] != present[known["person_id"]]:
        return "DECISION_NOT_FOUND"
    if not known["offer_id"]:
        return "NOTHING_SHOWN"
    if said.at < known["first"]:
        return "TOO_EARLY"
    return "TOO_LATE" if said.at > known["due_at"] else ""


def _widened(outer: bytes, rewarded: bytes) -> tuple[Floats, Floats]:
    found = np.frombuffer(rewarded, _KIND)
    square = np.frombuffer(outer, _KIND).reshape(len(found), len(found))
    more = len(FEATURES) - len(found)
    if not more:
        return square, found
    return np.pad(square, ((0, more), (0, more))), np.pad(found, (0, more))


def _kept(row: Any) -> Kept:
    return Kept(Decided(*(row[column] for column in Decided._fields)), row["outcomes"], row["rewarded_at"])
