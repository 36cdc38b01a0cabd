"""What sets an audience apart, all in one go; between two tags others get their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pyroaring import BitMap

from services.tags.domain.catalogue import Kind
from services.tags.index.describe import Comparison, Description, conclude
from services.tags.index.distribution import Distribution, distribution
from services.tags.index.index import AudienceIndex
from services.tags.index.overlaps import Overlap, overlaps


@dataclass(frozen=True)
class Compared:
    """How an audience and another set overlap within a base. `lift` is 0 where the other set is empty."""

    predicate: str
    size: int
    both: int
    jaccard: float
    lift: float

    @classmethod
    def of(cls, predicate: str, size: int, both: int, audience: int, base: int) -> Compared:
        """From the sizes of all of them."""
        either = audience + size - both
        expected = size * audience / base if base else 0.0
        return cls(predicate, size, both, both / either if either else 0.0, both / expected if expected else 0.0)


class Insight:
    """Questions about one audience beside one base."""

    def __init__(self, index: AudienceIndex, kind: Kind, audience: BitMap, base: BitMap) -> None:
        self._index, self._kind, self._audience, self._base = index, kind, audience, base

    async def description(self, skipping: frozenset[str]) -> Description:
        """Over-represented values of all tags but those that define the audience, corrected for the number of looks."""
        looked = []
        comparison = Comparison(self._index, self._kind, self._audience, self._base)
        for tag in list(self._index.columns(self._kind)):
            # A tag may leave the catalogue meanwhile.
            if tag not in skipping and tag in self._index.columns(self._kind):
                looked += list(comparison.of(tag))
                await asyncio.sleep(0)
        return conclude(looked)

    async def overlaps(self) -> list[Compared]:
        """Every value of every tag that somebody of the audience has, the most frequent first."""
        base = None if len(self._base) == len(self._index.present[self._kind]) else self._base
        found: list[Overlap] = []
        for tag in list(self._index.columns(self._kind)):
            if tag not in self._index.columns(self._kind):
                continue
            found += [each for each in overlaps(self._index, self._kind, tag, self._audience, base) if each.both]
            await asyncio.sleep(0)
        found.sort(key=lambda each: (-each.both, each.predicate))
        return [self.compared(each.predicate, each.size, each.both) for each in found]

    def compared(self, predicate: str, size: int, both: int) -> Compared:
        """An overlap beside sizes of audience and base."""
        return Compared.of(predicate, size, both, len(self._audience), len(self._base))

    def overlap(self, predicate: str, other: BitMap) -> Compared:
        """The overlap with another set; what it has outside the base does not count."""
        inside = other & self._base
        return self.compared(predicate, len(inside), self._audience.intersection_cardinality(inside))

    async def distributions(self, tags: Sequence[str]) -> list[Distribution]:
        """How some tags spread."""
        found = []
        for tag in tags:
            found.append(distribution(self._index, self._kind, tag, self._audience, self._base))
            await asyncio.sleep(0)
        return found
