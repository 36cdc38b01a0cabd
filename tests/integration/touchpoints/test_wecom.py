"""WeCom: tasks to those who serve a customer, and what becomes of contacts."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from services.touchpoints.domain.deliveries import State
from tests.emulators.wechat_crypto import encrypt, sha1
from tests.integration.touchpoints.room import Room, eventually, request

WECOM, CORP = 5, "ww0123456789abcdef"
KEY = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
STAFF = {"zhang", "li"}
UNIONID = "o6_bmasdasdsad6_2sgVt7hMZOPfL"


@dataclass
class Corporation:
    """WeCom's side: one token until it is `revoked`, texts once within half an hour, who is not known here is named."""

    url: str = ""
    tokens: int = 0
    revoked: set[str] = field(default_factory=set)
    busy: int = 0
    texts: list[tuple[str, str]] = field(default_factory=list)
    # What is known of customers, and how often somebody asked; the first time nobody has time for it.
    customers: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def token(self, call: web.Request) -> web.Response:
        if call.query.get("corpsecret") != "s3cret" or call.query.get("corpid") != CORP:
            return web.json_response({"errcode": 40001, "errmsg": "invalid credential"})
        self.tokens += 1
        return web.json_response({"errcode": 0, "errmsg": "ok", "access_token": f"t{self.tokens}", "expires_in": 7200})

    async def contact(self, call: web.Request) -> web.Response:
        number = call.query.get("external_userid", "")
        if call.query.get("access_token") != f"t{self.tokens}":
            return web.json_response({"errcode": 42001, "errmsg": "access_token expired"})
        self.asked.append(number)
        if self.asked.count(number) == 1:
            return web.json_response({"errcode": -1, "errmsg": "system busy"})
        if number not in self.customers:
            return web.json_response({"errcode": 84061, "errmsg": "not external contact"})
        told = {"external_contact": {"external_userid": number, "name": "李四", **self.customers[number]}, "follow_user": []}
        return web.json_response({"errcode": 0, "errmsg": "ok", **told})

    async def send(self, call: web.Request) -> web.Response:
        body = json.loads(await call.read())
        token = call.query.get("access_token", "")
        if token != f"t{self.tokens}" or token in self.revoked:
            return web.json_response({"errcode": 42001, "errmsg": "access_token expired"})
        self.bodies.append(body)
        if body["agentid"] != 7 or body["enable_duplicate_check"] != 1:
            return web.json_response({"errcode": 40056, "errmsg": "invalid agentid"})
        asked = body["touser"].split("|")
        unknown = [user for user in asked if user not in STAFF]
        for user in asked:
            if user in STAFF and (user, body["text"]["content"]) not in self.texts:
                self.texts.append((user, body["text"]["content"]))
        if self.busy:
            # Sent, and the answer lost.
            self.busy -= 1
            return web.Response(status=502)
        return web.json_response(
            {"errcode": 0, "errmsg": "ok", "invaliduser": "|".join(unknown), "msgid": f"m{len(self.bodies)}"}
        )


@asynccontextmanager
async def corporation() -> AsyncIterator[Corporation]:
    made = Corporation()
    app = web.Application()
    app.add_routes([web.get("/cgi-bin/gettoken", made.token), web.post("/cgi-bin/message/send", made.send)])
    app.add_routes([web.get("/cgi-bin/externalcontact/get", made.contact)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


def callback(number: int, said: dict[str, str]) -> tuple[dict[str, str], bytes, str]:
    """(query, body, what is sealed in it) of a callback."""
    fields = {"ToUserName": CORP, "CreateTime": str(int(time.time())), "MsgType": "event"} | said
    sealed = encrypt(f"<xml>{''.join(f'<{k}><![CDATA[{v}]]></{k}>' for k, v in fields.items())}</xml>".encode(), KEY, CORP)
    query = {"timestamp": str(int(time.time())), "nonce": f"n{number}"}
    query["msg_signature"] = sha1("tok", query["timestamp"], query["nonce"], sealed)
    return query, f"<xml><ToUserName>{CORP}</ToUserName><Encrypt>{sealed}</Encrypt></xml>".encode(), sealed


async def test_a_task_reaches_those_who_serve_the_customer_once_and_contacts_come_and_go(room: Room) -> None:
    async with corporation() as wecom:
        settings = {"agent_id": "7", "advisors": json.dumps({"D001": "zhang|gone", "D002": "gone"})}
        secrets = {"corp_secret": "s3cret", "callback_token": "tok", "encoding_aes_key": KEY}
        await room.endpoint("wecom", WECOM, wecom.url, CORP, settings=settings, secrets=secrets)
        room.identity.book[1, "crm_id", f"wecom:{CORP}"] = (101, "wm1")
        for person in (2, 3, 4):
            room.identity.book[person, "mobile", ""] = (100 + person, f"+861380013800{person}")
        wecom.busy = 1
        await room.request(request("t1", 1, "wecom", dealer_code="D001"))
        assert 2 == (await room.in_state("t1", State.ACCEPTED)).attempts
        wecom.revoked.add("t1")
        async with room.database.transaction() as uow:
            await uow.execute("UPDATE provider_token SET fetched_at = now() - interval '1 minute'")
        await room.request(
            request("t2", 2, "wecom", dealer_code="D001"),
            request("t3", 3, "wecom", dealer_code="D002"),
            request("t4", 4, "wecom", dealer_code="D009"),
        )
        await room.in_state("t2", State.ACCEPTED)
        assert "bad_address" == (await room.in_state("t3", State.FAILED)).reason
        assert "no_advisor" == (await room.in_state("t4", State.FAILED)).reason
        assert (2, ["zhang", "zhang"]) == (wecom.tokens, [user for user, _ in wecom.texts])
        assert all("138001380" not in text and "wm1" not in text and "previous_outcome" in text for _, text in wecom.texts)

    told_of = {"Event": "change_external_contact", "FromUserName": "sys", "UserID": "zhang", "ExternalUserID": "wm1"}
    for n, said in enumerate(
        (
            # Employees are nobody's customers, whatever they write or click, and wherever they come from.
            {"FromUserName": "zhang", "MsgType": "text", "Content": "退订", "MsgId": "1"},
            {"FromUserName": "zhang", "Event": "subscribe"},
            {"FromUserName": "zhang", "Event": "CLICK", "EventKey": "answer:yes:t1"},
            {"FromUserName": "zhang", "Event": "unsubscribe"},
            told_of | {"ChangeType": "add_external_contact", "ExternalUserID": "li"},
            told_of | {"ChangeType": "add_external_contact", "State": "s1"},
            told_of | {"ChangeType": "del_follow_user"},
        )
    ):
        query, body, sealed = callback(n, said)
        for _ in range(2):
            answer = await room.http.post(f"/wecom/callback/{CORP}", params=query, content=body)
            assert (200, "success") == (answer.status_code, answer.text)
    echo = await room.http.get(f"/wecom/callback/{CORP}", params=query | {"echostr": sealed})
    assert (200, True) == (echo.status_code, "del_follow_user" in echo.text)
    seen = await eventually(room.observed, lambda events: len(events) >= 3)
    told = {e.name: json.loads(e.properties_json) for _, e in seen}
    assert {
        "WeCom Contact Added": {"advisor": "zhang", "state": "s1"},
        "WeCom Contact Lost": {"advisor": "zhang"},
        "Unsubscribed": {"channel": "wechat"},
    } == told
    people = {(i.kind, i.scope, i.value) for batch, event in seen for i in room.identity.open(batch, event).identifiers}
    assert {("crm_id", f"wecom:{CORP}", "wm1")} == people
    assert State.ACCEPTED == (await room.in_state("t1", State.ACCEPTED)).state
    async with room.database.read() as uow:
        assert [] == await uow.rows("SELECT 1 FROM wechat_allowance")
    assert 401 == (await room.http.post(f"/wecom/callback/{CORP}", params=query, content=b"<xml></xml>")).status_code


async def test_a_contact_and_the_follower_of_the_same_unionid_are_one_person(room: Room) -> None:
    async with corporation() as wecom:
        secrets = {"corp_secret": "s3cret", "callback_token": "tok", "encoding_aes_key": KEY}
        await room.endpoint("wecom", WECOM, wecom.url, CORP, settings={"agent_id": "7"}, secrets=secrets)
        # Of other corporations WeCom knows none; and somebody is gone before anybody asks.
        wecom.customers |= {"wm1": {"type": 1, "unionid": UNIONID}, "wo2": {"type": 2}}
        added = {"Event": "change_external_contact", "FromUserName": "sys", "ChangeType": "add_external_contact"}
        for n, contact in enumerate(("wm1", "wo2", "wm3")):
            query, body, _ = callback(n, added | {"UserID": "zhang", "ExternalUserID": contact})
            assert 200 == (await room.http.post(f"/wecom/callback/{CORP}", params=query, content=body)).status_code

        async def waiting() -> list[Any]:
            """Those that nobody had time for need not wait any longer."""
            async with room.database.transaction() as uow:
                await uow.execute(
                    "UPDATE wecom_contact SET due_at = now() WHERE attempts = 1 AND due_at < now() + interval '1 min'"
                )
                return list(await uow.rows("SELECT contact, sealed FROM wecom_contact"))

        rows = await waiting()
        assert not [row for row in rows if b"wm1" in bytes(row.contact) + bytes(row.sealed)]
        await eventually(waiting, lambda left: not left)
        assert {"wm1": 2, "wo2": 2, "wm3": 2} == Counter(wecom.asked)
    seen = [(b, e) for b, e in await eventually(room.observed, lambda found: len(found) >= 4) if e.name == "Identified"]
    told = [{(i.kind, i.scope, i.value) for i in room.identity.open(batch, event).identifiers} for batch, event in seen]
    assert [{("crm_id", f"wecom:{CORP}", "wm1"), ("unionid", "", UNIONID)}] == told
