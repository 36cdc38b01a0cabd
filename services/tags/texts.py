"""What scoring has read in texts, as events that tags are defined over: `Text Read`, and per topic `Topic Mentioned`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import orjson
from troika.scoring.v1 import events_pb2 as scoring

from services.tags.domain.catalogue import Kind
from services.tags.domain.facts import FactRules, Occurrence
from services.tags.handlers import Batch, Sighting

SOURCE: Final = "scoring"
READ: Final = "Text Read"
MENTIONED: Final = "Topic Mentioned"
_SENTIMENTS: Final = {-1: "negative", 0: "neutral", 1: "positive"}


def batch_of(facts: FactRules, messages: Sequence[scoring.TextsRead]) -> Batch:
    """What the messages state of persons and of vehicles."""
    batch = Batch()
    for message in messages:
        for text in message.texts:
            for occurrence, properties in _occurrences(text):
                for kind, owner in ((Kind.PERSON, text.person), (Kind.VEHICLE, text.vehicle)):
                    if owner.anchor_id:
                        stated = facts.stated(kind, occurrence, properties)
                        sighting = Sighting(owner.anchor_id, owner.entity_id, owner.version, occurrence, stated)
                        batch.sightings[kind].append(sighting)
    return batch


def _occurrences(text: scoring.TextRead) -> Iterator[tuple[Occurrence, bytes]]:
    """The text, then its topics; each in an order of its own among events of the same microsecond."""
    tie = int.from_bytes(text.event_id[:8], "big") >> 1
    about = {"model": text.vehicle_model} if text.vehicle_model else {}
    said = [(READ, {"kind": text.kind, **about})]
    said += [(MENTIONED, {"topic": t.topic, "sentiment": _SENTIMENTS[t.sentiment], **about}) for t in text.topics]
    for number, (name, properties) in enumerate(said):
        order = (tie + number) & (2**63 - 1)
        yield Occurrence(SOURCE, name, text.occurred_at_us, order, text.received_at_us), orjson.dumps(properties)
