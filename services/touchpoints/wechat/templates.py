"""Which template says what: the setting `templates` of an account, and its values within WeChat's limits (CONVENTIONS 3.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta, timezone
from enum import Enum
from functools import lru_cache
from typing import Any

import orjson

from chassis.consents import MESSAGES
from services.touchpoints.domain.deliveries import Delivery

MARKETING = "marketing"
MOST_TEMPLATES, MOST_VALUES = 100, 20
_PLACEHOLDER = re.compile(r"\{([a-z_]*)\}")
PLACEHOLDERS = frozenset({"title", "body", "offer", "date", "time"})
_KEY = re.compile(r"([a-z_]+?)\d{1,3}")
# Characters a value holds, by the kind that begins its key.
_LENGTHS = {"thing": 20, "character_string": 32, "letter": 32, "number": 32, "phrase": 5, "name": 10, "symbol": 5,
            "phone_number": 17, "car_number": 8, "amount": 12, "const": 20}  # fmt: skip
# Control characters: JSON would write those as \u, which WeChat refuses.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_SHANGHAI = timezone(timedelta(hours=8))


class Form(Enum):
    """Ways to say something to a follower."""

    # By the account's right to serve; never for marketing.
    TEMPLATE = "template"
    # Bought with the person's yes, one message each.
    SUBSCRIPTION = "subscription"
    # Within the time that the person opened by turning to the account.
    CUSTOM = "custom"


@dataclass(frozen=True)
class Template:
    """One template of an account."""

    id: str
    form: Form
    purpose: str
    # Empty: any offer.
    offers: frozenset[str]
    # Key of a value → its text with placeholders.
    data: Mapping[str, str]

    def fits(self, purpose: str, offer: str) -> bool:
        """Whether it may carry this offer for this purpose."""
        return self.purpose == purpose and (not self.offers or offer in self.offers)


@lru_cache(maxsize=256)
def templates(document: str, template_id: str) -> tuple[Template, ...]:
    """The templates of two settings, in the order in which they are tried; raises ValueError saying which entry is wrong."""
    found = [_template(one, f"[{number}]") for number, one in enumerate(_list(document))] if document else []
    if template_id:
        found.append(Template(template_id, Form.TEMPLATE, "service", frozenset(), {"thing1": "{title}", "thing2": "{body}"}))
    return tuple(found)


def wrong(document: str) -> str:
    """What is wrong with the setting `templates`; empty when nothing is."""
    try:
        templates(document, "")
    except ValueError as error:
        return str(error)
    return ""


def data(template: Template, delivery: Delivery) -> dict[str, dict[str, str]]:
    """The values of a message, each cut to what its kind holds."""
    return {key: {"value": _fitted(key, _filled(text, delivery))} for key, text in template.data.items()}


def plain(delivery: Delivery, most_bytes: int, link: str = "") -> str:
    """Title, text and link for a message without a template, within a number of bytes in UTF-8."""
    lines = [_CONTROL.sub(" ", line).strip() for text in (delivery.title, delivery.body) for line in text.splitlines()]
    text, tail = "\n".join(line for line in lines if line), f"\n{link}" if link else ""
    room = most_bytes - len(tail.encode())
    return text.encode()[:room].decode(errors="ignore") + tail


def _list(document: str) -> list[Any]:
    try:
        given = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise ValueError("must be JSON") from error
    if not isinstance(given, list) or not 0 < len(given) <= MOST_TEMPLATES:
        raise ValueError(f"must be a list of 1 to {MOST_TEMPLATES} templates")
    return given


def _template(given: Any, path: str) -> Template:
    if not isinstance(given, dict) or not given.keys() <= {"id", "form", "purpose", "offers", "data"}:
        raise ValueError(f"{path} must be an object of id, form, purpose, offers and data")
    if not isinstance(given.get("id"), str) or not 0 < len(given["id"]) <= 100:
        raise ValueError(f"{path}.id must be the template's id")
    if given.get("form") not in (Form.TEMPLATE.value, Form.SUBSCRIPTION.value):
        raise ValueError(f"{path}.form must be template or subscription")
    if given.get("purpose") not in MESSAGES:
        raise ValueError(f"{path}.purpose must be one of {', '.join(MESSAGES)}")
    if given["form"] == Form.TEMPLATE.value and given["purpose"] == MARKETING:
        raise ValueError(f"{path}.purpose: template messages must not carry marketing")
    offers, values = given.get("offers", []), given.get("data")
    if not isinstance(offers, list) or not all(isinstance(offer, str) for offer in offers):
        raise ValueError(f"{path}.offers must be a list of offers")
    if not isinstance(values, dict) or not 0 < len(values) <= MOST_VALUES:
        raise ValueError(f"{path}.data must be an object of 1 to {MOST_VALUES} values")
    _check_values(values, path)
    return Template(given["id"], Form(given["form"]), given["purpose"], frozenset(offers), values)


def _check_values(values: Mapping[str, Any], path: str) -> None:
    for key, text in values.items():
        if not _KEY.fullmatch(key) or not isinstance(text, str) or not text:
            raise ValueError(f"{path}.data.{key} must be a text, under a key such as thing1")
        if unknown := set(_PLACEHOLDER.findall(text)) - PLACEHOLDERS:
            raise ValueError(f"{path}.data.{key}: no such placeholder: {', '.join(sorted(unknown))}")


def _filled(text: str, delivery: Delivery) -> str:
    there = delivery.decided_at.astimezone(_SHANGHAI)
    values = {
        "title": delivery.title,
        "body": delivery.body,
        "offer": delivery.offer,
        "date": f"{there:%Y}年{there.month}月{there.day}日",
        "time": f"{there:%Y}年{there.month}月{there.day}日 {there:%H:%M}",
    }
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def _fitted(key: str, text: str) -> str:
    kind = _KEY.fullmatch(key)
    most = _LENGTHS.get(kind[1] if kind else "", 200)
    one_line = _CONTROL.sub(" ", text).strip() or "-"
    return one_line if len(one_line) <= most else one_line[: most - 1] + "…"
