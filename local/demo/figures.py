"""From what happened to the figures of the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from troika.identity.v1.identity_service_pb2 import GetStatisticsResponse
from troika.orchestrator.v1.orchestrator_service_pb2 import GetThemeReportResponse

from local.demo import statistics
from local.demo.campaign import Deliveries
from local.demo.people import Floats, IdentityQuality, People


@dataclass(frozen=True)
class Outcome:
    """Everything that the report is computed from."""

    persons: int
    seed: int
    seconds: float
    people: People
    quality: IdentityQuality
    statistics: GetStatisticsResponse
    scores: Floats  # of the true new leads, in their order, before anybody was pushed
    deliveries: Deliveries
    report: GetThemeReportResponse


def random_group(outcome: Outcome, size: int) -> statistics.Rate:
    """The real answers of a seeded draw from the new leads, as if it had been called instead."""
    leads = outcome.people.new_leads
    drawn = np.random.default_rng([outcome.seed, 1]).choice(leads, min(size, len(leads)), replace=False)
    return statistics.rate(int(outcome.people.answers[drawn].sum()), len(drawn))


def figures(outcome: Outcome) -> dict[str, Any]:
    """Names as DESIGN section 7 fixes them, and a few more."""
    report, sent, quality = outcome.report, outcome.deliveries, outcome.quality
    answers = outcome.people.answers[outcome.people.new_leads]
    worth = statistics.ranking(outcome.scores, answers)
    group = random_group(outcome, report.pushed.persons)
    cost_each = report.cost_fen / max(1, report.pushed.persons)
    return {
        "persons": outcome.statistics.persons,
        "vehicles": outcome.statistics.vehicles,
        "merges": outcome.statistics.merges,
        "pushes": sent.total,
        "acknowledged": sent.acknowledged,
        "feedback": sent.feedback,
        "identity_precision": round(quality.precision, 6),
        "identity_recall": round(quality.recall, 6),
        "sales_kept_at_65_percent": round(worth.sales_kept_at_65_percent, 4),
        "top_decile_lift": round(worth.top_decile_lift, 3),
        "effect_vs_holdout": {key: round(getattr(report.effect, key), 4) for key in ("value", "low", "high")},
        "seconds": round(outcome.seconds, 1),
        "sales_per_call_vs_all": round(worth.sales_per_call_vs_all, 3),
        "base_rate": round(worth.base_rate, 4),
        "largest_cluster": quality.largest_cluster,
        "most_persons_in_a_cluster": quality.most_persons_in_a_cluster,
        "glued_by_staff_phone": quality.glued_by_staff_phone,
        "shared_identifiers": outcome.statistics.shared_identifiers,
        "splits": outcome.statistics.splits,
        "targeted": _rounded(asdict(statistics.rate(report.pushed.goals, report.pushed.persons))),
        "random_group_of_same_size": _rounded(asdict(group)),
        "holdout": _rounded(asdict(statistics.rate(report.holdout.goals, report.holdout.persons))),
        "cost_per_response_fen": round(report.cost_fen / max(1, report.pushed.goals)),
        "random_cost_per_response_fen": round(cost_each * group.of / max(1, group.count)),
        "cost_fen": report.cost_fen,
        "decisions": dict(report.decisions),
        "deliveries": {f"{channel}.{state}": n for (channel, state), n in sorted(sent.by_channel_and_state.items())},
        "bands": [
            {"from": band.from_score, "to": band.to_score, "persons": band.rate.persons, "goals": band.rate.goals}
            | {"rate": round(band.rate.rate, 4), "low": round(band.rate.low, 4), "high": round(band.rate.high, 4)}
            for band in report.bands
        ],
    }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
