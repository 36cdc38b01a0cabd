"""What the audience index gives to shares: who is in an audience, and the values of tags as columns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chassis.errors import Unavailable
from services.tags.domain.catalogue import Kind, TagDefinition, TagType
from services.tags.domain.sharing import Ints
from services.tags.domain.terms import Term
from services.tags.index.algebra import audience
from services.tags.index.columns import CategoryColumn, SetColumn, TextColumn
from services.tags.index.index import AudienceIndex

# Rows that are taken before others get their turn: about a millisecond for each tag.
_TAKE = 50_000
_BETWEEN_WORDS = ","


class Followed(Protocol):
    """An index that is kept in step."""

    @property
    def index(self) -> AudienceIndex:
        """As it is now."""

    async def check(self) -> None:
        """Raises Unavailable until it has caught up."""


@dataclass(frozen=True)
class SharedColumn:
    """Values of one tag, aligned with persons: indexes into `words` (-1: none), or without words numbers (NaN: none)."""

    tag: str
    type: TagType
    values: NDArray[np.generic]
    words: Sequence[str] | None = None

    def label(self, value: float) -> str:
        """A value as a text that no other value of the tag has."""
        if self.words is None:
            return "" if np.isnan(value) else repr(float(value))
        return "" if value < 0 else "=" + self.words[int(value)]


class IndexSource:
    """Asks the index of this process, which must have caught up."""

    def __init__(self, projection: Followed) -> None:
        self._projection = projection

    async def audience(self, term: Term) -> Ints:
        """Persons for whom a term is true now, ascending."""
        await self._projection.check()
        members = audience(self._projection.index, Kind.PERSON, term, time.time())
        return np.asarray(members.to_array(), np.int64)

    async def columns(self, definitions: Sequence[TagDefinition], persons: Ints) -> list[SharedColumn]:
        """Values of persons; those of one person are of one moment."""
        takers = [_Taker(self._projection, definition) for definition in definitions]
        for start in range(0, len(persons), _TAKE):
            for taker in takers:
                taker.take(persons[start : start + _TAKE])
            await asyncio.sleep(0)
        return [taker.column() for taker in takers]


class _Taker:
    """Gathers one tag's values, words numbered as they come."""

    def __init__(self, projection: Followed, definition: TagDefinition) -> None:
        column = projection.index.columns(Kind.PERSON).get(definition.name)
        if column is None:
            raise Unavailable(f"{definition.name} is new, its values are not here yet", reason="TAG_NOT_INDEXED")
        self._column = column
        self._definition = definition
        self._words: dict[str, int] = {}
        self._parts: list[NDArray[np.generic]] = []

    def take(self, persons: Ints) -> None:
        """Appends the values of some persons."""
        match self._column:
            case CategoryColumn():
                indexes, words = self._column.take(persons)
                # The last place is for those who have none: -1 finds it.
                numbers = np.array([*map(self._number, words), -1], np.int32)
                self._parts.append(numbers[np.asarray(indexes, np.int64)])
            case SetColumn():
                joined = [None if words is None else _BETWEEN_WORDS.join(words) for words in self._column.take(persons)]
                self._parts.append(np.array([-1 if text is None else self._number(text) for text in joined], np.int32))
            case TextColumn():
                raise TypeError(f"{self._definition.name} is text")
            case _:
                self._parts.append(self._column.take(persons))

    def column(self) -> SharedColumn:
        """All that was taken."""
        has_words = isinstance(self._column, (CategoryColumn, SetColumn))
        empty = np.zeros(0, np.int32 if has_words else np.float64)
        values = np.concatenate(self._parts) if self._parts else empty
        return SharedColumn(self._definition.name, self._definition.type, values, list(self._words) if has_words else None)

    def _number(self, word: str) -> int:
        return self._words.setdefault(word, len(self._words))
