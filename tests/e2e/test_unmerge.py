"""Merge → anything → unmerge equals never merged, through all five services as they run (DESIGN promise 2).

Four populations live the same seeded history in one suite. The persons of one are never merged. Those of the others are,
by a steward or because their records bring evidence; then events, tags and opt-outs arrive, and the merges are undone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from troika.touchpoints.v1.touchpoints_service_pb2 import USER_ID_KIND_CRM_ID, CreateSourceRequest, Source

from local.demo.doors import Doors
from local.demo.operator import Operator
from local.supervisor import Suite
from tests.e2e.histories import PAIRS, SOURCES, Population
from tests.e2e.society import AUDIENCES, KEEPERS, Seen, World

SEED = 20
NEVER, STEWARD, EVIDENCE = Population("n", SEED), Population("s", SEED), Population("e", SEED, evidence=True)
WEAK = Population("w", SEED, evidence=True, proven=False)
POPULATIONS = (NEVER, STEWARD, EVIDENCE, WEAK)
MERGED = {"a steward": STEWARD, "evidence": EVIDENCE, "evidence as strong as what holds each side": WEAK}


@dataclass
class Lives:
    """The three populations before, while and after some were merged, audience counts, and what came later.

    `owners`: of a car that was sold; `erased`: what was left of an erased person.
    """

    before: dict[str, Seen] = field(default_factory=dict)
    together: dict[str, Seen] = field(default_factory=dict)
    after: dict[str, Seen] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    owners: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    erased: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
async def lives(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lives]:
    """Everything that happens; the tests look at what was seen."""
    told = Lives()
    async with AsyncExitStack() as stack:
        soon = {"TROIKA_INFERENCE_PAUSE_S": "0.2"}
        suite = await stack.enter_async_context(Suite(tmp_path_factory.mktemp("suite"), environment=soon))
        operator = await stack.enter_async_context(Operator(suite))
        keys = {}
        for name in SOURCES:
            source = Source(name=name, user_id_kind=USER_ID_KIND_CRM_ID)
            answer = await operator.ask(operator.touchpoints.CreateSource, CreateSourceRequest(source=source))
            keys[name] = answer.write_key
        doors = await stack.enter_async_context(Doors(suite.url("touchpoints"), keys))
        identity = suite.operator_channel("identity")
        stack.push_async_callback(identity.close)
        world = World(suite, operator, doors, identity, POPULATIONS)
        stack.push_async_callback(world.close)

        async def look() -> dict[str, Seen]:
            return {population.tag: await world.look(population) for population in POPULATIONS}

        await world.live(Population.before)
        told.before = await look()
        await world.live(Population.meeting)
        await world.merge(told.before["s"])
        await world.live(Population.together)
        told.together = await look()
        await world.unmerge(told.before)
        await world.live(Population.after)
        told.after = await look()
        told.counts = {
            predicate: (await world.count(predicate), len(await world.audience(predicate))) for predicate in AUDIENCES
        }
        await world.live(Population.sale)
        told.owners = {population.tag: await world.owners(population) for population in POPULATIONS}
        told.erased = await world.erase(min(told.after["s"].persons["T", 0]))
        yield told


@pytest.mark.parametrize("merged_by", MERGED)
def test_the_merge_was_one(lives: Lives, merged_by: str) -> None:
    """Or else there would be nothing to undo."""
    before, merged, apart = lives.before[MERGED[merged_by].tag], lives.together[MERGED[merged_by].tag], lives.together["n"]
    for number in range(PAIRS):
        target, source = ("T", number), ("S", number)
        assert before.persons[target].isdisjoint(before.persons[source])
        assert merged.persons[target] == merged.persons[source] and 1 == len(merged.persons[target])
        assert merged.tags[target] == merged.tags[source]
        total = sum(apart.tags[name].get("app_opens", (0.0, 0))[0] for name in (target, source))
        assert total == merged.tags[target].get("app_opens", (0.0, 0))[0]
        # The opt-out was given on one side and closes both.
        closed = {name: {key[2] for key, why in merged.sent.items() if key[0] == name and why} for name in (target, source)}
        assert closed[target] == closed[source] and "app" in closed[target]
        assert any(apart.sent[name, "marketing", "app"] == "" for name in (target, source))


@pytest.mark.parametrize("merged_by", MERGED)
def test_persons_have_their_own_ids_again(lives: Lives, merged_by: str) -> None:
    tag = MERGED[merged_by].tag
    assert lives.before[tag].persons == lives.after[tag].persons
    assert {1} == {len(ids) for ids in lives.after[tag].persons.values()}


@pytest.mark.parametrize("merged_by", MERGED)
@pytest.mark.parametrize("what", ["tags", "cars", "members", "consents", "planned", "sent"])
def test_everything_is_as_if_never_merged(lives: Lives, merged_by: str, what: str) -> None:
    """Tags with their times, cars, audiences, and consents as identity, the planner and the sender hold them."""
    never, unmerged = (getattr(lives.after[tag], what) for tag in ("n", MERGED[merged_by].tag))
    assert never == unmerged
    assert never != getattr(lives.before["n"], what) or what == "cars"
    assert never != getattr(lives.together[MERGED[merged_by].tag], what)


def test_audiences_count_their_members(lives: Lives) -> None:
    for predicate, (counted, streamed) in lives.counts.items():
        members = sum(len(lives.after[population.tag].members[predicate]) for population in POPULATIONS)
        assert members == counted == streamed
    assert len(POPULATIONS) * 2 * PAIRS == lives.counts[""][0]
    assert any(0 < counted < lives.counts[""][0] for counted, _ in lives.counts.values())


def test_a_car_that_was_sold_is_its_buyers_alone(lives: Lives) -> None:
    for related, (seller, buyer) in lives.owners.values():
        assert seller != buyer
        assert [buyer] == related


def test_who_is_erased_is_forgotten_by_all_services(lives: Lives) -> None:
    erased = lives.erased
    person = min(lives.after["s"].persons["T", 0])
    assert (grpc.StatusCode.NOT_FOUND, False, 0, [person]) == tuple(erased[k] for k in ("code", "members", "kept", "scoring"))
    assert 2 == erased["anchors"]
    assert dict.fromkeys(KEEPERS, 2) == erased["buried"]
