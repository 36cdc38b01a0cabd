"""One function per command and question about offers. Tags is asked outside of transactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.orchestrator.offers import arranging, definitions, store
from services.orchestrator.offers.arranging import Arrangement, Rules
from services.orchestrator.offers.definitions import Definition, Offer, OfferId, name_of
from services.orchestrator.offers.stock import Hold, StockStore
from services.orchestrator.offers.store import OfferStore
from services.orchestrator.peers import Tags


@dataclass(frozen=True)
class Catalogue:
    """The catalogue's commands and questions."""

    database: Database
    tags: Tags

    async def create(self, stated: Definition, request_id: str, author: str) -> Offer:
        """A new offer whose audience tags understands; the same request gives the same offer."""
        definitions.checked(stated)
        if request_id:
            async with self.database.read() as uow:
                if made := await OfferStore(uow).by_request(request_id):
                    return made
        await self._check_audience(stated)
        async with self.database.transaction() as uow:
            offers = OfferStore(uow)
            return _found(await offers.get(await offers.add(stated, request_id, author)), "offer.name")

    async def update(self, offer_id: OfferId, version: int, stated: Definition, author: str) -> Offer:
        """The next version; raises FailedPrecondition for retired offers, other versions, and a stock below what is gone."""
        definitions.checked(stated)
        await self._check_audience(stated)
        async with self.database.transaction() as uow:
            offers = OfferStore(uow)
            offer = _found(await offers.lock(offer_id), "offer.name")
            if offer.retired_at is not None:
                raise FailedPrecondition(f"{offer.name} is retired", reason="OFFER_RETIRED", field="offer.name")
            if offer.version != version:
                raise _outdated(offer.name, offer.version, "offer.version")
            await StockStore(uow).expire([offer_id])
            if stated.stock is not None and stated.stock < offer.reserved + offer.taken:
                raise FailedPrecondition(
                    f"{offer.reserved} pieces are reserved and {offer.taken} taken", reason="STOCK_GONE", field="offer.stock"
                )
            await offers.change(offer_id, version + 1, stated, author)
            return _found(await offers.get(offer_id), "offer.name")

    async def _check_audience(self, stated: Definition) -> None:
        if stated.audience:
            await self.tags.count(stated.audience, "offer.audience")

    async def get(self, offer_id: OfferId, version: int) -> tuple[Offer, list[tuple[int, str, datetime]]]:
        """An offer and the (number, author, moment) of each version; raises NotFound."""
        async with self.database.read() as uow:
            offers = OfferStore(uow)
            present = _found(await offers.get(offer_id), "name")
            if (offer := await offers.get(offer_id, version)) is None:
                raise NotFound(
                    f"{present.name} has {present.version} versions", reason="OFFER_VERSION_NOT_FOUND", field="version"
                )
            return offer, await offers.versions(offer_id)

    async def page(self, before: int, size: int, content_tag: str, with_retired: bool) -> list[Offer]:
        """Up to `size` offers with ids below `before`, newest first."""
        async with self.database.read() as uow:
            return await OfferStore(uow).page(before, size, content_tag, with_retired)

    async def retire(self, offer_id: OfferId) -> Offer:
        """Ends an offer; raises NotFound."""
        async with self.database.transaction() as uow:
            offers = OfferStore(uow)
            await offers.retire(offer_id)
            return _found(await offers.get(offer_id), "name")

    async def reserve(self, holds: Sequence[Hold], lifetime: timedelta) -> list[str]:
        """See StockStore."""
        async with self.database.transaction() as uow:
            return await StockStore(uow).reserve(holds, lifetime)

    async def take(self, holds: Sequence[Hold]) -> list[str]:
        """See StockStore."""
        async with self.database.transaction() as uow:
            return await StockStore(uow).take(holds)

    async def release(self, holds: Sequence[Hold]) -> list[str]:
        """See StockStore."""
        async with self.database.transaction() as uow:
            return await StockStore(uow).release(holds)

    async def rules(self, slot: str) -> tuple[Rules, int]:
        """(rules, version) of a slot."""
        async with self.database.read() as uow:
            return await store.rules_of(uow, slot)

    async def set_rules(self, slot: str, rules: Rules, version: int, author: str) -> int:
        """The new version; raises InvalidArgument for contradictions and unknown offers."""
        arranging.checked(rules)
        async with self.database.transaction() as uow:
            unknown = await OfferStore(uow).unknown([*rules.pinned, *rules.excluded, *rules.ordered])
            for field in ("pinned", "excluded", "ordered"):
                for number, offer_id in enumerate(getattr(rules, field)):
                    if offer_id in unknown:
                        raise _missing(offer_id, f"rules.{field}[{number}]")
            if not await store.set_rules(uow, slot, rules, version, author):
                _, present = await store.rules_of(uow, slot)
                raise _outdated(slot, present, "rules.version")
        return version + 1

    async def arrange(self, slot: str, at: datetime, channel: str, language: str, words: Sequence[str]) -> Arrangement:
        """Who would stand in a slot."""
        async with self.database.read() as uow:
            rules, _ = await store.rules_of(uow, slot)
            offers = await OfferStore(uow).living()
        return arranging.arrange(offers, rules, at=at, channel=channel, language=language, words=words)


def _found(offer: Offer | None, field: str) -> Offer:
    if offer is None:
        raise NotFound("there is no such offer", reason="OFFER_NOT_FOUND", field=field)
    return offer


def _missing(offer_id: OfferId, field: str) -> InvalidArgument:
    return InvalidArgument(f"there is no {name_of(offer_id)}", reason="OFFER_NOT_FOUND", field=field)


def _outdated(name: str, version: int, field: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{name} is in version {version}", reason="VERSION_CHANGED", field=field, metadata={"version": str(version)}
    )
