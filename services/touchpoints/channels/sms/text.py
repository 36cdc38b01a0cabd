"""Short messages as texts: signature, ending, segments, the hours they may come in, and words that mean no."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

# Carriers accept no other ending (CONVENTIONS 6); the same as orchestrator's offers are checked against.
ENDING = "拒收请回复R"
NO_WORDS = frozenset({"r", "t", "td", "退订", "退定", "拒收", "stop", "unsubscribe"})
_EDGES = re.compile(r"^[\s.!,。]+|[\s.!,。]+$")
_SIGNATURE = re.compile("【([^【】]{1,20})】")
# GSM 03.38, its basic table and what takes two places.
_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED = frozenset("^{}\\[~]|€\f")
_WINDOW = re.compile("([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True)
class Length:
    """How a text is counted: characters as carriers count them, and parts that are paid for."""

    units: int
    segments: int


def length(text: str) -> Length:
    """160 places of GSM 03.38, 153 in each part of several; of anything else 70 UTF-16 units, 67 in each part."""
    if all(c in _BASIC or c in _EXTENDED for c in text):
        units, one, more = sum(2 if c in _EXTENDED else 1 for c in text), 160, 153
    else:
        units, one, more = len(text.encode("utf-16-le")) // 2, 70, 67
    return Length(units, 1 if units <= one else -(-units // more))


def signature_in(text: str) -> str:
    """The signature that a text begins with; empty for none."""
    found = _SIGNATURE.match(text)
    return found[1] if found else ""


def composed(text: str, signature: str, ending: str, marketing: bool) -> str:
    """What is sent: signature first, of marketing the way out last; neither twice."""
    whole = text if signature_in(text) else f"【{signature}】{text}"
    return whole if not marketing or whole.endswith(ending) else whole + ending


def says_no(reply: str, words: Collection[str] = NO_WORDS) -> bool:
    """Whether somebody wants no more: full-width letters, case, blanks and full stops do not matter."""
    return _EDGES.sub("", unicodedata.normalize("NFKC", reply)).casefold() in words


@dataclass(frozen=True)
class Window:
    """Hours of the day in which advertising may come, on a zone's clock; the end is not within."""

    start: time
    end: time
    zone: ZoneInfo

    @classmethod
    def of(cls, text: str, zone: str) -> Window:
        """From "09:00-21:00"; raises ValueError for anything else, and for a window over midnight."""
        found = _WINDOW.fullmatch(text)
        if not found:
            raise ValueError("must be like 09:00-21:00")
        start, end = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
        if start >= end:
            raise ValueError("must begin before it ends")
        return cls(start, end, ZoneInfo(zone))

    def wait_s(self, now: datetime) -> float:
        """Seconds until it is open; 0 while it is."""
        local = now.astimezone(self.zone)
        if self.start <= local.time() < self.end:
            return 0.0
        opens = datetime.combine(local.date(), self.start, self.zone)
        if opens <= local:
            opens = datetime.combine(local.date() + timedelta(days=1), self.start, self.zone)
        return (opens - now).total_seconds()
