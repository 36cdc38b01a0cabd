"""What scoring reads in texts becomes tags of the person and of the vehicle."""

from __future__ import annotations

from troika.identity.v1.events_pb2 import AnchorOwner
from troika.scoring.v1.events_pb2 import TextRead, TextsRead, TopicRead

from services.tags.catalogue import yaml_files
from services.tags.domain.catalogue import Kind
from services.tags.domain.facts import FactRules, Facts, fold
from services.tags.texts import batch_of

NOW_US = 1_790_000_000_000_000
RULES = FactRules(yaml_files.load(yaml_files.DEFAULT))


def read(*topics: tuple[str, int], kind: str = "complaint", person: int = 1, vehicle: int = 0, number: int = 1) -> TextRead:
    return TextRead(
        event_id=number.to_bytes(8, "big") * 2,
        occurred_at_us=NOW_US + number,
        received_at_us=NOW_US + number,
        person=AnchorOwner(anchor_id=person, entity_id=person, version=1) if person else None,
        vehicle=AnchorOwner(anchor_id=vehicle, entity_id=vehicle, version=1) if vehicle else None,
        kind=kind,
        topics=[TopicRead(topic=topic, sentiment=sentiment) for topic, sentiment in topics],
    )


def tags(kind: Kind, *texts: TextRead) -> dict[str, object]:
    """Tags of the one entity of a kind that the texts are about."""
    facts: Facts = {}
    for sighting in batch_of(RULES, [TextsRead(texts=texts)]).sightings[kind]:
        fold(facts, sighting.event, sighting.statements)
    return dict(RULES.combined(kind, [facts], NOW_US + 10**6))


def test_a_text_says_what_it_is_for_and_what_it_praises_and_blames() -> None:
    texts = (read(("油耗", -1), ("内饰", 1), ("动力", 0), vehicle=7), read(kind="praise", number=2))
    of_person = tags(Kind.PERSON, *texts)
    assert ("praise", 1.0) == (of_person["last_text_kind"], of_person["complaining_texts_90d"])
    assert (["内饰"], ["油耗"]) == (of_person["topics_praised"], of_person["topics_criticised"])
    of_vehicle = tags(Kind.VEHICLE, *texts)
    assert (["内饰"], ["油耗"]) == (of_vehicle["topics_praised"], of_vehicle["topics_criticised"])
    assert of_person == tags(Kind.PERSON, *reversed(texts))


def test_a_text_of_nobody_who_may_be_named_says_nothing_of_persons() -> None:
    assert {} == tags(Kind.PERSON, read(("油耗", -1), person=0, vehicle=7))
