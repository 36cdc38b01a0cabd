"""How long people took: from the moment a push was handed over to the answer, and to the goal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ANSWER, GOAL = "answer", "goal"
# Lower ends of the histogram's classes, in hours; the last one has no end.
EDGES: Final = (0.0, 1 / 12, 0.25, 1.0, 3.0, 6.0, 12.0, 24.0, 48.0, 72.0, 168.0, 336.0, 720.0)
LABELS: Final = ("<5 min", "5 min", "15 min", "1 h", "3 h", "6 h", "12 h", "1 d", "2 d", "3 d", "7 d", "14 d", "30 d")
SHARES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Times:
    """Hours from hand-over to `kind` (ANSWER or GOAL) in a part (None: all): quantiles at SHARES, counts by class of EDGES.

    `earlier`: how many came before the push, by another way or by a clock that is wrong; they are in nothing else. Both are
    empty when there are too few to tell of.
    """

    part: str | None
    kind: str
    count: int
    earlier: int
    quantiles: tuple[float, ...]
    histogram: tuple[int, ...]

    def hidden(self) -> Times:
        """Without what would tell of single persons."""
        return Times(self.part, self.kind, self.count, self.earlier, (), ())


Keyed = Mapping[tuple[str | None, str], Times]


def of_part(times: Keyed, part: str | None) -> tuple[Times, ...]:
    """Those of a part, answer first; nobody's where there are none."""
    return tuple(times.get((part, kind)) or Times(part, kind, 0, 0, (), (0,) * len(EDGES)) for kind in (ANSWER, GOAL))


def hours_in_words(hours: float) -> str:
    """With the unit that fits."""
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"
