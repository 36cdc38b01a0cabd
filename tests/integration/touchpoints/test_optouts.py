"""Opt-outs without login: looking does nothing, one click ends it before the next send, and identity hears of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from troika.identity.v1.events_pb2 import EntitiesChanged, Erasure

from chassis.outbox import Outgoing
from services.touchpoints import webhooks
from tests.integration.touchpoints.receivers import APP
from tests.integration.touchpoints.receiving import Receiver, receiving
from tests.integration.touchpoints.room import Room, eventually, request

ACCEPTED, SUPPRESSED = 3, 10
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def app(room: Room, receiver: Receiver) -> str:
    for person in range(1, 10):
        room.identity.book[person, "crm_id", "app"] = (100 + person, f"u{person}")
    return await room.endpoint("app", APP, receiver.url)


async def pushed(room: Room, receiver: Receiver, delivery: str, person: int, purpose: str = "marketing") -> dict[str, Any]:
    """What the app was sent of a push that went."""
    await room.request(request(delivery, person, "app", purpose=purpose))
    await room.in_state(delivery, ACCEPTED)
    return dict(next(body["data"] for _, body in receiver.calls if body["data"]["delivery_id"] == delivery))


async def stopped(room: Room, delivery: str, person: int, purpose: str = "marketing") -> None:
    await room.request(request(delivery, person, "app", purpose=purpose))
    assert "opted_out" == (await room.in_state(delivery, SUPPRESSED)).reason


async def told(room: Room, anchor: int) -> list[tuple[str, str, str]]:
    """(event, purpose, channel) that identity hears through an anchor."""
    found = [(event.name, json.loads(event.properties_json)) for _, event in await room.observed() if event.anchor_id == anchor]
    return [(name, said.get("purpose", ""), said["channel"]) for name, said in found]


async def test_one_click_ends_this_purpose_on_this_channel_and_looking_does_not(
    room: Room, receiver: Receiver, app: str
) -> None:
    link = (await pushed(room, receiver, "d1", 1))["unsubscribe_url"]
    for language, words in (("zh-CN,zh;q=0.9", "确认退订"), ("en-GB", "Unsubscribe"), ("", "确认退订")):
        page = await room.http.get(link, headers={"accept-language": language})
        assert (200, "no-store", "no-referrer") == (
            page.status_code,
            page.headers["cache-control"],
            page.headers["referrer-policy"],
        )
        assert words in page.text and 'method="post"' in page.text
        # Nothing is loaded from anywhere, and no script runs.
        assert not re.search(r"<script|src=|<link|@import|url\(", page.text)
    for body in ({}, {"List-Unsubscribe": "no"}):
        assert 400 == (await room.http.post(link, data=body)).status_code
    assert 404 == (await room.http.post(link[:-1] + ("A" if link[-1] != "A" else "B"), data=ONE_CLICK)).status_code
    await pushed(room, receiver, "d2", 1)
    # As mail programs send it, once as a form and once in parts; repeats change nothing.
    for sent in (room.http.post(link, data=ONE_CLICK), room.http.post(link, files={"List-Unsubscribe": (None, "One-Click")})):
        done = await sent
        assert 200 == done.status_code
        assert "已退订" in done.text
    await stopped(room, "d3", 1)
    await pushed(room, receiver, "d4", 1, purpose="service")
    assert [("Consent Withdrawn", "marketing", "app")] == await eventually(lambda: told(room, 101), bool)


def fields(page: str, kind: str) -> list[str]:
    return re.findall(rf'name="{kind}" value="([^"]+)"', page)


async def test_preferences_state_what_was_changed_and_nothing_else(room: Room, receiver: Receiver, app: str) -> None:
    link = (await pushed(room, receiver, "d1", 1))["preferences_url"]
    page = (await room.http.get(link, params={"lang": "en"})).text
    on = re.findall(r'name="on" value="([^"]+)" checked', page)
    assert {"marketing/app", "service/app", "personalisation/all"} <= set(on)
    # Where the law wants a yes first, silence is none.
    assert {"marketing/sms", "marketing/phone"} == set(fields(page, "on")) - set(on)

    async def save(page: str, on: list[str]) -> httpx.Response:
        form = {"on": on, "was": fields(page, "was"), "was_not": fields(page, "was_not")}
        return await room.http.post(link, params={"lang": "en"}, data=form)

    assert "Saved" in (await save(page, on)).text
    assert [] == await told(room, 101)
    without = [use for use in on if use not in ("marketing/app", "personalisation/all")]
    page = (await save(page, [*without, "marketing/sms"])).text
    assert {*without, "marketing/sms"} == set(re.findall(r'name="on" value="([^"]+)" checked', page))
    await stopped(room, "d2", 1)
    page = (await save(page, [*without, "marketing/sms", "personalisation/all", "marketing/app"])).text
    await pushed(room, receiver, "d3", 1)
    said = await eventually(lambda: told(room, 101), lambda t: len(t) == 5)
    assert [
        ("Consent Withdrawn", "marketing", "app"),
        ("Consent Given", "marketing", "sms"),
        ("Consent Withdrawn", "personalisation", "all"),
        ("Consent Given", "marketing", "app"),
        ("Consent Given", "personalisation", "all"),
    ] == said
    given = {json.loads(e.properties_json)["purpose"]: json.loads(e.properties_json) for _, e in await room.observed()}
    assert ("separate", "preferences-1", "en", 64) == (
        given["personalisation"]["kind"],
        given["personalisation"]["text_version"],
        given["personalisation"]["language"],
        len(given["personalisation"]["text_sha256"]),
    )
    await room.http.post(link, data={"nothing": "1"})
    for number, purpose in enumerate(("marketing", "service")):
        await stopped(room, f"n{number}", 1, purpose)


async def test_an_app_reports_opt_outs_again_and_again_and_each_counts(room: Room, receiver: Receiver, app: str) -> None:
    link = (await pushed(room, receiver, "d1", 2))["preferences_url"]

    async def report(kind: str, at: datetime, **data: str) -> None:
        told = {"type": kind, "timestamp": at.isoformat(), "data": {"delivery_id": "d1", **data}}
        body = json.dumps(told).encode()
        answer = await room.http.post("/webhooks/app", content=body, headers=webhooks.signed_headers(app, f"{kind}{at}", body))
        assert {"accepted": 1, "rejected": []} == answer.json()

    now = datetime.now(UTC)
    for _ in range(2):
        await report("message.unsubscribed", now, purpose="marketing")
    await stopped(room, "d2", 2)
    await pushed(room, receiver, "d3", 2, purpose="service")
    # Given anew in between: the second no is another one.
    await room.http.post(link, data={"was_not": "marketing/app", "on": "marketing/app"})
    await pushed(room, receiver, "d4", 2)
    await report("message.unsubscribed", datetime.now(UTC) + timedelta(milliseconds=1))
    await stopped(room, "d5", 2)
    await stopped(room, "d6", 2, purpose="service")
    await report("message.personalisation_off", datetime.now(UTC))
    said = await eventually(lambda: told(room, 102), lambda t: len(t) == 4)
    assert [
        ("Unsubscribed", "marketing", "app"),
        ("Consent Given", "marketing", "app"),
        ("Unsubscribed", "", "app"),
        ("Consent Withdrawn", "personalisation", "all"),
    ] == said


async def test_of_an_erased_person_nothing_is_kept_and_the_page_says_so(room: Room, receiver: Receiver, app: str) -> None:
    sent = await pushed(room, receiver, "d1", 3)
    erased = EntitiesChanged(erasures=[Erasure(erasure_id=1, person_id=3, anchor_ids=[103])])
    await room.bus.publish_all([Outgoing.now("troika.entities.changed.v1", erased.SerializeToString())])

    async def gone() -> str:
        return (await room.http.get(sent["preferences_url"], params={"lang": "en"})).text

    await eventually(gone, lambda page: "We keep nothing about you" in page)
    for url, form in ((sent["unsubscribe_url"], ONE_CLICK), (sent["preferences_url"], {"nothing": "1"})):
        assert 200 == (await room.http.post(url, data=form)).status_code
    async with room.database.read() as uow:
        assert 0 == (await uow.rows("SELECT count(*) AS n FROM consent WHERE anchor_id = 103"))[0].n
        assert 0 == (await uow.rows("SELECT count(*) AS n FROM delivery_attempt"))[0].n
    assert [] == await told(room, 103)
