"""Feedback: what came back about a push, as states of the push and as events of the person.

Two tables say all of it: `MEANINGS`, what each type of feedback means, and `DATA`, what its `data` may carry.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chassis.consents import ALL_CHANNELS, MESSAGES, PERSONALISATION
from services.touchpoints.domain.deliveries import State
from services.touchpoints.domain.handovers import delivery_of
from services.touchpoints.domain.observed import Invalid, instant_us
from services.touchpoints.domain.screening import looks_personal

UNSUBSCRIBED = "Unsubscribed"
CONSENT_WITHDRAWN = "Consent Withdrawn"
PERSONALISATION_OFF = "message.personalisation_off"
MOST_ID = 100
_CODE = re.compile("[a-z_]{0,40}")
_WORD = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_MOST_INTEGER = 2**31 - 1
_LEAD = re.compile("leads/[1-9][0-9]{0,17}")

Value = str | int | float


@dataclass(frozen=True)
class Datum:
    """One typed field of `data`. `event`: the property of the observed event that carries it; empty for none."""

    kind: str
    meaning: str
    event: str = ""
    choices: Sequence[str] = ()
    least: float = 0
    most: float = 1e12


# Kinds: code (lower-case letters and _), word (one line), choice, number, integer, instant (ISO 8601).
DATA: Mapping[str, Datum] = {
    "answer": Datum("choice", "The answer.", "answer", choices=("yes", "no")),
    "reason_code": Datum("code", "Why, as a word for programs.", "reason"),
    "model": Datum("word", "The model of vehicles.", "model"),
    "amount": Datum("number", "What it costs, yuan.", "amount"),
    "price": Datum("number", "The price offered, yuan.", "price"),
    "payment": Datum("choice", "How it is paid.", "payment", choices=("cash", "loan", "lease")),
    "appointment": Datum("word", "Number of the appointment.", "appointment"),
    "rating": Datum("number", "How the customer liked it.", "rating", least=1, most=5),
    "rival": Datum("word", "The brand it was lost to.", "rival"),
    "result": Datum("code", "What came of the call.", "result"),
    "intent": Datum("code", "What the reply is about, as a word for programs; never its text.", "intent"),
    "link": Datum("word", "Which link, by the receiver's own short name; no address.", "link"),
    "purpose": Datum("choice", "From which messages; without it from all.", "purpose", choices=MESSAGES),
    # Kept with the report, for whoever asks on which state of the lead it rests.
    "revision": Datum("integer", "Revision of the lead that the dealer had seen.", least=1, most=_MOST_INTEGER),
    "event_id": Datum("word", "The receiver's own number of what happened: what happens twice is kept once for each."),
    "occurred_at": Datum("instant", "When it happened, where that is not the timestamp."),
}
# May stand beside any type of feedback.
ANYWHERE = ("revision", "event_id", "occurred_at")


@dataclass(frozen=True)
class Meaning:
    """What one type of feedback says about the push and what the person's history keeps of it."""

    state: State | None
    # Empty when the person's history keeps nothing.
    event: str
    # Why the push failed, when it did.
    reason: str = ""
    # Names of DATA that it may carry, beside those of ANYWHERE.
    takes: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    # What it is where nobody decided on a push: the dealer was told of a lead.
    of_lead: str = ""


MEANINGS: Mapping[str, Meaning] = {
    "message.delivered": Meaning(State.DELIVERED, "Push Delivered"),
    "message.opened": Meaning(State.OPENED, "Push Opened"),
    "message.clicked": Meaning(State.CLICKED, "Push Clicked", takes=("link",)),
    "message.replied": Meaning(State.CLICKED, "Push Replied", takes=("intent",)),
    "message.answered": Meaning(State.ANSWERED, "Offer Answered", takes=("answer",), requires=("answer",)),
    "message.goal": Meaning(State.GOAL, "Goal Reached", takes=("amount", "model")),
    "message.failed": Meaning(State.FAILED, "", "not_delivered", takes=("reason_code",)),
    "message.unsubscribed": Meaning(None, UNSUBSCRIBED, takes=("purpose",)),
    PERSONALISATION_OFF: Meaning(None, CONSENT_WITHDRAWN),
    "lead.accepted": Meaning(None, "Lead Accepted"),
    "lead.contacted": Meaning(State.DELIVERED, "Push Delivered", takes=("result",), of_lead="Lead Contacted"),
    "lead.unreachable": Meaning(State.FAILED, "", "unreachable", takes=("reason_code",)),
    "lead.answered": Meaning(State.ANSWERED, "Offer Answered", takes=("answer",), requires=("answer",)),
    # What became of the lead afterwards says nothing of the push; it is the person's history (CONVENTIONS 5.3).
    "lead.test_drive_booked": Meaning(None, "Test Drive Booked", takes=("appointment", "model")),
    "lead.visited": Meaning(None, "Showroom Visit"),
    "lead.test_driven": Meaning(None, "Test Drive Completed", takes=("appointment", "model", "rating")),
    "lead.quoted": Meaning(None, "Quotation Given", takes=("model", "price")),
    "lead.ordered": Meaning(None, "Order Placed", takes=("model", "amount", "payment")),
    "lead.order_cancelled": Meaning(None, "Order Cancelled", takes=("model", "reason_code")),
    "lead.delivered": Meaning(None, "Vehicle Delivered", takes=("model",)),
    "lead.lost": Meaning(None, "Lead Lost", takes=("reason_code", "rival")),
    "lead.unsubscribed": Meaning(None, UNSUBSCRIBED, takes=("purpose",)),
}


@dataclass(frozen=True)
class Feedback:
    """One event that a receiver reports about a push."""

    kind: str
    delivery_id: str
    answer: str
    occurred_at_us: int
    # Why, as the receiver says; empty when it does not.
    reason: str = ""
    # The rest of what `data` carried, by the names of DATA.
    data: Mapping[str, Value] = field(default_factory=dict)

    @property
    def meaning(self) -> Meaning:
        """What it says."""
        return MEANINGS[self.kind]

    @property
    def key(self) -> str:
        """What tells it from other reports of its type about the same push: a repeat has the same."""
        if self.withdraws(""):
            # Somebody may take back again what was given anew in between.
            return f"{self.data.get('purpose', '')} {self.occurred_at_us}"
        return self.answer or str(self.data.get("event_id", ""))

    @property
    def event_id(self) -> bytes:
        """16 bytes, the same however often and through whichever batch it is reported."""
        return hashlib.sha256(f"feedback\0{self.delivery_id}\0{self.kind}\0{self.key}".encode()).digest()[:16]

    def withdraws(self, channel: str) -> list[tuple[str, str]]:
        """(purpose, channel) that the person takes back with it; `channel`: the push's, in the words of consent."""
        if self.kind == PERSONALISATION_OFF:
            return [(PERSONALISATION, ALL_CHANNELS)]
        if self.meaning.event != UNSUBSCRIBED:
            return []
        purpose = str(self.data.get("purpose", ""))
        return [(each, channel) for each in ((purpose,) if purpose else MESSAGES)]

    @property
    def properties(self) -> dict[str, Value]:
        """What the observed event says beside the push."""
        said: dict[str, Value] = {"answer": self.answer, "reason": self.reason}
        said |= {DATA[name].event: value for name, value in self.data.items()}
        return {name: value for name, value in said.items() if name and value != ""}


def parse(raw: Any, path: str, received_us: int) -> Feedback:
    """One event of a feedback webhook; raises Invalid with the field under `path` ("events[3].").

    Fields of `data` that the type does not know are passed over: receivers send more than we read.
    """
    if not isinstance(raw, dict):
        raise Invalid(path.rstrip("."), "NOT_AN_OBJECT", "must be an object")
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in MEANINGS:
        raise Invalid(f"{path}type", "UNKNOWN_TYPE", f"must be one of {', '.join(MEANINGS)}")
    occurred = instant_us(raw.get("timestamp"), f"{path}timestamp")
    given = raw.get("data")
    if not isinstance(given, dict):
        raise Invalid(f"{path}data", "WRONG_TYPE", "must be an object")
    key = "delivery_id" if "delivery_id" in given else "lead_id" if "lead_id" in given else "delivery_id"
    delivery_id = given.get(key)
    if not isinstance(delivery_id, str) or not 0 < len(delivery_id) <= MOST_ID or not delivery_id.isprintable():
        raise Invalid(f"{path}data.{key}", "WRONG_TYPE", f"must be a string of 1 to {MOST_ID} printable characters")
    delivery_id = _told_by(delivery_id, given.get("revision"), path) if key == "lead_id" else delivery_id
    meaning, data = MEANINGS[kind], dict[str, Value]()
    for name in (*meaning.takes, *ANYWHERE):
        if given.get(name) is not None:
            data[name] = _value(DATA[name], given[name], f"{path}data.{name}")
        elif name in meaning.requires:
            raise Invalid(f"{path}data.{name}", "MISSING", f"must be given: {DATA[name].meaning}")
    occurred = int(data.pop("occurred_at", occurred))
    answer, reason = str(data.pop("answer", "")), str(data.pop("reason_code", ""))
    # A receiver's clock ahead of ours must not make an answer newer than any later one.
    return Feedback(kind, delivery_id, answer, min(occurred, received_us), reason, data)


def _told_by(lead_id: str, revision: Any, path: str) -> str:
    """The delivery by which a dealer knows a lead: of "leads/12" that of the revision, else the number is the delivery's."""
    if not _LEAD.fullmatch(lead_id):
        return lead_id
    if not isinstance(revision, int) or isinstance(revision, bool) or not 0 < revision <= _MOST_INTEGER:
        raise Invalid(f"{path}data.revision", "MISSING", "must be the revision of the lead that the dealer was told")
    return delivery_of(lead_id, revision)


def _value(datum: Datum, given: Any, path: str) -> Value:
    if datum.kind == "instant":
        return instant_us(given, path)
    if datum.kind in ("number", "integer"):
        whole = isinstance(given, int) and not isinstance(given, bool)
        if not (whole or (datum.kind == "number" and isinstance(given, float))) or not datum.least <= given <= datum.most:
            raise Invalid(path, "WRONG_TYPE", f"must be {datum.kind} from {datum.least:g} to {datum.most:g}")
        return int(given) if whole else float(given)
    if datum.kind == "choice":
        if given not in datum.choices:
            raise Invalid(path, "UNKNOWN_CHOICE", f"must be one of {', '.join(datum.choices)}")
        return str(given)
    if datum.kind == "code":
        if not isinstance(given, str) or not _CODE.fullmatch(given):
            raise Invalid(path, "WRONG_TYPE", "must be a word of lower-case letters and _")
        return given
    if not isinstance(given, str) or not _WORD.fullmatch(given):
        raise Invalid(path, "WRONG_TYPE", "must be a string of 1 to 100 printable characters")
    if looks_personal(given):
        raise Invalid(path, "PERSONAL_DATA", "must not hold personal data")
    return given
