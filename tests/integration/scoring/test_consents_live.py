"""Personalisation switched off makes a score the same as everybody's; on again, it is hers again."""

from __future__ import annotations

import math
import time
from itertools import count

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from troika.identity.v1 import events_pb2 as identity
from troika.scoring.v1 import scoring_service_pb2 as pb

from chassis.bus import Message
from local.data.bank_marketing import Contacts
from services.scoring import consumers, events, store
from services.scoring.artefact import Calibration, metadata
from services.scoring.domain import score_of
from services.scoring.frame import Feature, Kind, fit_encodings, matrix_of
from services.scoring.learning.cut import Trained
from services.scoring.learning.trees import to_onnx
from tests.integration.scoring.conftest import MODEL, World, eventually
from tests.unit.scoring.bank_frame import cut_of

_SEQUENCES = count(1)
# What the card says is usual.
USUAL = 0.125


@pytest.fixture(scope="session")
def small(contacts: Contacts) -> Trained:
    """A model that is fitted in no time."""
    cut = cut_of(contacts, np.arange(len(contacts) - 2000, len(contacts)))
    encodings = fit_encodings([Feature(tag, Kind.NUMBER) for tag in ("age", "euribor3m")], cut.frame)
    trees = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(matrix_of(encodings, cut.frame), cut.labels == 1)
    return Trained(to_onnx([trees], metadata(encodings, Calibration(1, 0))), {})


def said(anchor: int, person: int, off: bool, at_us: int, purpose: str = "personalisation") -> identity.EntitiesChanged:
    change = identity.ConsentChange(
        anchor_id=anchor, person_id=person, channel="all", opted_out=off, stated_at_us=at_us, purpose=purpose
    )
    return identity.EntitiesChanged(consent_changes=[change])


def moved(anchor: int, person: int, version: int) -> identity.EntitiesChanged:
    owner = identity.AnchorOwner(anchor_id=anchor, entity_id=person, version=version)
    move = identity.AnchorMove(entity_kind=identity.ENTITY_KIND_PERSON, owner=owner)
    return identity.EntitiesChanged(anchor_moves=[move])


async def tell(world: World, *changes: identity.EntitiesChanged) -> None:
    messages = []
    for change in changes:
        number = next(_SEQUENCES)
        messages.append(Message(f"m{number}", events.ENTITIES_CHANGED, change.SerializeToString(), {}, number))
    async with world.database.transaction() as uow:
        await consumers.entities_changed().handle(uow, messages)


async def test_who_switches_personalisation_off_is_told_apart_by_nothing_and_by_all_when_it_is_on_again(
    world: World, small: Trained
) -> None:
    await world.adopt(small, usual=USUAL)
    one, other, third = sorted(world.tags.persons)[:3]
    hers, others = await world.scores(one, other)
    usual = float(score_of(np.array([USUAL]))[0])
    assert not math.isclose(hers, usual) and not math.isclose(others, usual)

    async def becomes(*expected: float) -> None:
        async def same() -> bool:
            found = await world.scores(one, other)
            return all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(expected, found, strict=True))

        await eventually(same)

    async def explained(person: int) -> pb.ExplainScoreResponse:
        return await world.stub.ExplainScore(pb.ExplainScoreRequest(model=MODEL, person_id=person))

    # Of another purpose: nothing to us.
    await tell(world, said(11, one, True, 5, "marketing"))
    await tell(world, said(11, one, True, 10))
    await becomes(usual, others)
    answer = await explained(one)
    assert (True, [], []) == (answer.neutral, list(answer.reasons), list(answer.chances))
    assert math.isclose(usual, answer.score)
    assert not (await explained(other)).neutral

    # What tags say of her changes nothing any more; what comes late neither.
    world.tags.persons[one]["age"] = 77.0
    await tell(world, said(11, one, False, 9))
    async with world.database.transaction() as uow:
        await store.look_again(uow, MODEL, [one], 0)
    await becomes(usual, others)

    # Her anchor turns out to be the other's, and hers again: who owns it decides.
    await tell(world, moved(11, other, 2))
    await becomes((await explained(one)).score, usual)
    assert not (await explained(one)).neutral
    await tell(world, moved(11, one, 3), moved(11, other, 2))
    await becomes(usual, others)
    assert (await explained(one)).neutral

    await tell(world, said(11, one, False, 20))
    await becomes((await explained(one)).score, others)
    world.tags.persons[one]["age"] = 30.0

    # Erased: nothing is kept of her, and nothing late brings it back.
    await tell(world, said(13, third, True, 10))
    await tell(world, identity.EntitiesChanged(erasures=[identity.Erasure(erasure_id=1, person_id=third, anchor_ids=[13])]))
    await tell(world, said(13, third, True, 10), moved(13, third, 4))
    async with world.database.read() as uow:
        assert [(11, one)] == [tuple(r) for r in await uow.rows("SELECT anchor_id, person_id FROM consent")]
        assert [] == await uow.rows("SELECT 1 FROM anchor_owner WHERE anchor_id = 13")
    assert [-1.0] == await world.scores(third)


async def test_what_may_be_said_only_with_consent_ends_with_it(world: World, small: Trained) -> None:
    name = "inferred_age_band"
    await world.adopt(small, name, usual=USUAL, consent="opt_in")
    person = min(world.tags.persons)
    usual = float(score_of(np.array([USUAL]))[0])

    async def score() -> float:
        return (await world.stub.ScorePersons(pb.ScorePersonsRequest(model=name, person_ids=[person]))).scores[0]

    assert math.isclose(usual, await score())
    allowed = said(11, person, False, 10)
    allowed.consent_changes[0].expires_at_us = int((time.time() + 3) * 1e6)
    await tell(world, allowed)

    async def personal() -> bool:
        return not math.isclose(usual, await score())

    async def ended() -> bool:
        return math.isclose(usual, await score())

    await eventually(personal)
    await eventually(ended)
