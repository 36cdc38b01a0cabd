"""Seeded persons with 50 features: as an index that tags boots from, as a matrix in memory, and with what they did."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from services.scoring.frame import Column, Frame, Ids, Numbers, Words
from services.scoring.learning.cut import Cut
from services.tags.catalogue import yaml_files
from services.tags.domain.catalogue import Kind
from services.tags.index.bitmaps import bitmap
from services.tags.index.columns import CategoryColumn, NumberColumn
from services.tags.index.index import AudienceIndex

NUMBERS, CATEGORIES, WORDS = 30, 20, 12
UNKNOWN = 0.2


def numbers() -> list[str]:
    """Tags that are numbers."""
    return [f"n{place:02}" for place in range(NUMBERS)]


def categories() -> list[str]:
    """Tags that are words."""
    return [f"c{place:02}" for place in range(CATEGORIES)]


def catalogue_text() -> str:
    """The catalogue that tags has to be started with."""
    lines = ["person:"]
    for names, type_ in ((numbers(), "number"), (categories(), "category")):
        lines += [f'  {name}: {{type: {type_}, description: d, expression: "LAST({name})"}}' for name in names]
    return "\n".join(lines)


@dataclass(frozen=True)
class Base:
    """Columns in the order of `tags`; person 1 is row 0. Categories are codes, -1 for unknown."""

    values: NDArray[np.float32]
    codes: NDArray[np.int32]

    @classmethod
    def make(cls, persons: int) -> Base:
        """Seeded; a fifth of all values is unknown."""
        rng = np.random.default_rng(5)
        values = rng.normal(size=(NUMBERS, persons)).astype(np.float32)
        values[rng.random(values.shape, np.float32) < UNKNOWN] = np.nan
        codes = rng.integers(0, WORDS, (CATEGORIES, persons)).astype(np.int32)
        codes[rng.random(codes.shape, np.float32) < UNKNOWN] = -1
        return cls(values, codes)

    @property
    def persons(self) -> int:
        """How many."""
        return len(self.values[0])

    @property
    def tags(self) -> list[str]:
        """All features."""
        return numbers() + categories()

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What codes stand for."""
        return tuple(f"word {code:02}" for code in range(WORDS))

    def frame(self, rows: Ids) -> Frame:
        """Some persons as scoring sees them."""
        columns: dict[str, Column] = {
            name: Numbers(self.values[place, rows].astype(np.float64)) for place, name in enumerate(numbers())
        }
        columns |= {name: Words(self.codes[place, rows], self.words) for place, name in enumerate(categories())}
        return Frame(rows + 1, columns)

    def cut(self, rows: Ids) -> Cut:
        """Some persons and what they did: one in ten, after a dozen of the features."""
        known = np.nan_to_num(self.values[:8, rows])
        drive = known[:4].sum(0) + 0.7 * known[4] * known[5] + 0.5 * np.abs(known[6]) - 0.4 * known[7]
        drive += 0.8 * np.isin(self.codes[0, rows], (1, 4)) - 0.8 * np.isin(self.codes[1, rows], (2, 3, 7))
        did = np.random.default_rng(6).random(len(rows)) < 1 / (1 + np.exp(3.2 - 0.6 * drive))
        return Cut(self.frame(rows), did.astype(np.int32))

    def index(self) -> AudienceIndex:
        """Everybody, as tags keeps them."""
        index = AudienceIndex(yaml_files.parse(catalogue_text()))
        everybody = np.ones(self.persons + 1, np.bool_)
        everybody[0] = False
        index.present[Kind.PERSON] = bitmap(everybody)
        index.versions[Kind.PERSON] = np.ones(self.persons + 1, np.int64)
        for place, name in enumerate(numbers()):
            values = np.concatenate(([np.nan], self.values[place].astype(np.float64)))
            column = index.column(Kind.PERSON, name)
            if not isinstance(column, NumberColumn):
                raise TypeError(name)
            column.fill(values, bitmap(~np.isnan(values)))
        for place, name in enumerate(categories()):
            codes = np.concatenate(([-1], self.codes[place]))
            column = index.column(Kind.PERSON, name)
            if not isinstance(column, CategoryColumn):
                raise TypeError(name)
            column.fill({word: bitmap(codes == code) for code, word in enumerate(self.words)})
        return index
