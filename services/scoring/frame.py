"""Columns of tag values, and how they become the numbers a model reads.

Unknown is always NaN: a tag without a value, and a word that the training cut did not hold. The trees know NaN: each
split sends it where it served best in training, or with the larger branch when the training cut had no unknown there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from services.scoring.domain import Floats, TrainingRefused

Matrix = NDArray[np.float32]
Ids = NDArray[np.int64]
Value = float | str | bool | None


class Kind(StrEnum):
    """What a feature's values are."""

    NUMBER = "number"
    CATEGORY = "category"


@dataclass(frozen=True)
class Feature:
    """A tag that a model reads."""

    tag: str
    kind: Kind


@dataclass(frozen=True)
class Numbers:
    """One number per person; NaN where there is none."""

    values: Floats


@dataclass(frozen=True)
class Words:
    """One index into `words` per person; -1 where there is none."""

    indexes: NDArray[np.int32]
    words: tuple[str, ...]


Column = Numbers | Words


@dataclass(frozen=True)
class Frame:
    """Columns by tag, aligned with the persons."""

    persons: Ids
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.persons)

    def rows(self, chosen: Ids | NDArray[np.bool_] | slice) -> Frame:
        """These rows, in this order; a slice copies nothing."""
        columns: dict[str, Column] = {
            tag: Numbers(column.values[chosen]) if isinstance(column, Numbers) else Words(column.indexes[chosen], column.words)
            for tag, column in self.columns.items()
        }
        return Frame(self.persons[chosen], columns)


def joined(frames: Sequence[Frame]) -> Frame:
    """Frames of the same tags one after the other; word indexes of each chunk are mapped to one list of words."""
    if not frames:
        return Frame(np.empty(0, np.int64), {})
    columns = {tag: _joined([frame.columns[tag] for frame in frames]) for tag in frames[0].columns}
    return Frame(np.concatenate([frame.persons for frame in frames]), columns)


def _joined(parts: Sequence[Column]) -> Column:
    codes: dict[str, int] = {}
    indexes = []
    for part in parts:
        if isinstance(part, Numbers):
            return Numbers(np.concatenate([p.values for p in parts if isinstance(p, Numbers)]))
        # The last entry serves index -1.
        lookup = np.array([codes.setdefault(word, len(codes)) for word in part.words] + [-1], np.int32)
        indexes.append(lookup[part.indexes])
    return Words(np.concatenate(indexes), tuple(codes))


# A tag may be a yes-no tag in the catalogue and a word in the source: both spellings are one category.
_BOOLEAN_WORDS = ("no", "yes")


@dataclass(frozen=True)
class Encoding:
    """How one feature becomes a number: a number stays itself, a word becomes its place in `words`."""

    feature: Feature
    words: tuple[str, ...] = ()

    def column(self, column: Column) -> Matrix:
        """The column as numbers; NaN is unknown."""
        if self.feature.kind is Kind.NUMBER:
            if isinstance(column, Words):
                return np.full(len(column.indexes), np.nan, np.float32)
            return column.values.astype(np.float32)
        if isinstance(column, Numbers):
            column = as_words(column)
        places = {word: place for place, word in enumerate(self.words)}
        lookup = np.array([places.get(word, np.nan) for word in column.words] + [np.nan], np.float32)
        return lookup[column.indexes]

    def value(self, value: Value) -> float:
        """One value as the number that `column` would make of it."""
        if self.feature.kind is Kind.NUMBER:
            return np.nan if value is None or isinstance(value, str) else float(np.float32(value))
        if isinstance(value, (bool, float)):
            value = _BOOLEAN_WORDS[bool(value)]
        return float(self.words.index(value)) if value in self.words else np.nan

    def in_words(self, code: float) -> str:
        """A number that this encoding made, as a person reads it."""
        if np.isnan(code):
            return "unknown"
        return self.words[int(code)] if self.feature.kind is Kind.CATEGORY else f"{code:.7g}"


def as_words(column: Numbers) -> Words:
    """A yes-no column as a column of words."""
    known = ~np.isnan(column.values)
    return Words(np.where(known, column.values > 0, -1).astype(np.int32), _BOOLEAN_WORDS)


def features_of(frame: Frame) -> tuple[Feature, ...]:
    """Every column of a frame as a feature, of the kind that its values are."""
    return tuple(
        Feature(tag, Kind.CATEGORY if isinstance(column, Words) else Kind.NUMBER) for tag, column in frame.columns.items()
    )


def fit_encodings(features: Sequence[Feature], frame: Frame) -> tuple[Encoding, ...]:
    """Encodings of a training cut; words are ordered by name, so that no label leaks into the order.

    Refuses a cut in which a feature is missing, is of the wrong kind, or has no value for anybody.
    """
    return tuple(_fit(feature, frame.columns.get(feature.tag)) for feature in features)


def _fit(feature: Feature, column: Column | None) -> Encoding:
    if column is None:
        raise TrainingRefused("FEATURE_MISSING")
    if feature.kind is Kind.NUMBER:
        if isinstance(column, Words):
            raise TrainingRefused("FEATURE_NOT_A_NUMBER")
        if np.isnan(column.values).all():
            raise TrainingRefused("FEATURE_MISSING")
        return Encoding(feature)
    if isinstance(column, Numbers):
        column = as_words(column)
    present = np.unique(column.indexes[column.indexes >= 0])
    if len(present) == 0:
        raise TrainingRefused("FEATURE_MISSING")
    return Encoding(feature, tuple(sorted(column.words[i] for i in present)))


def matrix_of(encodings: Sequence[Encoding], frame: Frame) -> Matrix:
    """Persons by features, float32, NaN for unknown."""
    return np.column_stack([encoding.column(frame.columns[encoding.feature.tag]) for encoding in encodings])
