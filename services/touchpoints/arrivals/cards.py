"""The arrival card: what an advisor is told, as far as it is allowed and was found in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from services.touchpoints.domain.dealers import band_of

LATE, UNAVAILABLE, UNKNOWN = "late", "unavailable", "unknown"
# Why to speak to somebody, the weightiest first: tag of the vehicle (or, after a dot, of the person) and what to say.
REASONS: Final = (
    ("has_open_recall", "车辆有待处理的召回"),
    ("has_severe_fault", "车辆近期报告严重故障"),
    ("service_is_overdue", "保养已逾期"),
    ("service_due", "里程已到保养节点"),
    ("inspection_is_due", "年检临近"),
    ("warranty_ends_soon", "质保即将到期，可介绍延保"),
)
SERVICE_TAGS: Final = tuple(tag for tag, _ in REASONS)
VEHICLE_NUMBERS: Final = ("mileage_km", "age_years", "model_year")
VEHICLE_WORDS: Final = ("model", "powertrain", "colour")
VEHICLE_TAGS: Final = (*VEHICLE_WORDS, *VEHICLE_NUMBERS, *SERVICE_TAGS)


@dataclass(frozen=True)
class Offer:
    """What orchestrator would offer at the dealer's; `decision` is what feedback names."""

    name: str
    title: str
    body: str
    decision: str


@dataclass
class Facts:
    """What was found of an arrival; None where nothing was. `left_out`: part → why it is not here."""

    vehicle_ref: str = ""
    customer_ref: str = ""
    relation: str = ""
    display_name: str | None = None
    served_by: str | None = None
    vehicle: Mapping[str, Any] | None = None
    score: float | None = None
    offer: Offer | None = None
    left_out: dict[str, str] = field(default_factory=dict)


def masked(name: str) -> str:
    """A name as dealers may see it before they were given the contact: the first character, and two stars for all others."""
    plain = name.strip()
    return plain[0] + "**" if plain else ""


def card(arrival_id: str, door: str, dealer_code: str, arrived_at: datetime, plate_tail: str, facts: Facts) -> dict[str, Any]:
    """The `data` of an arrival.card; keys that are not known are null, and `left_out` says why."""
    vehicle = facts.vehicle
    due = {tag: bool(vehicle[tag]) for tag in SERVICE_TAGS if vehicle.get(tag) is not None} if vehicle is not None else None
    score = None if facts.score is None else {"value": round(facts.score), "band": band_of(round(facts.score))}
    return {
        "arrival_id": arrival_id,
        "dealer_code": dealer_code,
        "door": door,
        "arrived_at": arrived_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "vehicle": {
            "vehicle_ref": facts.vehicle_ref or None,
            "plate_tail": plate_tail or None,
            **{name: None if vehicle is None else vehicle.get(name) for name in (*VEHICLE_WORDS, *VEHICLE_NUMBERS)},
        },
        "service": due,
        "customer": {
            "customer_ref": facts.customer_ref,
            "display_name": facts.display_name,
            "relation": facts.relation or None,
        }
        if facts.customer_ref
        else None,
        # Whether it is this dealer's customer: the dealer that services the car or, without any, advises the person. Who
        # another dealer's customers are is no dealer's business.
        "served_by": {"dealer_code": dealer_code, "here": True} if facts.served_by == dealer_code else None,
        "score": score,
        "reasons": [{"code": tag, "text": text} for tag, text in REASONS if due and due.get(tag)],
        "offer": None
        if facts.offer is None
        else {
            "offer": facts.offer.name,
            "title": facts.offer.title,
            "body": facts.offer.body,
            "decision": facts.offer.decision,
        },
        "left_out": [{"part": part, "reason": reason} for part, reason in sorted(facts.left_out.items())],
    }
