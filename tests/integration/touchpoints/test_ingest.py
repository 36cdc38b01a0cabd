"""The ingest doors on a real bus: what is acknowledged lies in the stream, sealed, once."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import httpx

from tests.integration.touchpoints.quarantine import held
from tests.integration.touchpoints.room import Room, basic, eventually


def track(**changes: Any) -> dict[str, Any]:
    return {
        "type": "track",
        "event": "Model Viewed",
        "userId": "u-1",
        "anonymousId": "a-1",
        "messageId": "m-1",
        "properties": {"model": "X5"},
        "context": {"device": {"id": "d-1"}},
        **changes,
    }


async def post(room: Room, body: Any, path: str = "/v1/batch", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await room.http.post(path, content=content, headers=basic(room.keys["app"]) | headers)


async def test_an_event_is_answered_with_exactly_200_and_lies_sealed_in_the_stream(room: Room) -> None:
    await room.source("app")
    event = track(type="identify", traits={"name": "张三", "phone": "+8613800138000", "city": "深圳"})
    answer = await post(room, {"batch": [event]})
    assert (200, b'{"success":true}') == (answer.status_code, answer.content)
    [(batch, got)] = await room.observed()
    sealed = room.identity.open(batch, got)
    assert ("app", "Identified", {"city": "深圳"}) == (got.source, got.name, json.loads(got.properties_json))
    assert [("crm_id", "app", "u-1"), ("cookie", "", "a-1"), ("device", "", "d-1"), ("mobile", "", "+8613800138000")] == [
        (i.kind, i.scope, i.value) for i in sealed.identifiers
    ]
    assert "张三" == sealed.person_name
    assert b"13800138000" not in batch.SerializeToString()


async def test_a_batch_sent_again_is_in_the_stream_once(room: Room) -> None:
    await room.source("app")
    body = {"batch": [track(messageId=f"m-{i}") for i in range(1200)]}
    for _ in range(2):
        assert 200 == (await post(room, body)).status_code
    assert 1200 == len(await room.observed())
    assert 3 == len(await room.messages("EVENTS_OBSERVED"))


async def test_one_bad_event_is_quarantined_with_its_reason_and_the_others_go_on(room: Room) -> None:
    await room.source("app")
    bad = [
        {"type": "nonsense", "userId": "13800138000"},
        track(userId=None, anonymousId=""),
        track(event=7),
        track(timestamp="yesterday"),
        track(properties=[1]),
        "text",
    ]
    assert 200 == (await post(room, {"batch": [track(), *bad]})).status_code
    assert 1 == len(await room.observed())
    aside = await held(room, 6)
    reasons = sorted((row["field"], row["reason"]) for row, _ in aside)
    assert [
        ("", "NOT_AN_OBJECT"),
        ("event", "WRONG_TYPE"),
        ("properties", "WRONG_TYPE"),
        ("timestamp", "INVALID_TIME"),
        ("type", "UNKNOWN_TYPE"),
        ("userId", "NO_ID"),
    ] == reasons
    assert sorted(map(str, bad)) == sorted(str(kept.message) for _, kept in aside)
    assert all(b"13800138000" not in data for data in await room.messages("EVENTS_QUARANTINED"))


async def test_gzip_any_content_type_and_a_key_in_the_body_are_understood(room: Room) -> None:
    key = await room.source("app")
    packed = gzip.compress(json.dumps({"batch": [track()], "writeKey": key}).encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/x-www-form-urlencoded"}
    answer = await room.http.post("/v1/batch", content=packed, headers=headers)
    single = json.dumps(track(messageId="m-2", type=None) | {"writeKey": key}).encode()
    browser = await room.http.post("/v1/t", content=single, headers={"Content-Type": "text/plain"})
    bearer = await room.http.post(
        "/v1/track", content=json.dumps(track(messageId="m-3")), headers={"Authorization": f"Bearer {key}"}
    )
    assert [200, 200, 200] == [answer.status_code, browser.status_code, bearer.status_code]
    assert ["*", "*"] == [answer.headers["Access-Control-Allow-Origin"], browser.headers["Access-Control-Allow-Origin"]]
    assert 3 == len(await room.observed())


HOSTILE: list[tuple[bytes, dict[str, str], int, str, str]] = [
    (b"{", {}, 400, "invalid_request", "body"),
    (b"[]", {}, 400, "invalid_request", "body"),
    (b"\xff\xfe", {}, 400, "invalid_request", "body"),
    (b"[" * 100_000, {}, 400, "invalid_request", "body"),
    (b'{"batch": 3}', {}, 400, "invalid_request", "batch"),
    (b'{"batch": [' + b"1," * 2500 + b"1]}", {}, 400, "payload_too_large", "batch"),
    (b" " * (1024 * 1024 + 1), {}, 400, "payload_too_large", "body"),
    (gzip.compress(b" " * (6 * 1024 * 1024)), {"Content-Encoding": "gzip"}, 400, "payload_too_large", "body"),
    (b"not gzip", {"Content-Encoding": "gzip"}, 400, "invalid_request", "body"),
    (gzip.compress(b"{}" * 500)[:-9], {"Content-Encoding": "gzip"}, 400, "invalid_request", "body"),
    (b"{}", {"Content-Encoding": "br"}, 400, "invalid_request", "content-encoding"),
    (b"{}", {"Authorization": "Basic bm9ib2R5Og=="}, 401, "unauthorized", "authorization"),
    (b"{}", {"Authorization": "Basic ***"}, 401, "unauthorized", "authorization"),
    (b"{}", {"Authorization": "Token x"}, 401, "unauthorized", "authorization"),
    (b'{"writeKey": 5, "batch": []}', {"Authorization": ""}, 401, "unauthorized", "authorization"),
]


async def test_unreadable_requests_get_an_error_that_names_the_field(room: Room) -> None:
    await room.source("app")
    for body, headers, *expected in HOSTILE:
        answer = await post(room, body, **headers)
        given = answer.json()
        assert expected == [answer.status_code, given["code"], given["field"]], body[:40]
        assert isinstance(given["message"], str)
    assert [] == await room.observed()


async def test_an_event_too_deep_to_write_is_quarantined(room: Room) -> None:
    await room.source("app")
    deep: Any = 1
    for _ in range(400):
        deep = {"x": deep}
    assert 200 == (await post(room, {"batch": [track(properties=deep), track(messageId="m-2")]})).status_code
    assert 1 == len(await room.observed())
    [(_, kept)] = await held(room, 1)
    assert kept.is_cut


async def test_a_rotated_key_ends_and_the_new_one_works(room: Room) -> None:
    old = await room.source("app")
    assert 200 == (await post(room, {"batch": [track()]})).status_code
    await room.source("app")
    assert 200 == (await post(room, {"batch": [track(messageId="m-2")]})).status_code

    async def status() -> int:
        return (await room.http.post("/v1/batch", content=b'{"batch":[]}', headers=basic(old))).status_code

    await eventually(status, lambda s: s == 401)


async def test_records_are_taken_line_by_line(room: Room) -> None:
    key = await room.source("dealer:D001")
    good = {
        "record_id": "88731",
        "updated_at": "2026-03-01T08:00:00Z",
        "identifiers": {"mobile": "138 0013 8000", "name": "张伟", "openid": "o1", "appid": "wx1"},
        "vehicle": {"vin": "LSVAA4182E2184847", "plate": "粤B12345", "relation": "owns", "attributes": {"model": "X5"}},
        "attributes": {"age": 41, "job": "services"},
    }
    lines = [
        json.dumps(good),
        "{",
        json.dumps(good | {"record_id": ""}),
        json.dumps(good | {"updated_at": "2100-01-01T00:00:00Z"}),
        json.dumps(good | {"identifiers": {"mobile": [1]}}),
        json.dumps(good | {"vehicle": {"relation": "likes"}}),
        "",
        json.dumps(good | {"record_id": 88732}),
    ]
    answer = await room.http.post("/v1/records", content="\n".join(lines), headers=basic(key))
    assert 200 == answer.status_code
    assert 2 == answer.json()["accepted"]
    assert [(2, "line"), (3, "record_id"), (4, "updated_at"), (5, "identifiers.mobile"), (6, "vehicle.relation")] == [
        (r["line"], r["field"]) for r in answer.json()["rejected"]
    ]
    (batch, first), _ = await room.observed()
    sealed = room.identity.open(batch, first)
    assert [
        ("crm_id", "dealer:D001", "88731"),
        ("mobile", "", "138 0013 8000"),
        ("openid", "wx1", "o1"),
        ("vin", "", "LSVAA4182E2184847"),
        ("plate", "", "粤B12345"),
    ] == [(i.kind, i.scope, i.value) for i in sealed.identifiers]
    assert ("张伟", 1) == (sealed.person_name, sealed.relation)
    assert ({"age": 41, "job": "services"}, {"model": "X5"}) == (
        json.loads(first.properties_json),
        json.loads(first.vehicle_properties_json),
    )


async def test_events_happen_when_the_senders_clock_corrected_by_ours_says(room: Room) -> None:
    await room.source("app")
    body = {"batch": [track(timestamp="2020-01-01T00:00:00Z")], "sentAt": "2020-01-01T00:00:07Z"}
    assert 200 == (await post(room, body)).status_code
    [(_, event)] = await room.observed()
    assert 7_000_000 == event.received_at_us - event.occurred_at_us
    assert abs(event.received_at_us - time.time_ns() // 1000) < 10_000_000
