"""Why an entity is in an audience or not: a predicate as a tree of what each of its terms is, and the fewest that settle it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from services.tags.audiences.around import Standing
from services.tags.audiences.wording import Writer
from services.tags.domain.catalogue import Catalogue, Kind
from services.tags.domain.evaluation import compile_number, compile_term
from services.tags.domain.terms import And, IsTruth, Measures, Not, Or, Related, Term, Through, tags_of

# Related entities that are shown for one term; around those only one each.
MOST_SHOWN, SHOWN_DEEPER = 5, 1


@dataclass
class Explained:
    """A term and what it is for one entity. `left` and `right`: the numbers that were compared."""

    term: Term
    text: str
    truth: bool | None
    values: Sequence[tuple[str, Any]] = ()
    left: float | None = None
    right: float | None = None
    parts: list[Explained] = field(default_factory=list)
    related_count: int = 0
    related: list[tuple[Kind, int, Explained]] = field(default_factory=list)
    decisive: bool = False


def explain(catalogue: Catalogue, standing: Standing, term: Term) -> Explained:
    """The tree of a predicate for an entity, with the fewest terms that settle it marked."""
    return _explain(catalogue, standing, term, MOST_SHOWN)


def decisive(explained: Explained) -> list[str]:
    """Texts of the marked terms, in the order of the predicate, each once."""
    if explained.decisive:
        return [explained.text]
    return list(dict.fromkeys(text for part in explained.parts for text in decisive(part)))


def _explain(catalogue: Catalogue, standing: Standing, term: Term, shown: int) -> Explained:
    explained = _tree(catalogue, standing, term, shown)
    for leaf in _settling(explained, _Goal.TRUE if explained.truth is True else _Goal.NOT_TRUE):
        leaf.decisive = True
    return explained


def _tree(catalogue: Catalogue, standing: Standing, term: Term, shown: int) -> Explained:
    text = Writer(catalogue, standing.kind).term(term)
    explained = Explained(term, text, None)
    match term:
        case And(terms) | Or(terms):
            explained.parts = [_tree(catalogue, standing, each, shown) for each in terms]
        case Not(inner) | IsTruth(inner, _):
            explained.parts = [_tree(catalogue, standing, inner, shown)]
        case Related(kind, inner):
            _around(catalogue, explained, standing.standing(kind), inner, shown)
        case Through(kind, relation, inner):
            one = standing.one(kind, relation)
            _around(catalogue, explained, [one] if one is not None else [], inner, shown)
        case Measures(left, _, right):
            explained.left, explained.right = compile_number(left)(standing.seen), compile_number(right)(standing.seen)
    explained.truth = _combined(explained) if explained.parts else compile_term(term)(standing.seen)
    if not explained.parts:
        explained.values = [(tag, standing.tags.get(tag)) for tag in sorted(tags_of(term))]
    return explained


def _combined(explained: Explained) -> bool | None:
    truths = [part.truth for part in explained.parts]
    match explained.term:
        case And():
            return False if False in truths else None if None in truths else True
        case Or():
            return True if True in truths else None if None in truths else False
        case IsTruth(_, value):
            return truths[0] is value
        case _:
            return None if truths[0] is None else not truths[0]


def _around(catalogue: Catalogue, explained: Explained, others: Sequence[Standing], inner: Term, shown: int) -> None:
    truth_of = compile_term(inner)
    hits = [other for other in others if truth_of(other.seen) is True]
    explained.related_count = len(others)
    explained.related = [
        (other.kind, other.entity_id, _explain(catalogue, other, inner, SHOWN_DEEPER)) for other in (hits or others)[:shown]
    ]


class _Goal(Enum):
    """What is to be shown of a term; unknown is neither true nor false, hence four."""

    TRUE = "is true"
    FALSE = "is false"
    NOT_TRUE = "is not true"
    NOT_FALSE = "is not false"


_MIRRORED: Mapping[_Goal, _Goal] = {
    _Goal.TRUE: _Goal.FALSE,
    _Goal.FALSE: _Goal.TRUE,
    _Goal.NOT_TRUE: _Goal.NOT_FALSE,
    _Goal.NOT_FALSE: _Goal.NOT_TRUE,
}
_MET: Mapping[_Goal, frozenset[bool | None]] = {
    _Goal.TRUE: frozenset({True}),
    _Goal.FALSE: frozenset({False}),
    _Goal.NOT_TRUE: frozenset({False, None}),
    _Goal.NOT_FALSE: frozenset({True, None}),
}


def _settling(explained: Explained, goal: _Goal) -> list[Explained]:
    """The fewest single terms that show a goal which is met; one that occurs at several places counts at each."""
    match explained.term:
        case And() | Or():
            each = (_Goal.TRUE, _Goal.NOT_FALSE) if isinstance(explained.term, And) else (_Goal.FALSE, _Goal.NOT_TRUE)
            if goal in each:
                return [leaf for part in explained.parts for leaf in _settling(part, goal)]
            met = [_settling(part, goal) for part in explained.parts if part.truth in _MET[goal]]
            return min(met, key=len)
        case Not():
            return _settling(explained.parts[0], _MIRRORED[goal])
        case IsTruth(_, value):
            positive = goal in (_Goal.TRUE, _Goal.NOT_FALSE)
            inside = _Goal.TRUE if positive else _Goal.NOT_TRUE
            return _settling(explained.parts[0], inside if value else _MIRRORED[inside])
        case _:
            return [explained]
