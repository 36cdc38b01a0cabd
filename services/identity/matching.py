"""Whose identifiers a partner's hashes are: limited, counted, and silent about values that are not one entity's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition, NotFound, ResourceExhausted
from services.identity.domain.kinds import Kind, Space
from services.identity.partners import HASH_BYTES, Partners
from services.identity.queries import kinds_of
from services.identity.store import Owner

# $1 the partner's key, $2 tokens, $3 kinds of the space. A value counts when it is in use and all records that bear it are one
# entity's; its facts hang on itself when it is an anchor, else on the oldest record that bears it.
_MATCH = """SELECT w.place, o.anchor_id, o.entity_id, o.version
 FROM unnest($2::bytea[]) WITH ORDINALITY AS w(token, place)
 CROSS JOIN LATERAL (SELECT identifier_id FROM partner_hash WHERE partner_key_id = $1 AND token = w.token OFFSET 0) h
 CROSS JOIN LATERAL (SELECT id, entity_id, anchor FROM identifier
  WHERE id = h.identifier_id AND entity_id <> 0 AND {guard} = 0 AND sealed <> '' OFFSET 0) i
 CROSS JOIN LATERAL (SELECT (array_agg(a.id ORDER BY a.id <> i.id, a.id))[1] AS anchor_id,
  (array_agg(a.version ORDER BY a.id <> i.id, a.id))[1] AS version, min(a.entity_id) AS entity_id
  FROM (SELECT i.id AS id WHERE i.anchor UNION SELECT anchor_id FROM link WHERE value_id = i.id AND strength = 0) l
  JOIN LATERAL (SELECT id, entity_id, version FROM identifier
   WHERE id = l.id AND anchor AND entity_id <> 0 AND kind = ANY($3::smallint[]) OFFSET 0) a ON true
  HAVING count(DISTINCT a.entity_id) = 1 AND min(a.entity_id) = i.entity_id) o"""
MATCH = {Space.PERSON: _MATCH.format(guard="person_guard"), Space.VEHICLE: _MATCH.format(guard="vehicle_guard")}


class Limits(NamedTuple):
    """What one partner may be asked within an hour."""

    hashes: int
    calls: int


async def match(
    uow: UnitOfWork, partners: Partners, limits: Limits, *, caller: str, partner: str, kind: Kind, hashes: bytes
) -> list[Owner | None]:
    """The anchor of each hash and who owns it; None for nobody. Leaves a line in the audit.

    Raises NotFound for partners without a key, FailedPrecondition while their hashes are being made for the first time,
    ResourceExhausted past the limits.
    """
    asked = [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
    key_id = await _ready_key(uow, partners, partner)
    await _within(uow, limits, partner, len(asked))
    found: list[Owner | None] = [None] * len(asked)
    tokens = [partners.token_of(kind, each) for each in asked]
    for place, anchor_id, entity_id, version in await uow.fetch(MATCH[kind.space], key_id, tokens, kinds_of(kind.space)):
        found[place - 1] = Owner(anchor_id, entity_id, version)
    await uow.fetch(
        "INSERT INTO match_audit (caller, partner, kind, asked, matched) VALUES ($1, $2, $3, $4, $5)",
        caller,
        partner,
        kind.name.lower(),
        len(asked),
        sum(owner is not None for owner in found),
    )
    return found


async def _ready_key(uow: UnitOfWork, partners: Partners, partner: str) -> int:
    fingerprint = partners.fingerprints.get(partner)
    if fingerprint is None:
        raise NotFound("no key of such a partner", reason="UNKNOWN_PARTNER", field="partner")
    rows = await uow.fetch("SELECT id, complete FROM partner_key WHERE partner = $1 AND fingerprint = $2", partner, fingerprint)
    if not rows or not rows[0]["complete"]:
        raise FailedPrecondition(
            "the partner's hashes are still being made: troika identity hash-partners shows how far",
            reason="HASHES_NOT_READY",
            field="partner",
        )
    return int(rows[0]["id"])


async def _within(uow: UnitOfWork, limits: Limits, partner: str, more: int) -> None:
    # One after the other, or several at once would each see room.
    await uow.fetch("SELECT pg_advisory_xact_lock(hashtext('identity matching'), hashtext($1))", partner)
    rows = await uow.fetch(
        "SELECT coalesce(sum(asked), 0)::bigint, count(*) FROM match_audit"
        " WHERE partner = $1 AND at > now() - interval '1 hour'",
        partner,
    )
    hashes, calls = rows[0]
    if hashes + more > limits.hashes or calls + 1 > limits.calls:
        raise ResourceExhausted(
            "this partner was matched too often within the last hour", reason="MATCHING_LIMIT", field="partner"
        )


async def audit_page(uow: UnitOfWork, before: int, size: int) -> Sequence[tuple[object, ...]]:
    """Lines of the audit with numbers below `before`, newest first."""
    rows = await uow.fetch(
        "SELECT id, caller, partner, kind, asked, matched, at FROM match_audit WHERE id < $1 ORDER BY id DESC LIMIT $2",
        before,
        size,
    )
    return [tuple(row) for row in rows]
