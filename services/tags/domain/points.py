"""Points for data that was used, kept by anchor: whose they are is a view over who is who now.

A use gives points to a *line*, one person as she was then, and every anchor that she had is in it. A person's points are those
of the lines that any of her anchors is in, each counted once; of a line is spent what any of her anchors has spent. So a merge
adds up what both sides have, and taking it back gives each side what it would have had: uses before, and those meanwhile, which
were of the data of both. What was spent meanwhile is spent on both sides of a line that they share, and nowhere else; no
balance ever falls below zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Credit(NamedTuple):
    """One anchor's part in one line of one use: what the line is worth, and how much of that was spent through the anchor."""

    number: int
    line: int
    anchor_id: int
    points: int
    spent: int


class Balance(NamedTuple):
    """Points over all lines of a person."""

    earned: int
    spent: int

    @property
    def left(self) -> int:
        """What can be spent; never below zero."""
        return self.earned - self.spent


def balance(credits_: Iterable[Credit]) -> Balance:
    """What the credits of all of a person's anchors amount to."""
    lines = _lines(credits_).values()
    return Balance(sum(line[0].points for line in lines), sum(_spent(line) for line in lines))


def spend(credits_: Iterable[Credit], points: int) -> list[Credit] | None:
    """The credits that change when a person spends points, the oldest use first; None when she has not that many."""
    changed: list[Credit] = []
    for _, line in sorted(_lines(credits_).items()):
        taken = min(points, line[0].points - _spent(line))
        if taken:
            changed += [credit._replace(spent=_spent(line) + taken) for credit in line]
        points -= taken
    return None if points else changed


def _lines(credits_: Iterable[Credit]) -> dict[tuple[int, int], list[Credit]]:
    found: defaultdict[tuple[int, int], list[Credit]] = defaultdict(list)
    for credit in credits_:
        found[credit.number, credit.line].append(credit)
    return found


def _spent(line: Sequence[Credit]) -> int:
    return max(credit.spent for credit in line)
