"""The best of an audience come first, whole and in one order."""

from __future__ import annotations

import grpc
import pytest
from troika.scoring.v1 import scoring_service_pb2 as pb

from services.scoring.learning.cut import Trained
from tests.integration.scoring.conftest import MODEL, World, refusal
from tests.integration.scoring.tags_port import CUT


async def ranked(world: World, predicate: str = "", limit: int = 0) -> list[tuple[int, float]]:
    """(person, score) as they come."""
    asked = pb.RankAudienceRequest(model=MODEL, predicate=predicate, limit=limit)
    return [
        pair async for answer in world.stub.RankAudience(asked) for pair in zip(answer.person_ids, answer.scores, strict=True)
    ]


async def test_everybody_comes_once_the_best_first_and_the_smaller_number_of_equals(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    # Three who are alike and better than all others.
    three = sorted(world.tags.persons)[5:8]
    async with world.database.transaction() as uow:
        await uow.execute("UPDATE score SET score = 999.5 WHERE person_id = ANY(CAST(:ids AS bigint[]))", ids=three)
    everybody = sorted(world.tags.persons)
    stored = dict(zip(everybody, await world.scores(*everybody), strict=True))
    expected = sorted(stored.items(), key=lambda pair: (-pair[1], pair[0]))
    assert expected == await ranked(world)
    assert [(person, 999.5) for person in three[:2]] == await ranked(world, limit=2)
    assert expected[:100] == await ranked(world, limit=100)


async def test_only_the_audience_is_ranked(world: World, fitted: Trained) -> None:
    await world.adopt(fitted)
    answered = {person for person, tags in world.tags.persons.items() if tags.get("offer_answer") is not None}
    best = await ranked(world, CUT, 50)
    assert 50 == len(best) and answered > {person for person, _ in best}
    assert [pair for pair in await ranked(world) if pair[0] in answered][:50] == best
    assert [] == await ranked(world, "offer_answer = 'never'")


async def test_a_wrong_predicate_and_an_untrained_model_are_named(world: World, fitted: Trained) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ranked(world)
    assert (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_TRAINED", "model") == refusal(caught.value)
    await world.adopt(fitted)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ranked(world, "offer_answer ==")
    assert (grpc.StatusCode.INVALID_ARGUMENT, "SYNTAX", "predicate") == refusal(caught.value)
