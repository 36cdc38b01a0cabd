"""The audience index gains and loses columns with the catalogue."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from services.tags.domain.catalogue import Catalogue, Kind
from services.tags.index.index import AudienceIndex

# Other replicas may tell values of a new tag before this one looks for it; they look several times a second.
_LATE_S = 30.0


class IndexColumns:
    """Keeps an index's columns those of the catalogue. `heal` has entities read anew from the database."""

    def __init__(self, index: AudienceIndex, heal: Callable[[Mapping[Kind, set[int]]], None]) -> None:
        self._index, self._heal = index, heal
        # When which entities changed: what was told of them of a tag that was not known here yet is read again.
        self._lately: deque[tuple[float, Mapping[Kind, set[int]]]] = deque()

    def changed(self, entities: Mapping[Kind, set[int]]) -> None:
        """Remembers for a while that these changed."""
        now = time.monotonic()
        self._lately.append((now, entities))
        while self._lately[0][0] < now - _LATE_S:
            self._lately.popleft()

    def become(self, catalogue: Catalogue) -> None:
        """Adds empty columns for new tags, drops those of tags that are no more."""
        if self._index.reshape(catalogue):
            for _, entities in self._lately:
                self._heal(entities)
        self._lately.clear()
