"""Insights: what an audience shares with every value of every tag, and audiences with each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.index.index import AudienceIndex
from services.tags.index.values import MAX_WORDS, sets_of


@dataclass(frozen=True)
class Overlap:
    """A value of a tag: how many of the base have it, and how many of the audience."""

    tag: str
    predicate: str
    size: int
    both: int


def overlaps(
    index: AudienceIndex, kind: Kind, tag: str, audience: BitMap, base: BitMap | None = None, most: int = MAX_WORDS
) -> Iterator[Overlap]:
    """An audience against each value of one tag within a base (None: everyone); numbers and times have no such values."""
    for predicate, members in sets_of(index, kind, tag, most):
        size = len(members) if base is None else base.intersection_cardinality(members)
        yield Overlap(tag, predicate, size, audience.intersection_cardinality(members))


def all_overlaps(index: AudienceIndex, kind: Kind, audience: BitMap, base: BitMap | None = None) -> list[Overlap]:
    """An audience against all values of all tags that anyone in it has, the most frequent first."""
    found = [each for tag in index.columns(kind) for each in overlaps(index, kind, tag, audience, base) if each.both]
    return sorted(found, key=lambda each: (-each.both, each.predicate))


def matrix(audiences: Sequence[BitMap]) -> list[list[int]]:
    """How many each two of some audiences share; the diagonal has their sizes."""
    shared = [[0] * len(audiences) for _ in audiences]
    for row, one in enumerate(audiences):
        shared[row][row] = len(one)
        for column in range(row):
            shared[row][column] = shared[column][row] = one.intersection_cardinality(audiences[column])
    return shared
