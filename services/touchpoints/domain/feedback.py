"""Feedback: what came back about a push, as states of the push and as events of the person."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from services.touchpoints.domain.deliveries import State
from services.touchpoints.domain.handovers import delivery_of
from services.touchpoints.domain.observed import Invalid, instant_us

UNSUBSCRIBED = "Unsubscribed"
_MOST_INTEGER = 2**31 - 1
_LEAD = re.compile("leads/[1-9][0-9]{0,17}")
_REASON = re.compile("[a-z_]{0,40}")


@dataclass(frozen=True)
class Meaning:
    """What one type of feedback says about the push and what the person's history keeps of it."""

    state: State | None
    event: str
    # Why the push failed, when it did.
    reason: str = ""
    answers: bool = False
    # Whether the receiver may say why, as a word for programs.
    explains: bool = False
    # What it is where nobody decided on a push: the dealer was told of a lead.
    of_lead: str = ""


MEANINGS = {
    "message.delivered": Meaning(State.DELIVERED, "Push Delivered"),
    "message.opened": Meaning(State.OPENED, "Push Opened"),
    "message.answered": Meaning(State.ANSWERED, "Offer Answered", answers=True),
    "message.failed": Meaning(State.FAILED, "", "not_delivered"),
    "message.unsubscribed": Meaning(None, UNSUBSCRIBED),
    "lead.accepted": Meaning(None, "Lead Accepted"),
    "lead.contacted": Meaning(State.DELIVERED, "Push Delivered", of_lead="Lead Contacted"),
    "lead.unreachable": Meaning(State.FAILED, "", "unreachable"),
    "lead.answered": Meaning(State.ANSWERED, "Offer Answered", answers=True),
    # What became of the lead afterwards says nothing of the push; it is the person's history (CONVENTIONS 5.3).
    "lead.visited": Meaning(None, "Showroom Visit"),
    "lead.test_driven": Meaning(None, "Test Drive Completed"),
    "lead.ordered": Meaning(None, "Order Placed"),
    "lead.delivered": Meaning(None, "Vehicle Delivered"),
    "lead.lost": Meaning(None, "Lead Lost", explains=True),
}


@dataclass(frozen=True)
class Feedback:
    """One event that a receiver reports about a push."""

    kind: str
    delivery_id: str
    answer: str
    occurred_at_us: int
    # Why a lead was lost, as the dealer says; empty when it does not.
    reason: str = ""

    @property
    def meaning(self) -> Meaning:
        """What it says."""
        return MEANINGS[self.kind]

    @property
    def event_id(self) -> bytes:
        """16 bytes, the same however often and through whichever batch it is reported."""
        return hashlib.sha256(f"feedback\0{self.delivery_id}\0{self.kind}\0{self.answer}".encode()).digest()[:16]


def _told_by(lead_id: str, revision: Any, path: str) -> str:
    """The delivery by which a dealer knows a lead: of "leads/12" that of the revision, else the number is the delivery's."""
    if not _LEAD.fullmatch(lead_id):
        return lead_id
    if not isinstance(revision, int) or isinstance(revision, bool) or not 0 < revision <= _MOST_INTEGER:
        raise Invalid(f"{path}data.revision", "MISSING", "must be the revision of the lead that the dealer was told")
    return delivery_of(lead_id, revision)


def parse(raw: Any, path: str, received_us: int) -> Feedback:
    """One event of a feedback webhook; raises Invalid with the field under `path` ("events[3].")."""
    if not isinstance(raw, dict):
        raise Invalid(path.rstrip("."), "NOT_AN_OBJECT", "must be an object")
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in MEANINGS:
        raise Invalid(f"{path}type", "UNKNOWN_TYPE", f"must be one of {', '.join(MEANINGS)}")
    # A receiver's clock ahead of ours must not make an answer newer than any later one.
    occurred = min(instant_us(raw.get("timestamp"), f"{path}timestamp"), received_us)
    given = raw.get("data")
    if not isinstance(given, dict):
        raise Invalid(f"{path}data", "WRONG_TYPE", "must be an object")
    key = "delivery_id" if "delivery_id" in given else "lead_id" if "lead_id" in given else "delivery_id"
    delivery_id = given.get(key)
    if not isinstance(delivery_id, str) or not 0 < len(delivery_id) <= 100 or not delivery_id.isprintable():
        raise Invalid(f"{path}data.{key}", "WRONG_TYPE", "must be a string of 1 to 100 printable characters")
    delivery_id = _told_by(delivery_id, given.get("revision"), path) if key == "lead_id" else delivery_id
    answer = given.get("answer") if MEANINGS[kind].answers else ""
    if MEANINGS[kind].answers and answer not in ("yes", "no"):
        raise Invalid(f"{path}data.answer", "UNKNOWN_ANSWER", "must be yes or no")
    reason = given.get("reason_code", "") if MEANINGS[kind].explains else ""
    if not isinstance(reason, str) or not _REASON.fullmatch(reason):
        raise Invalid(f"{path}data.reason_code", "WRONG_TYPE", "must be a word of lower-case letters and _")
    return Feedback(kind, delivery_id, str(answer), occurred, reason)
