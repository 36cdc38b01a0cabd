"""What dealers are told, as the data of their webhooks (CONVENTIONS 5.3). No phone number is ever in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.touchpoints.domain.dealers import band_of
from services.touchpoints.domain.handovers import stamp

SLA_S = 900


@dataclass(frozen=True)
class Customer:
    """How one dealer knows somebody, and where the number can be fetched until when."""

    reference: str
    contact_url: str
    contact_expires: datetime

    def data(self) -> Mapping[str, Any]:
        """The part `customer`."""
        return {
            "customer_ref": self.reference,
            "contact_url": self.contact_url,
            "contact_token_expires": stamp(self.contact_expires),
        }


def pushed_lead(
    delivery_id: str, dealer: str, customer: Customer, theme: str, score: float, rank: int, reasons: Sequence[str]
) -> dict[str, Any]:
    """A lead that a theme's push makes; the delivery is its number."""
    value = round(score)
    return {
        "lead_id": delivery_id,
        "revision": 1,
        "dealer_code": dealer,
        "rank": rank,
        "sla_seconds": SLA_S,
        "customer": customer.data(),
        "interest": {"kind": "test_drive"},
        "score": {"value": value, "band": band_of(value)},
        "reasons": list(reasons),
        "theme": theme,
        "consent": {"purposes": ["dealer_contact"], "withdrawn": False},
    }


def given_lead(details: Mapping[str, Any], dealer: str, customer: Customer) -> dict[str, Any]:
    """A lead that somebody at the dealer looks after from now on; `details` as handovers.py made them."""
    return {
        "lead_id": details["lead_id"],
        "revision": details["revision"],
        "dealer_code": dealer,
        "advisor": details["advisor"] or None,
        "assigned_until": details["assigned_until"],
        "sla_seconds": details["sla_seconds"],
        "customer": customer.data(),
        "interest": {"kind": "lead", "model_code": details["interest"] or None},
        "consent": {"purposes": ["dealer_contact"], "withdrawn": False},
    }


def withdrawn_lead(details: Mapping[str, Any], dealer: str) -> dict[str, Any]:
    """A lead that the dealer no longer has: what is stored of it there must go."""
    return {
        "lead_id": details["lead_id"],
        "revision": details["revision"],
        "dealer_code": dealer,
        "reason_code": details["reason"],
    }


def erased_customer(details: Mapping[str, Any], dealer: str) -> dict[str, Any]:
    """Somebody whom the dealer must forget."""
    return {"customer_ref": details["customer_ref"], "dealer_code": dealer, "lead_ids": details["lead_ids"]}


def changed_consent(details: Mapping[str, Any], reference: str, dealer: str) -> dict[str, Any]:
    """Somebody who forbade the dealer to call, or allowed it again."""
    return {
        "customer_ref": reference,
        "dealer_code": dealer,
        "lead_ids": details["lead_ids"],
        "consent": {"purposes": ["dealer_contact"], "withdrawn": details["withdrawn"], "at": details["at"]},
    }
