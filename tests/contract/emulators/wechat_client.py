"""Talks to WeChat's doors as touchpoints does, and reads its callbacks."""

import hashlib
import json
import time
from typing import Any
from xml.etree.ElementTree import Element

import httpx
from defusedxml.ElementTree import fromstring

from tests.contract.emulators.world import THEME, Heard, Listener, Running

APPID, SECRET, TOKEN = "wx1234567890abcdef", "app-secret", "callback-token"
PATH = f"/wechat/callback/{APPID}"


def ask_token(running: Running, **changes: Any) -> dict[str, Any]:
    asked = {"grant_type": "client_credential", "appid": APPID, "secret": SECRET} | changes
    answer = running.http.post("/cgi-bin/stable_token", json=asked)
    assert 200 == answer.status_code
    body: dict[str, Any] = answer.json()
    return body


def message(openid: object = "o-yes", **changes: Any) -> dict[str, Any]:
    data = {"thing1": {"value": "您的爱车该保养了"}, "phrase2": {"value": "保养提醒"}}
    url = f"https://h5.example/offer?theme={THEME.replace('/', '%2F')}"
    return {"touser": openid, "template_id": "tmpl-1", "url": url, "client_msg_id": "d1", "data": data} | changes


def raw(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def post(running: Running, token: str | None, content: bytes) -> httpx.Response:
    query = {"access_token": token} if token is not None else {}
    answer = running.http.post("/cgi-bin/message/template/send", params=query, content=content)
    assert 200 == answer.status_code
    return answer


def send(running: Running, token: str | None, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = post(running, token, raw(message(**changes))).json()
    return body


def errcode(running: Running, token: str | None, **changes: Any) -> int:
    return int(send(running, token, **changes)["errcode"])


def calls(listener: Listener, event: str) -> list[tuple[Heard, Element]]:
    bodies = [(heard, fromstring(heard.body)) for heard in listener.at(PATH) if heard.method == "POST"]
    return [(heard, xml) for heard, xml in bodies if xml.findtext("Event") == event]


def has_signature(heard: Heard) -> bool:
    text = "".join(sorted([TOKEN, heard.query["timestamp"], heard.query["nonce"]]))
    fresh = abs(time.time() - int(heard.query["timestamp"])) < 60
    return fresh and heard.query["signature"] == hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
