"""Which terms are looked at, what speaks for each, and how much three alternatives keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.domain.suggesting import MAX_CANDIDATES, MIN_LIFT, MIN_SUPPORT, MIN_Z_SCORE, Term
from services.orchestrator.suggesting.words import Match

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

# Share of the expected responses of all eligible that each one keeps.
SHARES: Final = {"narrow": 0.5, "balanced": 0.8, "wide": 0.95}
# How much a word's nearness adds to a z-score: a full match is worth as much as the evidence that any term needs.
WORD_WEIGHT: Final = MIN_Z_SCORE


@dataclass(frozen=True)
class Candidate:
    """A term and what speaks for it; `match` None when no word does."""

    term: Term
    match: Match | None

    @property
    def proven(self) -> bool:
        """Whether past converters have it more often than chance would let them."""
        return self.term.z_score >= MIN_Z_SCORE and self.term.lift >= MIN_LIFT and self.term.support >= MIN_SUPPORT

    @property
    def weight(self) -> float:
        """What candidates are ordered by."""
        return self.term.z_score + (WORD_WEIGHT * self.match.similarity if self.match else 0.0)

    def why(self, converters: int) -> str:
        """The reason in words."""
        reasons = []
        if self.proven:
            reasons.append(f"{self.term.lift:.2f} times as frequent among {converters} converters, {self.term.support} have it")
        if self.match:
            reasons.append(f"named by {', '.join(self.match.words)} (nearness {self.match.similarity:.2f})")
        return "; ".join(reasons)


def candidates(
    terms: Sequence[Term], matches: Mapping[str, Match], leaks: frozenset[str], any_converters: bool
) -> list[Candidate]:
    """Terms worth looking at: proven ones, and those of tags that words name unless converters speak against them."""
    found = [Candidate(term, matches.get(term.predicate)) for term in terms if term.tag.lower() not in leaks]
    kept = [
        each
        for each in found
        if each.proven or (each.match and (not any_converters or each.term.lift >= 1 or each.term.z_score > -MIN_Z_SCORE))
    ]
    return sorted(kept, key=lambda each: (-each.weight, each.term.predicate))[:MAX_CANDIDATES]
