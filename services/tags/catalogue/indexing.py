"""The audience index gains and loses columns with the catalogue."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import cast

from services.tags.domain.catalogue import Catalogue, Kind
from services.tags.index.columns import Column
from services.tags.index.index import COLUMNS, AudienceIndex

# Other replicas may tell values of a new tag before this one looks for it; they look several times a second.
_LATE_S = 30.0


class IndexColumns:
    """Keeps an index's columns those of the catalogue."""

    def __init__(self, index: AudienceIndex) -> None:
        self._index = index
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
        fresh = False
        for kind in Kind:
            # The very mapping that the index reads; it gives no other way to change what it has.
            columns = cast(dict[str, Column], self._index.columns(kind))
            wanted = catalogue.of(kind)
            for name in columns.keys() - wanted.keys():
                del columns[name]
            for name, definition in wanted.items():
                if name not in columns:
                    columns[name] = COLUMNS[definition.type]()
                    fresh = True
        if fresh:
            for _, entities in self._lately:
                for kind, ids in entities.items():
                    self._index.torn[kind] |= ids
        self._lately.clear()
