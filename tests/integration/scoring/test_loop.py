"""From the training cut to scores on the bus, and from a changed tag to a changed score."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime

import grpc
import pytest
from troika.identity.v1.events_pb2 import ENTITY_KIND_PERSON, ENTITY_KIND_VEHICLE
from troika.scoring.v1 import model_service_pb2 as models_pb2
from troika.scoring.v1 import scoring_service_pb2 as pb
from troika.tags.v1 import events_pb2 as tags_pb2

from chassis.bus import DEAD_LETTERS
from chassis.errors import Unavailable
from chassis.outbox import Outgoing
from services.scoring import events, store
from services.scoring.domain import PersonScore
from services.scoring.learning.cut import Trained
from services.scoring.registry import Registry
from tests.integration.scoring.conftest import MODEL, World, eventually, refusal


def changed(person: int, version: int = 1, kind: int = ENTITY_KIND_PERSON, **tags: float | str | None) -> Outgoing:
    """A message of tags about one entity."""
    told = tags_pb2.TagsChanged()
    told.entities.entity_kinds.append(kind)  # type: ignore[arg-type]  # an enum's number
    told.entities.entity_ids.append(person)
    told.entities.versions.append(version)
    told.entities.received_at_us.append(7)
    told.entities.presences.append(tags_pb2.PRESENCE_UNSPECIFIED)
    for tag, value in tags.items():
        column = told.columns.add(entity_kind=kind, tag=tag)  # type: ignore[arg-type]  # likewise
        if value is None:
            column.gone.append(0)
        else:
            column.rows.append(0)
            (column.words if isinstance(value, str) else column.numbers).append(value)  # type: ignore[arg-type]  # of the list's own type
    payload = told.SerializeToString()
    return Outgoing.now(events.TAGS_CHANGED, payload)


async def test_a_training_puts_a_model_in_use_and_scores_everybody(world: World) -> None:
    training = await world.train()
    assert (models_pb2.OPERATION_STATE_SUCCEEDED, "", 1, 1.0) == (
        training.state,
        training.reason,
        training.model_version,
        training.progress,
    )
    assert len(world.tags.persons) == training.persons_scored
    everybody = sorted(world.tags.persons)
    answer = await world.stub.ScorePersons(pb.ScorePersonsRequest(model=MODEL, person_ids=[*everybody, 10**9]))
    assert all(0 < score < 1000 for score in answer.scores[:-1])
    assert (-1, -1, 1) == (answer.scores[-1], answer.probabilities[-1], answer.model_version)
    await eventually(lambda: _equal(everybody, lambda: sorted(score.person_id for _, score in world.published)))
    assert dict(zip(everybody, answer.scores, strict=False)) == {s.person_id: s.score for _, s in world.published}

    model = (await world.models.GetModel(models_pb2.GetModelRequest(model=MODEL))).model
    answered = [p for p in world.tags.persons.values() if "offer_answer" in p]
    assert (2000, sum(p["offer_answer"] == "yes" for p in answered)) == (model.training_persons, model.training_positives)
    assert {"auc", "auc_low", "auc_high", "average_precision", "ece"} == set(model.metrics)
    assert 64 == len(model.artefact_sha256)


async def test_a_new_version_that_scores_the_same_publishes_nothing(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    await eventually(lambda: _equal(len(world.tags.persons), lambda: len(world.published)))
    assert 2 == (await world.adopt(fitted)).model_version
    await asyncio.sleep(0.5)
    assert len(world.tags.persons) == len(world.published)


async def _equal(expected: object, actual: Callable[[], object]) -> bool:
    return expected == actual()


async def test_a_changed_feature_changes_the_score_even_before_tags_shows_it(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    await eventually(lambda: _equal(len(world.tags.persons), lambda: len(world.published)))
    person = min(world.tags.persons)
    [before] = await world.scores(person)
    # An earlier contact that bought is the strongest sign there is.
    strong = {"previous_outcome": "success", "pdays": 3.0, "nr_employed": 4963.6, "euribor3m": 0.7}
    await world.bus.publish_all([changed(person, **strong)])
    await eventually(lambda: _rose(world, person, before))
    await eventually(lambda: _equal(True, lambda: (1, person, 7) in _told(world)))
    # tags never came to show it: the second look goes by what tags says.
    await eventually(lambda: _is(world, person, before))
    # tags shows it: the second look changes nothing.
    world.tags.persons[person] |= strong
    await world.bus.publish_all([changed(person, 2, **strong)])
    await eventually(lambda: _rose(world, person, before))
    await asyncio.sleep(0.5)
    assert before < (await world.scores(person))[0]


def _told(world: World) -> set[tuple[int, int, int]]:
    return {(version, score.person_id, score.received_at_us) for version, score in world.published}


async def _rose(world: World, person: int, before: float) -> bool:
    return (await world.scores(person))[0] > before


async def _is(world: World, person: int, expected: float) -> bool:
    return math.isclose((await world.scores(person))[0], expected, abs_tol=1e-6)


async def test_a_new_person_is_scored_from_the_message_alone(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    await world.bus.publish_all([changed(10**6, age=41, job="services")])
    await eventually(lambda: _rose(world, 10**6, -1))


async def test_what_is_no_feature_of_a_person_asks_nothing_and_scores_nobody(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    person, calls = min(world.tags.persons), world.tags.value_calls
    before = await world.scores(person)
    await world.bus.publish_all(
        [
            changed(person, lead_score=900, app_opens=3),
            changed(person, kind=ENTITY_KIND_VEHICLE, age=90),
            Outgoing.now(events.TAGS_CHANGED, b"\xff\xff"),
        ]
    )
    await eventually(lambda: _dead(world, 1))
    await asyncio.sleep(0.3)
    assert (calls, before) == (world.tags.value_calls, await world.scores(person))


async def _dead(world: World, expected: int) -> bool:
    return expected == (await world.bus.extent(DEAD_LETTERS.name)).last


async def test_the_newest_score_of_the_version_in_use_wins_and_only_changes_are_returned(world: World, fitted: Trained) -> None:
    async def use(version: int) -> None:
        async with world.database.transaction() as uow:
            assert await store.put_in_use(uow, MODEL, version)

    assert [1, 2] == [await world.store(fitted), await world.store(fitted)]
    await use(1)

    async def write(version: int, second: int, score: float) -> list[int]:
        async with world.database.transaction() as uow:
            given = [PersonScore(5, score, 0.1), PersonScore(6, 1.0, 0.1)]
            at = datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)
            return [s.person_id for s in await store.write_scores(uow, MODEL, version, given, at)]

    assert [5, 6] == await write(1, 10, 500.0)
    assert [] == await write(1, 9, 600.0)
    assert [5] == await write(1, 11, 700.0)
    assert [] == await write(1, 12, 700.0)
    assert [] == await write(2, 20, 800.0)
    await use(2)
    assert [] == await write(1, 21, 800.0)
    assert [5] == await write(2, 1, 800.0)
    assert (2, {5: (800.0, 0.1, ""), 6: (1.0, 0.1, "")}) == await store.read_scores(world.database, MODEL, [5, 6, 7])


async def test_reasons_are_the_points_that_fall_when_a_tag_is_unknown(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    person = min(world.tags.persons)
    answer = await world.stub.ExplainScore(pb.ExplainScoreRequest(model=MODEL, person_id=person))
    [stored] = await world.scores(person)
    assert math.isclose(stored, answer.score, abs_tol=1e-3)
    assert sorted((r.points for r in answer.reasons), reverse=True) == [r.points for r in answer.reasons]
    known = {tag for tag in world.tags.persons[person] if tag != "offer_answer"}
    assert known == {r.tag for r in answer.reasons}
    age = next(r for r in answer.reasons if r.tag == "age")
    assert str(world.tags.persons[person]["age"]) == age.value
    del world.tags.persons[person]["age"]
    without = await world.stub.ExplainScore(pb.ExplainScoreRequest(model=MODEL, person_id=person))
    assert math.isclose(answer.score - age.points, without.score, abs_tol=1e-6)


async def test_a_model_with_a_false_seal_is_not_loaded(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    async with world.database.transaction() as uow:
        with pytest.raises(Unavailable):
            await Registry(b"x" * 32).in_use(uow)
        await uow.execute("UPDATE model SET artefact = artefact || CAST('\\x00' AS bytea)")
        with pytest.raises(Unavailable):
            await Registry(b"k" * 32).in_use(uow)


async def test_doors_refuse_with_the_field_at_fault(world: World) -> None:
    person = pb.ExplainScoreRequest(model=MODEL, person_id=1)
    untrained = (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_TRAINED", "model")
    unknown = (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL", "model")
    for call, expected in [
        (world.stub.ExplainScore(person), untrained),
        (world.models.GetModel(models_pb2.GetModelRequest(model=MODEL)), untrained),
        (world.stub.ScorePersons(pb.ScorePersonsRequest(model=MODEL, person_ids=[1])), untrained),
        (world.models.GetModel(models_pb2.GetModelRequest(model="nosuch")), unknown),
        (world.stub.ScorePersons(pb.ScorePersonsRequest(model="nosuch", person_ids=[1])), unknown),
        (
            world.models.GetOperation(models_pb2.GetOperationRequest(operation_id=99)),
            (grpc.StatusCode.NOT_FOUND, "UNKNOWN_OPERATION", "operation_id"),
        ),
        (
            world.stub.ScorePersons(pb.ScorePersonsRequest(model=MODEL)),
            (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "person_ids"),
        ),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert expected == refusal(caught.value)
