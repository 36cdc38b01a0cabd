"""Hikvision's alarm host posts (CONVENTIONS 5.1, 5.2): XML, JSON and query strings of cameras, and events of terminals.

Only what is named here is read. Seat belts, phones, smoking, faces, names, ages and everything else that firmware tells of the
people in the picture is left where it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from services.touchpoints.arrivals.sightings import (
    CarSeen,
    Heartbeat,
    Seen,
    Unreadable,
    VisitorSeen,
    id_of,
    number_of,
    object_of,
    text_of,
    time_of,
)

# access_control: verified by face, and by face with something else (majorEventType 5).
_ACCESS_EVENT: Final = 5
_FACE_VERIFIED: Final = frozenset({75, 105, 107, 109, 111, 153, 156})
_CARD_VERIFIED: Final = frozenset({1, 38})
_DECLARATION: Final = re.compile(rb"^\s*<\?xml[^>]*?encoding=[\"']([\w-]{1,20})[\"'][^>]*\?>")
_PROLOGUE: Final = re.compile(r"^\s*<\?xml[^>]*\?>")
_FIELDS: Final = (
    *("eventtype", "eventstate", "uuid", "deviceuuid", "deviceid", "macaddress", "channelid", "datetime", "direction"),
    *("licenseplate", "originallicenseplate", "confidencelevel", "isdataretransmission"),
)


def from_xml(document: bytes) -> Seen:
    """A post in XML, with or without its namespace; raises Unreadable."""
    root = _tree(document)
    found: dict[str, str] = {}
    for element in root.iter():
        # The first of a name counts: the alert's own fields stand before those of lists.
        name = _plain(element.tag)
        if name in _FIELDS and name not in found:
            found[name] = (element.text or "").strip()
    if _plain(root.tag) != "eventnotificationalert":
        raise Unreadable("body", "is no EventNotificationAlert")
    if found.get("eventtype", "").lower() != "anpr":
        return Heartbeat("other_event")
    return _car(found)


def from_json(document: Any) -> Seen:
    """A post in JSON, of a camera or a terminal; raises Unreadable."""
    alert = object_of(document, "body")
    alert = object_of(alert.get("EventNotificationAlert"), "EventNotificationAlert") or alert
    if "AccessControllerEvent" in alert:
        return _visitor(alert, object_of(alert["AccessControllerEvent"], "AccessControllerEvent"))
    plain = {str(key).lower(): value for key, value in alert.items()}
    kind = text_of(plain.get("eventtype"), "eventType").lower()
    if kind != "anpr":
        # faceSnap, faceCapture and alarmResult are of people who did not ask to be recognised.
        return Heartbeat("other_event")
    inner = object_of(plain.get("anpr"), "ANPR")
    plain |= {str(key).lower(): value for key, value in inner.items()}
    return _car(plain)


def from_query(query: bytes) -> Seen | None:
    """A post in the query string; None when it has no plate in it. Raises Unreadable."""
    if b"=" not in query or len(query) > 8192:
        return None
    try:
        pairs = _pairs(query, "utf-8")
    except UnicodeDecodeError:
        try:
            pairs = _pairs(query, "gb18030")
        except UnicodeDecodeError:
            raise Unreadable("query", "is neither UTF-8 nor GB 18030") from None
    except ValueError:
        raise Unreadable("query", "has too many fields") from None
    found = {key.lower(): value for key, value in pairs}
    for other in ("plate", "platenumber", "plateno"):
        if other in found:
            found.setdefault("licenseplate", found[other])
    if "licenseplate" not in found and "eventstate" not in found:
        return None
    return _car(found)


def _pairs(query: bytes, encoding: str) -> list[tuple[str, str]]:
    return parse_qsl(
        query.decode("ascii", "surrogateescape").encode("utf-8", "surrogateescape").decode(encoding),
        keep_blank_values=True,
        encoding=encoding,
        errors="strict",
        max_num_fields=100,
    )


def _car(found: Mapping[str, Any]) -> Seen:
    # `inactive` is how a camera says that it lives.
    if text_of(found.get("eventstate"), "eventState").lower() == "inactive":
        return Heartbeat()
    plate = text_of(found.get("licenseplate"), "licensePlate") or text_of(
        found.get("originallicenseplate"), "originalLicensePlate"
    )
    device = next((d for key in ("deviceuuid", "deviceid", "macaddress") if (d := id_of(found.get(key), key))), "")
    return CarSeen(
        plate,
        f"{device}/{id_of(found.get('channelid'), 'channelID')}",
        id_of(found.get("uuid"), "UUID"),
        time_of(found.get("datetime")),
        number_of(found.get("confidencelevel"), "confidenceLevel"),
        text_of(found.get("direction"), "direction").lower(),
        text_of(found.get("isdataretransmission"), "isDataRetransmission").lower() == "true"
        if not isinstance(found.get("isdataretransmission"), bool)
        else bool(found["isdataretransmission"]),
    )


def _visitor(alert: Mapping[str, Any], event: Mapping[str, Any]) -> Seen:
    if text_of(alert.get("eventState"), "eventState").lower() == "inactive":
        return Heartbeat()
    major = number_of(event.get("majorEventType"), "AccessControllerEvent.majorEventType")
    minor = number_of(event.get("subEventType"), "AccessControllerEvent.subEventType")
    if major != _ACCESS_EVENT or minor not in _FACE_VERIFIED | _CARD_VERIFIED:
        return Heartbeat("other_event")
    serial = number_of(event.get("serialNo"), "AccessControllerEvent.serialNo")
    device = next((d for key in ("deviceUUID", "deviceID", "macAddress") if (d := id_of(alert.get(key), key))), "")
    employee = text_of(event.get("employeeNoString"), "AccessControllerEvent.employeeNoString") or text_of(
        event.get("employeeNo"), "AccessControllerEvent.employeeNo"
    )
    return VisitorSeen(
        employee,
        text_of(event.get("cardNo"), "AccessControllerEvent.cardNo", 500),
        minor in _FACE_VERIFIED,
        device,
        # A terminal numbers its events; the number begins anew with its memory, so that the time belongs to it.
        f"{int(serial)} {text_of(alert.get('dateTime'), 'dateTime')}" if serial is not None and abs(serial) < 1e15 else "",
        time_of(alert.get("dateTime")),
    )


def _tree(document: bytes) -> Element:
    """The document's root, without entities and declarations of types; in the encoding that it declares, UTF-8 or GB 18030."""
    declared = _DECLARATION.match(document)
    if document.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    else:
        encodings = [declared.group(1).decode("ascii")] if declared else []
        # GB 2312 and GBK are parts of GB 18030, which firmware writes whatever it declares.
        encodings = ["gb18030" if each.lower() in ("gb2312", "gbk") else each for each in encodings] + ["utf-8-sig", "gb18030"]
    for encoding in encodings:
        try:
            text = document.decode(encoding)
        except (UnicodeError, LookupError):
            continue
        try:
            root: Element = fromstring(_PROLOGUE.sub("", text, count=1), forbid_dtd=True)
            return root
        except (ParseError, DefusedXmlException, ValueError):
            raise Unreadable("body", "is not valid XML, or has entities") from None
    raise Unreadable("body", "is in no encoding that is known here")


def _plain(tag: Any) -> str:
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""
