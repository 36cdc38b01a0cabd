"""The catalogue of offers behind its door: versions, stock, previews and operators' rules."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from troika.orchestrator.v1 import offer_service_pb2 as pb
from troika.orchestrator.v1.offer_service_pb2_grpc import OfferServiceStub, add_OfferServiceServicer_to_server

from chassis import rpc
from services.orchestrator.offers.catalogue import Catalogue
from services.orchestrator.rpc_offers import OfferRpc
from tests.integration.orchestrator.conftest import House
from tests.integration.orchestrator.test_rpc import INVALID, outcome, refusal
from tests.integration.orchestrator.world import HASHES, SECRET

PRECONDITION, NOT_FOUND = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND


@pytest.fixture
async def door(house: House) -> AsyncIterator[Any]:
    chosen = house.room.settings
    server = rpc.Server(HASHES, chosen.allowed_callers(), with_reflection=False)
    catalogue = Catalogue(house.database, house.room.tags)
    add_OfferServiceServicer_to_server(OfferRpc(catalogue, chosen.clock()), server.aio)
    port = await server.start("127.0.0.1:0")
    async with rpc.connect(f"127.0.0.1:{port}", "operator", SECRET) as channel:
        yield OfferServiceStub(channel)
    await server.stop(0)


def stamp(days: float) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    return moment


def words(**changes: str) -> pb.OfferVariant:
    stated = {"channel": "app", "language": "en", "title": "{model: word}", "body": "from {price: number}"}
    return pb.OfferVariant(**(stated | changes))


def offer(**changes: Any) -> pb.CatalogueOffer:
    stated: dict[str, Any] = {
        "title": "Spring check",
        "kind": "service",
        "purpose": "service",
        "content_tags": ["family", "suv"],
        "valid_from": stamp(-1),
        "audience": "job = 'student'",
        "variants": [words()],
    }
    return pb.CatalogueOffer(**(stated | changes))


async def made(door: Any, **changes: Any) -> pb.CatalogueOffer:
    answer = await door.CreateOffer(pb.CreateOfferRequest(offer=offer(**changes)))
    found: pb.CatalogueOffer = answer.offer
    return found


async def test_an_offer_keeps_all_its_versions_and_their_authors(door: Any) -> None:
    first = await made(door, stock=5)
    changed = pb.CatalogueOffer()
    changed.CopyFrom(first)
    changed.title, changed.stock = "Summer check", 7
    second = (await door.UpdateOffer(pb.UpdateOfferRequest(offer=changed))).offer
    assert (first.name, 2, "Summer check", 7) == (second.name, second.version, second.title, second.stock)
    old = await door.GetOffer(pb.GetOfferRequest(name=first.name, version=1))
    assert first == old.offer
    assert [(1, "operator"), (2, "operator")] == [(v.version, v.author) for v in old.versions]
    assert second == (await door.GetOffer(pb.GetOfferRequest(name=first.name))).offer
    late = door.UpdateOffer(pb.UpdateOfferRequest(offer=changed))
    assert (PRECONDITION, "VERSION_CHANGED", "offer.version") == await refusal(late)
    none = door.GetOffer(pb.GetOfferRequest(name=first.name, version=3))
    assert (NOT_FOUND, "OFFER_VERSION_NOT_FOUND", "version") == await refusal(none)


async def test_of_two_changes_upon_one_version_one_is_made(door: Any) -> None:
    first = await made(door)
    calls = [door.UpdateOffer(pb.UpdateOfferRequest(offer=first)) for _ in range(5)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [2] == [answer.offer.version for answer in answers if not isinstance(answer, BaseException)]


async def test_the_same_request_makes_the_same_offer(door: Any) -> None:
    request = pb.CreateOfferRequest(offer=offer(), request_id="once")
    answers = await asyncio.gather(*(door.CreateOffer(request) for _ in range(4)))
    assert 1 == len({answer.offer.name for answer in answers})
    assert 1 == len((await door.ListOffers(pb.ListOffersRequest())).offers)


async def test_an_audience_that_tags_refuses_is_named(door: Any) -> None:
    wrong = door.CreateOffer(pb.CreateOfferRequest(offer=offer(audience="no_such_tag = 1")))
    assert (INVALID, "UNKNOWN_TAG", "offer.audience") == await refusal(wrong)
    assert "" == (await made(door, audience="")).audience


async def test_offers_come_in_pages_by_content_and_retired_ones_only_when_asked_for(door: Any) -> None:
    names = [(await made(door, content_tags=["family"] if n % 2 else [])).name for n in range(6)]
    for _ in range(2):
        gone = (await door.RetireOffer(pb.RetireOfferRequest(name=names[1]))).offer
        assert gone.HasField("retire_time")
    first = await door.ListOffers(pb.ListOffersRequest(page_size=2, content_tag="family", with_retired=True))
    again = pb.ListOffersRequest(content_tag="family", with_retired=True, page_token=first.next_page_token)
    rest = await door.ListOffers(again)
    assert [names[5], names[3], names[1]] == [o.name for o in [*first.offers, *rest.offers]]
    living = await door.ListOffers(pb.ListOffersRequest(content_tag="family"))
    assert [names[5], names[3]] == [o.name for o in living.offers]
    foreign = door.ListOffers(pb.ListOffersRequest(page_token=first.next_page_token))
    assert (INVALID, "INVALID_PAGE_TOKEN", "page_token") == await refusal(foreign)
    ended = door.UpdateOffer(pb.UpdateOfferRequest(offer=gone))
    assert (PRECONDITION, "OFFER_RETIRED", "offer.name") == await refusal(ended)


async def test_a_preview_shows_what_would_be_read_or_says_what_is_wrong(door: Any) -> None:
    name = (await made(door)).name
    values = {"model": pb.VariableValue(word="X5"), "price": pb.VariableValue(number=399000)}

    def preview(**changes: Any) -> Any:
        asked = {"name": name, "channel": "app", "language": "en", "values": values}
        return door.PreviewOffer(pb.PreviewOfferRequest(**(asked | changes)))

    assert pb.PreviewOfferResponse(title="X5", body="from 399000") == await preview()
    assert (NOT_FOUND, "NO_VARIANT", "channel") == await refusal(preview(channel="web"))
    assert (NOT_FOUND, "NO_VARIANT", "language") == await refusal(preview(language="zh-CN"))
    assert (INVALID, "MISSING_VARIABLE", "values.price") == await refusal(preview(values={"model": values["model"]}))
    swapped = {"model": values["price"], "price": values["price"]}
    assert (INVALID, "WRONG_VARIABLE_TYPE", "values.model") == await refusal(preview(values=swapped))
    assert (NOT_FOUND, "OFFER_NOT_FOUND", "name") == await refusal(preview(name="offers/999"))


def holds(name: str, *ids: str) -> list[pb.StockHold]:
    return [pb.StockHold(offer=name, hold_id=each) for each in ids]


async def reserve(door: Any, wanted: list[pb.StockHold], lifetime_s: int = 600) -> list[str]:
    return list((await door.ReserveStock(pb.ReserveStockRequest(holds=wanted, lifetime_s=lifetime_s))).refusals)


async def test_stock_goes_to_who_asks_first_and_comes_back_when_released(door: Any) -> None:
    name = (await made(door, stock=2)).name
    assert ["", "", "OUT_OF_STOCK", ""] == await reserve(door, holds(name, "a", "b", "c", "a"))
    assert ["", "NOT_RESERVED"] == list((await door.TakeStock(pb.TakeStockRequest(holds=holds(name, "a", "x")))).refusals)
    release = pb.ReleaseStockRequest(holds=holds(name, "b", "a"))
    for _ in range(2):
        assert ["", "TAKEN_ALREADY"] == list((await door.ReleaseStock(release)).refusals)
    assert ["RELEASED_ALREADY"] == list((await door.TakeStock(pb.TakeStockRequest(holds=holds(name, "b")))).refusals)
    assert ["", "OUT_OF_STOCK"] == await reserve(door, holds(name, "c", "d"))
    now = (await door.GetOffer(pb.GetOfferRequest(name=name))).offer
    assert (1, 1) == (now.reserved, now.taken)
    lowered = offer(name=name, version=1, stock=1)
    assert (PRECONDITION, "STOCK_GONE", "offer.stock") == await refusal(door.UpdateOffer(pb.UpdateOfferRequest(offer=lowered)))


async def test_what_nobody_takes_in_time_is_free_again(door: Any, house: House) -> None:
    name = (await made(door, stock=1)).name
    assert [""] == await reserve(door, holds(name, "a"), 1)
    async with house.transaction() as uow:
        await uow.execute("UPDATE offer_hold SET expires_at = now() - interval '1 second'")
    assert 0 == (await door.GetOffer(pb.GetOfferRequest(name=name))).offer.reserved
    assert ["RELEASED_ALREADY"] == list((await door.TakeStock(pb.TakeStockRequest(holds=holds(name, "a")))).refusals)
    assert [""] == await reserve(door, holds(name, "b"))


async def test_only_offers_of_now_are_reserved_and_without_limit_there_is_always_one(door: Any) -> None:
    coming, over = await made(door, valid_from=stamp(1)), await made(door, valid_to=stamp(-0.5))
    retired, endless = await made(door), await made(door)
    assert [""] == await reserve(door, holds(retired.name, "early"))
    await door.RetireOffer(pb.RetireOfferRequest(name=retired.name))
    wanted = [h for name in (coming.name, over.name, retired.name, "offers/999", endless.name) for h in holds(name, "h")]
    assert ["NOT_VALID_YET", "EXPIRED", "OFFER_RETIRED", "OFFER_NOT_FOUND", ""] == await reserve(door, wanted)
    assert [""] == list((await door.TakeStock(pb.TakeStockRequest(holds=holds(retired.name, "early")))).refusals)


async def test_many_at_once_never_get_more_than_there_is(door: Any, house: House) -> None:
    draw = random.Random(1)
    stocks = [draw.randrange(0, 60) for _ in range(4)]
    names = [(await made(door, stock=stock)).name for stock in stocks]

    async def customer(number: int) -> None:
        chance = random.Random(number)
        for turn in range(6):
            wanted = [h for name in names for h in holds(name, *(f"{number}-{turn}-{n}" for n in range(chance.randrange(4))))]
            chance.shuffle(wanted)
            if not wanted:
                continue
            granted = [h for h, refused in zip(wanted, await reserve(door, wanted), strict=True) if not refused]
            if len(granted) > 1 and chance.random() < 0.4:
                await door.ReleaseStock(pb.ReleaseStockRequest(holds=granted[: len(granted) // 2]))
            if granted:
                await door.TakeStock(pb.TakeStockRequest(holds=granted[len(granted) // 2 :]))

    await asyncio.gather(*(customer(number) for number in range(12)))
    for name, stock in zip(names, stocks, strict=True):
        found = (await door.GetOffer(pb.GetOfferRequest(name=name))).offer
        rows = await house.rows(f"SELECT state FROM offer_hold WHERE offer_id = {name.removeprefix('offers/')}")
        states = Counter(row.state for row in rows)
        assert (states[1], states[2]) == (found.reserved, found.taken)
        assert found.reserved + found.taken <= stock
        # All were asked for more often than there were pieces.
        assert found.taken > 0 or stock == 0


async def test_operators_rules_of_a_slot_are_kept_by_version_and_shown(door: Any) -> None:
    names = [(await made(door, content_tags=[f"about {n}"])).name for n in range(5)]
    empty = (await door.GetSlotRules(pb.GetSlotRulesRequest(slot="home"))).rules
    assert pb.SlotRules(slot="home") == empty
    rules = pb.SlotRules(slot="home", pinned=[names[2]], excluded=[names[4]], ordered=[names[1]])
    stored = (await door.SetSlotRules(pb.SetSlotRulesRequest(rules=rules))).rules
    assert stored == (await door.GetSlotRules(pb.GetSlotRulesRequest(slot="home"))).rules
    late = door.SetSlotRules(pb.SetSlotRulesRequest(rules=rules))
    assert (PRECONDITION, "VERSION_CHANGED", "rules.version") == await refusal(late)
    assert 2 == (await door.SetSlotRules(pb.SetSlotRulesRequest(rules=stored))).rules.version
    shown = await door.PreviewSlot(pb.PreviewSlotRequest(slot="home", channel="app", language="en", words=["about 0"]))
    assert [
        (names[2], "pinned", []),
        (names[1], "ordered", []),
        (names[0], "matched", ["about 0"]),
        (names[3], "rest", []),
    ] == [(p.offer, p.why, list(p.shared_words)) for p in shown.places]
    assert [(names[4], "EXCLUDED")] == [(a.offer, a.reason) for a in shown.left_out]
    other = await door.PreviewSlot(pb.PreviewSlotRequest(slot="other", channel="app", language="en", time=stamp(-2)))
    assert {"NOT_VALID_YET"} == {a.reason for a in other.left_out}


async def test_rules_that_contradict_themselves_or_name_nothing_are_refused(door: Any) -> None:
    name = (await made(door)).name
    twice = pb.SlotRules(slot="home", pinned=[name], ordered=[name])
    assert (INVALID, "TWO_RULES", "rules.ordered[0]") == await refusal(door.SetSlotRules(pb.SetSlotRulesRequest(rules=twice)))
    unknown = pb.SlotRules(slot="home", excluded=["offers/999"])
    assert (INVALID, "OFFER_NOT_FOUND", "rules.excluded[0]") == await refusal(
        door.SetSlotRules(pb.SetSlotRulesRequest(rules=unknown))
    )
    skipped = pb.SlotRules(slot="home", version=3)
    assert (PRECONDITION, "VERSION_CHANGED", "rules.version") == await refusal(
        door.SetSlotRules(pb.SetSlotRulesRequest(rules=skipped))
    )


texts = st.text(st.characters(codec="utf-8"), max_size=30)
numbers = st.integers(-(2**63), 2**63 - 1)
wild_offers = st.builds(
    lambda title, tag, channel, body, stock, seconds, nanos: offer(
        title=title,
        content_tags=[tag],
        stock=stock,
        valid_from=Timestamp(seconds=seconds, nanos=nanos),
        audience="",
        variants=[words(channel=channel, body=body)],
    ),
    texts,
    texts,
    st.one_of(texts, st.just("app"), st.just("wechat")),
    st.one_of(texts, st.just("{x: word}")),
    st.one_of(numbers, st.just(5)),
    st.one_of(numbers, st.just(1)),
    st.one_of(st.integers(-(2**31), 2**31 - 1), st.just(0)),
)
wild_values = st.dictionaries(
    texts, st.one_of(st.floats().map(lambda n: pb.VariableValue(number=n)), texts.map(lambda w: pb.VariableValue(word=w)))
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wild_offers, texts, wild_values)
async def test_no_input_ever_gives_an_internal_error(door: Any, wild: pb.CatalogueOffer, text: str, values: Any) -> None:
    name = (await made(door)).name
    for call in (
        door.CreateOffer(pb.CreateOfferRequest(offer=wild, request_id=text)),
        door.ListOffers(pb.ListOffersRequest(content_tag=text)),
        door.PreviewOffer(pb.PreviewOfferRequest(name=name, channel="app", language=text, values=values)),
        door.PreviewSlot(pb.PreviewSlotRequest(slot="home", channel=text, language=text, words=[text])),
        door.ReserveStock(pb.ReserveStockRequest(holds=holds("offers/1", text), lifetime_s=1)),
    ):
        code, field = await outcome(call)
        assert code in (grpc.StatusCode.OK, INVALID, NOT_FOUND)
        assert field or code is grpc.StatusCode.OK
