"""Training cuts: who, what was known of them at a moment, and what they did until a later one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scoring.domain import TrainingRefused, check_labels, leaking_features
from services.scoring.frame import Frame, Numbers, Words, joined
from services.scoring.learning.cut import Cut
from services.scoring.tag_door import PersonTag, TagDoor


@dataclass(frozen=True)
class Wanted:
    """What a training is asked for; times in seconds since the epoch. See TrainModelRequest."""

    cut_predicate: str
    goal_predicate: str = ""
    label_tag: str = ""
    treated_predicate: str = ""
    features: tuple[str, ...] = ()
    as_of_s: tuple[float, ...] = ()
    horizon_s: float = 0.0
    trusted_features: tuple[str, ...] = ()
    keep_only: bool = False

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Wanted:
        """From the record of an operation."""
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in request.items()}
        return cls(**given)

    def recorded(self) -> dict[str, Any]:
        """For the record of an operation."""
        return asdict(self)

    @property
    def predicates(self) -> dict[str, str]:
        """The predicates that are given, by field."""
        fields = ("cut_predicate", "goal_predicate", "treated_predicate")
        return {field: getattr(self, field) for field in fields if getattr(self, field)}

    @property
    def questions(self) -> list[str]:
        """Everything that decides who is in the cut and what counts as done."""
        return [*self.predicates.values(), *([f'"{self.label_tag}"'] if self.label_tag else [])]


async def read_cut(tags: TagDoor, wanted: Wanted) -> Cut:
    """The cut that is wanted, from what tags shows or from how it was; raises TrainingRefused."""
    catalogue = await tags.catalogue(fresh=True)
    names = list(wanted.features) or usable(catalogue)
    if not wanted.as_of_s:
        check_leaks(wanted, names, catalogue)
        now = datetime.now(UTC)
        cut = await _cut_at(tags, wanted, names, now, None)
    else:
        cuts = []
        for moment_s in sorted(wanted.as_of_s):
            at = datetime.fromtimestamp(moment_s, UTC)
            until = at + timedelta(seconds=wanted.horizon_s)
            if until > datetime.now(UTC):
                raise TrainingRefused("FUTURE_LABELS", f"the outcomes of {at:%Y-%m-%d} will be known on {until:%Y-%m-%d}")
            cuts.append(await _cut_at(tags, wanted, names, at, until))
        cut = _stacked(cuts)
    if not wanted.features:
        cut = _with_columns(cut, [tag for tag, column in cut.frame.columns.items() if _says_something(column)])
    if not wanted.label_tag:
        check_labels(cut.labels == 1)
    if not cut.frame.columns:
        raise TrainingRefused("FEATURE_MISSING", "no tag that may be used has different values in the cut")
    return cut


def usable(catalogue: Mapping[str, PersonTag]) -> list[str]:
    """Tags that a model of the past may learn from: what events made of persons, without sensitive things and scores."""
    expressions = {name.lower(): tag.expression for name, tag in catalogue.items() if tag.expression}
    closed = [name for name, tag in catalogue.items() if tag.sensitive or tag.score_model]
    return sorted(
        name
        for name, tag in catalogue.items()
        if tag.learnable and (tag.from_events or tag.expression) and not leaking_features([tag.expression], expressions, closed)
    )


def check_leaks(wanted: Wanted, names: Sequence[str], catalogue: Mapping[str, PersonTag]) -> None:
    """Refuses a cut of the present in which a feature has to do with who is in it or who did it, through whatever tags."""
    expressions = {name.lower(): tag.expression for name, tag in catalogue.items() if tag.expression}
    leaks = set(leaking_features(wanted.questions, expressions, names))
    asked = leaking_features(wanted.questions, expressions, catalogue)
    leaks |= {name for name in names if name in expressions and leaking_features([expressions[name]], expressions, asked)}
    if leaks:
        raise TrainingRefused("FEATURE_LEAK", f"they decide who is in the cut or who did it: {', '.join(sorted(leaks))}")


async def _cut_at(tags: TagDoor, wanted: Wanted, names: Sequence[str], at: datetime, until: datetime | None) -> Cut:
    """Persons as they were at a moment and what they had done by another (None: both now)."""
    chunks = [chunk async for chunk in tags.values(wanted.cut_predicate, names, at, past=until is not None)]
    frame = joined(chunks)
    treated = None
    if wanted.treated_predicate:
        treated = np.isin(frame.persons, await tags.audience(wanted.treated_predicate, until))
    moments = np.full(len(frame) if until else 0, int(at.timestamp() * 1e6), np.int64)
    if not wanted.label_tag:
        # Who was in the cut and did it; of the present, one question answers that at one moment.
        goal = wanted.goal_predicate if until else f"({wanted.goal_predicate}) AND ({wanted.cut_predicate})"
        did = np.isin(frame.persons, await tags.audience(goal, until))
        return Cut(frame, did.astype(np.int32), moments=moments, treated=treated)
    label = f'"{wanted.label_tag}" IS NOT NULL'
    stream = tags.values(label, [wanted.label_tag], until or at, past=until is not None)
    answers = joined([chunk async for chunk in stream])
    column = answers.columns.get(wanted.label_tag, Words(np.empty(0, np.int32), ()))
    if not isinstance(column, Words):
        raise TrainingRefused("LABEL_NOT_A_CATEGORY", f"{wanted.label_tag} is no category")
    known = np.isin(frame.persons, answers.persons)
    places = np.searchsorted(answers.persons, frame.persons[known])
    return Cut(
        _rows(frame, known),
        column.indexes[places],
        column.words,
        moments[known] if until else moments,
        None if treated is None else treated[known],
    )


def _stacked(cuts: Sequence[Cut]) -> Cut:
    words: dict[str, int] = {}
    labels = []
    for cut in cuts:
        places = np.array([words.setdefault(word, len(words)) for word in cut.classes], np.int32)
        labels.append(places[cut.labels] if len(places) else cut.labels)
    treated = [cut.treated for cut in cuts if cut.treated is not None]
    return Cut(
        joined([cut.frame for cut in cuts]),
        np.concatenate(labels),
        tuple(words),
        np.concatenate([cut.moments for cut in cuts]),
        np.concatenate(treated) if treated else None,
    )


def _rows(frame: Frame, kept: NDArray[np.bool_]) -> Frame:
    columns = {
        tag: Words(column.indexes[kept], column.words) if isinstance(column, Words) else Numbers(column.values[kept])
        for tag, column in frame.columns.items()
    }
    return Frame(frame.persons[kept], columns)


def _with_columns(cut: Cut, names: Sequence[str]) -> Cut:
    frame = Frame(cut.frame.persons, {tag: cut.frame.columns[tag] for tag in names})
    return Cut(frame, cut.labels, cut.classes, cut.moments, cut.treated)


def _says_something(column: Words | Numbers) -> bool:
    """Whether a column has at least two different values, unknown being one."""
    values: NDArray[Any] = column.indexes if isinstance(column, Words) else column.values
    return len(values) > 0 and not bool(np.all((values == values[0]) | (np.isnan(values) & np.isnan(values[0]))))
