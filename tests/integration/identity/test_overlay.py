"""The demo's identity overlay through the real tables: who belongs together is found, and no phone of a dealer glues."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from itertools import islice

from local.overlay.overlay import Overlay
from services.identity.domain.identifiers import Identifier, normal_or_reason
from tests.integration.identity.world import World

PERSONS, SEED, BATCH = 1500, 11, 500
KINDS = ("mobile", "id_card", "email", "unionid", "device")


def pairs(labels: Iterable[Hashable]) -> int:
    return sum(n * (n - 1) // 2 for n in Counter(labels).values())


async def test_the_overlay_resolves_within_the_promised_bounds(world: World) -> None:
    overlay = Overlay(PERSONS, SEED)
    truth, events = [], []
    key = world.key()
    for source in overlay.sources:
        for record, (_, person) in zip(overlay.records(source), overlay.truth.records(source), strict=True):
            given = record["identifiers"]
            identifiers = [("crm_id", source, record["record_id"])]
            identifiers += [
                (kind, given[kind]) for kind in ("mobile", "id_card", "email", "unionid", "device") if kind in given
            ]
            if "openid" in given:
                identifiers.append(("openid", given["appid"], given["openid"]))
            vehicle = record.get("vehicle", {})
            identifiers += [(kind, vehicle[kind]) for kind in ("vin", "plate") if kind in vehicle]
            who, relation = given.get("name", ""), vehicle.get("relation", "")
            events.append(world.event(key, source, *identifiers, who=who, relation=relation))
            truth.append(person)
    # Sources take turns, as they do at the doors.
    order = sorted(range(len(events)), key=lambda i: events[i].event_id)
    waiting = iter(order)
    while batch := list(islice(waiting, BATCH)):
        await world.take(world.batch(key, [events[i] for i in batch]))

    rows = await world.rows("SELECT event_id, entity_id FROM observation o JOIN identifier i ON i.id = o.person_anchor")
    owner = {row.event_id: row.entity_id for row in rows}
    found = [owner[event.event_id] for event in events]
    both = pairs(zip(found, truth, strict=True))
    precision, recall = both / pairs(found), both / pairs(truth)
    print(f"records {len(found)} precision {precision:.5f} recall {recall:.5f}")
    assert precision >= 0.999
    assert recall >= 0.98

    persons_of = defaultdict(set)
    for entity, person in zip(found, truth, strict=True):
        persons_of[entity].add(person)
    staff = [phone for phones in overlay.truth.staff_phones.values() for phone in phones]
    known = [world.vault.tokenised(i) for phone in staff if isinstance(i := normal_or_reason("mobile", "", phone), Identifier)]
    glued = await world.rows(
        "SELECT a.entity_id FROM identifier v JOIN link l ON l.value_id = v.id"
        " JOIN identifier a ON a.id = l.anchor_id WHERE v.token = ANY(:tokens)",
        tokens=[k.token for k in known],
    )
    assert len(glued) > 20
    assert set() == {row.entity_id for row in glued if len(persons_of[row.entity_id]) > 1}
