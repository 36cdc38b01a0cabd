"""Why a score is what it is, and what would raise it.

Every figure is a question to the served model itself, so it is exact for whatever graph of trees and lines is inside: what
would it say if this one tag were unknown, or had that value? (Shapley values would be exact for trees alone, not for blends
and calibrated scores, and answer a question that nobody asks at the counter.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from troika.tags.v1.tags_service_pb2 import TAG_TYPE_TIME

from services.scoring.artefact import CLASS, ServedModel
from services.scoring.domain import leaking_features
from services.scoring.frame import Matrix
from services.scoring.readings import scoring_as
from services.scoring.tag_door import PersonTag
from services.scoring.wording import sentence, value_of

MOST_CHANCES = 5
# A smaller gain is no reason to do anything.
LEAST_GAIN = 1.0
Catalogue = Mapping[str, PersonTag]


@dataclass(frozen=True)
class Reason:
    """What one tag does to a score: the points that would be lost if it were unknown (negative: won)."""

    tag: str
    value: str
    points: float
    sentence: str


@dataclass(frozen=True)
class Chance:
    """Another value of one tag, and the points that it would add with all else as it is."""

    tag: str
    value: str
    better: str
    points: float


def explain(model: ServedModel, row: Matrix, catalogue: Catalogue) -> tuple[float, list[Reason]]:
    """The score of one row, and a reason for each known feature, the largest gain first.

    Features that say the same thing share their points, so the points do not add up to the score. By a model of classes:
    of the score of the likeliest class.
    """
    known = np.flatnonzero(~np.isnan(row))
    rows = np.repeat(row[None, :], len(known) + 1, axis=0)
    rows[np.arange(len(known)) + 1, known] = np.nan
    scores = scoring_as(model, row)(rows)
    reasons = []
    for place, without in zip(known.tolist(), scores[1:].tolist(), strict=True):
        encoding, points = model.encodings[place], float(scores[0]) - without
        name = encoding.feature.tag
        value = value_of(encoding, float(row[place]), catalogue.get(name))
        reasons.append(Reason(name, value, points, sentence(name, value, points, catalogue.get(name))))
    return float(scores[0]), sorted(reasons, key=lambda reason: (-reason.points, reason.tag))


def chances(model: ServedModel, row: Matrix, values: Mapping[str, Sequence[float | str]], catalogue: Catalogue) -> list[Chance]:
    """For each tag that can be changed the best of its common `values`, the largest gain first, at most five.

    None by a model of classes: nobody wants to be likelier of the class that she is of.
    """
    if model.kind == CLASS:
        return []
    tried: list[tuple[int, float]] = []
    open_ = changeable(catalogue, model.tags)
    for place, encoding in enumerate(model.encodings):
        name = encoding.feature.tag
        if name not in open_:
            continue
        codes = {encoding.value(float(v) if isinstance(v, int) else v) for v in values.get(name, ())}
        tried += [
            (place, code)
            for code in sorted(code for code in codes if not np.isnan(code) and code != row[place])
            if not (_only_rises(catalogue[name]) and code < row[place])
        ]
    rows = np.repeat(row[None, :], len(tried) + 1, axis=0)
    for number, (place, code) in enumerate(tried, start=1):
        rows[number, place] = code
    scores = scoring_as(model, row)(rows)
    best: dict[int, tuple[float, float]] = {}
    for (place, code), gain in zip(tried, (scores[1:] - scores[0]).tolist(), strict=True):
        if gain >= LEAST_GAIN and gain > best.get(place, (0.0, 0.0))[0]:
            best[place] = gain, code
    found = []
    for place, (gain, code) in best.items():
        encoding = model.encodings[place]
        tag = catalogue.get(encoding.feature.tag)
        value, better = value_of(encoding, float(row[place]), tag), value_of(encoding, code, tag)
        found.append(Chance(encoding.feature.tag, value, better, gain))
    return sorted(found, key=lambda chance: (-chance.points, chance.tag))[:MOST_CHANCES]


def changeable(catalogue: Catalogue, names: Collection[str]) -> set[str]:
    """Those of some tags that somebody could change, by what the catalogue says of them.

    Tags of sensitivity internal: what a person does with us and we with her. Personal and sensitive ones are what she is (age,
    family, health), public ones are the world around her (the economy); moments lie in the past, and what came first stays
    first. Neither do we propose what follows from any of those.
    """
    expressions = {name.lower(): tag.expression for name, tag in catalogue.items() if tag.expression}
    fixed = [name for name, tag in catalogue.items() if not _is_internal(tag)]
    return {
        name
        for name in names
        if (tag := catalogue.get(name)) is not None
        and _is_internal(tag)
        and not (tag.expression and leaking_features([tag.expression], expressions, fixed))
    }


def _is_internal(tag: PersonTag) -> bool:
    return (
        tag.sensitivity == "internal"
        and tag.type != TAG_TYPE_TIME
        and not (tag.from_events and tag.aggregate.startswith("FIRST"))
        and (tag.from_events or bool(tag.expression))
    )


def _only_rises(tag: PersonTag) -> bool:
    """Whether a tag counts what has happened ever: that cannot become less."""
    return tag.from_events and tag.aggregate.startswith(("COUNT", "SUM", "MAX")) and "NOW()" not in tag.aggregate
