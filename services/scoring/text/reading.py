"""What is read from a text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from chassis.errors import InvalidArgument

# Ten pages. The door's contract says the same.
MAX_CHARACTERS = 10_000

Span = tuple[int, int]


class TextTooLong(InvalidArgument):
    """A text above `MAX_CHARACTERS`; nothing of the request was read."""

    default_reason = "TEXT_TOO_LONG"


class Kind(StrEnum):
    """What a text is for."""

    PRAISE = "praise"
    COMPLAINT = "complaint"
    ENQUIRY = "enquiry"
    PURCHASE_INTENT = "purchase_intent"
    OTHER = "other"


@dataclass(frozen=True)
class Opinion:
    """A topic and how it fares: -1, 0 or 1. `confidence` = P(topic) * P(sentiment | topic). `spans`: see `Reading`."""

    topic: str
    sentiment: int
    confidence: float
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Reading:
    """What one text says. Spans are positions of characters (code points) in the text as given, end exclusive."""

    kind: Kind
    kind_confidence: float
    kind_spans: tuple[Span, ...]
    opinions: tuple[Opinion, ...]


NOTHING = Reading(Kind.OTHER, 1.0, (), ())
