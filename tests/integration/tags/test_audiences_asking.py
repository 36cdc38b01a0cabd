"""Questions about audiences: previews, explanations, ids by stream and page, and what is answered to wrong ones."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1 import audience_service_pb2 as pb
from troika.tags.v1 import tags_service_pb2

from chassis.db import Database
from tests.integration.tags.audience_house import PERSON, VEHICLE, YOUNG, House, create, ids, record, refused
from tests.integration.tags.world import changed, event, resolved


async def test_explanations_agree_with_the_index_over_the_database(house: House, database: Database) -> None:
    draw = Random(5)
    stated = []
    for number in range(1, 61):
        person, vehicle = draw.randint(1, 12), draw.randint(1, 9)
        stated.append(
            event(
                number,
                draw.choice(("Record Updated", "Model Viewed", "App Opened")),
                source=draw.choice(("dealer:D001", "app", "wechat:wx1")),
                person=(1000 + person, person, 1),
                vehicle=(5000 + vehicle, vehicle, 1) if draw.random() < 0.5 else (0, 0, 0),
                relation=draw.choice(("owns", "drives")),
                at=int(time.time()) - draw.randint(0, 40) * 86_400,
                properties={"age": draw.randint(18, 60), "job": draw.choice(("student", "retired"))},
                vehicle_properties={"mileage_km": 10_000 * draw.randint(0, 12), "model": draw.choice(("X5", "i3"))},
            )
        )
    await resolved(database, *stated)
    await house.settled()
    for text in (
        "age < 30 OR job = 'student'",
        "NOT (age < 30) AND has_app",
        "ANY(vehicle, mileage_km > 60000)",
        "ALL(vehicle, model = 'X5')",
        "COUNT(vehicle, mileage_km > 30000) >= 2",
        "ANY(vehicle, ANY(person, age > 40) AND model = 'i3')",
        "ANY(vehicle, owner.age < 40)",
        "NOW() - last_seen_at < INTERVAL '14 days'",
        "(age > 30 AND has_wechat) IS NOT TRUE",
        "age + 2 * app_opens > 40",
        "offer_answer IS NULL AND job <> 'student'",
    ):
        stream = house.tags.StreamAudience(tags_service_pb2.StreamAudienceRequest(entity_kind=PERSON, predicate=text))
        members = {entity_id async for chunk in stream for entity_id in chunk.entity_ids}
        for person in {each.person.entity_id for each in stated}:
            request = pb.ExplainMembershipRequest(entity_kind=PERSON, entity_id=person, predicate=text)
            assert (person in members) == (await house.audiences.ExplainMembership(request)).member, (text, person)


async def test_a_preview_counts_breaks_down_reaches_and_samples(house: House, database: Database) -> None:
    await record(database, 1, 1, age=20, job="student")
    await record(database, 2, 2, age=25, job="services")
    await record(database, 3, 3, age=50, job="services")
    await resolved(database, event(4, source="app", person=(1001, 1, 1)), event(5, source="app", person=(1002, 2, 1)))
    refusal = identity.ConsentChange(
        anchor_id=1002, person_id=2, channel="app", opted_out=True, stated_at_us=5, purpose="marketing"
    )
    await changed(database, identity.EntitiesChanged(consent_changes=[refusal]))
    await house.settled()
    seen = await house.audiences.PreviewAudience(
        pb.PreviewAudienceRequest(entity_kind=PERSON, predicate="age < 30", tags=["job", "age"], sample_size=5)
    )
    assert (2, 3, {1, 2}) == (seen.count, seen.base, set(seen.sample_ids))
    job = {value.predicate: (value.count, value.base_count) for value in seen.breakdown[0].values}
    assert {"job = 'student'": (1, 1), "job = 'services'": (1, 2)} == job
    reach = {each.channel: (each.addressable, each.allowed) for each in seen.reach}
    assert {"app": (2, 1), "wechat": (0, 0), "dealer": (2, 2)} == reach
    assert 2 == seen.reachable


async def test_an_explanation_names_what_decided(house: House, database: Database) -> None:
    await record(database, 1, 1, 7, age=20)
    await house.settled()
    text = "age < 30 AND ANY(vehicle, mileage_km > 60000) AND (job = 'student' OR offer_answer IS NULL)"
    request = pb.ExplainMembershipRequest(entity_kind=PERSON, entity_id=1, predicate=text)
    answer = await house.audiences.ExplainMembership(request)
    assert answer.member
    assert ["age < 30", "ANY(vehicle, mileage_km > 60000)", "offer_answer IS NULL"] == list(answer.decisive)
    age, cars, _ = answer.explanation.parts
    assert (pb.TRUTH_TRUE, "age", 20.0) == (age.truth, age.values[0].tag, age.values[0].value.number)
    assert [(VEHICLE, 7)] == [(each.entity_kind, each.entity_id) for each in cars.related]
    out = pb.ExplainMembershipRequest(entity_kind=PERSON, entity_id=1, predicate="job = 'student' AND age < 30")
    answer = await house.audiences.ExplainMembership(out)
    assert (False, ["job = 'student'"]) == (answer.member, list(answer.decisive))
    assert pb.TRUTH_UNKNOWN == answer.explanation.truth
    assert not answer.explanation.parts[0].values[0].HasField("value")
    await house.audiences.CreateAudience(create())
    named = pb.ExplainMembershipRequest(entity_kind=PERSON, entity_id=1, audience="young")
    assert (await house.audiences.ExplainMembership(named)).member


async def test_wrong_questions_get_typed_answers(house: House) -> None:
    await house.audiences.CreateAudience(create())
    stub, invalid = house.audiences, grpc.StatusCode.INVALID_ARGUMENT
    update = pb.UpdateAudienceRequest(name="young", predicate=YOUNG, owner="m", version=7)
    explain = pb.ExplainMembershipRequest(entity_kind=PERSON, entity_id=9, predicate=YOUNG)
    for call, expected in (
        (stub.CreateAudience(create("bad", "agee < 1")), (invalid, "UNKNOWN_TAG", "predicate")),
        (stub.CreateAudience(create("bad", "age < 'x'", dry_run=True)), (invalid, "TYPE_MISMATCH", "predicate")),
        (stub.CreateAudience(create("bad", "age / 0 > 1")), (invalid, "DIVISION_BY_ZERO", "predicate")),
        (stub.CreateAudience(create("Bad!")), (invalid, "INVALID_ARGUMENT", "name")),
        (stub.UpdateAudience(update), (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_CHANGED", "version")),
        (stub.GetAudience(pb.GetAudienceRequest(name="nosuch")), (grpc.StatusCode.NOT_FOUND, "AUDIENCE_NOT_FOUND", "name")),
        (stub.ExplainMembership(explain), (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "entity_id")),
        (
            stub.PreviewAudience(pb.PreviewAudienceRequest(entity_kind=PERSON, tags=["age", "agee"])),
            (invalid, "UNKNOWN_TAG", "tags[1]"),
        ),
        (
            stub.PreviewAudience(pb.PreviewAudienceRequest(entity_kind=PERSON, predicate="age <")),
            (invalid, "SYNTAX", "predicate"),
        ),
        (stub.WatchAudience(pb.WatchAudienceRequest(predicate=YOUNG)), (invalid, "INVALID_ARGUMENT", "entity_kind")),
        (
            stub.WatchAudience(pb.WatchAudienceRequest(entity_kind=PERSON, predicate="SUM(age) > 1")),
            (invalid, "UNSUPPORTED", "predicate"),
        ),
        (
            stub.WatchAudience(pb.WatchAudienceRequest(audience="nosuch")),
            (grpc.StatusCode.NOT_FOUND, "AUDIENCE_NOT_FOUND", "audience"),
        ),
        (stub.CreateAudience(create("big", " OR ".join(["age < 1"] * 1_500))), (invalid, "TOO_COMPLEX", "predicate")),
        (stub.CreateAudience(create("huge", " OR ".join(["age < 1"] * 10_000))), (invalid, "INVALID_ARGUMENT", "predicate")),
        (
            stub.CreateAudience(create("deep", "(" * 500 + "age < 1" + ")" * 500)),
            (invalid, "TOO_COMPLEX", "predicate"),
        ),
    ):
        assert expected == await refused(call)
    assert ["young"] == [each.name for each in (await stub.ListAudiences(pb.ListAudiencesRequest())).audiences]


async def test_an_error_in_a_predicate_says_where(house: House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.audiences.PreviewAudience(pb.PreviewAudienceRequest(entity_kind=PERSON, predicate="has_app AND agee < 1"))
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status and any(detail.Unpack(info) for detail in status.details)
    assert ("13", "predicate") == (info.metadata["position"], info.metadata["field"])


async def test_ids_stream_packed_and_by_page(house: House, database: Database) -> None:
    for number in range(1, 8):
        await record(database, number, number, age=20)
    await house.settled()
    asked: dict[str, Any] = {"entity_kind": PERSON, "predicate": YOUNG}
    stream = house.tags.StreamAudience(tags_service_pb2.StreamAudienceRequest(**asked, packed=True))
    assert [1, 2, 3, 4, 5, 6, 7] == [each async for chunk in stream for each in ids(chunk.packed_ids)]
    # Of some the members among them: nobody else, and no strangers.
    few = np.array([2, 5, 99], "<u4").tobytes()
    stream = house.tags.StreamAudience(tags_service_pb2.StreamAudienceRequest(**asked, packed=True, among=few))
    assert [2, 5] == [each async for chunk in stream for each in ids(chunk.packed_ids)]
    pages: list[list[int]] = []
    token = ""
    while not pages or token:
        chunks = [
            chunk
            async for chunk in house.tags.StreamAudience(
                tags_service_pb2.StreamAudienceRequest(**asked, page_size=3, page_token=token)
            )
        ]
        pages.append([each for chunk in chunks for each in chunk.entity_ids])
        token = chunks[-1].next_page_token
    assert [[1, 2, 3], [4, 5, 6], [7]] == pages
