"""Predicates as callers write them: parsed once, refused with a place, asked of the index when it has caught up."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from chassis.errors import InvalidArgument
from services.tags.domain.catalogue import Catalogue, Kind
from services.tags.domain.language import LanguageError
from services.tags.domain.predicates import parse_predicate
from services.tags.domain.terms import Term
from services.tags.index.algebra import audience, count
from services.tags.index.index import AudienceIndex
from services.tags.index.projection import Projection

REMEMBERED: Final = 1_000


class Questions:
    """What the doors share: one memory of parsed predicates, one index."""

    def __init__(self, catalogue: Catalogue, projection: Projection) -> None:
        self.catalogue, self._projection = catalogue, projection
        self._terms: OrderedDict[tuple[Kind, str], Term] = OrderedDict()
        self._edition = catalogue.edition

    async def index(self) -> AudienceIndex:
        """The index; raises Unavailable until it has caught up."""
        await self._projection.check()
        return self._projection.index

    async def members(self, kind: Kind, predicate: str, field: str) -> BitMap:
        """Everybody a predicate holds for now; the bitmap is the caller's own."""
        term = self.term(kind, predicate, field)
        return audience(await self.index(), kind, term, time.time())

    async def count(self, kind: Kind, predicate: str, field: str) -> int:
        """How many a predicate holds for now."""
        term = self.term(kind, predicate, field)
        return count(await self.index(), kind, term, time.time())

    def check_tags(self, kind: Kind, tags: Sequence[str], field: str) -> None:
        """Raises InvalidArgument for the first of some tags that the index does not have."""
        columns = self._projection.index.columns(kind)
        for position, tag in enumerate(tags):
            if tag not in columns or tag not in self.catalogue.of(kind):
                raise InvalidArgument("no such tag", reason="UNKNOWN_TAG", field=f"{field}[{position}]")

    def term(self, kind: Kind, predicate: str, field: str) -> Term:
        """A parsed predicate; the most recently used ones are remembered. Raises InvalidArgument with reason and position."""
        if self._edition != self.catalogue.edition:
            # Names may mean something else now.
            self._terms.clear()
            self._edition = self.catalogue.edition
        key = (kind, predicate)
        term = self._terms.pop(key, None)
        if term is None:
            try:
                term = parse_predicate(predicate, kind, self.catalogue)
            except LanguageError as error:
                place = {"position": str(error.position)}
                raise InvalidArgument(str(error), reason=error.reason, field=field, metadata=place) from None
            if len(self._terms) >= REMEMBERED:
                self._terms.popitem(last=False)
        self._terms[key] = term
        return term


def ids_in(members: BitMap) -> NDArray[np.uint32]:
    """Ids, ascending."""
    return np.asarray(members.to_array(), np.uint32)
