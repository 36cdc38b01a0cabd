"""Call lists: whom to call and why, without a number, and what came of the calls."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import Any

from troika.identity.v1.events_pb2 import ConsentChange, EntitiesChanged

from chassis.outbox import Outgoing
from services.touchpoints.domain.deliveries import Channel, State
from tests.integration.touchpoints.room import Room, basic, eventually, request

# Marketing by phone must have been asked for.
SERVICE = {"purpose": "service"}


async def test_a_list_is_fetched_by_rank_and_its_results_move_the_pushes(room: Room) -> None:
    for person in range(1, 7):
        room.identity.book[person, "mobile", ""] = (100 + person, f"+861380013800{person}")
    keys = [basic(await room.source(name, server_side=True)) for name in ("call_center", "other")]
    await room.endpoint("calls", int(Channel.CALL_LIST), "", "north", settings={"source": "call_center"})
    await room.request(
        *(request(f"c{person}", person, "call_list", score=100.0 * person, reasons=["=1+1", "b"]) for person in range(1, 7))
    )
    for person in range(1, 7):
        await room.in_state(f"c{person}", State.ACCEPTED)

    async def fetch(**query: Any) -> Any:
        return await room.http.get("/v1/call-lists/calls", params=query, headers=keys[0])

    entries = (await fetch(limit=4)).json()["entries"]
    assert [("c6", 1, 600), ("c5", 2, 500), ("c4", 3, 400), ("c3", 4, 300)] == [
        (e["delivery_id"], e["rank"], e["score"]) for e in entries
    ]
    assert "1380013800" not in str(entries)
    assert "+8613800138006" == (await room.http.get(entries[0]["contact_url"])).json()["mobile"]
    table = list(csv.DictReader(io.StringIO((await fetch(format="csv")).text)))
    assert ("c6", "'=1+1; b") == (table[0]["delivery_id"], table[0]["reasons"])
    # Who forbids calls meanwhile is not called, and the link is shut.
    change = ConsentChange(anchor_id=105, person_id=5, channel="phone", opted_out=True, stated_at_us=1)
    payload = EntitiesChanged(consent_changes=[change]).SerializeToString()
    await room.bus.publish_all([Outgoing.now("troika.entities.changed.v1", payload)])

    async def names() -> list[str]:
        return [entry["delivery_id"] for entry in (await fetch()).json()["entries"]]

    assert ["c6", "c4", "c3", "c2", "c1"] == await eventually(names, lambda found: "c5" not in found)
    assert "opted_out" == (await room.in_state("c5", State.SUPPRESSED)).reason
    assert 410 == (await room.http.get(entries[1]["contact_url"])).status_code

    when = datetime.now(UTC).isoformat()
    codes = {"c6": "interested", "c4": "not_interested", "c3": "wrong_number", "c2": "do_not_call", "c1": "not_reached"}
    results = [{"delivery_id": name, "code": code, "called_at": when} for name, code in codes.items()]
    results += [{"delivery_id": "c1", "code": "shrug", "called_at": when}, {"delivery_id": "c1", "code": "call_later"}]
    results += [{"delivery_id": "strange", "code": "interested", "called_at": when}]
    for _ in range(2):
        answer = (await room.http.post("/v1/call-lists/calls/results", json={"results": results}, headers=keys[0])).json()
        assert 5 == answer["accepted"]
        assert {"results[5].code", "results[6].called_at", "results[7].delivery_id"} == {e["field"] for e in answer["rejected"]}
    states = {name: (await room.delivery(name)) for name in codes}
    assert [State.ANSWERED, State.ANSWERED, State.FAILED, State.DELIVERED, State.ACCEPTED] == [
        d.state if d else 0 for d in states.values()
    ]
    assert ["c1"] == await names()
    events = {
        (event.name, event.source, event.anchor_id) for _, event in await eventually(room.observed, lambda e: len(e) >= 6)
    }
    assert {
        ("Offer Answered", "call_center", 106),
        ("Offer Answered", "call_center", 104),
        ("Unsubscribed", "call_center", 102),
    } <= events
    await room.request(request("again", 2, "call_list"))
    assert "opted_out" == (await room.in_state("again", State.SUPPRESSED)).reason

    publishable = basic(await room.source("call_center"))
    refusals = [
        (await room.http.get("/v1/call-lists/calls", headers=publishable)).json()["code"],
        (await room.http.post("/v1/call-lists/calls/results", json={"results": []}, headers=publishable)).json()["code"],
        (await room.http.get("/v1/call-lists/calls", headers=keys[1])).json()["code"],
        (await room.http.get("/v1/call-lists/none", headers=keys[0])).json()["code"],
        (await room.http.get("/v1/call-lists/calls")).status_code,
        (await fetch(limit=0)).json()["field"],
        (await fetch(format="xls")).json()["field"],
    ]
    assert ["server_key_required"] * 2 == refusals[:2]
    assert ["list_not_allowed", "list_not_found", 401, "limit", "format"] == refusals[2:]
