"""WeChat against its emulator: forms within what people permitted, callbacks in every mode, one token for all."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from troika.orchestrator.v1.events_pb2 import DeliveryRequest

from chassis.testing import DatabaseFactory
from services.touchpoints.channels.http import Caller
from services.touchpoints.domain.deliveries import Channel, State
from services.touchpoints.endpoints import Endpoint
from services.touchpoints.vault import Vault
from services.touchpoints.wechat.tokens import Tokens, TokenUnavailable
from tests.emulators.wechat_crypto import encrypt, sha1
from tests.integration.touchpoints.receivers import APPID, WECHAT, receiver, settled
from tests.integration.touchpoints.room import Room, eventually, free_port, request

MINI, MINI_APPID = 4, "wxfedcba9876543210"
KEYS = [base64.b64encode(bytes([n]) * 32).decode().rstrip("=") for n in (1, 2, 3)]
TEMPLATES = json.dumps(
    [
        {"id": "S1", "form": "subscription", "purpose": "service", "data": {"thing1": "{title}"}},
        {"id": "M1", "form": "subscription", "purpose": "marketing", "data": {"thing1": "{title}"}},
    ]
)
SECRETS = {"app_secret": "s3cret", "callback_token": "callback"}


async def act(room: Room, port: int, *acts: dict[str, Any], **control: Any) -> None:
    answer = await room.http.post(f"http://127.0.0.1:{port}/__control", json={"acts": acts} | control)
    assert 200 == answer.status_code, answer.text
    await settled(room, port)


async def ends(room: Room, *names: str) -> list[tuple[str, str]]:
    """(state, reason) of pushes that are under way no more; what came back later is the same as accepted here."""
    found = []
    for name in names:
        given = await eventually(lambda n=name: room.delivery(n), lambda d: d is not None and d.state > State.SENDING)  # type: ignore[misc]
        assert given is not None
        found.append(("ACCEPTED" if given.state < State.FAILED else State(given.state).name, given.reason))
    return found


SENT = ("ACCEPTED", "")


def ask(name: str, person: int, channel: str, **changes: Any) -> DeliveryRequest:
    """A push of a theme of its own."""
    return request(name, person, channel, theme=f"themes/{name}", **changes)


async def test_every_message_goes_within_what_the_person_permitted_and_none_twice(room: Room, tmp_path: Path) -> None:
    truth, port = tmp_path / "truth.json", free_port()
    truth.write_text(json.dumps({"openids": {"o1": None, "o2": None, "o3": "yes"}}))
    for person, openid in ((1, "o1"), (2, "o2"), (3, "o3")):
        room.identity.book[person, "openid", APPID] = (100 + person, openid)
        room.identity.book[person, "openid", MINI_APPID] = (200 + person, openid)
    base = f"http://127.0.0.1:{port}"
    secrets = SECRETS | {"encoding_aes_key": KEYS[0]}
    await room.endpoint(
        "wechat", WECHAT, base, APPID, settings={"templates": TEMPLATES, "welcome_text": "您好"}, secrets=secrets
    )
    mini = {"templates": TEMPLATES, "page": "pages/offer"}
    await room.endpoint("mini", MINI, base, MINI_APPID, settings=mini, secrets=secrets)
    started = receiver(
        tmp_path, "wechat", port, truth_file=str(truth), secrets=dict.fromkeys((APPID, MINI_APPID), "s3cret"),
        callback_tokens=dict.fromkeys((APPID, MINI_APPID), "callback"), templates={"S1": ["thing1"], "M1": ["thing1"]},
        not_following_rate=0, user_block_rate=0, failure_rates={}, callback_mode="encrypted", callback_json=True,
        encoding_aes_keys=dict.fromkeys((APPID, MINI_APPID), KEYS[0]), feedback_url=f"{room.url}/wechat/callback/{{appid}}",
        callback_attempts=3,
    )  # fmt: skip
    async with started:
        # Nothing permitted yet.
        await room.request(ask("a1", 1, "wechat"), ask("a2", 1, "wechat", purpose="marketing"))
        await room.request(ask("a3", 1, "wechat_mini"))
        nothing = [("SUPPRESSED", "no_permission")] * 3
        assert nothing == await ends(room, "a1", "a2", "a3")

        # Following opens a window of three; it pays for whatever comes, marketing too.
        await act(room, port, {"appid": APPID, "openid": "o1", "do": "follow"})
        await room.request(*(ask(f"b{n}", 1, "wechat", purpose="marketing") for n in range(4)))
        windows = Counter(await ends(room, *(f"b{n}" for n in range(4))))
        assert Counter({SENT: 3, ("SUPPRESSED", "no_permission"): 1}) == windows

        # Each yes is one message, in the account where it was given and for what it was given.
        yes = {"appid": MINI_APPID, "openid": "o1", "do": "popup", "templates": {"S1": True}}
        await act(room, port, yes)
        await act(room, port, yes | {"templates": {"S1": True, "M1": True}})
        await room.request(*(ask(f"c{n}", 1, "wechat_mini") for n in range(3)))
        assert Counter({SENT: 2, ("SUPPRESSED", "no_permission"): 1}) == Counter(await ends(room, "c0", "c1", "c2"))
        await room.request(ask("c4", 2, "wechat_mini"), ask("c5", 1, "wechat"))
        assert [("SUPPRESSED", "no_permission")] * 2 == await ends(room, "c4", "c5")

        # A call whose answer was lost may have arrived: it is not made again, and WeChat's own word of it settles it.
        await act(room, port, yes | {"openid": "o2"}, failure_rates={"closed": 1.0})
        await room.request(ask("d1", 2, "wechat_mini"))
        assert 1 == (await room.in_state("d1", State.DELIVERED)).attempts
        # One that WeChat was too busy for goes again, and pays once.
        both = {"openid": "o2", "templates": {"S1": True, "M1": True}}
        await act(room, port, yes | both, failure_rates={"busy": 1.0})
        await room.request(ask("d2", 2, "wechat_mini"))
        assert [SENT] == await ends(room, "d2")
        await room.request(ask("d3", 2, "wechat_mini"))
        assert [("SUPPRESSED", "no_permission")] == await ends(room, "d3")

        await act(room, port, yes | {"openid": "o3"}, failure_rates={})
        await room.request(ask("d4", 3, "wechat_mini"))
        await eventually(lambda: room.delivery("d4"), lambda d: d is not None and d.state == State.ANSWERED)

        # A no takes back what there was, at once, and identity hears of it.
        await act(room, port, yes, failure_rates={})
        await act(room, port, yes | {"do": "change", "templates": {"S1": False}})
        await room.request(ask("e1", 1, "wechat_mini"))
        assert [("SUPPRESSED", "opted_out")] == await ends(room, "e1")

        # Who leaves cannot be reached, whatever they permitted.
        await act(room, port, yes | both, unsubscribe="o2")
        await eventually(room.observed, lambda seen: any(e.name == "WeChat Unfollowed" for _, e in seen))
        await room.request(ask("e2", 2, "wechat_mini"))
        assert [("SUPPRESSED", "unreachable")] == await ends(room, "e2")
        report = await settled(room, port)
        assert [] == report["pushed_twice"]
        assert 0 == report["bad_signatures"] + report["malformed"] + report["internal_errors"]
        assert 0 == report.get("feedback_lost", 0)
        assert 1 == report["replies"]
        assert {"sent_custom": 3, "sent_subscription": 5} == {k: v for k, v in report.items() if k.startswith("sent_")}
        # Of all that was asked for WeChat itself had to refuse nothing.
        assert {"errcode_-1"} == {k for k in report if k.startswith("errcode_")}
    told = Counter((e.source.partition(":")[0], e.name) for _, e in await room.observed())
    assert 1 == told["wechat", "WeChat Followed"] == told["wechat_mini", "WeChat Unfollowed"]
    assert 1 == told["wechat_mini", "Offer Answered"]
    assert told["wechat_mini", "Push Delivered"] >= 2
    withdrawn = [(e.source, json.loads(e.properties_json)) for _, e in await room.observed() if e.name == "Unsubscribed"]
    assert (f"wechat_mini:{MINI_APPID}", {"channel": "wechat", "purpose": "service"}) in withdrawn
    async with room.database.read() as uow:
        assert 0 == len(await uow.rows("SELECT 1 FROM wechat_spend s JOIN delivery d USING (delivery_id) WHERE d.state > 2"))
        assert [] == [r for r in await uow.rows("SELECT follower FROM wechat_allowance") if b"o1" in bytes(r.follower)]


def xml(event: str, stamp: int, **more: str) -> bytes:
    fields = {"ToUserName": "gh_1", "FromUserName": "o1", "CreateTime": str(stamp), "MsgType": "event", "Event": event} | more
    return f"<xml>{''.join(f'<{k}><![CDATA[{v}]]></{k}>' for k, v in fields.items())}</xml>".encode()


def signed(encrypted: str = "", nonce: str = "n", token: str = "callback", at: float | None = None) -> dict[str, str]:
    stamp = str(int(at or time.time()))
    query = {"signature": sha1(token, stamp, nonce), "timestamp": stamp, "nonce": nonce}
    return query | ({"msg_signature": sha1(token, stamp, nonce, encrypted), "encrypt_type": "aes"} if encrypted else {})


async def test_a_callback_counts_once_in_the_mode_of_the_account_under_the_present_and_the_previous_key(room: Room) -> None:
    path, now = f"/wechat/callback/{APPID}", int(time.time())
    place = ("wechat", WECHAT, "http://127.0.0.1:1", APPID)
    await room.endpoint(*place, settings={"template_id": "T"}, secrets=SECRETS)

    async def call(query: dict[str, str], body: bytes) -> tuple[int, str]:
        answer = await room.http.post(path, params=query, content=body)
        return answer.status_code, answer.text if answer.status_code == 200 else answer.json()["code"]

    assert "hello" == (await room.http.get(path, params=signed() | {"echostr": "hello"})).text
    ok, forged = (200, "success"), (401, "unauthorized")
    assert forged == await call(signed() | {"nonce": "m"}, xml("VIEW", now))
    assert forged == await call(signed(at=now - 400), xml("VIEW", now))
    # The same call twice, the same signature over another body, and the same event under a new signature.
    query = signed(nonce="1")
    for body in (xml("CLICK", now, EventKey="a"), xml("CLICK", now, EventKey="a"), xml("CLICK", now, EventKey="b")):
        assert ok == await call(query, body)
    assert ok == await call(signed(nonce="2"), xml("CLICK", now, EventKey="a"))
    assert (400, "invalid_request") == await call(signed(nonce="3"), b"<xml")

    # Once there is a key only what is encrypted counts, whatever stands in clear beside it.
    inner = xml("CLICK", now, EventKey="c")
    sealed = encrypt(inner, KEYS[0], APPID)
    both = xml("CLICK", now, EventKey="forged", Encrypt=sealed)
    await room.endpoint(*place, secrets={"encoding_aes_key": KEYS[0]})
    assert forged == await call(signed(nonce="4"), xml("CLICK", now, EventKey="d"))
    assert forged == await call(signed(nonce="4"), both)
    assert ok == await call(signed(sealed, nonce="4"), both)
    for old, key in enumerate(KEYS[1:], 1):
        await room.endpoint(*place, secrets={"encoding_aes_key": key})
        for name, (used, expected) in enumerate(((key, ok), (KEYS[old - 1], ok), (KEYS[old - 2], (400, "undecryptable")))):
            if old == 1 and name == 2:
                continue
            sealed = encrypt(xml("CLICK", now, EventKey=f"k{old}{name}"), used, APPID)
            body = f"<xml><ToUserName>gh_1</ToUserName><Encrypt>{sealed}</Encrypt></xml>".encode()
            assert expected == await call(signed(sealed, nonce=f"5{old}{name}"), body)
    seen = await eventually(room.observed, lambda e: len(e) >= 6)
    keys = sorted(json.loads(e.properties_json)["key"] for _, e in seen)
    assert ["a", "c", "k10", "k11", "k20", "k21"] == keys
    assert {("openid", APPID, "o1")} == {
        (i.kind, i.scope, i.value) for b, e in seen for i in room.identity.open(b, e).identifiers
    }


async def test_what_an_endpoint_lacks_is_named_and_no_secret_comes_back(room: Room) -> None:
    async def wrong(**given: Any) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await room.endpoint("wechat", WECHAT, "", APPID, **given)
        return str(caught.value.details())

    assert "AppSecret" in await wrong()
    bad = '[{"id":"T","form":"template","purpose":"marketing","data":{"thing1":"x"}}]'
    assert "must not carry marketing" in await wrong(settings={"templates": bad}, secrets=SECRETS)
    assert "EncodingAESKey" in await wrong(secrets=SECRETS | {"encoding_aes_key": "short"})


async def test_replicas_share_one_token_and_a_refused_one_is_fetched_once(databases: DatabaseFactory) -> None:
    asked: list[float] = []
    fails = asyncio.Event()

    async def stable_token(call: web.Request) -> web.Response:
        asked.append(time.monotonic())
        await asyncio.sleep(0.2)
        if fails.is_set():
            return web.json_response({"errcode": 40125, "errmsg": "invalid appsecret"})
        return web.json_response({"access_token": f"token-{len(asked)}", "expires_in": 7200})

    app = web.Application()
    app.add_routes([web.post("/cgi-bin/stable_token", stable_token)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    endpoint = Endpoint("wechat", Channel.WECHAT, APPID, url, secrets={"app_secret": "s"})
    caller, vault = Caller(5, allow_private=True), Vault(b"k" * 32)
    try:
        async with databases.database("touchpoints") as database:
            replicas = [Tokens(database, vault, caller) for _ in range(3)]
            first = await asyncio.gather(*(r.of(endpoint) for r in replicas for _ in range(3)))
            assert ({"token-1"}, 1) == ({t.value for t in first}, len(asked))
            # Refused within seconds of its birth: the provider would give the same one again.
            await replicas[0].drop(endpoint, first[0])
            assert "token-1" == (await replicas[0].of(endpoint)).value
            async with database.transaction() as uow:
                await uow.execute("UPDATE provider_token SET fetched_at = now() - interval '1 minute'")
            await asyncio.gather(*(r.drop(endpoint, first[0]) for r in replicas))
            second = await asyncio.gather(*(r.of(endpoint) for r in replicas for _ in range(3)))
            assert ({"token-2"}, 2) == ({t.value for t in second}, len(asked))
            # Who still holds the old one drops nothing.
            await replicas[1].drop(endpoint, first[0])
            assert "token-2" == (await replicas[1].of(endpoint)).value
            stored = (await database.fetch("SELECT token FROM provider_token"))[0]
            assert b"token-2" not in bytes(stored["token"])
            fails.set()
            async with database.transaction() as uow:
                await uow.execute("UPDATE provider_token SET fresh_until = now(), fetched_at = now() - interval '1 minute'")
            with pytest.raises(TokenUnavailable) as caught:
                await Tokens(database, vault, caller).of(endpoint)
            assert 40125 == caught.value.errcode
    finally:
        await caller.close()
        await runner.cleanup()
