"""What audiences and profiles know, as the contract says it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from pyroaring import BitMap
from troika.identity.v1.events_pb2 import EntityKind
from troika.tags.v1 import audience_service_pb2 as audience_pb
from troika.tags.v1 import tags_service_pb2 as pb

from services.tags import events
from services.tags.audiences.explaining import Explained
from services.tags.audiences.naming import Sizes
from services.tags.audiences.store import Named
from services.tags.domain.catalogue import Catalogue, Kind
from services.tags.index.distribution import Distribution
from services.tags.questions import ids_in

# Ids in one message of a watch, of those who enter and of those who leave.
WATCH_IDS: Final = 100_000
# Receivers refuse messages that are nested a hundred deep.
_DEEPEST: Final = 90
_TRUTHS: Final = {True: audience_pb.TRUTH_TRUE, False: audience_pb.TRUTH_FALSE, None: audience_pb.TRUTH_UNKNOWN}


def caller(context: Any) -> str:
    """Who calls; the gate has checked it."""
    token = str(dict(context.invocation_metadata()).get("authorization", ""))
    return token.removeprefix("Bearer ").partition(".")[0]


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


def unpacked(ids: bytes) -> list[int]:
    """Packed ids as numbers."""
    found: list[int] = np.frombuffer(ids, "<u4").tolist()
    return found
