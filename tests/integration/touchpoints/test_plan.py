"""The tracking plan in a running service: changed while it runs, judged at the doors, held events healed once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from troika.touchpoints.v1 import plan_service_pb2 as pb

from chassis.rpc import reason_of
from tests.integration.touchpoints.quarantine import held, nothing_held, plan_door, rows
from tests.integration.touchpoints.room import Room, basic, eventually

SCHEMA = {"required": ["model"], "properties": {"model": {"type": "string"}, "price": {"type": "number"}}}


def track(number: int, name: str = "Car Priced", **properties: Any) -> dict[str, Any]:
    # Some of what is said names a person: it must never lie in the open.
    given = {"model": "X5", "phone": "13800138000", **properties}
    return {"type": "track", "event": name, "userId": f"u{number}", "messageId": f"m{number}", "properties": given}


async def send(room: Room, source: str, *events: dict[str, Any]) -> None:
    answer = await room.http.post("/v1/batch", json={"batch": events}, headers=basic(room.keys[source]))
    assert (200, b'{"success":true}') == (answer.status_code, answer.content)


def event_type(schema: dict[str, Any] | None = None, **changes: Any) -> pb.EventType:
    return pb.EventType(**({"name": "Car Priced", "schema_json": json.dumps(SCHEMA if schema is None else schema)} | changes))


async def save(plan: Any, given: pb.EventType, **more: Any) -> pb.SaveEventTypeResponse:
    answer: pb.SaveEventTypeResponse = await plan.SaveEventType(pb.SaveEventTypeRequest(event_type=given, **more))
    return answer


async def replayed(plan: Any, **request: Any) -> pb.Replay:
    answer = await plan.ReplayQuarantined(pb.ReplayQuarantinedRequest(**request))

    async def look() -> pb.Replay:
        found: pb.Replay = (await plan.GetReplay(pb.GetReplayRequest(name=answer.replay.name))).replay
        return found

    return await eventually(look, lambda replay: replay.done)


async def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason_of(caught.value)


async def test_what_does_not_fit_is_held_counted_and_explained_and_goes_on_once_the_plan_is_mended(room: Room) -> None:
    await room.source("app")
    async with plan_door(room) as plan:
        first = await save(plan, event_type())
        assert (1, 0) == (first.event_type.version, first.healing.examined)
        await send(room, "app", track(1), track(2, price="12.5"), track(3, price="x"), track(4, model=None))
        # The client did not hear the answer and sends again.
        await send(room, "app", track(2, price="12.5"), track(3, price="x"))
        before = {row["event_id"]: row["received_at"] for row, _ in await held(room, 3)}
        assert b"13800138000" not in b"".join(row["sealed"] for row in await rows(room))
        counted = await plan.CountQuarantined(pb.CountQuarantinedRequest())
        assert [("Car Priced", "PLAN_MISMATCH", "price", 2), ("Car Priced", "PLAN_MISMATCH", "model", 1)] == [
            (c.event, c.reason, c.field, c.events) for c in counted.counts
        ]
        listed = await plan.ListQuarantined(pb.ListQuarantinedRequest(with_event=True, page_size=2))
        more = pb.ListQuarantinedRequest(page_token=listed.next_page_token, with_event=True, page_size=2)
        rest = await plan.ListQuarantined(more)
        assert (2, 1, "") == (len(listed.events), len(rest.events), rest.next_page_token)
        told = {(e.message, e.schema_path, e.event_json.replace("\n", "")) for e in (*listed.events, *rest.events)}
        texts = [{"model": "X5", "price": "12.5"}, {"model": "X5", "price": "x"}, {"model": None}]
        assert sorted(map(str, texts)) == sorted(str(json.loads(event)["properties"]) for _, _, event in told)
        assert {("is required", "/required"), ('is not of type "number"', "/properties/price/type")} == {t[:2] for t in told}

        wider = event_type(SCHEMA | {"properties": {"price": {"type": ["number", "string"], "pattern": "^[0-9.]+$"}}})
        foreseen = await save(plan, wider, dry_run=True, from_version=1)
        assert (3, 1, {"PLAN_MISMATCH": 2}) == (
            foreseen.healing.examined, foreseen.healing.healed, dict(foreseen.healing.still_held),
        )  # fmt: skip
        assert [0] == [(await plan.ReplayQuarantined(pb.ReplayQuarantinedRequest(dry_run=True))).healing.healed]
        assert 2 == (await save(plan, wider, from_version=1)).event_type.version
        assert ("VERSION_CHANGED", "from_version") == await refusal(save(plan, wider, from_version=1))

        for _ in range(2):
            replay = await replayed(plan, request_id="once")
            assert (3, 3, 1) == (replay.total, replay.examined, replay.healed)
        assert 0 == (await replayed(plan)).healed
        observed = {event.event_id: event for _, event in await room.observed()}
        assert 2 == len(observed) == len(await room.observed())
        [healed] = set(before) & set(observed)
        assert before[healed].timestamp() * 1e6 == pytest.approx(observed[healed].received_at_us, abs=1)
        assert {"model": "X5", "price": "12.5"} == json.loads(observed[healed].properties_json)
        # The client sends it once more, now that it fits: the same id again.
        await send(room, "app", track(2, price="12.5"))
        assert 2 == len({event.event_id for _, event in await room.observed()})


async def test_an_event_put_right_by_a_patch_goes_on_under_its_own_id_and_the_rest_can_be_discarded(room: Room) -> None:
    await room.source("app")
    async with plan_door(room) as plan:
        await save(plan, event_type())
        await send(room, "app", track(1, price="x"), track(2, name="", price=1), {"type": "nonsense", "userId": "u"}, track(4))
        await held(room, 3)
        refused = plan.ReplayQuarantined(pb.ReplayQuarantinedRequest(patch_json="[1]"))
        assert ("INVALID_PATCH", "patch_json") == await refusal(refused)
        of_price = pb.QuarantineFilter(reason="PLAN_MISMATCH", source="app", event="Car Priced")
        patch = json.dumps({"properties": {"price": None, "currency": "CNY"}})
        assert (1, 1) == ((done := await replayed(plan, filter=of_price, patch_json=patch)).total, done.healed)
        named = json.dumps({"event": "Car Priced"})
        assert 1 == (await replayed(plan, filter=pb.QuarantineFilter(reason="WRONG_TYPE"), patch_json=named)).healed
        events = sorted((json.loads(event.properties_json) for _, event in await room.observed()), key=str)
        assert [{"model": "X5", "currency": "CNY"}, {"model": "X5", "price": 1}, {"model": "X5"}] == events
        assert ("INVALID_ARGUMENT", "filter") == await refusal(plan.DiscardQuarantined(pb.DiscardQuarantinedRequest(filter={})))
        all_of_it = pb.QuarantineFilter(source="app")
        assert [1, 1, 0] == [
            (await plan.DiscardQuarantined(pb.DiscardQuarantinedRequest(filter=all_of_it, dry_run=dry))).events
            for dry in (True, False, False)
        ]


async def test_unplanned_events_pass_and_are_counted_until_the_plan_holds_them(room: Room) -> None:
    await room.source("app")
    await room.source("dealer:D001")
    async with plan_door(room) as plan:
        await send(room, "app", *(track(n, name="Nobody Knows") for n in range(5)), track(6, name="Called 13800138000"))
        assert await nothing_held(room)

        async def passed() -> list[tuple[str, str, int]]:
            answer = await plan.CountUnplanned(pb.CountUnplannedRequest(days=1))
            return [(c.source, c.event, c.events) for c in answer.counts]

        await eventually(passed, lambda counts: counts == [("app", "Nobody Knows", 5), ("app", "", 1)])
        await plan.SetUnplanned(pb.SetUnplannedRequest(mode=pb.UNPLANNED_MODE_HOLD))
        await save(plan, event_type({}, name="Only Dealers", sources=["dealer:*"]))
        for source, number in (("app", 10), ("dealer:D001", 20)):
            await send(room, source, track(number, name="Nobody Knows"), track(number + 1, name="Only Dealers"))
        found = [(row["source"], row["event"], row["reason"]) for row, _ in await held(room, 3)]
        assert {
            ("app", "Nobody Knows", "EVENT_UNPLANNED"),
            ("app", "Only Dealers", "SOURCE_NOT_ALLOWED"),
            ("dealer:D001", "Nobody Knows", "EVENT_UNPLANNED"),
        } == set(found)
        listed = await plan.ListEventTypes(pb.ListEventTypesRequest(page_size=1000, source="app"))
        names = {each.name for each in listed.event_types}
        assert (True, False, pb.UNPLANNED_MODE_HOLD) == ("Order Placed" in names, "Only Dealers" in names, listed.unplanned)
        assert 2 == (await save(plan, event_type({}, name="Nobody Knows"), dry_run=True)).healing.healed
        shown = await plan.GetEventType(pb.GetEventTypeRequest(name="Order Placed"))
        assert (0, [0], "") == (shown.event_type.version, list(shown.versions), shown.event_type.author)
        await save(plan, event_type({}, name="Order Placed", retired=True))
        again = await plan.GetEventType(pb.GetEventTypeRequest(name="Order Placed"))
        assert (1, [0, 1], True, "operator") == (
            again.event_type.version, list(again.versions), again.event_type.retired, again.event_type.author,
        )  # fmt: skip


REFUSALS: list[tuple[str, dict[str, Any], str, str]] = [
    ("SaveEventType", {"event_type": {"name": "A", "schema_json": "{"}}, "INVALID_SCHEMA", "event_type.schema_json"),
    ("SaveEventType", {"event_type": {"name": "A", "schema_json": "[]"}}, "INVALID_SCHEMA", "event_type.schema_json"),
    ("SaveEventType", {"event_type": {"name": "A", "schema_json": '{"type":1}'}}, "INVALID_SCHEMA", "event_type.schema_json"),
    ("SaveEventType", {"event_type": {"name": " A"}}, "INVALID_ARGUMENT", "event_type.name"),
    ("SaveEventType", {"event_type": {"name": ""}}, "INVALID_ARGUMENT", "event_type.name"),
    ("SaveEventType", {"event_type": {"name": "A", "sources": ["*"]}}, "INVALID_ARGUMENT", "event_type.sources[0]"),
    ("SetUnplanned", {}, "INVALID_ARGUMENT", "mode"),
    ("GetEventType", {"name": "Nothing"}, "EVENT_TYPE_NOT_FOUND", "name"),
    ("GetEventType", {"name": "Order Placed", "version": 7}, "EVENT_TYPE_NOT_FOUND", "name"),
    ("GetReplay", {"name": "replays/none"}, "REPLAY_NOT_FOUND", "name"),
    ("ListQuarantined", {"page_token": "zzz"}, "INVALID_PAGE_TOKEN", "page_token"),
    ("ReplayQuarantined", {"filter": {"names": ["x"]}}, "INVALID_ARGUMENT", "filter.names[0]"),
    ("CountQuarantined", {"filter": {"from_time": Timestamp(seconds=10**15)}}, "INVALID_TIME", "filter.from_time"),
]


async def test_what_cannot_be_is_refused_by_name(room: Room) -> None:
    async with plan_door(room) as plan:
        for method, fields, *expected in REFUSALS:
            request = getattr(pb, f"{method}Request")(**fields)
            assert tuple(expected) == await refusal(getattr(plan, method)(request)), (method, fields)


async def test_records_that_do_not_fit_are_refused_line_by_line(room: Room) -> None:
    key = await room.source("crm")
    record = {"record_id": "1", "updated_at": "2026-03-01T08:00:00Z", "attributes": {"age": "old"}}
    vehicle = record | {
        "record_id": "2",
        "attributes": {},
        "vehicle": {"vin": "LSVAA4182E2184847", "attributes": {"mileage_km": -1}},
    }
    answer = await room.http.post("/v1/records", content="\n".join(map(json.dumps, (record, vehicle))), headers=basic(key))
    assert [0, "attributes.age", "vehicle.attributes.mileage_km"] == [
        answer.json()["accepted"], *(line["field"] for line in answer.json()["rejected"]),
    ]  # fmt: skip
    assert await nothing_held(room)


async def test_every_dialect_is_read_again_as_its_door_read_it(room: Room) -> None:
    key = await room.source("app")
    async with plan_door(room) as plan:
        await plan.SetUnplanned(pb.SetUnplannedRequest(mode=pb.UNPLANNED_MODE_HOLD))
        await send(room, "app", {"type": "track", "event": "Held", "userId": "u1", "timestamp": "2026-01-01T00:00:00Z"})
        envelope = {"specversion": "1.0", "id": "1", "source": "/x", "type": "Held", "subject": "u1"}
        headers = basic(key) | {"content-type": "application/cloudevents+json"}
        answer = await room.http.post("/v1/cloudevents", content=json.dumps(envelope), headers=headers)
        assert ("EVENT_UNPLANNED", 0) == (answer.json()["set_aside"][0]["reason"], answer.json()["accepted"])
        sensed = {"type": "track", "event": "Held", "distinct_id": "a", "time": 1_795_248_000_000, "properties": {}}
        import base64

        data = base64.b64encode(json.dumps(sensed).encode()).decode()
        assert 200 == (await room.http.post(f"/sa?project=p&token={key}", data={"data": data})).status_code
        before = {row["event_id"] for row, _ in await held(room, 3)}
        await save(plan, event_type({}, name="Held"))
        assert 3 == (await replayed(plan)).healed
        assert before == {event.event_id for _, event in await room.observed()}


async def test_old_held_events_go_and_the_oldest_make_room(room: Room) -> None:
    from services.touchpoints.plan import quarantine_store

    await room.source("app")
    async with plan_door(room) as plan:
        await plan.SetUnplanned(pb.SetUnplannedRequest(mode=pb.UNPLANNED_MODE_HOLD))
    await send(room, "app", *(track(n, name="Held", text="x" * 1000) for n in range(10)))
    kept = [row["id"] for row, _ in await held(room, 10)]
    async with room.database.transaction() as uow:
        old = "UPDATE quarantined SET received_at = received_at - CAST(:age AS interval) WHERE id = :id"
        await uow.execute(old, age=timedelta(days=31), id=kept[0])
        assert (1, 6) == await quarantine_store.expire(uow, 30, 5000)
    assert kept[-3:] == [row["id"] for row in await rows(room)]


async def test_a_replay_that_is_killed_in_the_middle_again_and_again_doubles_and_loses_nothing(room: Room) -> None:
    """Steps are cut off at any point, by several workers at once, while the service's own works too."""
    await room.source("app")
    async with plan_door(room) as plan:
        await plan.SetUnplanned(pb.SetUnplannedRequest(mode=pb.UNPLANNED_MODE_HOLD))
        for start in range(0, 3000, 1000):
            await send(room, "app", *(track(n, name="Held" if n % 10 else "Never") for n in range(start, start + 1000)))
        await eventually(lambda: rows(room), lambda found: len(found) == 3000)
        await save(plan, event_type({}, name="Held"))
        from services.touchpoints.plan.held import Holder
        from services.touchpoints.plan.live import LivePlan
        from services.touchpoints.plan.replaying import Replayer, Rereader
        from services.touchpoints.sealer import Sealer
        from services.touchpoints.sources import Sources

        async def worker(sealer: Sealer, number: int) -> None:
            live, sources = LivePlan(room.database), Sources(room.database)
            await live.refresh()
            await sources._load()
            holder = Holder(bytes.fromhex(room.settings.secrets_key.get_secret_value()))
            replayer = Replayer(room.database, Rereader(holder, sources, 3650), live, sealer, 30, 10**9)
            for cut in range(number, number + 8):
                step = asyncio.create_task(replayer.step())
                await asyncio.sleep(0.004 * cut)
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)

        class Keys:
            def key(self) -> Any:
                from chassis.sealing import DataKey

                return DataKey.agree(room.identity.private.public_key().public_bytes_raw(), "k1")

        begun = await plan.ReplayQuarantined(pb.ReplayQuarantinedRequest(request_id="killed"))
        keys: Any = Keys()
        await asyncio.gather(*(worker(keys, number) for number in range(3)))
        done = await replayed(plan, request_id="killed")
        assert (begun.replay.total, 3000, 2700) == (3000, done.examined, done.healed)

        async def published() -> Counter[bytes]:
            return Counter(event.event_id for _, event in await room.observed())

        counts = await eventually(published, lambda found: found.total() >= 2700)
        assert (2700, {1}) == (len(counts), set(counts.values()))
        assert 300 == len(await rows(room))
