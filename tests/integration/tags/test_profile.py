"""Everything that is known of one entity, and why: tags, events, relations, timeline."""

from __future__ import annotations

import grpc
import orjson
import pytest
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import tags_service_pb2 as pb

from chassis import rpc
from chassis.bus import Message
from chassis.db import Database
from services.tags.domain.catalogue import Kind
from services.tags.lake import writing
from services.tags.lake.reading import Lake
from tests.integration.tags.audience_house import House
from tests.integration.tags.world import RULES, batch, changed, event, moved, resolved, scored
from tests.integration.tags.world import move as moving

PERSON, VEHICLE, DEALER = identity.ENTITY_KIND_PERSON, identity.ENTITY_KIND_VEHICLE, identity.ENTITY_KIND_DEALER


async def happened(database: Database, lake: Lake, *stated: identity.ResolvedEvent) -> None:
    """Into the tags and into the lake."""
    await resolved(database, *stated)
    async with database.transaction() as uow:
        message = Message("m", "s", batch(*stated).SerializeToString(), {}, 1)
        await writing.LakeWriter(lake.storage)(uow, [message])


async def profile(house: House, kind: int, entity_id: int, **more: object) -> pb.GetProfileResponse:
    return await house.tags.GetProfile(pb.GetProfileRequest(entity_kind=kind, entity_id=entity_id, **more))  # type: ignore[arg-type]


async def test_a_tag_shows_its_source_and_the_events_behind_it(house: House, database: Database, lake: Lake) -> None:
    await happened(
        database,
        lake,
        event(1, "Record Updated", source="dealer:D001", person=(11, 1, 1), properties={"age": 30}),
        event(2, "Record Updated", source="dealer:D001", person=(12, 1, 1), properties={"age": 31}),
        event(3, "Model Viewed", person=(11, 1, 1), properties={"model": "X5"}),
        event(4, "Record Updated", source="dealer:D002", person=(13, 2, 1), properties={"age": 70}),
    )
    await scored(database, [(1, 850.0, 9)])
    found = await profile(house, PERSON, 1, with_lineage=True, timeline_size=2)
    tags = {tag.tag: tag for tag in found.tags}
    age = tags["age"]
    assert (31.0, "events", 1.0, 2) == (age.value.number, age.source, age.confidence, age.lineage_count)
    assert [2, 1] == [each.occurred_at.seconds for each in age.lineage]
    assert ({"age": 31}, "dealer:D001", 12) == (
        orjson.loads(age.lineage[0].properties_json),
        age.lineage[0].source,
        age.lineage[0].anchor_id,
    )
    assert ["Model Viewed"] == [each.name for each in tags["last_model_viewed"].lineage]
    assert "score:purchase_intent" == tags["lead_score"].source
    assert ("tags", ["lead_score"]) == (tags["score_band"].source, list(tags["score_band"].inputs))
    assert [(3, "Model Viewed"), (2, "Record Updated")] == [(e.occurred_at.seconds, e.name) for e in found.timeline]
    assert ([11, 12], True) == (list(found.anchor_ids), found.has_lake)
    assert [] == list((await profile(house, PERSON, 1)).timeline)


async def test_one_tag_comes_with_all_that_it_is_computed_from(house: House, database: Database) -> None:
    await resolved(database, event(1, person=(11, 1, 1)))
    await scored(database, [(1, 850.0, 9)])
    found = await profile(house, PERSON, 1, tag="score_band")
    assert ["lead_score", "score_band"] == [tag.tag for tag in found.tags]


async def test_after_an_unmerge_the_timeline_is_of_those_that_are_left(house: House, database: Database, lake: Lake) -> None:
    await happened(database, lake, event(1, person=(11, 1, 1)), event(2, person=(12, 2, 1)))
    await moved(database, moving(Kind.PERSON, (12, 1, 2)))
    assert [2, 1] == [each.occurred_at.seconds for each in (await profile(house, PERSON, 1, timeline_size=9)).timeline]
    await moved(database, moving(Kind.PERSON, (12, 2, 3)))
    assert [1] == [each.occurred_at.seconds for each in (await profile(house, PERSON, 1, timeline_size=9)).timeline]


async def test_related_entities_come_with_their_relation_and_views_are_computed(house: House, database: Database) -> None:
    await resolved(
        database,
        event(1, "Record Updated", source="dealer:D001", person=(11, 1, 1), vehicle=(21, 7, 1), relation="owns"),
    )
    sold = identity.RelationChange(
        kind="sold_by",
        subject_kind=VEHICLE,
        subject_id=7,
        object_kind=DEALER,
        object_id=3,
        valid_from_us=1,
        confidence=1.0,
        stated=True,
    )
    await changed(database, identity.EntitiesChanged(relation_changes=[sold]))
    car = await profile(house, VEHICLE, 7)
    related = {(each.entity_kind, each.entity_id, each.relation, each.is_subject) for each in car.related}
    assert {(PERSON, 1, "owns", True), (DEALER, 3, "sold_by", False)} == related
    assert ([1], 2) == (list(car.related_ids), car.related_count)
    dealer = await profile(house, DEALER, 3)
    computed = {tag.tag: tag for tag in dealer.tags if tag.computed}
    counting = next(n for n, d in RULES.catalogue.of(Kind.DEALER).items() if d.expression == "COUNT(vehicle)")
    assert 1.0 == computed[counting].value.number
    assert "tags" == computed[counting].source


async def test_a_profile_of_nobody_is_not_found_and_an_unknown_tag_is_named(house: House) -> None:
    for call, expected in (
        (profile(house, PERSON, 99), (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "entity_id")),
        (profile(house, PERSON, 99, tag="agee"), (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_TAG", "tag")),
        (profile(house, PERSON, 0), (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "entity_id")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert expected == (caught.value.code(), *rpc.reason_of(caught.value))


async def test_a_description_is_corrected_for_looks_and_put_in_words(house: House, database: Database) -> None:
    def person(number: int) -> identity.ResolvedEvent:
        """One of five is a student; students are young, everything else is as with the others."""
        job = "student" if number % 5 == 0 else "services"
        properties = {"job": job, "age": 20 if job == "student" else 50, "marital": "single" if number % 3 else "married"}
        return event(number, "Record Updated", source="dealer:D001", person=(number, number, 1), at=9, properties=properties)

    for start in range(1, 300, 100):
        await resolved(database, *map(person, range(start, start + 100)))
    await house.settled()
    answer = await house.tags.DescribeAudience(
        pb.DescribeAudienceRequest(
            entity_kind=PERSON,
            predicate="job = 'student'",
            overlap_predicates=["age < 30", "marital = 'single'"],
            distribution_tags=["age"],
            overlap_all_tags=True,
        )
    )
    assert (60, 300) == (answer.audience, answer.base)
    # The tag that defines the audience is no news; what is by chance alike is not significant.
    significant = {term.tag: term for term in answer.terms if term.significant}
    assert "age" in significant and not {"job", "marital"} & significant.keys()
    assert (500.0, 5.0) == (significant["age"].index, significant["age"].lift)
    assert answer.compared > len(answer.terms)
    young, single = answer.overlaps
    assert (60, 60, 1.0, 5.0) == (young.size, young.both, young.jaccard, young.lift)
    assert (200, 40, 40 / 220, 1.0) == (single.size, single.both, single.jaccard, single.lift)
    assert [(60, 60), (0, 240)] == [(each.count, each.base_count) for each in answer.distributions[0].values]
    assert ("marital = 'single'", 40) in [(each.predicate, each.both) for each in answer.tag_overlaps]
    line = next(line for line in answer.portrait if line.predicate == "age = 20")
    title = RULES.catalogue.of(Kind.PERSON)["age"].title
    assert "age is 20: 100% of the group, 20% of the base (5.0 times as many)" == line.english
    assert f"{title}为20：占该人群100%，基准20%（5.0倍）" == line.chinese
