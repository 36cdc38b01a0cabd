"""Households, serving dealers, owners and drivers of the demo's overlay, measured against its truth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from itertools import combinations, islice
from typing import Any

from local.overlay import Overlay
from local.overlay.homes import Address
from local.overlay.plan import Phone, Vin
from services.identity.inference import infer
from tests.integration.identity.world import World

PERSONS, SEED, BATCH = 1600, 11, 500
KINDS = ("mobile", "id_card", "email", "unionid", "device")


async def inferred(world: World) -> None:
    while (await infer(world.database)).left:
        pass


def micros(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp).timestamp()) * 1_000_000


async def feed(world: World, overlay: Overlay) -> dict[int, int]:
    """Takes all records and workshop events in a mixed order; returns person entity → person, by majority of records."""
    key, events, truth = world.key(), [], {}
    for source in overlay.sources:
        for record, (_, person) in zip(overlay.records(source), overlay.truth.records(source), strict=True):
            given, vehicle = record["identifiers"], record.get("vehicle", {})
            identifiers = [("crm_id", source, record["record_id"]), *((k, given[k]) for k in KINDS if k in given)]
            if "openid" in given:
                identifiers.append(("openid", given["appid"], given["openid"]))
            identifiers += [(kind, vehicle[kind]) for kind in ("vin", "plate") if kind in vehicle]
            told = {"who": given.get("name", ""), "address": given.get("address", ""), "relation": vehicle.get("relation", "")}
            events.append(world.event(key, source, *identifiers, **told, at=micros(record["updated_at"])))
            truth[events[-1].event_id] = person
        if source.startswith("dealer:"):
            for call in overlay.workshop_events(source):
                identifiers = [("crm_id", source, call["userId"]), ("vin", call["properties"]["vin"])]
                at = micros(call["timestamp"])
                events.append(world.event(key, source, *identifiers, name=call["event"], at=at))
    waiting = iter(sorted(events, key=lambda event: event.event_id))
    while batch := list(islice(waiting, BATCH)):
        await world.take(world.batch(key, batch))
    votes: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for row in await world.rows("SELECT event_id, entity_id FROM observation o JOIN identifier i ON i.id = o.person_anchor"):
        if row.event_id in truth:
            votes[row.entity_id][truth[row.event_id]] += 1
    return {entity: counts.most_common(1)[0][0] for entity, counts in votes.items()}


def rates(found: set[Any], true: set[Any]) -> tuple[float, float]:
    """(precision, recall)"""
    return len(found & true) / max(len(found), 1), len(found & true) / max(len(true), 1)


async def test_the_overlays_households_and_serving_dealers_are_found(world: World) -> None:
    overlay = Overlay(PERSONS, SEED)
    person_of = await feed(world, overlay)
    await inferred(world)
    pairs = await world.rows(
        "SELECT a.entity_id AS a, b.entity_id AS b FROM household_suggestion s"
        " JOIN identifier a ON a.id = s.anchor_a JOIN identifier b ON b.id = s.anchor_b"
    )
    found = {tuple(sorted((person_of[row.a], person_of[row.b]))) for row in pairs}
    true = {pair for members in overlay.truth.households() for pair in combinations(sorted(members), 2)}
    precision, recall = rates(found, true)
    # What evidence there is at all: both have a file with the address, and a car or a device or a phone in common.
    findable = findable_pairs(overlay, true)
    _, of_findable = rates(found, findable)
    print(f"\nhouseholds: {len(found)} suggested, {len(true)} true pairs, {len(findable)} with evidence on both")
    print(f"households: precision {precision:.4f} recall {recall:.4f} of those with evidence {of_findable:.4f}")
    assert precision >= 0.99
    assert of_findable >= 0.85

    dealers = {row.id: row.code for row in await world.rows("SELECT id, code FROM dealer")}
    vins = {vin.decode(): car for car, vin in enumerate(overlay.world.vehicles.vin.tolist())}
    tokens = {world.vault.known("vin", "", vin).token: car for vin, car in vins.items()}  # type: ignore[union-attr]
    entity_of = {
        tokens[row.token]: row.entity_id
        for row in await world.rows("SELECT token, entity_id FROM identifier WHERE kind = 9")
        if row.token in tokens
    }
    told = await world.rows("SELECT kind, subject_id, object_id, valid_to_us FROM relation WHERE valid_to_us = 0")
    serving = {row.subject_id: dealers[row.object_id] for row in told if row.kind == "serviced_by"}
    sold = {row.subject_id: dealers[row.object_id] for row in told if row.kind == "sold_by"}
    names = [source.removeprefix("dealer:") for source in overlay.sources if source.startswith("dealer:")]
    workshops = overlay.workshops
    cars = [car for car in entity_of if workshops.serving[car] >= 0]
    true_serving = {(car, names[workshops.serving[car]]) for car in cars}
    found_serving = {(car, serving[entity_of[car]]) for car in cars if entity_of[car] in serving}
    precision, recall = rates(found_serving, true_serving)
    print(f"serving dealer: {len(true_serving)} cars with visits, precision {precision:.4f} recall {recall:.4f}")
    assert precision >= 0.9
    assert recall >= 0.9
    true_sold = {
        (car, names[workshops.seller[car]]) for car in set(workshops.vehicle[workshops.sale].tolist()) & set(entity_of)
    }
    assert (1.0, 1.0) == rates({(c, sold[entity_of[c]]) for c, _ in true_sold if entity_of[c] in sold}, true_sold)

    owners = {(row.subject_id, row.object_id) for row in told if row.kind == "owns"}
    assert len(owners) == len({vehicle for _, vehicle in owners})
    true_owner = {(int(o), c) for c, o in enumerate(overlay.world.vehicles.owner.tolist()) if c in entity_of}
    car_by_entity = {entity: car for car, entity in entity_of.items()}
    precision, recall = rates(
        {(person_of[p], car_by_entity[v]) for p, v in owners if v in car_by_entity and p in person_of}, true_owner
    )
    print(f"owners: precision {precision:.4f} recall {recall:.4f}")
    assert precision >= 0.98
    drivers = {(row.subject_id, row.object_id) for row in told if row.kind == "drives"}
    found_driver = {(person_of[p], car_by_entity[v]) for p, v in drivers if v in car_by_entity and p in person_of}
    plan = overlay.world.plan
    true_driver = {(int(p), int(c)) for p, c in zip(plan.person[plan.drives], plan.vehicle[plan.drives], strict=True)}
    precision, recall = rates(found_driver, true_driver)
    print(f"drivers: precision {precision:.4f} recall {recall:.4f}")
    assert precision >= 0.95


def findable_pairs(overlay: Overlay, true: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """Pairs on whose records stand their own address on both sides, and a car, phone or device of both."""
    world = overlay.world
    plan = world.plan
    at_home = set(plan.person[world.homes.address == Address.OWN].tolist())
    things: defaultdict[int, set[tuple[str, int]]] = defaultdict(set)
    rows = zip(*(c.tolist() for c in (plan.person, plan.vehicle, plan.vin, plan.phone, plan.device)), strict=True)
    for person, car, vin, phone, device in rows:
        if car >= 0 and vin == Vin.RIGHT:
            things[person].add(("car", car))
        if phone in (Phone.OWN, Phone.RELATIVE):
            things[person].add(("mobile", int(world.people.relative[person]) if phone == Phone.RELATIVE else person))
        if device >= 0:
            things[person].add(("device", device))
    return {(a, b) for a, b in true if a in at_home and b in at_home and things[a] & things[b]}
