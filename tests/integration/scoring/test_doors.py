"""What the doors say of one person: reasons in words, what would raise a score, offers; and of persons like others."""

from __future__ import annotations

import math
from typing import Any

import grpc
import numpy as np
import pytest
from troika.scoring.v1 import model_service_pb2 as models_pb2
from troika.scoring.v1 import scoring_service_pb2 as pb

from local.data.bank_marketing import Contacts
from services.scoring import consents, usual
from services.scoring.consents import NO_END, Said
from services.scoring.frame import Words
from services.scoring.learning import multiclass
from services.scoring.learning.cut import Cut, Trained
from services.scoring.models.specification import Foretells
from tests.integration.scoring.conftest import MODEL, World, refusal
from tests.integration.scoring.tags_port import CUT, GOAL
from tests.unit.scoring.bank_frame import cut_of, frame_of

OFFERS = "next_best_offer"


async def switch_off(world: World, *persons: int) -> None:
    async with world.database.transaction() as uow:
        await consents.keep(uow, [Said(person, person, False, 1, NO_END, 1) for person in persons], [])


@pytest.fixture(scope="session")
def cut(contacts: Contacts) -> Cut:
    return cut_of(contacts, np.arange(len(contacts) - 4000, len(contacts)))


async def test_reasons_are_told_in_words_and_chances_come_true(world: World, fitted: Trained, cut: Cut) -> None:
    world.tags.told = {
        "call_weekday": {"sensitivity": "internal", "title": "外呼星期", "expression": "LAST(call_weekday)"},
        "contact_line": {"sensitivity": "internal", "description": "Line of the last call, cellular or telephone."},
        "calls_before": {"sensitivity": "internal", "expression": "COUNT(*)"},
        "nr_employed": {"sensitivity": "public"},
        "age": {"sensitivity": "personal"},
        "job": {"sensitivity": "personal"},
    }
    await world.adopt(fitted, **usual.of_cut(cut, Foretells.PROBABILITY))
    seen = 0
    for person in list(world.tags.persons)[:25]:
        asked = pb.ExplainScoreRequest(model=MODEL, person_id=person)
        answer = await world.stub.ExplainScore(asked)
        said = {reason.tag: reason for reason in answer.reasons}
        tags = world.tags.persons[person]
        day, line = said["call_weekday"], said["contact_line"]
        assert f"外呼星期\uff1a{tags['call_weekday']}\uff08{day.points:+.0f}分\uff09" == day.sentence
        assert f"Line of the last call, cellular or telephone: {tags['contact_line']} ({line.points:+.0f})" == line.sentence
        gains = [chance.points for chance in answer.chances]
        assert sorted(gains, reverse=True) == gains and len(gains) <= 5
        assert {chance.tag for chance in answer.chances} <= {"call_weekday", "contact_line", "calls_before"}
        for chance in answer.chances:
            was = tags[chance.tag]
            if chance.tag == "calls_before":
                assert float(chance.better) > float(chance.value)
            assert str(was) == chance.value
            tags[chance.tag] = chance.better if isinstance(was, str) else float(chance.better)
            then = await world.stub.ExplainScore(asked)
            tags[chance.tag] = was
            assert math.isclose(answer.score + chance.points, then.score, abs_tol=1e-6)
            assert chance.points > 0
            seen += 1
    assert seen > 10


@pytest.fixture(scope="session")
def offers(contacts: Contacts) -> tuple[Trained, dict[str, Any]]:
    """A model that foretells which of some jobs somebody has, as if these were offers; with what its card says."""
    rows = np.arange(len(contacts) - 2500, len(contacts))
    frame = frame_of(contacts, rows)
    column = frame.columns["job"]
    assert isinstance(column, Words)
    common = [column.words.index(word) for word in ("admin.", "blue-collar", "retired")]
    kept = np.isin(column.indexes, common)
    columns = {tag: each for tag, each in frame.rows(kept).columns.items() if tag in ("age", "education", "marital")}
    labels = np.searchsorted(common, column.indexes[kept]).astype(np.int32)
    made = Cut(type(frame)(frame.persons[kept], columns), labels, ("admin.", "blue-collar", "retired"))
    return multiclass.train(made, lambda _: None), usual.of_cut(made, Foretells.CLASS)


async def test_offers_come_in_the_persons_order_or_in_the_usual_one(
    world: World, offers: tuple[Trained, dict[str, Any]]
) -> None:
    fitted, card = offers
    await world.adopt(fitted, OFFERS, foretells="class", **card)
    old = next(p for p, tags in world.tags.persons.items() if float(tags.get("age") or 0) > 65)  # type: ignore[arg-type]
    ranked = await world.stub.RankOffers(pb.RankOffersRequest(model=OFFERS, person_id=old))
    chances = [offer.probability for offer in ranked.offers]
    assert ("retired", False) == (ranked.offers[0].offer, ranked.neutral)
    assert sorted(chances, reverse=True) == chances and math.isclose(1, sum(chances), abs_tol=1e-9)
    stored = await world.stub.ScorePersons(pb.ScorePersonsRequest(model=OFFERS, person_ids=[old]))
    assert (["retired"], True) == (list(stored.labels), math.isclose(chances[0], stored.probabilities[0], abs_tol=1e-6))
    explained = await world.stub.ExplainScore(pb.ExplainScoreRequest(model=OFFERS, person_id=old))
    assert ("age", 0) == (explained.reasons[0].tag, len(explained.chances))

    await switch_off(world, old)
    neutral = await world.stub.RankOffers(pb.RankOffersRequest(model=OFFERS, person_id=old))
    shares = card["class_shares"]
    assert neutral.neutral
    assert sorted(shares, key=lambda name: -shares[name]) == [offer.offer for offer in neutral.offers]

    for asked, expected in (
        (pb.RankOffersRequest(model=OFFERS, person_id=10**9), (grpc.StatusCode.NOT_FOUND, "UNKNOWN_PERSON", "person_id")),
        (
            pb.RankOffersRequest(model="churn", person_id=old),
            (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_TRAINED", "model"),
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.stub.RankOffers(asked)
        assert expected == refusal(caught.value)


async def expanded(world: World, **asked: Any) -> tuple[list[pb.Likeness], list[int], list[float], list[int]]:
    likenesses, persons, similarities, because = [], [], [], []
    async for message in world.stub.ExpandAudience(pb.ExpandAudienceRequest(**asked)):
        likenesses += message.likenesses
        persons += message.person_ids
        similarities += message.similarities
        because += message.because
    return likenesses, persons, similarities, because


async def test_an_audience_grows_by_persons_like_the_seeds_but_never_by_who_forbids_it(world: World) -> None:
    told: dict[str, dict[str, Any]] = {tag: {"sensitivity": "internal"} for tag in world.tags.tags}
    world.tags.told = {**told, "has_credit_default": {"sensitive": True, "sensitivity": "sensitive"}}
    answered = {p for p, tags in world.tags.persons.items() if "offer_answer" in tags}
    seeds = {p for p in answered if world.tags.persons[p]["offer_answer"] == "yes"}
    for by in ({"seed_predicate": GOAL}, {"seed_ids": sorted(seeds)}, {"seed_predicate": GOAL, "tags": ["age", "euribor3m"]}):
        likenesses, persons, similarities, because = await expanded(world, limit=500, **by)
        assert 500 == len(persons) == len(set(persons)) and seeds.isdisjoint(persons)
        assert sorted(similarities, reverse=True) == similarities and 0 <= min(similarities) < max(similarities) <= 1
        assert 3 * 500 == len(because) and -1 <= min(because) and max(because) < len(likenesses)
        tags = {likeness.tag for likeness in likenesses}
        assert "has_credit_default" not in tags and tags
        # What made them seeds says nothing of who is like them.
        assert "seed_ids" in by or "offer_answer" not in tags
        weights = [likeness.weight for likeness in likenesses]
        assert sorted(weights, reverse=True) == weights
        if "tags" in by:
            assert {"age", "euribor3m"} == tags

    # Named ones beside the predicate's are seeds, too; what the predicate reads is still not compared.
    more = set(sorted(answered - seeds)[:50])
    likenesses, persons, _, _ = await expanded(world, seed_predicate=GOAL, seed_ids=sorted(more), limit=500)
    assert (seeds | more).isdisjoint(persons) and "offer_answer" not in {likeness.tag for likeness in likenesses}

    _, best, _, _ = await expanded(world, seed_predicate=GOAL, limit=20)
    await switch_off(world, *best[:10])
    _, after, _, _ = await expanded(world, seed_predicate=GOAL, limit=20)
    assert set(best[:10]).isdisjoint(after) and set(best[10:]) & set(after)
    # Who forbids it is no seed either: of these nobody is left to learn from.
    await switch_off(world, *seeds)
    _, among, _, _ = await expanded(world, seed_ids=sorted(answered - seeds)[:200], among=CUT, limit=5000)
    assert set(among) == answered - seeds - set(best[:10]) - set(sorted(answered - seeds)[:200])

    invalid = grpc.StatusCode.INVALID_ARGUMENT
    for asked, expected in (
        ({}, (invalid, "REQUIRED", "seed_ids")),
        ({"seed_predicate": "age >"}, (invalid, "SYNTAX", "seed_predicate")),
        ({"seed_predicate": GOAL, "among": "age >"}, (invalid, "SYNTAX", "among")),
        ({"seed_predicate": GOAL}, (invalid, "TOO_FEW_SEEDS", "seed_predicate")),
        ({"seed_ids": [1, 2, 3]}, (invalid, "TOO_FEW_SEEDS", "seed_ids")),
        ({"seed_predicate": CUT, "among": CUT}, (invalid, "SEEDS_ARE_EVERYBODY", "among")),
        ({"seed_predicate": CUT, "tags": ["nosuch"]}, (invalid, "UNKNOWN_TAG", "tags")),
        ({"seed_predicate": CUT, "tags": ["has_credit_default"]}, (invalid, "SENSITIVE_TAG", "tags")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await expanded(world, limit=10, **asked)
        assert expected == refusal(caught.value)


async def test_nothing_sensitive_is_foretold_by_whatever_name(world: World) -> None:
    world.tags.told = {"has_credit_default": {"sensitive": True, "sensitivity": "sensitive"}}
    world.tags.expressions = {"in_trouble": "has_credit_default = 'yes'"}
    for model, target in (
        ("inferred_age_band", {"label_tag": "has_credit_default"}),
        ("inferred_age_band", {"label_tag": "in_trouble"}),
        ("inferred_age_band", {"label_tag": "has_housing_loan"}),
        (MODEL, {"goal_predicate": "in_trouble"}),
        (MODEL, {"features": ["age", "in_trouble"], "goal_predicate": GOAL}),
    ):
        asked = models_pb2.TrainModelRequest(model=model, cut_predicate=CUT, **{"features": ["age"], **target})  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.models.TrainModel(asked)
        assert (grpc.StatusCode.INVALID_ARGUMENT, "SENSITIVE_TAG", next(iter(target))) == refusal(caught.value)
