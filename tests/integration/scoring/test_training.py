"""What a training refuses, and that it survives the death of its process."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from troika.scoring.v1 import model_service_pb2 as pb

from services.scoring.learning.cut import Trained
from tests.integration.scoring.conftest import MODEL, World, eventually, refusal
from tests.integration.scoring.tags_port import CUT, FEATURES, GOAL


@pytest.mark.parametrize(
    ("cut", "goal", "reason", "field"),
    [
        (CUT, "job = 'student'", "FEATURE_LEAK", "features"),
        ('"AGE" > 30', GOAL, "FEATURE_LEAK", "features"),
        ("offer_answer IS", GOAL, "SYNTAX", "cut_predicate"),
        (CUT, "offer_answer ==", "SYNTAX", "goal_predicate"),
    ],
)
async def test_a_training_that_can_never_be_right_is_refused_at_the_door(
    world: World, cut: str, goal: str, reason: str, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.models.TrainModel(
            pb.TrainModelRequest(model=MODEL, cut_predicate=cut, goal_predicate=goal, features=FEATURES)
        )
    assert (grpc.StatusCode.INVALID_ARGUMENT, reason, field) == refusal(caught.value)


async def test_a_refused_training_says_why_and_leaves_the_champion_in_use(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    constant = await world.train("offer_answer = 'never'")
    assert (pb.OPERATION_STATE_FAILED, "CONSTANT_LABEL", 0) == (constant.state, constant.reason, constant.model_version)

    # Business tags lead to what they are made of.
    world.tags.expressions = {"intent_guess": "lead_score >= 800 OR student", "student": "job = 'student'"}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.train("intent_guess")
    assert (grpc.StatusCode.INVALID_ARGUMENT, "FEATURE_LEAK", "features") == refusal(caught.value)

    world.tags.tags -= {"euribor3m"}
    assert "FEATURE_MISSING" == (await world.train()).reason
    world.tags.tags |= {"euribor3m"}
    yes = [p for p in world.tags.persons.values() if p.get("offer_answer") == "yes"]
    for person in yes[49:]:
        person["offer_answer"] = "no"
    assert "TOO_FEW_POSITIVES" == (await world.train()).reason
    for person in yes[49:]:
        person["offer_answer"] = "yes"

    for person in world.tags.persons.values():
        person.pop("euribor3m")
    assert "FEATURE_MISSING" == (await world.train()).reason
    assert 1 == (await world.models.GetModel(pb.GetModelRequest(model=MODEL))).model.version


async def test_the_same_training_asked_twice_runs_once_while_the_door_answers_and_another_one_is_refused(world: World) -> None:
    asked = pb.TrainModelRequest(model=MODEL, cut_predicate=CUT, goal_predicate=GOAL, features=FEATURES)
    first, second = await asyncio.gather(world.models.TrainModel(asked), world.models.TrainModel(asked))
    assert first.operation.operation_id == second.operation.operation_id
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.models.TrainModel(
            pb.TrainModelRequest(model=MODEL, cut_predicate=CUT, goal_predicate="offer_answer = 'never'", features=FEATURES)
        )
    assert (grpc.StatusCode.FAILED_PRECONDITION, "OPERATION_RUNNING", "") == refusal(caught.value)
    seen: list[float] = []

    async def over() -> bool:
        training = (
            await world.models.GetOperation(pb.GetOperationRequest(operation_id=first.operation.operation_id), timeout=1)
        ).operation
        seen.append(training.progress)
        return training.state != pb.OPERATION_STATE_RUNNING

    await eventually(over)
    assert sorted(seen) == seen
    assert len(set(seen)) > 4


async def test_a_takeover_after_the_model_was_stored_only_scores(world: World, fitted: Trained) -> None:
    done = await world.adopt(fitted)
    async with world.database.transaction() as uow:
        await uow.execute("DELETE FROM score")
        await uow.execute(
            "UPDATE operation SET state = 'RUNNING', owner = 'dead', lease_until = now(), persons_scored = 0, cursor = 0"
        )
    again = await world.ended(done.operation_id)
    assert (pb.OPERATION_STATE_SUCCEEDED, 1, len(world.tags.persons)) == (
        again.state,
        again.model_version,
        again.persons_scored,
    )
    person = min(world.tags.persons)
    assert 0 < (await world.scores(person))[0]
