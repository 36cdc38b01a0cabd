"""Who holds something when: intervals from what was said, the same whatever the order in which it was said.

A start says that somebody holds from a moment on, with a strength (a sale is stronger than a record that names an owner).
The holder at a moment is whoever the strongest start so far names, among equally strong ones the latest: so a later sale
closes the earlier owner's interval, and a weak word never closes a strong one. Two that start at the same moment with the
same strength contradict each other: nobody holds from then on, until somebody as strong starts alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

OPEN = 0


class Start(NamedTuple):
    """Somebody holds from a moment on, says a source of some strength."""

    at_us: int
    strength: int
    holder: int


class Tenure(NamedTuple):
    """Somebody holds from `from_us` (included) to `to_us` (excluded; OPEN: still). `strength`: the strongest word for it."""

    holder: int
    from_us: int
    to_us: int
    strength: int

    def holds_at(self, at_us: int) -> bool:
        """Whether a moment lies within."""
        return self.from_us <= at_us and (self.to_us == OPEN or at_us < self.to_us)


def tenures(starts: Iterable[Start]) -> list[Tenure]:
    """Intervals in order of time; no two overlap, and at most the last is open."""
    done: list[Tenure] = []
    holder, since, strength = 0, 0, 0
    for at, group in groupby(sorted(set(starts)), key=attrgetter("at_us")):
        said = list(group)
        strongest = max(start.strength for start in said)
        if strongest < strength:
            continue
        names = {start.holder for start in said if start.strength == strongest}
        best = names.pop() if len(names) == 1 else 0
        if best != holder:
            if holder:
                done.append(Tenure(holder, since, at, strength))
            holder, since = best, at
        strength = strongest
    if holder:
        done.append(Tenure(holder, since, OPEN, strength))
    return done


def dated_back(held: list[Tenure], since_us: int) -> list[Tenure]:
    """Lets the first tenure begin when the thing itself was first sold, where that was earlier (0: not known)."""
    if held and 0 < since_us < held[0].from_us:
        return [held[0]._replace(from_us=since_us), *held[1:]]
    return held
