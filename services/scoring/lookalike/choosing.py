"""Which tags to read before any value is read: by what the description of the seeds' audience says of each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

# Reading is what a look-alike of a million persons spends its time on.
MOST_TAGS = 24


@dataclass(frozen=True)
class TagTerm:
    """A value or range that an audience has more often than the base, as tags describes it; `lift` is a ratio of shares."""

    tag: str
    audience_share: float
    lift: float
    significant: bool


def choose_tags(description: Sequence[TagTerm], most: int = MOST_TAGS, never: Collection[str] = ()) -> list[str]:
    """The tags that tell the audience from the base best, the best first; none of `never`.

    A tag's worth is what its significant over-represented values carry of the Kullback-Leibler divergence between
    audience and base, the sum of share * ln(lift). When nothing is significant, as with few seeds, all terms count: the
    learner, which sees the values, decides then.
    """
    counted = [term for term in description if term.significant] or description
    worth: dict[str, float] = defaultdict(float)
    for term in counted:
        if term.tag not in never and term.lift > 1:
            worth[term.tag] += term.audience_share * math.log(term.lift)
    return sorted(worth, key=lambda tag: (-worth[tag], tag))[:most]
