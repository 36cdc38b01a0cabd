"""A dealer's customers in the order in which they are worth a call: chance times value; nobody is told apart who forbade it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.domain.hashing import key_of, units
from services.orchestrator.leads.chain import Stage
from services.orchestrator.targets.closing import Metric, within
from services.orchestrator.targets.store import Known, Target

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A customer on a list; `rank` and `own_rank` (oldest first, the dealer's usual order) from 1."""

    known: Known
    score: float
    probability: float
    value_fen: int
    neutral: bool
    rank: int = 0
    own_rank: int = 0

    @property
    def expected_fen(self) -> float:
        """What speaking to them is worth on average."""
        return self.probability * self.value_fen


def eligible(known: Known, dealer_code: str, metric: Metric) -> bool:
    """Whether a customer can bring this dealer one more of what is counted."""
    if known.erased or known.dealer_code not in ("", dealer_code):
        return False
    if metric is Metric.DELIVERIES:
        return known.stage is Stage.ORDER
    if metric is Metric.ORDERS:
        return known.stage is not Stage.ORDER and not known.lately & {Metric.ORDERS, Metric.DELIVERIES}
    return not (known.stage and Stage.TEST_DRIVE <= known.stage <= Stage.ORDER) and not known.lately


def arrange(
    known: Sequence[Known],
    scores: Floats,
    probabilities: Floats,
    neutral: frozenset[int] | set[int],
    target: Target,
    days_left: float,
    horizon_days: float,
    salt: str,
) -> list[Candidate]:
    """Customers by expected value. Those who switched personalisation off all weigh the same, and a hash orders them."""
    if not known:
        return []
    chances = within(np.maximum(probabilities, 0), days_left, horizon_days)
    persons = np.array([each.person_id for each in known], np.int64)
    off = np.array([each.person_id in neutral for each in known])
    usual = float(np.median(chances[~off])) if (~off).any() else float(np.median(chances))
    chances = np.where(off, usual, chances)
    value = np.array([_value(each, target, bool(hidden)) for each, hidden in zip(known, off, strict=True)])
    draw = units(persons, key_of("opportunities", salt))
    order = np.lexsort((draw, -chances * value))
    # Oldest first: what a dealer without a list does.
    opened = np.array([each.opened_at.timestamp() if each.opened_at else np.inf for each in known])
    own = np.empty(len(known), np.int64)
    own[np.lexsort((persons, opened))] = np.arange(1, len(known) + 1)
    return [
        Candidate(
            known[n],
            -1.0 if off[n] else float(scores[n]),
            float(chances[n]),
            int(value[n]),
            bool(off[n]),
            rank + 1,
            int(own[n]),
        )
        for rank, n in enumerate(order.tolist())
    ]


def _value(known: Known, target: Target, hidden: bool) -> int:
    usual = target.value_fen or 1
    return usual if hidden else target.values_fen.get(known.interest, usual)


def of_advisor(candidates: Sequence[Candidate], advisor: str) -> list[Candidate]:
    """Those whose lead an advisor looks after; everybody for no advisor."""
    return [each for each in candidates if not advisor or each.known.advisor == advisor]


def by_metric(targets: Sequence[Target]) -> Mapping[Metric, Target]:
    """For each metric the target that says what one is worth: the whole dealer's, else the first advisor's."""
    found: dict[Metric, Target] = {}
    for target in targets:
        found.setdefault(target.metric, target)
    return found
