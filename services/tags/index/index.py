"""The audience index: an in-process projection of all tags, from which counts and audiences are read exactly.

It lives in one event loop: a change and a question never interleave.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyroaring import BitMap

from services.tags.domain.catalogue import Catalogue, Kind, TagType, Value
from services.tags.index.columns import BooleanColumn, CategoryColumn, Column, NumberColumn, Versions
from services.tags.index.edges import Edges

_COLUMNS: Mapping[TagType, type[Column]] = {
    TagType.NUMBER: NumberColumn,
    TagType.TIME: NumberColumn,
    TagType.BOOLEAN: BooleanColumn,
    TagType.CATEGORY: CategoryColumn,
}


class AudienceIndex:
    """Columns by kind and tag, who exists, and who is related to whom. Changes may come late, twice or out of order."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.present: dict[Kind, BitMap] = {kind: BitMap() for kind in Kind}
        self.edges = Edges()
        self._presence: dict[Kind, Versions] = {kind: Versions() for kind in Kind}
        self._columns: dict[Kind, dict[str, Column]] = {
            kind: {name: _COLUMNS[definition.type]() for name, definition in catalogue.of(kind).items()} for kind in Kind
        }

    def column(self, kind: Kind, tag: str) -> Column:
        """The column of a tag of the catalogue."""
        return self._columns[kind][tag]

    def columns(self, kind: Kind) -> Mapping[str, Column]:
        """All columns of a kind by tag."""
        return self._columns[kind]

    def set_tag(self, kind: Kind, entity_id: int, tag: str, value: Value | None, version: int) -> None:
        """Applies one value (None: gone) unless a newer one was applied. Tags that left the catalogue are ignored."""
        column = self._columns[kind].get(tag)
        if column is not None and column.versions.advance(entity_id, version):
            column.set(entity_id, value)

    def set_present(self, kind: Kind, entity_id: int, present: bool, version: int) -> None:
        """Lets an entity exist or cease unless something newer was applied."""
        if self._presence[kind].advance(entity_id, version):
            (self.present[kind].add if present else self.present[kind].discard)(entity_id)

    def load_entity(self, kind: Kind, entity_id: int, present: bool, tags: Mapping[str, Value], version: int) -> None:
        """Applies all of an entity as of one version: tags that it does not have are gone as of then."""
        self.set_present(kind, entity_id, present, version)
        for tag, column in self._columns[kind].items():
            if column.versions.advance(entity_id, version):
                column.set(entity_id, tags.get(tag))
