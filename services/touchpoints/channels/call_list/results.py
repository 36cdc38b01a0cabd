"""What a call centre reports of calls, as the feedback that it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.touchpoints.domain.feedback import Feedback, parse
from services.touchpoints.domain.observed import Invalid

# Code → feedback, with its data. `not_reached` leaves the entry on the list: somebody will try again.
CODES: Mapping[str, Sequence[tuple[str, Mapping[str, str]]]] = {
    "interested": (("lead.contacted", {"result": "interested"}), ("lead.answered", {"answer": "yes"})),
    "visit_agreed": (
        ("lead.contacted", {"result": "visit_agreed"}),
        ("lead.answered", {"answer": "yes"}),
        ("lead.test_drive_booked", {}),
    ),
    "not_interested": (("lead.contacted", {"result": "not_interested"}), ("lead.answered", {"answer": "no"})),
    "call_later": (("lead.contacted", {"result": "call_later"}),),
    "not_reached": (),
    "unreachable": (("lead.unreachable", {}),),
    "wrong_number": (("lead.unreachable", {"reason_code": "wrong_number"}),),
    "do_not_call": (("lead.contacted", {"result": "do_not_call"}), ("message.unsubscribed", {})),
}


def read(raw: Any, index: int, received_us: int) -> list[Feedback]:
    """One result as feedback; raises Invalid with the field under results[index]."""
    path = f"results[{index}]"
    if not isinstance(raw, dict):
        raise Invalid(path, "NOT_AN_OBJECT", "must be an object")
    code = raw.get("code")
    if not isinstance(code, str) or code not in CODES:
        raise Invalid(f"{path}.code", "UNKNOWN_CODE", f"must be one of {', '.join(CODES)}")
    found = []
    # A code without feedback is checked like all others.
    for kind, data in CODES[code] or (("lead.contacted", {}),):
        event = {"type": kind, "timestamp": raw.get("called_at"), "data": {"delivery_id": raw.get("delivery_id"), **data}}
        try:
            found.append(parse(event, "", received_us))
        except Invalid as error:
            field = {"timestamp": "called_at"}.get(error.field, error.field.removeprefix("data."))
            raise Invalid(f"{path}.{field}", error.reason, error.message) from error
    return found if CODES[code] else []
