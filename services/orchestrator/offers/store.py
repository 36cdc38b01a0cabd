"""Offers with all their versions, and operators' rules for slots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import orjson

from chassis.db import Reader, UnitOfWork
from services.orchestrator.offers.arranging import Rules
from services.orchestrator.offers.definitions import Definition, Offer, OfferId, Variant

_SELECT = (
    "SELECT o.offer_id, v.version, v.definition, v.stated_at, o.taken, o.created_at, o.retired_at,"
    # Whose time has run out is counted out before anybody clears it away.
    " o.reserved - (SELECT count(*) FROM offer_hold h WHERE h.offer_id = o.offer_id AND h.state = 1"
    " AND h.expires_at <= now()) AS reserved"
    " FROM offer o JOIN offer_version v ON v.offer_id = o.offer_id"
)


class OfferStore:
    """Offers of one transaction."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def by_request(self, request_id: str) -> Offer | None:
        """The offer that a request made before, as it is now."""
        return _first(await self._uow.rows(_SELECT + " AND v.version = o.version WHERE o.request_id = :r", r=request_id))

    async def add(self, stated: Definition, request_id: str, author: str) -> OfferId:
        """A new offer in version 1; the one made before when another transaction was faster with the same request."""
        rows = await self._uow.rows(
            "INSERT INTO offer (request_id, version, stock, reserved, taken) VALUES (:request_id, 1, :stock, 0, 0)"
            # The update changes nothing; it waits for the other transaction and makes RETURNING show its row.
            " ON CONFLICT (request_id) DO UPDATE SET request_id = EXCLUDED.request_id RETURNING offer_id",
            request_id=request_id or None,
            stock=stated.stock,
        )
        offer_id = OfferId(rows[0].offer_id)
        await self._keep_version(offer_id, 1, stated, author)
        return offer_id

    async def change(self, offer_id: OfferId, version: int, stated: Definition, author: str) -> None:
        """The next version of a locked offer."""
        await self._uow.execute(
            "UPDATE offer SET version = :version, stock = :stock WHERE offer_id = :id",
            id=offer_id,
            version=version,
            stock=stated.stock,
        )
        await self._keep_version(offer_id, version, stated, author)

    async def _keep_version(self, offer_id: OfferId, version: int, stated: Definition, author: str) -> None:
        await self._uow.execute(
            "INSERT INTO offer_version (offer_id, version, definition, author)"
            " VALUES (:id, :version, CAST(:definition AS jsonb), :author) ON CONFLICT DO NOTHING",
            id=offer_id,
            version=version,
            definition=orjson.dumps(stated).decode(),
            author=author,
        )

    async def lock(self, offer_id: OfferId) -> Offer | None:
        """One offer as it is now, kept from others until the transaction ends."""
        await self._uow.rows("SELECT 1 FROM offer WHERE offer_id = :id FOR UPDATE", id=offer_id)
        return await self.get(offer_id)

    async def get(self, offer_id: OfferId, version: int = 0) -> Offer | None:
        """One offer in a version, 0 for the present one."""
        rows = await self._uow.rows(
            _SELECT + " AND v.version = COALESCE(NULLIF(CAST(:version AS int), 0), o.version) WHERE o.offer_id = :id",
            id=offer_id,
            version=version,
        )
        return _first(rows)

    async def at(self, offers: Sequence[OfferId], versions: Sequence[int] = ()) -> list[Offer]:
        """Offers in the order given, each in its version, the present one where none is given; unknown ones are left out."""
        rows = await self._uow.rows(
            _SELECT + " JOIN unnest(CAST(:ids AS bigint[]), CAST(:versions AS int[])) WITH ORDINALITY"
            " AS a (offer_id, version, n) ON a.offer_id = o.offer_id"
            " WHERE v.version = COALESCE(NULLIF(a.version, 0), o.version) ORDER BY a.n",
            ids=list(offers),
            versions=list(versions) or [0] * len(offers),
        )
        return [_offer(row) for row in rows]

    async def versions(self, offer_id: OfferId) -> list[tuple[int, str, datetime]]:
        """(number, author, moment) of all versions, oldest first."""
        rows = await self._uow.rows(
            "SELECT version, author, stated_at FROM offer_version WHERE offer_id = :id ORDER BY version", id=offer_id
        )
        return [(row.version, row.author, row.stated_at) for row in rows]

    async def page(self, before: int, size: int, content_tag: str, with_retired: bool) -> list[Offer]:
        """Offers with ids below `before`, newest first; empty `content_tag` for all."""
        rows = await self._uow.rows(
            _SELECT + " AND v.version = o.version WHERE o.offer_id < :before"
            " AND (:tag = '' OR v.definition -> 'content_tags' @> to_jsonb(CAST(:tag AS text)))"
            " AND (:with_retired OR o.retired_at IS NULL) ORDER BY o.offer_id DESC LIMIT :size",
            before=before,
            size=size,
            tag=content_tag,
            with_retired=with_retired,
        )
        return [_offer(row) for row in rows]

    async def living(self) -> list[Offer]:
        """All that are not retired."""
        rows = await self._uow.rows(_SELECT + " AND v.version = o.version WHERE o.retired_at IS NULL ORDER BY o.offer_id")
        return [_offer(row) for row in rows]

    async def retire(self, offer_id: OfferId) -> None:
        """Ends an offer; the first end stands."""
        await self._uow.execute("UPDATE offer SET retired_at = COALESCE(retired_at, now()) WHERE offer_id = :id", id=offer_id)

    async def unknown(self, offers: Iterable[OfferId]) -> set[OfferId]:
        """Those of some ids that are no offers."""
        asked = sorted(set(offers))
        rows = await self._uow.rows("SELECT offer_id FROM offer WHERE offer_id = ANY(CAST(:ids AS bigint[]))", ids=asked)
        return set(asked) - {OfferId(row.offer_id) for row in rows}


async def rules_of(reader: Reader, slot: str) -> tuple[Rules, int]:
    """(rules, version) of a slot; version 0 when nobody ever said anything."""
    rows = await reader.fetch("SELECT version, pinned, excluded, ordered FROM slot_rules WHERE slot = $1", slot)
    for row in rows:
        return Rules(tuple(row["pinned"]), tuple(row["excluded"]), tuple(row["ordered"])), row["version"]
    return Rules(), 0


async def set_rules(uow: UnitOfWork, slot: str, rules: Rules, version: int, author: str) -> bool:
    """Replaces a slot's rules seen at `version`; False when somebody was faster."""
    rows = await uow.rows(
        "INSERT INTO slot_rules AS s (slot, version, pinned, excluded, ordered, author)"
        " SELECT :slot, 1, :pinned, :excluded, :ordered, :author WHERE :version = 0"
        " OR EXISTS (SELECT FROM slot_rules WHERE slot = :slot)"
        " ON CONFLICT (slot) DO UPDATE SET version = s.version + 1, pinned = EXCLUDED.pinned, excluded = EXCLUDED.excluded,"
        " ordered = EXCLUDED.ordered, author = EXCLUDED.author, stated_at = now() WHERE s.version = :version RETURNING version",
        slot=slot,
        pinned=list(rules.pinned),
        excluded=list(rules.excluded),
        ordered=list(rules.ordered),
        version=version,
        author=author,
    )
    return bool(rows)


def _first(rows: Sequence[Any]) -> Offer | None:
    return _offer(rows[0]) if rows else None


def _offer(row: Any) -> Offer:
    stated = row.definition
    definition = Definition(
        stated["title"],
        stated["kind"],
        stated["purpose"],
        tuple(stated["content_tags"]),
        datetime.fromisoformat(stated["valid_from"]),
        datetime.fromisoformat(stated["valid_to"]) if stated["valid_to"] else None,
        stated["audience"],
        stated["stock"],
        tuple(Variant(**variant) for variant in stated["variants"]),
    )
    return Offer(
        OfferId(row.offer_id), row.version, definition, row.reserved, row.taken, row.created_at, row.stated_at, row.retired_at
    )
