"""Which tags past responders have more often, and which few of them hold most of the expected responses."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# One-sided 0.1 % for each term; a lift below 1.2 is real in a large base but too weak to steer by.
MIN_Z_SCORE = 3.0
MIN_LIFT = 1.2
MIN_SUPPORT = 20
# A term has to bring this share of the expected responses, or the predicate grows longer than anybody reads.
MIN_GAIN_SHARE = 0.01
MAX_TERMS = 12
# Each candidate costs one look at the whole of the eligible; further down the list terms only repeat stronger ones.
MAX_CANDIDATES = 60

_STRING = re.compile(r"'(?:[^']|'')*'")
_EVENTS = re.compile(r"\bevent\s*(?:=\s*'(?:[^']|'')*'|IN\s*\([^)]*\))", re.IGNORECASE)
_RECORD = "'Record Updated'"
_WORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Term:
    """A tag value as `tags` describes it: how many responders have it, and their share over that of all asked."""

    tag: str
    predicate: str
    support: int
    lift: float
    z_score: float


def words(predicate: str) -> set[str]:
    """Names a predicate may refer to, string literals left out; a superset, which only makes us more careful."""
    return {word.lower() for word in _WORD.findall(_STRING.sub("", predicate))}


def literals(predicate: str) -> list[str]:
    """What a predicate compares with, as it is meant."""
    return [literal[1:-1].replace("''", "'") for literal in _STRING.findall(predicate)]


def events(expression: str) -> set[str]:
    """Names of the events that a base tag is made of, without records: what these say does not follow from one another."""
    found = {name for clause in _EVENTS.findall(expression) for name in _STRING.findall(clause)}
    return found - {_RECORD}


def leaking(expressions: Mapping[str, str], known: Collection[str], outcome_predicates: Sequence[str]) -> set[str]:
    """Tags that follow from the outcome: `known` ones, those the predicates are about, and all defined over these or, as these,
    over the same events.

    `expressions` maps every tag to its definition.
    """
    leaks = {name.lower() for name in known}.union(*(words(p) for p in outcome_predicates))
    while True:
        told = set[str]().union(*(events(expression) for tag, expression in expressions.items() if tag.lower() in leaks))
        more = {
            tag
            for tag, expression in expressions.items()
            if tag.lower() not in leaks and (leaks & words(expression) or told & events(expression))
        }
        if not more:
            return leaks
        leaks |= {tag.lower() for tag in more}


def significant(terms: Sequence[Term], leaks: Collection[str]) -> list[Term]:
    """Terms worth looking at, strongest first; equal ones by their words, so that the same question has one answer."""
    kept = [
        term
        for term in terms
        if term.z_score >= MIN_Z_SCORE
        and term.lift >= MIN_LIFT
        and term.support >= MIN_SUPPORT
        and term.tag.lower() not in leaks
    ]
    return sorted(kept, key=lambda term: (-term.z_score, term.predicate))[:MAX_CANDIDATES]


def cover(membership: NDArray[np.bool_], probability: NDArray[np.float64], keep_share: float) -> list[int]:
    """Greedy choice of rows of `membership` (terms x people) whose union holds `keep_share` of the sum of `probability`.

    Each step takes the term whose new people answer best, of those that bring what each of the terms still allowed has to
    bring on average (of none such the one that brings most), so the union stays small and is still reached with few terms;
    then terms that the others make superfluous go. Returns row numbers ascending; fewer than needed when the terms do not
    reach the share.
    """
    wanted, least_gain = keep_share * probability.sum(), MIN_GAIN_SHARE * probability.sum()
    covered = np.zeros(membership.shape[1], np.bool_)
    chosen: list[int] = []
    while (missing := wanted - probability[covered].sum()) > 0 and len(chosen) < MAX_TERMS:
        # Row by row: the matrix as floats would take eight times its memory.
        fresh = [np.flatnonzero(row & ~covered) for row in membership]
        gain, size = np.array([probability[new].sum() for new in fresh]), np.array([len(new) for new in fresh])
        enough = max(least_gain, min(missing / (MAX_TERMS - len(chosen)), float(gain.max(initial=0.0))))
        density = np.where((gain >= enough) & (size > 0), gain / np.maximum(size, 1), -1.0)
        best = int(np.argmax(density)) if len(density) else -1
        if best < 0 or density[best] <= 0:
            break
        chosen.append(best)
        covered |= membership[best]
    reached = min(float(wanted), float(probability[covered].sum()))
    for row in list(chosen):
        others = [other for other in chosen if other != row]
        if others and probability[membership[others].any(axis=0)].sum() >= reached:
            chosen = others
    return sorted(chosen)


def combine(eligible: str, terms: Sequence[str]) -> str:
    """The predicate of everybody eligible who has at least one of the terms."""
    if not terms:
        return eligible
    return f"({eligible}) AND ({' OR '.join(f'({term})' for term in terms)})"
