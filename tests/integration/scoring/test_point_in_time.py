"""Training cuts of the past by the real tags service over a real lake: what was known then, what came of it, and no more."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from troika.identity.v1 import events_pb2 as identity
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.bus import Bus, Message
from chassis.testing import DatabaseFactory
from services.scoring import fitting
from services.scoring.cutting import Wanted, read_cut
from services.scoring.domain import TrainingRefused
from services.scoring.frame import Numbers, Words
from services.scoring.learning.cut import Cut
from services.scoring.learning.refusals import refuse_leaks
from services.scoring.tag_door import TagDoor
from services.tags import events
from services.tags.lake import storage
from services.tags.lake.reading import Lake
from tests.integration.tags import world
from tests.integration.tags.audience_house import replica
from tests.integration.tags.lake_world import written

DAY = 86_400
NOW = int(time.time())
CUT = NOW - 60 * DAY
HORIZON = 30 * DAY
PERSONS = 300


@dataclass
class Life:
    """What one person does, by what we remember of it."""

    person: int
    age: int
    opens: list[int] = field(default_factory=list)
    yes_at: int | None = None
    no_at: int | None = None


def lives() -> list[Life]:
    chance, made = random.Random(0), []
    for person in range(1, PERSONS + 1):
        life = Life(person, chance.randint(20, 70))
        life.opens = [CUT + chance.randint(-30, 40) * DAY + chance.randint(0, DAY - 1) for _ in range(chance.randint(0, 12))]
        keen = sum(at < CUT for at in life.opens) > 3
        # Some only when nobody looks any more: not within the horizon.
        at = CUT + chance.randint(1, 45) * DAY
        if chance.random() < (0.7 if keen else 0.2):
            life.yes_at = at
        else:
            life.no_at = at
        made.append(life)
    return made


def told(all_lives: Sequence[Life], backdated: bool) -> list[identity.ResolvedEvent]:
    """All events. With a yes a test drive is booked; `backdated`: and a lead is entered, with a date of before the cut."""
    happened: list[tuple[int, int, str, dict[str, object]]] = []
    for life in all_lives:
        happened.append((life.person, CUT - 50 * DAY, "Record Updated", {"age": life.age}))
        happened += [(life.person, at, "App Opened", {}) for at in life.opens]
        if life.yes_at:
            happened.append((life.person, life.yes_at, "Offer Answered", {"answer": "yes"}))
            happened.append((life.person, life.yes_at, "Test Drive Booked", {}))
            if backdated and life.yes_at <= CUT + HORIZON:
                happened.append((life.person, CUT - DAY, "Lead Created", {"channel": "dealer"}))
        if life.no_at:
            happened.append((life.person, life.no_at, "Offer Answered", {"answer": "no"}))
    return [
        world.event(number, name, person=(person, person, 1), at=at, properties=properties)
        for number, (person, at, name, properties) in enumerate(happened, start=1)
    ]


class Door(TagDoor):
    """On a stub that is there already."""

    def __init__(self, stub: TagsServiceStub) -> None:
        super().__init__(grpc.aio.insecure_channel("127.0.0.1:1"))
        self._stub = stub


@pytest.fixture(params=[False, True], ids=["honest", "backdated"])
async def past(
    request: pytest.FixtureRequest, databases: DatabaseFactory, bus: Bus, tmp_path: Path
) -> AsyncIterator[tuple[TagDoor, list[Life], bool]]:
    everybody, lake = lives(), Lake(storage.opened(str(tmp_path / "lake")))
    stated = told(everybody, request.param)
    await bus.declare(*events.STREAMS)
    async with databases.database("tags") as database:
        await world.resolved(database, *stated)
        message = Message("m", "s", world.batch(*stated).SerializeToString(), {}, 1)
        await written(database, lake.storage, [message])
        async with replica(database, bus, lake) as house:
            await house.settled()
            yield Door(house.tags), everybody, request.param


def wanted(**more: object) -> Wanted:
    asked: dict[str, object] = {"cut_predicate": "age IS NOT NULL", "goal_predicate": "offer_answer = 'yes'", **more}
    return Wanted(**asked)  # type: ignore[arg-type]


def column(cut: Cut, tag: str) -> list[float]:
    found = cut.frame.columns[tag]
    assert isinstance(found, Numbers)
    return np.nan_to_num(found.values).tolist()


async def test_a_cut_knows_what_was_known_then_and_what_came_of_it(past: tuple[TagDoor, list[Life], bool]) -> None:
    door, everybody, backdated = past
    moments = (CUT - 10 * DAY, CUT)
    cut = await read_cut(door, wanted(as_of_s=tuple(map(float, moments)), horizon_s=float(HORIZON)))
    assert 2 * PERSONS == len(cut.frame)
    for number, moment in enumerate(moments):
        rows = slice(number * PERSONS, (number + 1) * PERSONS)
        assert [life.person for life in everybody] == cut.frame.persons[rows].tolist()
        assert {moment * 1_000_000} == set(cut.moments[rows].tolist())
        assert [life.age for life in everybody] == column(cut, "age")[rows]
        assert [sum(at <= moment for at in life.opens) for life in everybody] == column(cut, "app_opens")[rows]
        seen = [max([CUT - 50 * DAY, *(at for at in life.opens if at <= moment)]) for life in everybody]
        assert not backdated or moment < CUT or all(days >= 0 for days in column(cut, "last_seen_at")[rows])
        if not backdated:
            assert np.allclose([(moment - at) / DAY for at in seen], column(cut, "last_seen_at")[rows], atol=1e-6)
        did = [bool(life.yes_at) and life.yes_at <= moment + HORIZON for life in everybody]
        assert did == (cut.labels[rows] == 1).tolist()
        assert 20 < sum(did) < sum(bool(life.yes_at) for life in everybody)
    # What comes with the outcome was not there; neither was the outcome; nobody may learn from what is sensitive.
    assert {"test_drives_booked", "offer_answer", "lead_score"}.isdisjoint(cut.frame.columns)
    assert not any(isinstance(each, Words) and not each.words for each in cut.frame.columns.values())

    if not backdated:
        refuse_leaks(cut, ())
        return
    # A date of before the cut deceives the lake, but not who looks at what the column says.
    cut = await read_cut(door, wanted(as_of_s=(float(CUT),), horizon_s=float(HORIZON)))
    with pytest.raises(TrainingRefused) as refused:
        await fitting.train("services.scoring.models.purchase_intent.training", cut, (), _ignore)
    assert "FEATURE_LEAK" == refused.value.reason
    assert "leads_count" in refused.value.detail and "app_opens" not in refused.value.detail
    suspects = [tag for tag in cut.frame.columns if f"{tag}: " in refused.value.detail]
    refuse_leaks(cut, suspects)


async def test_in_a_cut_of_the_present_what_comes_with_the_outcome_is_refused(
    past: tuple[TagDoor, list[Life], bool],
) -> None:
    door, _, backdated = past
    features = ("age", "app_opens", "test_drives_booked")
    cut = await read_cut(door, wanted(cut_predicate="offer_answer IS NOT NULL", features=features))
    assert not len(cut.moments)
    with pytest.raises(TrainingRefused) as refused:
        refuse_leaks(cut, ())
    assert "FEATURE_LEAK" == refused.value.reason
    assert "test_drives_booked: " in refused.value.detail and "age: " not in refused.value.detail
    refuse_leaks(cut, ["test_drives_booked"])
    if not backdated:
        return
    # Named, it is learnt from: somebody vouches for it.
    with pytest.raises(TrainingRefused) as refused:
        await read_cut(door, wanted(features=("offer_answer",)))
    assert "FEATURE_LEAK" == refused.value.reason


async def _ignore(_: float) -> None:
    """Progress that nobody looks at."""
