"""Whether a version still fits the people it scores: drift since it was first used, and what its last evaluation measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import orjson

from chassis.db import UnitOfWork
from services.scoring.distributions import MOVED, Distribution, noise, stability

# So many moved features speak for training again even while the score has not moved yet.
MOVED_FEATURES: Final = 3
# Odds a fifth higher or lower than promised, in logarithms.
OFF_LOG_ODDS: Final = 0.2
# Standard errors beyond which an intercept is not off by chance: one in a hundred, two-sided.
SIGNIFICANT: Final = 2.576
# What callers see in place of a tag where the score is meant.
SCORE_NAME: Final = "score"


@dataclass(frozen=True)
class Drift:
    """How far one distribution has moved; `moved`: further than two samples of one base may be apart."""

    of: str
    psi: float
    moved: bool


@dataclass(frozen=True)
class Health:
    """What is known of the version in use; `looked_at` is None before everybody was scored with it."""

    version: int
    drifts: Sequence[Drift]
    last_evaluation: Mapping[str, float]
    looked_at: datetime | None

    @property
    def reasons(self) -> list[str]:
        """Why to train again, in words; empty: there is no reason."""
        reasons = [f"the scores have moved: PSI {d.psi:.2f}" for d in self.drifts if d.of == SCORE_NAME and d.moved]
        moved = [drift for drift in self.drifts if drift.of != SCORE_NAME and drift.moved]
        if len(moved) >= MOVED_FEATURES:
            told = ", ".join(f"{drift.of} {drift.psi:.2f}" for drift in moved[:10])
            reasons.append(f"{len(moved)} features have moved, PSI: {told}")
        off, error = (self.last_evaluation.get(f"calibration_intercept{end}", 0.0) for end in ("", "_error"))
        if abs(off) > OFF_LOG_ODDS and abs(off) > SIGNIFICANT * error:
            direction = "more" if off > 0 else "less"
            factor = np.exp(abs(off))
            reasons.append(f"it happened {direction} often than promised: odds differ by a factor of {factor:.2f}")
        return reasons


async def keep(uow: UnitOfWork, model: str, version: int, seen: Mapping[str, Distribution], at: datetime) -> None:
    """Keeps pictures: the first of a name becomes the reference, each later one the current."""
    known = await references(uow, model, version)
    await uow.execute(
        "INSERT INTO distribution (model, version, name, reference, edges, counts, looked_at)"
        " SELECT :model, CAST(:version AS integer), g.name, g.reference, CAST(g.edges AS jsonb), CAST(g.counts AS jsonb),"
        " CAST(:at AS timestamptz)"
        " FROM unnest(CAST(:names AS text[]), CAST(:references AS boolean[]), CAST(:edges AS text[]),"
        " CAST(:counts AS text[])) AS g(name, reference, edges, counts) ORDER BY g.name"
        " ON CONFLICT (model, version, name, reference) DO UPDATE SET edges = excluded.edges, counts = excluded.counts,"
        " looked_at = excluded.looked_at",
        model=model,
        version=version,
        at=at,
        names=list(seen),
        references=[name not in known for name in seen],
        edges=[_json(list(each.edges)) for each in seen.values()],
        counts=[_json(each.counts.tolist()) for each in seen.values()],
    )


async def inherit(uow: UnitOfWork, model: str, version: int, former: int) -> None:
    """A recalibrated version reads what the former one reads: features are compared with the first time of that one."""
    await uow.execute(
        "INSERT INTO distribution (model, version, name, reference, edges, counts, looked_at)"
        " SELECT model, CAST(:version AS integer), name, reference, edges, counts, looked_at FROM distribution"
        " WHERE model = :model AND version = :former AND reference AND name <> ''",
        model=model,
        version=version,
        former=former,
    )


async def references(uow: UnitOfWork, model: str, version: int) -> dict[str, Distribution]:
    """The pictures of the first time, by name."""
    rows = await uow.rows(
        "SELECT name, edges, counts FROM distribution WHERE model = :model AND version = :version AND reference",
        model=model,
        version=version,
    )
    return {row.name: _distribution(row.edges, row.counts) for row in rows}


async def read(uow: UnitOfWork, model: str, version: int) -> Health:
    """The health of a version."""
    rows = await uow.rows(
        "SELECT r.name, r.edges, r.counts, c.edges AS now_edges, c.counts AS now_counts,"
        " coalesce(c.looked_at, r.looked_at) AS looked_at FROM distribution r"
        " LEFT JOIN distribution c ON c.model = r.model AND c.version = r.version AND c.name = r.name AND NOT c.reference"
        " WHERE r.model = :model AND r.version = :version AND r.reference",
        model=model,
        version=version,
    )
    drifts = [
        _drift(row.name or SCORE_NAME, _distribution(row.edges, row.counts), _distribution(row.now_edges, row.now_counts))
        for row in rows
        if row.now_edges is not None
    ]
    evaluated = await uow.rows(
        "SELECT metrics FROM operation WHERE model = :model AND version = :version AND kind = 'EVALUATE'"
        " AND state = 'SUCCEEDED' ORDER BY operation_id DESC LIMIT 1",
        model=model,
        version=version,
    )
    return Health(
        version,
        sorted(drifts, key=lambda drift: (-drift.psi, drift.of)),
        evaluated[0].metrics if evaluated else {},
        max((row.looked_at for row in rows), default=None),
    )


def _drift(name: str, reference: Distribution, current: Distribution) -> Drift:
    psi = stability(reference, current)
    return Drift(name, psi, psi > MOVED + noise(reference, current))


def _distribution(edges: Any, counts: Any) -> Distribution:
    return Distribution(edges, np.array(counts, np.int64))


def _json(value: list[Any]) -> str:
    return orjson.dumps(value).decode()
