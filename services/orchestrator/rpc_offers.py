"""The gRPC door of offers: converts and decides nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from troika.orchestrator.v1 import offer_service_pb2 as pb
from troika.orchestrator.v1.offer_service_pb2_grpc import OfferServiceServicer

from chassis import paging
from chassis.errors import InvalidArgument
from chassis.moments import moment, stamp
from chassis.rpc import caller_of
from services.orchestrator.offers.arranging import Rules
from services.orchestrator.offers.catalogue import Catalogue
from services.orchestrator.offers.definitions import Definition, Offer, OfferId, Variant, id_of, name_of, render
from services.orchestrator.offers.stock import Hold
from services.orchestrator.offers.templates import Value

OFFERS_PAGE, OFFERS_MOST = 50, 500
Context = grpc.aio.ServicerContext[Any, Any]


class OfferRpc(OfferServiceServicer):
    """troika.orchestrator.v1.OfferService. `clock` is how far the clock that texts show is ahead of UTC."""

    def __init__(self, catalogue: Catalogue, clock: timedelta) -> None:
        self._catalogue, self._clock = catalogue, clock

    async def CreateOffer(self, request: pb.CreateOfferRequest, context: Context) -> pb.CreateOfferResponse:
        """See the contract."""
        offer = await self._catalogue.create(_definition(request.offer), request.request_id, caller_of(context))
        return pb.CreateOfferResponse(offer=_offer(offer))

    async def UpdateOffer(self, request: pb.UpdateOfferRequest, context: Context) -> pb.UpdateOfferResponse:
        """See the contract."""
        given = request.offer
        if not given.name:
            raise InvalidArgument("which offer?", field="offer.name")
        offer = await self._catalogue.update(id_of(given.name), given.version, _definition(given), caller_of(context))
        return pb.UpdateOfferResponse(offer=_offer(offer))

    async def GetOffer(self, request: pb.GetOfferRequest, context: Context) -> pb.GetOfferResponse:
        """See the contract."""
        offer, versions = await self._catalogue.get(id_of(request.name), request.version)
        answer = pb.GetOfferResponse(offer=_offer(offer))
        for version, author, made_at in versions:
            answer.versions.add(version=version, author=author, create_time=stamp(made_at))
        return answer

    async def ListOffers(self, request: pb.ListOffersRequest, context: Context) -> pb.ListOffersResponse:
        """See the contract."""
        size = paging.size(request.page_size, OFFERS_PAGE, OFFERS_MOST)
        listing = f"offers {request.with_retired} {request.content_tag}"
        (before,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        offers = await self._catalogue.page(before, size + 1, request.content_tag, request.with_retired)
        return pb.ListOffersResponse(
            offers=[_offer(offer) for offer in offers[:size]],
            next_page_token=paging.token(listing, offers[size - 1].offer_id) if len(offers) > size else "",
        )

    async def RetireOffer(self, request: pb.RetireOfferRequest, context: Context) -> pb.RetireOfferResponse:
        """See the contract."""
        return pb.RetireOfferResponse(offer=_offer(await self._catalogue.retire(id_of(request.name))))

    async def PreviewOffer(self, request: pb.PreviewOfferRequest, context: Context) -> pb.PreviewOfferResponse:
        """See the contract."""
        offer, _ = await self._catalogue.get(id_of(request.name), request.version)
        values = {name: _value(given, f"values.{name}") for name, given in request.values.items()}
        shown = render(offer.definition.variant(request.channel, request.language), values, self._clock)
        return pb.PreviewOfferResponse(title=shown.title, body=shown.body)

    async def ReserveStock(self, request: pb.ReserveStockRequest, context: Context) -> pb.ReserveStockResponse:
        """See the contract."""
        lifetime = timedelta(seconds=request.lifetime_s)
        return pb.ReserveStockResponse(refusals=await self._catalogue.reserve(_holds(request.holds), lifetime))

    async def TakeStock(self, request: pb.TakeStockRequest, context: Context) -> pb.TakeStockResponse:
        """See the contract."""
        return pb.TakeStockResponse(refusals=await self._catalogue.take(_holds(request.holds)))

    async def ReleaseStock(self, request: pb.ReleaseStockRequest, context: Context) -> pb.ReleaseStockResponse:
        """See the contract."""
        return pb.ReleaseStockResponse(refusals=await self._catalogue.release(_holds(request.holds)))

    async def SetSlotRules(self, request: pb.SetSlotRulesRequest, context: Context) -> pb.SetSlotRulesResponse:
        """See the contract."""
        given = request.rules
        rules = Rules(_ids(given.pinned), _ids(given.excluded), _ids(given.ordered))
        version = await self._catalogue.set_rules(given.slot, rules, given.version, caller_of(context))
        return pb.SetSlotRulesResponse(rules=_rules(given.slot, rules, version))

    async def GetSlotRules(self, request: pb.GetSlotRulesRequest, context: Context) -> pb.GetSlotRulesResponse:
        """See the contract."""
        return pb.GetSlotRulesResponse(rules=_rules(request.slot, *await self._catalogue.rules(request.slot)))

    async def PreviewSlot(self, request: pb.PreviewSlotRequest, context: Context) -> pb.PreviewSlotResponse:
        """See the contract."""
        at = moment(request.time, "time") if request.HasField("time") else datetime.now(UTC)
        arranged = await self._catalogue.arrange(request.slot, at, request.channel, request.language, request.words)
        return pb.PreviewSlotResponse(
            places=[pb.SlotPlace(offer=p.offer.name, why=p.why, shared_words=p.words) for p in arranged.places],
            left_out=[pb.SlotAbsence(offer=offer.name, reason=reason) for offer, reason in arranged.left_out],
        )


def _definition(offer: pb.CatalogueOffer) -> Definition:
    return Definition(
        offer.title,
        offer.kind,
        offer.purpose,
        tuple(offer.content_tags),
        moment(offer.valid_from, "offer.valid_from"),
        moment(offer.valid_to, "offer.valid_to") if offer.HasField("valid_to") else None,
        offer.audience,
        offer.stock if offer.HasField("stock") else None,
        tuple(Variant(v.channel, v.language, v.title, v.body) for v in offer.variants),
    )


def _offer(offer: Offer) -> pb.CatalogueOffer:
    stated = offer.definition
    return pb.CatalogueOffer(
        name=offer.name,
        version=offer.version,
        title=stated.title,
        kind=stated.kind,
        purpose=stated.purpose,
        content_tags=stated.content_tags,
        valid_from=stamp(stated.valid_from),
        valid_to=stamp(stated.valid_to),
        audience=stated.audience,
        stock=stated.stock,
        variants=[pb.OfferVariant(channel=v.channel, language=v.language, title=v.title, body=v.body) for v in stated.variants],
        reserved=offer.reserved,
        taken=offer.taken,
        create_time=stamp(offer.created_at),
        update_time=stamp(offer.updated_at),
        retire_time=stamp(offer.retired_at),
    )


def _rules(slot: str, rules: Rules, version: int) -> pb.SlotRules:
    pinned, excluded, ordered = ([name_of(i) for i in ids] for ids in (rules.pinned, rules.excluded, rules.ordered))
    return pb.SlotRules(slot=slot, version=version, pinned=pinned, excluded=excluded, ordered=ordered)


def _ids(names: Iterable[str]) -> tuple[OfferId, ...]:
    return tuple(id_of(name) for name in names)


def _holds(holds: Iterable[pb.StockHold]) -> list[Hold]:
    return [(id_of(hold.offer), hold.hold_id) for hold in holds]


def _value(given: pb.VariableValue, field: str) -> Value:
    match given.WhichOneof("value"):
        case "number":
            return given.number
        case "word":
            return given.word
        case _:
            return moment(given.time, field)
