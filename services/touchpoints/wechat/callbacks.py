"""WeChat's calls to us (CONVENTIONS 3.4), plain mode: signature, and XML events as something we understand."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

MOST_BYTES = 64 * 1024
TOLERANCE_S = 300
_ANSWER = re.compile(r"answer:(yes|no):([!-~]{1,100})")
_STATUS = re.compile(r"failed:\s*([a-z ]{1,40})")


@dataclass(frozen=True)
class Answered:
    """The person clicked an answer on the message's page."""

    delivery_id: str
    answer: str
    occurred_s: int


@dataclass(frozen=True)
class Finished:
    """WeChat knows what became of a message; `failure` is a snake_case reason, empty when it arrived."""

    message_id: str
    failure: str
    occurred_s: int


@dataclass(frozen=True)
class Unfollowed:
    """The person left the account: no consent and no way to reach them any more."""

    openid: str
    occurred_s: int


@dataclass(frozen=True)
class Ignored:
    """An event that means nothing to us (yet)."""


Callback = Answered | Finished | Unfollowed | Ignored


def genuine(token: str, signature: str, timestamp: str, nonce: str, now_s: float) -> bool:
    """Whether WeChat made this call within the last five minutes."""
    if not (token and timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 12):
        return False
    made = hashlib.sha1("".join(sorted((token, timestamp, nonce))).encode(), usedforsecurity=False).hexdigest()
    same = hmac.compare_digest(made.encode(), signature.lower().encode())
    return same and abs(now_s - int(timestamp)) <= TOLERANCE_S


def parse(body: bytes) -> Callback:
    """The event in a body; raises ValueError when it is no XML of WeChat's."""
    try:
        root = fromstring(body, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise ValueError("not valid XML") from error
    fields = {child.tag: (child.text or "").strip() for child in root}
    created = fields.get("CreateTime", "")
    if not (created.isascii() and created.isdigit() and len(created) < 12):
        raise ValueError("CreateTime is not a number")
    match fields.get("Event", ""):
        case "CLICK" if found := _ANSWER.fullmatch(fields.get("EventKey", "")):
            return Answered(found[2], found[1], int(created))
        case "TEMPLATESENDJOBFINISH" if message_id := fields.get("MsgID", ""):
            failed = _STATUS.fullmatch(fields.get("Status", ""))
            return Finished(message_id[:40], failed[1].strip().replace(" ", "_") if failed else "", int(created))
        case "unsubscribe" if openid := fields.get("FromUserName", ""):
            return Unfollowed(openid[:255], int(created))
        case _:
            return Ignored()
