"""The algebra of consent: what a person's statements amount to, whoever they are merged with.

A *statement* says through one anchor that one purpose is allowed or forbidden on one channel; `all` stands for every
channel. Statements are only ever added. What holds is a function of the set of them, the view of who is who, and the time:

1. **One anchor.** Of the statements on a purpose whose channel is the one asked for or `all`, the latest governs; of two at
   one instant the stricter (a withdrawal, else the grant that ends earlier). A grant that has run out is no consent: the
   grants it replaced do not come back, but a withdrawal it replaced does. Grants that are void, and general grants where
   separate consent is needed, are not looked at.
2. **One person.** The strictest over the anchors that are theirs now: WITHDRAWN before GIVEN before EXPIRED before NONE. A
   withdrawal on one anchor is lifted by a later grant on that anchor, by none on another.

So order and repetition of statements do not matter, a withdrawal never loosens anything, time only ever takes consent away,
a merge gives the strictest of its sides, and taking it back gives each side exactly what it had.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from hashlib import blake2b
from typing import Any

ALL = "all"
CHANNELS = ("app", "wechat", "dealer", "sms", "phone", "email", "car", "web", "ads")
GENERAL, SEPARATE = "general", "separate"
KINDS = (GENERAL, SEPARATE)
# Where `expires_us` is this, consent does not run out.
NEVER = 0
# Longest texts that a statement keeps of what a client sent.
MAX_TEXT = 100


@dataclass(frozen=True)
class Purpose:
    """What data may be used for, and how it must be consented to."""

    # PIPL 23, 25, 26, 29, 39: a screen of its own, never bundled with anything.
    separate: bool = False
    # Channels that need separate consent though the purpose as such does not.
    separate_on: frozenset[str] = frozenset()
    # Its use is sending messages: what somebody means who unsubscribes and names no purpose.
    message: bool = False


PURPOSES: Mapping[str, Purpose] = {
    # A car's screen shows no advertising without prior consent (Internet Advertising Measures 2023); a platform that gets
    # hashes of somebody's identifiers is a recipient of personal data (PIPL 23).
    "marketing": Purpose(message=True, separate_on=frozenset({"car", "ads"})),
    "service": Purpose(message=True),
    "personalisation": Purpose(separate=True),
    "dealer_sharing": Purpose(separate=True),
    # With recipients outside, under pseudonyms and as tags only.
    "sharing": Purpose(separate=True),
    "location": Purpose(separate=True),
    "biometric": Purpose(separate=True),
    "export": Purpose(separate=True),
}
MESSAGES = tuple(name for name, purpose in PURPOSES.items() if purpose.message)


class State(IntEnum):
    """Where consent stands; the larger wins over the anchors of a person. Numbers are those of the contract less one."""

    NONE = 0
    EXPIRED = 1
    GIVEN = 2
    WITHDRAWN = 3


@dataclass(frozen=True, slots=True)
class Statement:
    """One line of the ledger. `void` is the reason why a grant never counted; empty for those that do."""

    statement_id: bytes
    anchor_id: int
    purpose: str
    channel: str
    kind: str
    given: bool
    stated_us: int
    expires_us: int = NEVER
    # The text that was shown: its version, SHA-256 and language; on which screen.
    text_version: str = ""
    text_sha256: bytes = b""
    language: str = ""
    screen: str = ""
    # The observed event that said so, empty when a caller did; the source of the event, else the caller.
    event_id: bytes = b""
    source: str = ""
    void: str = ""
    # The caller's own id; empty where an event said so.
    consent_id: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Where consent stands and the statement that decides it; None when there is none at all."""

    state: State
    because: Statement | None


NOTHING = Finding(State.NONE, None)


def needs_separate(purpose: str, channel: str) -> bool:
    """Whether only separate consent will do; an unknown purpose needs it. `all` asks for the purpose as such."""
    known = PURPOSES.get(purpose)
    return known is None or known.separate or channel in known.separate_on


def void_reason(purpose: str, channel: str, kind: str, *, given: bool) -> str:
    """Why a statement can never count, empty when it can. Withdrawals always count."""
    if given and purpose not in PURPOSES:
        return "UNKNOWN_PURPOSE"
    if given and channel != ALL and channel not in CHANNELS:
        return "UNKNOWN_CHANNEL"
    if given and kind != SEPARATE and needs_separate(purpose, channel):
        return "SEPARATE_CONSENT_REQUIRED"
    return ""


def of_anchor(statements: Iterable[Statement], purpose: str, channel: str, now_us: int) -> Finding:
    """Where consent stands on one anchor. `statements` are of that anchor alone; `channel` is a real one."""
    only_separate = needs_separate(purpose, channel)
    about = [
        s
        for s in statements
        if s.purpose == purpose
        and s.channel in (channel, ALL)
        and not s.void
        and (not s.given or s.kind == SEPARATE or not only_separate)
    ]
    if not about:
        return NOTHING
    governing = max(about, key=_rank)
    if not governing.given:
        return Finding(State.WITHDRAWN, governing)
    if governing.expires_us == NEVER or governing.expires_us > now_us:
        return Finding(State.GIVEN, governing)
    withdrawn = max((s for s in about if not s.given), key=_rank, default=None)
    return Finding(State.WITHDRAWN, withdrawn) if withdrawn else Finding(State.EXPIRED, governing)


def _rank(statement: Statement) -> tuple[int, bool, int, bytes]:
    """Later first, at one instant the stricter; the id only makes the choice between equals the same everywhere."""
    ends = -statement.expires_us if statement.expires_us != NEVER else -(2**63)
    return statement.stated_us, not statement.given, ends, statement.statement_id


def strictest(findings: Iterable[Finding]) -> Finding:
    """What findings of several anchors, or of several persons that became one, amount to."""
    return max(findings, key=_strictness, default=NOTHING)


def _strictness(finding: Finding) -> tuple[int, int, int, bytes]:
    because = finding.because
    if because is None:
        return finding.state, 0, 0, b""
    return finding.state, because.stated_us, because.anchor_id, because.statement_id


def of_person(statements: Iterable[Statement], purpose: str, channel: str, now_us: int) -> Finding:
    """Where consent stands over all anchors of a person."""
    by_anchor: defaultdict[int, list[Statement]] = defaultdict(list)
    for statement in statements:
        by_anchor[statement.anchor_id].append(statement)
    return strictest(of_anchor(own, purpose, channel, now_us) for own in by_anchor.values())


def effective(statements: Sequence[Statement], now_us: int) -> dict[tuple[str, str], Finding]:
    """(purpose, channel) → finding, wherever anything was ever said that counts; purposes and channels in order."""
    return {
        (purpose, channel): finding
        for purpose in PURPOSES
        if (about := [s for s in statements if s.purpose == purpose])
        for channel in CHANNELS
        if (finding := of_person(about, purpose, channel, now_us)).state is not State.NONE
    }


# Observed events that state consent, and whether they give it.
EVENTS: Mapping[str, bool] = {"Unsubscribed": False, "Consent Withdrawn": False, "Consent Given": True}


@dataclass(frozen=True)
class Evidence:
    """Which event said so, through which anchor, when (microseconds, UTC) and at which source."""

    event_id: bytes
    anchor_id: int
    source: str
    stated_us: int


def read_event(name: str, properties: Mapping[str, Any], evidence: Evidence) -> list[Statement]:
    """The statements in an event of `EVENTS`, one for each purpose it is about.

    Whatever cannot be understood is read the strict way: a withdrawal from an unknown channel is one from all, a grant
    that names anything unknown is kept and void.
    """
    given = EVENTS[name]
    purposes, channel = _purposes(properties, given=given), _channel(properties, given=given)
    kind = SEPARATE if properties.get("kind") == SEPARATE else GENERAL
    expires_us = _expiry(properties.get("expires_at")) if given else NEVER
    return [
        Statement(
            statement_id(evidence.event_id, purpose, channel),
            evidence.anchor_id,
            purpose,
            channel,
            kind,
            given,
            evidence.stated_us,
            expires_us or NEVER,
            _text(properties, "text_version"),
            _sha256(properties.get("text_sha256")),
            _text(properties, "language"),
            _text(properties, "screen"),
            evidence.event_id,
            evidence.source,
            "INVALID_EXPIRY" if expires_us is None else void_reason(purpose, channel, kind, given=given),
        )
        for purpose in purposes
    ]


def statement_id(said_by: bytes, purpose: str, channel: str) -> bytes:
    """16 bytes, the same for the same statement however often it comes."""
    return blake2b(b"\0".join((said_by, purpose.encode(), channel.encode())), digest_size=16).digest()


def stated_id(caller: str, consent_id: str) -> bytes:
    """16 bytes for a caller's own id of a statement."""
    return blake2b(f"{caller}\0{consent_id}".encode(), digest_size=16).digest()


def _purposes(properties: Mapping[str, Any], *, given: bool) -> Sequence[str]:
    purpose = _text(properties, "purpose")
    # Whoever withdraws something we have no name for wants less of us, not nothing.
    return (purpose,) if purpose in PURPOSES or (purpose and given) else MESSAGES


def _channel(properties: Mapping[str, Any], *, given: bool) -> str:
    channel = _text(properties, "channel")
    return channel if channel in CHANNELS or (channel and given) else ALL


def _text(properties: Mapping[str, Any], key: str) -> str:
    value = properties.get(key)
    # PostgreSQL stores no NUL, and no JSON client means one.
    return str(value).replace("\0", "")[:MAX_TEXT] if isinstance(value, (str, int)) else ""


def _sha256(value: Any) -> bytes:
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""
    return digest if len(digest) == 32 else b""


def _expiry(value: Any) -> int | None:
    """Microseconds since the epoch, NEVER when none is given, None when it cannot be read. No zone means UTC."""
    if value is None or value == "":
        return NEVER
    try:
        instant = datetime.fromisoformat(value)
        aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
        # Before the epoch is long past, but 0 would mean for ever.
        return max(1, (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))
    except (TypeError, ValueError, OverflowError):
        return None
