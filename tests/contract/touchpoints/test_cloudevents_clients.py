"""Real senders of CloudEvents: requests captured on the wire, and the specification's own library."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.contract.touchpoints.requests import captured
from tests.integration.touchpoints.quarantine import held
from tests.integration.touchpoints.room import Room, basic

DOOR = "/v1/cloudevents"


@pytest.mark.parametrize(
    ("name", "accepted", "reasons"),
    [
        ("cloudevents-py-binary-01.raw", 1, []),
        ("cloudevents-py-structured-01.raw", 1, []),
        # Nobody is named in these two.
        ("cloudevents-batch-01.raw", 0, ["NO_ID", "NO_ID"]),
    ],
)
async def test_a_captured_request_is_taken_whole(room: Room, name: str, accepted: int, reasons: list[str]) -> None:
    key = await room.source("crm")
    _, _, headers, body = captured(name)
    answer = await room.http.post(DOOR, content=body, headers=headers | basic(key))
    assert 200 == answer.status_code
    assert (accepted, reasons) == (answer.json()["accepted"], [one["reason"] for one in answer.json()["set_aside"]])
    assert accepted == len(await room.observed())
    await held(room, len(reasons))


async def test_the_specifications_library_delivers_and_a_repeat_counts_once(room: Room) -> None:
    key = await room.source("crm")
    event = CloudEvent(
        {
            "id": "1",
            "source": "/crm",
            "type": "Test Drive Booked",
            "subject": "customers/张三",
            "specversion": "1.0",
            "time": datetime.now(UTC),
            "datacontenttype": "application/json",
        },
        {"model": "X5"},
    )
    for message in (to_binary_event(event), to_structured_event(event)):
        answer = await room.http.post(DOOR, content=message.body, headers={**message.headers, **basic(key)})
        assert (200, 1) == (answer.status_code, answer.json()["accepted"])
    (observed,) = {e.event_id: e for _, e in await room.observed()}.values()
    assert ("Test Drive Booked", {"model": "X5"}) == (observed.name, json.loads(observed.properties_json))


async def test_other_requests_are_told_what_is_wanted(room: Room) -> None:
    key = await room.source("crm")
    plain = await room.http.post(DOOR, content=b"{}", headers=basic(key))
    assert (415, "no_cloudevent") == (plain.status_code, plain.json()["code"])
    nobody = await room.http.post(DOOR, content=b"{}", headers={"content-type": "application/cloudevents+json"})
    assert 401 == nobody.status_code
    shaken = await room.http.options(DOOR, headers={"WebHook-Request-Origin": "events.example"})
    assert (200, "*") == (shaken.status_code, shaken.headers["webhook-allowed-origin"])
