"""What audiences and profiles know, as the contract says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import orjson
from pyroaring import BitMap
from troika.identity.v1.events_pb2 import EntityKind
from troika.tags.v1 import audience_service_pb2 as audience_pb
from troika.tags.v1 import tags_service_pb2 as pb

from services.tags import events
from services.tags.audiences.explaining import Explained
from services.tags.audiences.insights import Compared
from services.tags.audiences.naming import Sizes
from services.tags.audiences.store import Named
from services.tags.domain.catalogue import Catalogue, Kind, TagType
from services.tags.index.describe import DescribedTerm
from services.tags.index.distribution import Distribution
from services.tags.lake.reading import LakeEvent
from services.tags.profiles.lineage import Lineage
from services.tags.profiles.loading import Profile
from services.tags.questions import ids_in

# Ids in one message of a watch, of those who enter and of those who leave.
WATCH_IDS: Final = 100_000
# Receivers refuse messages that are nested a hundred deep.
_DEEPEST: Final = 90
# Of more related entities only so many of each kind are shown.
MOST_RELATED: Final = 10_000
TYPES: Final = {
    TagType.NUMBER: pb.TAG_TYPE_NUMBER,
    TagType.CATEGORY: pb.TAG_TYPE_CATEGORY,
    TagType.BOOLEAN: pb.TAG_TYPE_BOOLEAN,
    TagType.TIME: pb.TAG_TYPE_TIME,
    TagType.SET: pb.TAG_TYPE_SET,
    TagType.TEXT: pb.TAG_TYPE_TEXT,
}
_TRUTHS: Final = {True: audience_pb.TRUTH_TRUE, False: audience_pb.TRUTH_FALSE, None: audience_pb.TRUTH_UNKNOWN}


def number_of(kind: Kind) -> EntityKind.ValueType:
    """A kind as the contract numbers it."""
    return EntityKind.ValueType(int(kind))


def distribution(catalogue: Catalogue, kind: Kind, found: Distribution) -> pb.TagDistribution:
    """How one tag spreads."""
    answer = pb.TagDistribution(
        tag=found.tag,
        title=catalogue.of(kind)[found.tag].title,
        missing=found.missing,
        base_missing=found.base_missing,
    )
    for share in found.shares:
        answer.values.add(predicate=share.predicate, count=share.count, base_count=share.base_count)
    return answer


def explanation(catalogue: Catalogue, kind: Kind, explained: Explained, depth: int = 0) -> audience_pb.TermExplanation:
    """A tree of terms; what is nested deeper than messages may be is left out."""
    answer = audience_pb.TermExplanation(
        text=explained.text,
        truth=_TRUTHS[explained.truth],
        decisive=explained.decisive,
        left=explained.left,
        right=explained.right,
        related_count=explained.related_count,
    )
    known = catalogue.of(kind)
    for tag, value in explained.values:
        title = known[tag].title if tag in known else ""
        answer.values.add(tag=tag, title=title, value=events.to_value(value))
    if depth >= _DEEPEST:
        return answer
    answer.parts.extend(explanation(catalogue, kind, part, depth + 1) for part in explained.parts)
    for other, entity_id, inner in explained.related:
        answer.related.add(
            entity_kind=number_of(other), entity_id=entity_id, explanation=explanation(catalogue, other, inner, depth + 2)
        )
    return answer


def audience(named: Named) -> audience_pb.Audience:
    """A named audience."""
    definition = named.definition
    answer = audience_pb.Audience(
        name=named.name,
        audience_id=named.audience_id,
        entity_kind=number_of(definition.kind),
        predicate=definition.predicate,
        description=definition.description,
        owner=definition.owner,
        version=named.version,
    )
    for field, moment in (
        (answer.created_at, named.created_at),
        (answer.updated_at, named.updated_at),
        (answer.deleted_at, named.deleted_at),
    ):
        if moment is not None:
            field.FromDatetime(moment)
    return answer


def size(sizes: Sizes) -> audience_pb.SizeChange:
    """What a definition does to the members."""
    return audience_pb.SizeChange(**sizes._asdict())


def changes(
    entered: BitMap, left: BitMap, position: int, as_of: float, count: int, version: int
) -> Iterator[audience_pb.WatchChange]:
    """A change in as many messages as its ids need."""
    coming, going = ids_in(entered), ids_in(left)
    whole = max(len(coming), len(going), 1)
    for start in range(0, whole, WATCH_IDS):
        end = start + WATCH_IDS
        change = audience_pb.WatchChange(
            entered=events.packed(coming[start:end]),
            left=events.packed(going[start:end]),
            position=position,
            count=count,
            version=version,
            more=end < whole,
        )
        change.as_of.FromMicroseconds(int(as_of * 1e6))
        yield change


def profile(kind: Kind, found: Profile, behind: Mapping[str, Lineage]) -> pb.GetProfileResponse:
    """A whole profile."""
    answer = pb.GetProfileResponse(related_count=len(found.relations), anchor_ids=found.anchor_ids)
    answer.too_many_related = found.too_many_related
    others: dict[Kind, list[pb.RelatedEntity]] = {}
    for pair in found.relations:
        is_subject = pair.object_kind == kind
        other, entity_id = (pair.subject_kind, pair.subject_id) if is_subject else (pair.object_kind, pair.object_id)
        related = pb.RelatedEntity(
            entity_kind=number_of(Kind(other)), entity_id=entity_id, relation=pair.kind, is_subject=is_subject
        )
        others.setdefault(Kind(other), []).append(related)
    for each in others.values():
        each.sort(key=lambda one: (one.entity_id, one.relation))
    most = MOST_RELATED if len(found.relations) > MOST_RELATED else None
    answer.related.extend(related for _, each in sorted(others.items()) for related in each[:most])
    of_old = Kind.VEHICLE if kind is Kind.PERSON else Kind.PERSON
    answer.related_ids.extend(dict.fromkeys(related.entity_id for related in others.get(of_old, ())[:most]))
    for tag in found.tags:
        line = answer.tags.add(
            tag=tag.definition.name,
            value=events.to_value(tag.value),
            anchor_ids=tag.anchor_ids,
            expression=tag.definition.expression,
            title=tag.definition.title,
            type=TYPES[tag.definition.type],
            source=tag.source,
            confidence=tag.confidence,
            inputs=tag.inputs,
            computed=tag.computed,
        )
        if tag.occurred_at_us is not None:
            line.occurred_at.FromMicroseconds(tag.occurred_at_us)
        if lineage := behind.get(tag.definition.name):
            line.lineage.extend(event(each) for each in lineage.events)
            line.lineage_count = lineage.count
    return answer


def event(found: LakeEvent) -> pb.ProfileEvent:
    """An event of the lake."""
    answer = pb.ProfileEvent(
        event_id=found.event_id,
        name=found.event,
        source=found.source,
        anchor_id=found.anchor_id,
        properties_json=orjson.dumps(found.properties),
    )
    answer.occurred_at.FromMicroseconds(found.occurred_us)
    answer.received_at.FromMicroseconds(found.received_us)
    return answer


def described(catalogue: Catalogue, kind: Kind, term: DescribedTerm, rate: float) -> pb.AudienceTerm:
    """A value that an audience has more often than its base."""
    return pb.AudienceTerm(
        tag=term.tag,
        predicate=term.predicate,
        audience_count=term.audience_count,
        base_count=term.base_count,
        lift=term.lift,
        z_score=term.z_score,
        index=100 * term.lift,
        q_value=term.q_value,
        significant=term.q_value <= rate,
        title=catalogue.of(kind)[term.tag].title,
    )


def overlap(found: Compared) -> pb.AudienceOverlap:
    """How an audience and another set overlap."""
    return pb.AudienceOverlap(
        predicate=found.predicate, size=found.size, both=found.both, jaccard=found.jaccard, lift=found.lift
    )
