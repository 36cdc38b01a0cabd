"""Every type of webhook that we send: what it means, what its data are, and an example that CI holds against both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.touchpoints.domain.deliveries import Channel

TEST: Final = "endpoint.test"
_TEXT: Final = {"type": "string"}
_NULLABLE: Final = {"type": ["string", "null"]}
_INSTANT: Final = {"type": "string", "format": "date-time"}


def _obj(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


@dataclass(frozen=True)
class Outgoing:
    """One type; `schema` and `example` are those of `data`."""

    meaning: str
    # Whose endpoints get it; None for any that is signed.
    channel: Channel | None
    schema: Mapping[str, Any]
    example: Mapping[str, Any]
    # Whether an endpoint may do without it. What lets a receiver obey the law it may not.
    optional: bool = False


_CUSTOMER: Final = _obj(
    "customer_ref contact_url contact_token_expires",
    customer_ref={**_TEXT, "description": "The dealer's own pseudonym of the customer."},
    contact_url={**_TEXT, "format": "uri", "description": "Answers the phone number to whoever asks, until it expires."},
    contact_token_expires=_INSTANT,
)
_CUSTOMER_EXAMPLE: Final = {
    "customer_ref": "customers/mzxw6ytboi",
    "contact_url": "https://touchpoints.example/contacts/AbC",
    "contact_token_expires": "2026-03-04T08:00:00Z",
}
_CONSENT: Final = _obj("purposes withdrawn", purposes={"type": "array", "items": _TEXT}, withdrawn={"type": "boolean"})
_CONSENT_EXAMPLE: Final = {"purposes": ["dealer_contact"], "withdrawn": False}
_LEAD: Final = _obj(
    "lead_id revision dealer_code customer consent",
    lead_id=_TEXT,
    revision={"type": "integer", "minimum": 1, "description": "Grows with each change of who has the lead."},
    dealer_code=_TEXT,
    rank={"type": "integer"},
    sla_seconds={"type": "integer"},
    customer=_CUSTOMER,
    interest={"type": "object"},
    score=_obj("value band", value={"type": "integer", "minimum": 0, "maximum": 1000}, band={"enum": ["A", "B", "C", "D"]}),
    reasons={"type": "array", "items": _TEXT},
    theme=_TEXT,
    advisor=_NULLABLE,
    assigned_until=_NULLABLE,
    consent=_CONSENT,
)
_LEAD_EXAMPLE: Final = {
    "lead_id": "delivery-1",
    "revision": 1,
    "dealer_code": "D001",
    "rank": 17,
    "sla_seconds": 900,
    "customer": _CUSTOMER_EXAMPLE,
    "interest": {"kind": "test_drive"},
    "score": {"value": 873, "band": "A"},
    "reasons": ["previous_outcome = success"],
    "theme": "themes/12",
    "consent": _CONSENT_EXAMPLE,
}
_GIVEN_EXAMPLE: Final = {
    "lead_id": "leads/17",
    "revision": 2,
    "dealer_code": "D001",
    "advisor": "advisors/3",
    "assigned_until": "2026-03-02T08:00:00Z",
    "sla_seconds": 900,
    "customer": _CUSTOMER_EXAMPLE,
    "interest": {"kind": "lead", "model_code": "X5"},
    "consent": _CONSENT_EXAMPLE,
}

OUTGOING: Final[Mapping[str, Outgoing]] = {
    TEST: Outgoing(
        "Somebody tries the endpoint out, or gives it another address; to be answered with 2xx and forgotten.",
        None,
        _obj("endpoint", endpoint=_TEXT),
        {"endpoint": "dealer-d001"},
    ),
    "message.push": Outgoing(
        "The app's backend shows a message to one of its users.",
        Channel.APP,
        _obj(
            "delivery_id app_user_id theme offer title body purpose unsubscribe_url preferences_url",
            delivery_id={**_TEXT, "description": "To be named in feedback."},
            app_user_id={**_TEXT, "description": "The app's own customer number."},
            theme=_TEXT,
            offer=_TEXT,
            title=_TEXT,
            body=_TEXT,
            purpose={"enum": ["marketing", "service"]},
            unsubscribe_url={
                **_TEXT,
                "format": "uri",
                "description": "To be shown with the message, or put in List-Unsubscribe.",
            },
            preferences_url={**_TEXT, "format": "uri", "description": "Where the person chooses what to get."},
        ),
        {
            "delivery_id": "delivery-1",
            "app_user_id": "88731",
            "theme": "themes/12",
            "offer": "Test drive",
            "title": "试驾邀请",
            "body": "新款 X5 到店，欢迎试驾",
            "purpose": "marketing",
            "unsubscribe_url": "https://touchpoints.example/unsubscribe/ZC0x.AbC",
            "preferences_url": "https://touchpoints.example/preferences/ZC0x.AbC",
        },
    ),
    "lead.assigned": Outgoing("A lead is the dealer's now.", Channel.DEALER, _LEAD, _LEAD_EXAMPLE, optional=True),
    "lead.reassigned": Outgoing(
        "Somebody else at the dealer looks after the lead.", Channel.DEALER, _LEAD, _GIVEN_EXAMPLE, optional=True
    ),
    "lead.withdrawn": Outgoing(
        "The dealer no longer has the lead: what is stored of it must go.",
        Channel.DEALER,
        _obj(
            "lead_id revision dealer_code reason_code",
            lead_id=_TEXT,
            revision={"type": "integer", "minimum": 1},
            dealer_code=_TEXT,
            reason_code=_TEXT,
        ),
        {"lead_id": "leads/17", "revision": 3, "dealer_code": "D001", "reason_code": "sla_missed"},
    ),
    "customer.erased": Outgoing(
        "The dealer must forget the customer.",
        Channel.DEALER,
        _obj(
            "customer_ref dealer_code lead_ids",
            customer_ref=_TEXT,
            dealer_code=_TEXT,
            lead_ids={"type": "array", "items": _TEXT},
        ),
        {"customer_ref": "customers/mzxw6ytboi", "dealer_code": "D001", "lead_ids": ["delivery-1"]},
    ),
    "consent.changed": Outgoing(
        "The customer forbade the dealer to call, or allowed it again.",
        Channel.DEALER,
        _obj(
            "customer_ref dealer_code lead_ids consent",
            customer_ref=_TEXT,
            dealer_code=_TEXT,
            lead_ids={"type": "array", "items": _TEXT},
            consent=_CONSENT,
        ),
        {
            "customer_ref": "customers/mzxw6ytboi",
            "dealer_code": "D001",
            "lead_ids": ["delivery-1"],
            "consent": {"purposes": ["dealer_contact"], "withdrawn": True, "at": "2026-03-02T08:00:00Z"},
        },
    ),
    "arrival.card": Outgoing(
        "Somebody whom the dealer may know has just arrived; what is not known is null, and `left_out` says why.",
        Channel.DEALER,
        _obj(
            "arrival_id dealer_code door arrived_at vehicle customer score reasons offer left_out",
            arrival_id=_TEXT,
            dealer_code=_TEXT,
            door=_TEXT,
            arrived_at=_INSTANT,
            vehicle={"type": "object", "description": "vehicle_ref, plate_tail, and what tags say of it."},
            service={"type": ["object", "null"], "description": "Which services are due."},
            customer={"type": ["object", "null"], "description": "customer_ref, display_name (masked), relation."},
            served_by={"type": ["object", "null"], "description": "This dealer, where it services or advises them."},
            score={"type": ["object", "null"]},
            reasons={"type": "array", "items": _obj("code text", code=_TEXT, text=_TEXT)},
            offer={"type": ["object", "null"]},
            left_out={"type": "array", "items": _obj("part reason", part=_TEXT, reason=_TEXT)},
        ),
        {
            "arrival_id": "a1",
            "dealer_code": "D001",
            "door": "gate",
            "arrived_at": "2026-03-01T08:00:00.000Z",
            "vehicle": {"vehicle_ref": "vehicles/mzxw6ytboi", "plate_tail": "345", "model": "X5", "mileage_km": 61000},
            "service": {"service_due": True},
            "customer": {"customer_ref": "customers/mzxw6ytboi", "display_name": "张**", "relation": "owns"},
            "served_by": {"dealer_code": "D001", "here": True},
            "score": {"value": 873, "band": "A"},
            "reasons": [{"code": "service_due", "text": "保养到期"}],
            "offer": None,
            "left_out": [{"part": "offer", "reason": "too_late"}],
        },
        optional=True,
    ),
}


def types_of(channel: Channel) -> dict[str, Outgoing]:
    """What endpoints of a channel may get."""
    return {name: sent for name, sent in OUTGOING.items() if sent.channel in (channel, None)}
