"""What comes back: deliveries, goals, consents and merges, in whatever order and however often."""

from __future__ import annotations

import random
import time
from typing import Any

import orjson
from troika.identity.v1 import events_pb2 as identity_pb2
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.touchpoints.v1 import events_pb2 as touchpoints_pb2

from tests.integration.orchestrator.conftest import House

DELIVERIES, EVENTS, ENTITIES = "troika.deliveries.updated.v1", "troika.events.resolved.v1", "troika.entities.changed.v1"
EVERYBODY = pb.Budget(max_contacts=1000, max_calls=20, unit_cost_fen={"app": 1, "wechat": 2, "dealer": 500})


def now_us() -> int:
    return time.time_ns() // 1000


def update(delivery_id: str, state: int, **more: Any) -> touchpoints_pb2.DeliveryUpdate:
    return touchpoints_pb2.DeliveryUpdate(delivery_id=delivery_id, state=state, **({"occurred_at_us": now_us()} | more))


def event(person: int, anchor: int | None = None, version: int = 1, **more: Any) -> identity_pb2.ResolvedEvent:
    owner = identity_pb2.AnchorOwner(anchor_id=anchor or person + 10_000, entity_id=person, version=version)
    stated: dict[str, Any] = {
        "name": "Offer Answered",
        "occurred_at_us": now_us(),
        "person": owner,
        "properties_json": b'{"answer":"yes"}',
    }
    return identity_pb2.ResolvedEvent(**(stated | more))


def merged(survivor: int, other: int, op_id: int, operation: str = "merge") -> identity_pb2.ClusterChange:
    return identity_pb2.ClusterChange(op_id=op_id, entity_kind=1, operation=operation, survivor_id=survivor, other_id=other)


def moved(anchor: int, person: int, version: int) -> identity_pb2.AnchorMove:
    return identity_pb2.AnchorMove(
        entity_kind=1, owner=identity_pb2.AnchorOwner(anchor_id=anchor, entity_id=person, version=version)
    )


async def split(house: House, name: str) -> tuple[list[int], list[int]]:
    """(persons pushed, persons kept out)."""
    decisions = await house.decisions(name)
    return tuple([d.person_id for d in decisions if d.outcome == wanted] for wanted in ("push", "holdout"))  # type: ignore[return-value]


async def test_the_funnel_is_the_same_in_whatever_order_updates_come(house: House) -> None:
    name = await house.launch(budget=EVERYBODY, holdout_share=0.0)
    pushes = await house.pushes()
    [first, second, third, fourth, *_] = [p.delivery_id for p in pushes if p.channel == "app"]
    updates = [
        *(update(first, state) for state in (1, 2, 3, 4, 5)),
        update(first, 7, answer="yes"),
        *(update(second, state) for state in (1, 2, 3)),
        update(third, 9, reason="no_address"),
        # Withdrawn by the provider after the person had answered.
        update(fourth, 7, answer="no"),
        update(fourth, 9, reason="withdrawn"),
        update("of somebody else", 3),
    ]
    draw = random.Random(3)
    for alone in (True, True, False, False):
        async with house.transaction() as uow:
            await uow.execute("TRUNCATE delivery")
        draw.shuffle(updates)
        for part in [[one] for one in updates] if alone else [updates[:4], updates[4:]]:
            await house.hear(DELIVERIES, touchpoints_pb2.DeliveriesUpdated(updates=part))
        [app] = [f for f in (await house.report(name)).channels if f.channel == "app"]
        assert (2, 1, 1, 2) == (app.accepted, app.delivered, app.answered, app.failed)
        assert sum(p.channel == "app" for p in pushes) == app.requested
    assert 2 == (await house.report(name)).cost_fen
    stored = {row.delivery_id: (row.state, row.answer, row.reason) for row in await house.rows("SELECT * FROM delivery")}
    expected = {
        first: (7, "yes", ""),
        second: (3, "", ""),
        third: (9, "", "no_address"),
        fourth: (9, "no", "withdrawn"),
    }
    assert expected == stored


async def test_goals_count_for_pushed_and_holdout_once_each(house: House) -> None:
    name = await house.launch(budget=EVERYBODY, holdout_share=0.3)
    pushed, kept = await split(house, name)
    await house.hear(
        EVENTS,
        identity_pb2.ResolvedBatch(events=[event(person) for person in pushed[:5] + kept[:3]]),
        identity_pb2.ResolvedBatch(events=[event(person, anchor=77_000 + person) for person in pushed[:2]]),
        identity_pb2.ResolvedBatch(events=[event(999_999), event(0, anchor=1)]),
    )
    report = await house.report(name)
    assert (len(pushed), 5) == (report.pushed.persons, report.pushed.goals)
    assert (len(kept), 3) == (report.holdout.persons, report.holdout.goals)
    assert 5 == sum(f.goals for f in report.channels)
    assert report.effect.low < report.effect.value < report.effect.high
    assert report.pushed.low < report.pushed.rate < report.pushed.high


async def test_what_is_no_goal_of_this_theme_does_not_count(house: House) -> None:
    name = await house.launch(budget=EVERYBODY)
    [person, *_], _ = await split(house, name)
    day = 24 * 3600 * 1_000_000
    await house.hear(
        EVENTS,
        identity_pb2.ResolvedBatch(
            events=[
                event(person, name="App Opened"),
                event(person, properties_json=b'{"answer":"no"}'),
                event(person, properties_json=b""),
                event(person, properties_json=orjson.dumps({"answer": "yes", "theme": "themes/4711"})),
                event(person, occurred_at_us=now_us() - day),
                event(person, occurred_at_us=now_us() + 31 * day),
            ]
        ),
    )
    assert 0 == (await house.report(name)).pushed.goals
    ours = orjson.dumps({"answer": "yes", "theme": name})
    await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=[event(person, properties_json=ours)]))
    assert 1 == (await house.report(name)).pushed.goals


async def test_a_bad_fact_goes_to_the_dead_letters_and_the_others_count(house: House) -> None:
    name = await house.launch(budget=EVERYBODY)
    [first, second, *_], _ = await split(house, name)
    await house.hear(
        EVENTS,
        b"\xff Offer Answered no protobuf",
        identity_pb2.ResolvedBatch(
            events=[event(first, properties_json=b"{not json"), event(first, occurred_at_us=2**62), event(second)]
        ),
    )
    await house.hear(DELIVERIES, b"\xff", touchpoints_pb2.DeliveriesUpdated(updates=[update("", 3), update("x", 0)]))
    await house.hear(
        ENTITIES, identity_pb2.EntitiesChanged(consent_changes=[identity_pb2.ConsentChange(anchor_id=1, channel="fax")])
    )
    assert 1 == (await house.report(name)).pushed.goals
    assert 3 + 3 + 1 == await house.dead_letters()


async def test_a_goal_follows_its_anchor_through_merge_and_unmerge(house: House) -> None:
    name = await house.launch(budget=EVERYBODY, holdout_share=0.0)
    [first, second, *_], _ = await split(house, name)
    stranger = 5_000
    # The goal was reached by somebody outside, who turns out to be `first`, then not.
    await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=[event(stranger, anchor=1, version=5)]))
    assert 0 == (await house.report(name)).pushed.goals
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(anchor_moves=[moved(1, first, 7)]))
    assert 1 == (await house.report(name)).pushed.goals
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(anchor_moves=[moved(1, stranger + 1, 9)]))
    # A late copy of the older move changes nothing.
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(anchor_moves=[moved(1, first, 7)]))
    assert 0 == (await house.report(name)).pushed.goals
    # `second` went into `first` after the decision; a goal under the new name is second's and first's.
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(cluster_changes=[merged(first, second, 1)]))
    await house.hear(EVENTS, identity_pb2.ResolvedBatch(events=[event(first, anchor=2, version=10)]))
    assert 2 == (await house.report(name)).pushed.goals
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(cluster_changes=[merged(first, second, 2, "split")]))
    assert 1 == (await house.report(name)).pushed.goals


async def test_aliases_that_bite_their_tail_hang_nothing(house: House) -> None:
    name = await house.launch(budget=EVERYBODY)
    changes = [merged(1, 2, 1), merged(2, 1, 2), merged(3, 3, 3)]
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(cluster_changes=changes))
    await house.report(name)
    await house.launch(budget=EVERYBODY)


async def test_who_opted_out_is_not_pushed_and_the_strictest_anchor_wins_after_a_merge(house: House) -> None:
    def said(anchor: int, person: int, channel: str, out: bool, at: int) -> identity_pb2.ConsentChange:
        return identity_pb2.ConsentChange(anchor_id=anchor, person_id=person, channel=channel, opted_out=out, stated_at_us=at)

    await house.hear(
        ENTITIES,
        identity_pb2.EntitiesChanged(
            consent_changes=[
                said(1, 1, "all", True, 100),
                said(3, 3, "all", True, 100),
                said(3, 3, "all", False, 200),
                said(5, 5, "all", False, 200),
                said(5, 5, "all", True, 100),
                said(7, 7, "app", True, 100),
                said(7, 7, "wechat", True, 100),
                said(7, 7, "dealer", True, 100),
                said(9_000, 9_000, "all", True, 100),
            ],
            anchor_moves=[moved(9_000, 11, 4)],
        ),
    )
    name = await house.launch(budget=EVERYBODY, holdout_share=0.0)
    outcome = {decision.person_id: decision.outcome for decision in await house.decisions(name)}
    assert {"opted_out"} == {outcome[person] for person in (1, 7, 11)}
    assert "opted_out" not in {outcome[person] for person in (3, 5)}
    assert {1, 7, 11}.isdisjoint(push.person_id for push in await house.pushes())


async def test_pushes_of_whom_a_person_swallowed_count_toward_the_cap(house: House) -> None:
    await house.launch(budget=EVERYBODY, holdout_share=0.0)
    [first, second, *_] = sorted({push.person_id for push in await house.pushes()})
    await house.hear(ENTITIES, identity_pb2.EntitiesChanged(cluster_changes=[merged(first, second, 1)]))
    await house.launch(budget=EVERYBODY, holdout_share=0.0)
    rows = await house.rows(f"SELECT recent_pushes FROM decision WHERE theme_id = 2 AND person_id = {first}")
    assert 2 == rows[0].recent_pushes
