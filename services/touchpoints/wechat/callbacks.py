"""What WeChat and WeCom tell us (CONVENTIONS 3.4, 3.7): bodies in XML or JSON as events that we understand. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import orjson
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

MOST_BYTES = 64 * 1024
MOST_DEPTH = 6
MOST_PERMISSIONS = 20
STOP_WORDS = frozenset({"T", "TD", "N", "退订", "取消订阅", "UNSUBSCRIBE", "STOP"})
_ANSWER = re.compile(r"answer:(yes|no):([!-~]{1,100})")
# How WeCom numbers customers: of WeChat, and of other corporations. Employees are named as their corporation likes.
_EXTERNAL = re.compile(r"w[mo][\w-]{1,62}")
_STATUS = re.compile(r"failed:\s*([a-z ]{1,40})")
# Of what somebody does: what opens a window for customer-service messages, the event that the history keeps, and what of it the
# key of the event says.
_INBOUND = {
    "subscribe": ("follow", "WeChat Followed", "scene"),
    "SCAN": ("scan", "WeChat Code Scanned", "scene"),
    "CLICK": ("click", "WeChat Menu Clicked", "key"),
    "VIEW": ("", "WeChat Menu Clicked", "key"),
    "user_enter_tempsession": ("session", "WeChat Session Entered", ""),
}
_PERMISSIONS = {
    "subscribe_msg_popup_event": "SubscribeMsgPopupEvent",
    "subscribe_msg_change_event": "SubscribeMsgChangeEvent",
    "subscribe_msg_sent_event": "SubscribeMsgSentEvent",
}


@dataclass(frozen=True)
class Answered:
    """The person clicked an answer on the message's page."""

    openid: str = field(repr=False)
    delivery_id: str
    answer: str


@dataclass(frozen=True)
class Finished:
    """WeChat knows what became of messages: (its number, failure as a snake_case reason or empty, template if it says so)."""

    openid: str = field(repr=False)
    messages: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Unfollowed:
    """The person left the account: no consent and no way to reach them any more."""

    openid: str = field(repr=False)


@dataclass(frozen=True)
class OptedOut:
    """The person wrote one of the words that mean: no more messages."""

    openid: str = field(repr=False)


@dataclass(frozen=True)
class Inbound:
    """The person turned to the account. `window` names what may be answered, empty when nothing may."""

    openid: str = field(repr=False)
    window: str
    event: str
    properties: Mapping[str, str]


@dataclass(frozen=True)
class Permissions:
    """The person allowed or refused messages: (template, allowed). Asked in a popup each yes is good for one message."""

    openid: str = field(repr=False)
    given: tuple[tuple[str, bool], ...]
    popup: bool


@dataclass(frozen=True)
class ContactAdded:
    """A customer and an employee became contacts in WeCom."""

    employee: str
    contact: str = field(repr=False)
    state: str


@dataclass(frozen=True)
class ContactLost:
    """They are contacts no more; `by_customer`: the customer removed the employee, which is an opt-out."""

    employee: str
    contact: str = field(repr=False)
    by_customer: bool


@dataclass(frozen=True)
class Ignored:
    """An event that means nothing to us (yet)."""


Callback = Answered | Finished | Unfollowed | OptedOut | Inbound | Permissions | ContactAdded | ContactLost | Ignored


@dataclass(frozen=True)
class Told:
    """One callback: what it says, when (seconds since the epoch), and a name that each retry of it has, too."""

    event: Callback
    occurred_s: int
    identity: str = field(repr=False)


def fields(body: bytes) -> dict[str, Any]:
    """A body as nested dicts of texts and lists; raises ValueError when it is neither WeChat's XML nor its JSON."""
    given = _given(body)
    if isinstance(given, dict):
        return dict(_texts(given, 0))
    tree = _tree(given, 0)
    return tree if isinstance(tree, dict) else {}


def encrypted(body: bytes) -> str:
    """The `Encrypt` of a body, whole, and nothing else of it; empty when it has none. Raises ValueError like `fields`."""
    given = _given(body)
    if isinstance(given, dict):
        return _text(given, "Encrypt").strip()
    return (given.findtext("Encrypt") or "").strip()


def _given(body: bytes) -> dict[str, Any] | Element:
    if body.lstrip()[:1] == b"{":
        try:
            given: dict[str, Any] = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ValueError("not valid JSON") from error
        return given
    try:
        root: Element = fromstring(body, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise ValueError("not valid XML") from error
    return root


def parse(given: Mapping[str, Any]) -> Told:
    """What the fields of a callback say; raises ValueError when they cannot be WeChat's."""
    created, sender, event = _text(given, "CreateTime"), _text(given, "FromUserName"), _text(given, "Event")
    if not (created.isascii() and created.isdigit() and len(created) < 12):
        raise ValueError("CreateTime is not a number")
    number = _text(given, "MsgId")
    # WeChat's own advice for telling retries: messages by their number, events by sender, time and kind.
    named = (number,) if number else (sender, created, event, *(_text(given, k) for k in ("EventKey", "MsgID", "ChangeType")))
    if event in _PERMISSIONS or event == "change_external_contact":
        named = (*named, orjson.dumps(given, option=orjson.OPT_SORT_KEYS).decode())
    return Told(_event(given, sender, event), int(created), "\0".join(named))


def _event(given: Mapping[str, Any], sender: str, event: str) -> Callback:
    match event:
        case "TEMPLATESENDJOBFINISH" if number := _text(given, "MsgID"):
            return Finished(sender, ((number[:40], _failure(_text(given, "Status")), ""),))
        case "subscribe_msg_sent_event":
            return Finished(sender, tuple(_sent(given)))
        case "change_external_contact":
            return _contact(given)
        case _:
            return _of_person(given, sender, event) if sender else Ignored()


def _of_person(given: Mapping[str, Any], sender: str, event: str) -> Callback:
    """What somebody did."""
    key, kind = _text(given, "EventKey"), _text(given, "MsgType")
    if kind not in ("", "event"):
        if kind == "text" and _text(given, "Content").upper() in STOP_WORDS:
            return OptedOut(sender)
        return Inbound(sender, "message", "WeChat Message Received", {"kind": _word(kind)})
    if event in ("subscribe_msg_popup_event", "subscribe_msg_change_event"):
        answers = tuple(_answers(given, _PERMISSIONS[event]))
        return Permissions(sender, answers, event == "subscribe_msg_popup_event") if answers else Ignored()
    if event == "CLICK" and (found := _ANSWER.fullmatch(key)):
        return Answered(sender, found[2], found[1])
    window, name, said = _INBOUND.get(event, ("", "", ""))
    if name:
        return Inbound(sender, window, name, {said: _word(key.removeprefix("qrscene_"))} if key and said else {})
    return Unfollowed(sender) if event == "unsubscribe" else Ignored()


def _contact(given: Mapping[str, Any]) -> Callback:
    employee, contact = _text(given, "UserID"), _text(given, "ExternalUserID")
    if not employee or not _EXTERNAL.fullmatch(contact):
        return Ignored()
    match _text(given, "ChangeType"):
        case "add_external_contact" | "add_half_external_contact":
            return ContactAdded(employee, contact, _word(_text(given, "State")))
        case "del_follow_user" | "del_external_contact" as change:
            return ContactLost(employee, contact, change == "del_follow_user")
        case _:
            return Ignored()


def _items(given: Mapping[str, Any], part: str) -> Iterator[Mapping[str, Any]]:
    """The entries of a list that XML and JSON nest in different ways."""
    inner = given.get(part, given)
    found = inner.get("List", inner) if isinstance(inner, Mapping) else inner
    many: Sequence[Any] = found if isinstance(found, list) else [found]
    yield from (one for one in many[:MOST_PERMISSIONS] if isinstance(one, Mapping))


def _answers(given: Mapping[str, Any], part: str) -> Iterator[tuple[str, bool]]:
    for one in _items(given, part):
        template, status = _text(one, "TemplateId"), _text(one, "SubscribeStatusString")
        if template and status in ("accept", "reject"):
            yield template[:100], status == "accept"


def _sent(given: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for one in _items(given, _PERMISSIONS["subscribe_msg_sent_event"]):
        if number := _text(one, "MsgID"):
            status = _text(one, "ErrorStatus")
            arrived = _text(one, "ErrorCode") in ("", "0") and status in ("", "success")
            yield number[:40], "" if arrived else _word(status) or "failed", _text(one, "TemplateId")[:100]


def _failure(status: str) -> str:
    failed = _STATUS.fullmatch(status)
    return failed[1].strip().replace(" ", "_") if failed else ""


def _word(text: str) -> str:
    """What may stand in a history: no texts of persons, which keys of menus and codes are not."""
    return re.sub(r"[^\w:.-]+", "_", text)[:64]


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name, "")
    return value if isinstance(value, str) else ""


def _tree(element: Element, depth: int) -> Any:
    if depth > MOST_DEPTH:
        raise ValueError("nested too deeply")
    if len(element) == 0:
        return (element.text or "").strip()[:2000]
    found: dict[str, list[Any]] = {}
    for child in element:
        found.setdefault(child.tag, []).append(_tree(child, depth + 1))
    return {tag: values if len(values) > 1 else values[0] for tag, values in found.items()}


def _texts(given: Any, depth: int) -> Any:
    if depth > MOST_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(given, dict):
        return {key: _texts(value, depth + 1) for key, value in given.items()}
    if isinstance(given, list):
        return [_texts(value, depth + 1) for value in given]
    return str(given).strip()[:2000] if isinstance(given, (str, int)) and not isinstance(given, bool) else ""
