"""Leads in ADF (Auto-lead Data Format, XML) as observed events.

Read leniently, for what writes it seldom keeps to it (CONVENTIONS 5.3).
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from xml.etree.ElementTree import Element, ParseError, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from services.touchpoints.domain.observed import FUTURE_US, MAX_ID, Invalid, Observed, Source, event_id
from services.touchpoints.domain.screening import Found, screen

EVENT = "Lead Submitted"
MOST_LEADS = 500
MAX_TEXT = 255
MAX_COMMENT = 2000
_MOST_PHONES = 3
_OWNS = 1
# Of these the customer has the car already; the others are cars of a dealer, which many ask about.
_THEIRS = ("trade_in", "sell")
_WORD = re.compile(r"[a-z_]{1,30}")
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.-]{1,40})["']""", re.IGNORECASE)
_DECLARATION = re.compile(r"<\?xml\b[^>]{0,500}\?>", re.IGNORECASE)
_ENCODINGS = frozenset(
    [
        "utf-8",
        "utf8",
        "utf-16",
        "us-ascii",
        "ascii",
        "iso-8859-1",
        "latin-1",
        "windows-1252",
        "gb2312",
        "gbk",
        "gb18030",
        "big5",
    ]
)
_BARE_AMPERSAND = re.compile(r"&(?!(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|amp|lt|gt|quot|apos);)")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MOMENT = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)(?:[T ]+(\d\d?):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?)?\s*(?:([Zz])|([+-])(\d\d?):?(\d\d?)?)?"
)
_AMERICAN = re.compile(r"(\d\d?)/(\d\d?)/(\d{4})(?:[T ]+(\d\d?):(\d\d)(?::(\d\d))?)?")


@dataclass(frozen=True)
class Arrival:
    """What holds for all leads of one request or file."""

    source: Source
    received_us: int
    oldest_us: int


def leads(body: bytes) -> list[Element]:
    """The prospects of a document; raises Invalid for what is no XML, even leniently, has none, or has one within another."""
    root = _parsed(body)
    found = [element for element in root.iter() if _name(element) == "prospect"]
    if not found:
        raise Invalid("prospect", "NO_LEAD", "the document has no prospect")
    # In the order of the document the outermost comes first: what is nested is walked once.
    if any(_name(element) == "prospect" for lead in found for element in lead.iter() if element is not lead):
        raise Invalid("prospect", "NESTED_LEAD", "a prospect stands inside a prospect")
    return found


def only_lead(body: bytes) -> Element:
    """The prospect of a document that has been set aside by itself; raises Invalid."""
    found = leads(body)
    if len(found) > 1:
        raise Invalid("prospect", "MANY_LEADS", "the document has more than one prospect")
    return found[0]


def _parsed(body: bytes) -> Element:
    try:
        return fromstring(body)
    except DefusedXmlException as error:
        raise Invalid("body", "ENTITIES_FORBIDDEN", "declares entities") from error
    except (ParseError, ValueError, LookupError):
        return _mended(body)


def _mended(body: bytes) -> Element:
    """Once more, with what is wrong most often put right: the encoding, single ampersands, control characters, no one root."""
    declared = match[1].decode().lower() if (match := _DECLARED.search(body)) else "utf-8"
    text = body.decode(declared if declared in _ENCODINGS else "utf-8", "replace")
    text = _DECLARATION.sub("", _FORBIDDEN.sub(" ", _BARE_AMPERSAND.sub("&amp;", text))).lstrip("\ufeff")
    try:
        return fromstring(f"<adf>{text}</adf>")
    except DefusedXmlException as error:
        raise Invalid("body", "ENTITIES_FORBIDDEN", "declares entities") from error
    except (ParseError, ValueError) as error:
        raise Invalid("body", "NOT_XML", "is not XML") from error


def written(lead: Element) -> bytes:
    """A prospect by itself, to be set aside: without what follows it in its document."""
    alone = copy.copy(lead)
    alone.tail = None
    try:
        text: bytes = tostring(alone, "utf-8")
    except RecursionError:
        return b"<prospect/>"
    return text


def observe(lead: Element, arrival: Arrival) -> Observed:
    """Normalises one prospect; raises Invalid naming the element at fault."""
    customer = _child(lead, "customer")
    contact = _child(customer, "contact")
    source, identifiers = arrival.source, _identifiers(customer, contact, arrival.source)
    wanted, theirs = _vehicles(lead)
    found: Found = []
    properties: dict[str, Any] = {
        "lead_id": next(iter(_texts(lead, "id")), ""),
        **_described(wanted),
        "comment": _text(customer, "comments", MAX_COMMENT) or _text(lead, "comments", MAX_COMMENT),
        "vendor": _text(_child(lead, "vendor"), "vendorname") or _text(_child(_child(lead, "vendor"), "contact"), "name"),
        "provider": _text(_child(lead, "provider"), "name"),
    }
    if wanted is not None:
        properties |= {
            name: word for name, key in (("interest", "interest"), ("condition", "status")) if (word := _word(wanted, key))
        }
    # Without its number nobody could say later which car that was.
    vin = _text(theirs, "vin", MAX_ID)
    owned = {key: value for key, value in _described(theirs).items() if value} if vin else {}
    if vin:
        identifiers.append(("vin", "", vin))
    screened = screen({key: value for key, value in properties.items() if value}, found)
    return Observed(
        _number(lead, source),
        source.name,
        EVENT,
        _occurred(_text(lead, "requestdate"), arrival),
        identifiers + [one for one in found if one not in identifiers],
        _person(contact),
        _OWNS if vin else 0,
        screened,
        screen(owned, found),
        _address(contact),
    )


def _identifiers(customer: Element | None, contact: Element | None, source: Source) -> Found:
    """The anchor first: the customer's number at the source, else the phone, else the address for letters."""
    found: Found = []
    if number := _text(customer, "id", MAX_ID):
        found.append(("crm_id", source.name, number))
    phones = [p for p in _children(contact, "phone") if (p.get("type") or "").lower() not in ("fax", "pager")]
    phones.sort(key=lambda phone: (phone.get("type") or "").lower() not in ("cellphone", "mobile"))
    found += [("mobile", "", value) for phone in phones[:_MOST_PHONES] if (value := _content(phone, MAX_ID))]
    if email := _text(contact, "email", MAX_ID):
        found.append(("email", "", email))
    if not found:
        raise Invalid("customer.contact", "NO_ID", "a customer's id, phone or email is required")
    return list(dict.fromkeys(found))


def _vehicles(lead: Element) -> tuple[Element | None, Element | None]:
    """The car that is asked for, and the one that the customer has."""
    vehicles = list(_children(lead, "vehicle"))
    theirs = [vehicle for vehicle in vehicles if _word(vehicle, "interest") in _THEIRS]
    wanted = [vehicle for vehicle in vehicles if vehicle not in theirs]
    return next(iter(wanted), None), next(iter(theirs), None)


def _described(vehicle: Element | None) -> dict[str, Any]:
    year = _text(vehicle, "year")
    return {
        "make": _text(vehicle, "make"),
        "model": _text(vehicle, "model"),
        "year": int(year) if re.fullmatch(r"(?:19|20)\d\d", year) else 0,
        "trim": _text(vehicle, "trim"),
    }


def _word(element: Element, attribute: str) -> str:
    """An attribute of one of the standard's words, with underscores."""
    given = next((value for key, value in element.attrib.items() if key.lower() == attribute), "")
    word = given.strip().lower().replace("-", "_").replace(" ", "_")
    return word if _WORD.fullmatch(word) else ""


def _person(contact: Element | None) -> str:
    parts: dict[str, str] = {}
    for name in _children(contact, "name"):
        parts.setdefault((name.get("part") or "full").lower(), _content(name, MAX_TEXT))
    ordered = [parts.get(part, "") for part in ("first", "middle", "last")]
    return (parts.get("full") or " ".join(part for part in ordered if part))[:MAX_TEXT]


def _address(contact: Element | None) -> str:
    address = _child(contact, "address")
    parts = [*_texts(address, "street"), *(_text(address, name) for name in ("city", "regioncode", "postalcode", "country"))]
    return ", ".join(part for part in parts if part)[:MAX_TEXT]


def _number(lead: Element, source: Source) -> bytes:
    """The same for each repeat of a lead, by its own numbers, or else by all that it says."""
    ids = [
        f"{i.get('source', '')}\0{i.get('sequence', '')}\0{value}"
        for i in _children(lead, "id")
        if (value := _content(i, MAX_ID))
    ]
    told = "\0".join(ids) if ids else hashlib.sha256(written(lead)).hexdigest()
    return event_id(source.name, f"adf\0{told}")


def _occurred(text: str, arrival: Arrival) -> int:
    """When it was asked for; a time that nobody can read is that of its coming."""
    moment = _moment(text)
    occurred = (
        arrival.received_us if moment is None else int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    )
    return min(max(occurred, arrival.oldest_us), arrival.received_us + FUTURE_US)


def _moment(text: str) -> datetime | None:
    try:
        if match := _MOMENT.fullmatch(text):
            year, month, day, hour, minute, second, _, sign, hours, minutes = match.groups()
            zone = (
                timezone(timedelta(hours=int(hours), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)) if sign else UTC
            )
            return datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=zone)
        if match := _AMERICAN.fullmatch(text):
            month, day, year, hour, minute, second = match.groups()
            return datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=UTC)
        found = parsedate_to_datetime(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _name(element: Element) -> str:
    tag = element.tag
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


def _children(parent: Element | None, name: str) -> Iterator[Element]:
    return (child for child in parent if _name(child) == name) if parent is not None else iter(())


def _child(parent: Element | None, name: str) -> Element | None:
    return next(_children(parent, name), None)


def _content(element: Element, longest: int) -> str:
    return " ".join((element.text or "").split())[:longest]


def _texts(parent: Element | None, name: str) -> list[str]:
    return [text for child in _children(parent, name) if (text := _content(child, MAX_TEXT))]


def _text(parent: Element | None, name: str, longest: int = MAX_TEXT) -> str:
    child = _child(parent, name)
    return _content(child, longest) if child is not None else ""
