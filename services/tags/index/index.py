"""The audience index: an in-process projection of all tags, from which counts and audiences are read exactly.

It lives in one event loop: a change and a question never interleave.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from services.tags.domain.catalogue import Catalogue, Kind, TagType, Value
from services.tags.index.columns import BooleanColumn, CategoryColumn, Column, NumberColumn, SetColumn, TextColumn, grown
from services.tags.index.relations import Relations

COLUMNS: Mapping[TagType, type[Column]] = {
    TagType.NUMBER: NumberColumn,
    TagType.TIME: NumberColumn,
    TagType.BOOLEAN: BooleanColumn,
    TagType.CATEGORY: CategoryColumn,
    TagType.SET: SetColumn,
    TagType.TEXT: TextColumn,
}


class AudienceIndex:
    """Columns by kind and tag, who exists, and who is related to whom. Changes may come late, twice or out of order.

    One version per entity is enough, because each change of an entity adds one to it and tells all that it changed. When one
    is skipped (two relays overtook each other), what came is applied and the entity is `torn`: it must be loaded whole.
    Whoever has a tag is present.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.present: dict[Kind, BitMap] = {kind: BitMap() for kind in Kind}
        self.relations = Relations()
        self.versions: dict[Kind, NDArray[np.int64]] = {kind: np.zeros(0, np.int64) for kind in Kind}
        self.torn: dict[Kind, set[int]] = {kind: set() for kind in Kind}
        self._columns: dict[Kind, dict[str, Column]] = {
            kind: {name: COLUMNS[definition.type]() for name, definition in catalogue.of(kind).items()} for kind in Kind
        }

    def column(self, kind: Kind, tag: str) -> Column:
        """The column of a tag of the catalogue."""
        return self._columns[kind][tag]

    def columns(self, kind: Kind) -> Mapping[str, Column]:
        """All columns of a kind by tag."""
        return self._columns[kind]

    def reshape(self, catalogue: Catalogue) -> bool:
        """Adds empty columns for new tags and drops those of tags that are no more; True when there are new ones."""
        fresh = False
        for kind, columns in self._columns.items():
            wanted = catalogue.of(kind)
            for name in columns.keys() - wanted.keys():
                del columns[name]
            for name, definition in wanted.items():
                if type(columns.get(name)) is not COLUMNS[definition.type]:
                    columns[name] = COLUMNS[definition.type]()
                    fresh = True
        return fresh

    def apply(self, kind: Kind, entity_id: int, version: int, tags: Mapping[str, Value | None], present: bool | None) -> None:
        """Applies what one version changed: values (None: gone) and whether the entity came into being or ceased.

        Tags that left the catalogue are ignored, and so is a version that was applied already.
        """
        applied = self._advance(kind, entity_id, version)
        if version <= applied:
            return
        columns = self._columns[kind]
        if version > applied + 1:
            self.torn[kind].add(entity_id)
            if present is False:
                tags = {**dict.fromkeys(columns), **tags}
        # Of whom something was missed it may have been the coming.
        if present is None and entity_id in self.torn[kind] and any(value is not None for value in tags.values()):
            present = True
        for tag, value in tags.items():
            column = columns.get(tag)
            if column is not None:
                column.set(entity_id, value)
        if present is not None:
            (self.present[kind].add if present else self.present[kind].discard)(entity_id)

    def load_entity(self, kind: Kind, entity_id: int, present: bool, tags: Mapping[str, Value], version: int) -> None:
        """Takes over all of an entity as of one version, unless something newer was applied."""
        applied = self._advance(kind, entity_id, version)
        if version < applied or (version == applied and entity_id not in self.torn[kind]):
            return
        self.torn[kind].discard(entity_id)
        (self.present[kind].add if present else self.present[kind].discard)(entity_id)
        columns = self._columns[kind]
        # Who was never seen has nothing that could be gone.
        for tag in columns if applied else tags:
            column = columns.get(tag)
            if column is not None:
                column.set(entity_id, tags.get(tag))

    def become(self, other: AudienceIndex) -> None:
        """Takes over everything from another index of the same catalogue, which is not used any more."""
        self.present, self.relations, self.versions = other.present, other.relations, other.versions
        self.torn, self._columns = other.torn, other._columns

    def _advance(self, kind: Kind, entity_id: int, version: int) -> int:
        """The version that was applied before; the newer of both is remembered."""
        versions = self.versions[kind]
        if entity_id >= len(versions):
            versions = self.versions[kind] = grown(versions, entity_id + 1, 0)
        applied = int(versions[entity_id])
        if version > applied:
            versions[entity_id] = version
        return applied
