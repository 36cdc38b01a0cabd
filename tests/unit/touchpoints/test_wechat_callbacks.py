"""WeChat's and WeCom's calls: signature, encryption, rotation, and what the bodies say."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.touchpoints.wechat import crypto
from services.touchpoints.wechat.callbacks import (
    Answered,
    Callback,
    ContactAdded,
    ContactLost,
    Finished,
    Ignored,
    Inbound,
    OptedOut,
    Permissions,
    Unfollowed,
    encrypted,
    fields,
    parse,
)

# Tencent's own sample for its libraries.
TOKEN, KEY, CORP = "QDG6eK", "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C", "wx5823bf96d3bd56c7"
STAMP, NONCE, SIGNATURE = "1409659813", "1372623149", "477715d11cdb4164915debcba66cb864d751f3e6"
ENCRYPTED = (
    "RypEvHKD8QQKFhvQ6QleEB4J58tiPdvo+rtK1I9qca6aM/wvqnLSV5zEPeusUiX5L5X/0lWfrf0QADHHhGd3QczcdCUpj911L3vg3W/sYYvuJTs3TUUkSUXx"
    "accAS0qhxchrRYt66wiSpGLYL42aM6A8dTT+6k4aSknmPj48kzJs8qLjvd4Xgpue06DOdnLxAUHzM6+kDZ+HMZfJYuR+LtwGc2hgf5gsijff0ekUNXZiqATP"
    "7PF5mZxZ3Izoun1s4zG4LUMnvw2r+KqCKIw+3IQH03v+BCA9nMELNqbSf6tiWSrXJB3LAVGUcallcrw8V2t9EL4EhzJWrQUax5wLVMNS0+rUPA3k22Ncx4XX"
    "ZS9o0MBH27Bo6BpNelZpS+/uh9KsNlY6bHCmJU9p8g7m3fVKn28H3KDYA5Pl/T8Z1ptDAVe0lXdQ2YoyyH2uyPIGHBZZIs2pDBS8R07+qN+E7Q=="
)
OTHER = base64.b64encode(bytes(range(32))).decode().rstrip("=")


def test_tencents_own_sample_is_genuine_and_opens() -> None:
    now = int(STAMP) + 299
    assert crypto.genuine(["other", TOKEN], SIGNATURE, STAMP, NONCE, now, ENCRYPTED)
    assert not crypto.genuine([TOKEN], SIGNATURE, STAMP, NONCE, now + 2, ENCRYPTED)
    assert not crypto.genuine([TOKEN], SIGNATURE, STAMP, NONCE, now, ENCRYPTED[:-4])
    assert not crypto.genuine([""], crypto.signature("", STAMP, NONCE), STAMP, NONCE, now)
    told = parse(fields(crypto.opened(ENCRYPTED, [KEY], CORP).message))
    assert Inbound("mycreate", "message", "WeChat Message Received", {"kind": "text"}) == told.event
    assert ("4561255354251345929", 1409659813) == (told.identity, told.occurred_s)


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from([KEY, OTHER]), st.lists(st.sampled_from([KEY, OTHER]), max_size=3))
def test_what_is_sealed_opens_under_that_key_and_no_other(message: bytes, key: str, tried: list[str]) -> None:
    sealed = crypto.sealed(message, key, CORP)
    if key in tried:
        assert crypto.Opened(message, key) == crypto.opened(sealed, tried, CORP)
    else:
        with pytest.raises(ValueError, match="known key"):
            crypto.opened(sealed, tried, CORP)
    with pytest.raises(ValueError, match="known key"):
        crypto.opened(sealed, [KEY, OTHER], "wx0000000000000000")


@settings(max_examples=100)
@given(st.binary(max_size=100) | st.text(max_size=50).map(str.encode))
def test_rubbish_is_refused_and_nothing_else(body: bytes) -> None:
    for attempt in (lambda: parse(fields(body)), lambda: crypto.opened(body.decode("latin-1"), [KEY], CORP)):
        try:
            attempt()
        except ValueError:
            continue
        raise AssertionError("taken")


@pytest.mark.parametrize("key", ["", "short", "!" * 43, "A" * 44])
def test_what_is_no_key_is_told(key: str) -> None:
    assert crypto.is_key(key)
    assert "" == crypto.is_key(KEY)


def event(name: str, **more: object) -> dict[str, object]:
    return {"FromUserName": "o1", "CreateTime": "1000", "MsgType": "event", "Event": name, **more}


LISTS = {
    "List": [{"TemplateId": "T1", "SubscribeStatusString": "accept"}, {"TemplateId": "T2", "SubscribeStatusString": "reject"}]
}


@pytest.mark.parametrize(
    ("given_fields", "expected"),
    [
        (event("CLICK", EventKey="answer:yes:d1"), Answered("o1", "d1", "yes")),
        (event("CLICK", EventKey="menu 1"), Inbound("o1", "click", "WeChat Menu Clicked", {"key": "menu_1"})),
        (
            event("VIEW", EventKey="https://a.example/x"),
            Inbound("o1", "", "WeChat Menu Clicked", {"key": "https:_a.example_x"}),
        ),
        (event("subscribe", EventKey="qrscene_88"), Inbound("o1", "follow", "WeChat Followed", {"scene": "88"})),
        (event("subscribe", EventKey=""), Inbound("o1", "follow", "WeChat Followed", {})),
        (event("SCAN", EventKey="88"), Inbound("o1", "scan", "WeChat Code Scanned", {"scene": "88"})),
        (event("user_enter_tempsession"), Inbound("o1", "session", "WeChat Session Entered", {})),
        (event("unsubscribe"), Unfollowed("o1")),
        (event("LOCATION", Latitude="1"), Ignored()),
        (event("TEMPLATESENDJOBFINISH", MsgID="7", Status="success"), Finished("o1", (("7", "", ""),))),
        (event("TEMPLATESENDJOBFINISH", MsgID="7", Status="failed:user block"), Finished("o1", (("7", "user_block", ""),))),
        (
            event("subscribe_msg_popup_event", SubscribeMsgPopupEvent=LISTS),
            Permissions("o1", (("T1", True), ("T2", False)), True),
        ),
        (
            event("subscribe_msg_change_event", SubscribeMsgChangeEvent={"List": LISTS["List"][1]}),
            Permissions("o1", (("T2", False),), False),
        ),
        (event("subscribe_msg_popup_event", List=LISTS["List"]), Permissions("o1", (("T1", True), ("T2", False)), True)),
        (
            event(
                "subscribe_msg_sent_event",
                SubscribeMsgSentEvent={"List": {"TemplateId": "T1", "MsgID": "9", "ErrorCode": "0", "ErrorStatus": "success"}},
            ),
            Finished("o1", (("9", "", "T1"),)),
        ),
        (
            event("subscribe_msg_sent_event", List=[{"MsgID": "9", "ErrorCode": "1", "ErrorStatus": "failed_system"}]),
            Finished("o1", (("9", "failed_system", ""),)),
        ),
        ({"FromUserName": "o1", "CreateTime": "1000", "MsgType": "text", "Content": " td "}, OptedOut("o1")),
        (
            {"FromUserName": "o1", "CreateTime": "1000", "MsgType": "image"},
            Inbound("o1", "message", "WeChat Message Received", {"kind": "image"}),
        ),
        (
            event("change_external_contact", ChangeType="add_external_contact", UserID="u", ExternalUserID="wm1", State="s"),
            ContactAdded("u", "wm1", "s"),
        ),
        (
            event("change_external_contact", ChangeType="del_follow_user", UserID="u", ExternalUserID="wm1"),
            ContactLost("u", "wm1", True),
        ),
        (
            event("change_external_contact", ChangeType="del_external_contact", UserID="u", ExternalUserID="wm1"),
            ContactLost("u", "wm1", False),
        ),
        (
            event("change_external_contact", ChangeType="add_external_contact", UserID="u", ExternalUserID="colleague"),
            Ignored(),
        ),
        (event("change_external_contact", ChangeType="transfer_fail", UserID="u", ExternalUserID="wm1"), Ignored()),
    ],
)
def test_callbacks_say_the_same_in_xml_and_in_json(given_fields: dict[str, object], expected: Callback) -> None:
    in_json, in_xml = json.dumps(given_fields).encode(), f"<xml>{_xml(given_fields)}</xml>".encode()
    assert expected == parse(fields(in_json)).event
    assert expected == parse(fields(in_xml)).event


def _xml(value: object) -> str:
    if isinstance(value, dict):
        return "".join(f"<{k}>{_xml(one)}</{k}>" for k, v in value.items() for one in (v if isinstance(v, list) else [v]))
    return f"<![CDATA[{value}]]>"


def test_retries_bear_one_name_and_different_events_different_ones() -> None:
    first = parse(event("CLICK", EventKey="a")).identity
    assert first == parse(event("CLICK", EventKey="a", Extra="x")).identity
    others = [event("CLICK", EventKey="b"), event("VIEW", EventKey="a"), event("CLICK", EventKey="a") | {"CreateTime": "1001"}]
    assert first not in {parse(other).identity for other in others}


@pytest.mark.parametrize(
    "body",
    [
        b"<xml><CreateTime>1</CreateTime>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><xml><CreateTime>1</CreateTime></xml>',
        b"<xml><CreateTime>now</CreateTime></xml>",
        b"<xml>" + b"<a>" * 50 + b"</a>" * 50 + b"</xml>",
        b'{"CreateTime": 99999999999999}',
        b"{" * 50,
        b"\xff\xfe<xml/>",
        b"",
    ],
)
def test_what_wechat_would_not_send_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(fields(body))


def test_a_long_encrypted_body_opens_in_xml_and_in_json() -> None:
    message = f"<xml><CreateTime>1</CreateTime><Content>{'x' * 3000}</Content></xml>".encode()
    sealed = crypto.sealed(message, KEY, CORP)
    for body in (f"<xml><a><Encrypt>no</Encrypt></a><Encrypt>{sealed}</Encrypt></xml>", json.dumps({"Encrypt": sealed})):
        assert message == crypto.opened(encrypted(body.encode()), [KEY], CORP).message
    for body in ("<xml/>", "<xml><a><Encrypt>no</Encrypt></a></xml>", '{"Encrypt": 5}'):
        assert "" == encrypted(body.encode())


def test_however_often_a_child_is_repeated_all_are_listed_in_their_order() -> None:
    many = 20_000
    tree = fields(b"<xml>" + b"".join(b"<a>%d</a>" % n for n in range(many)) + b"<b>1</b></xml>")
    assert {"a": [str(n) for n in range(many)], "b": "1"} == tree
