"""Keeps personal data out of properties: identifiers move to the sealed part, the rest of what is personal goes.

The cheap way first: a look for runs of digits and letters in the serialised properties, and whether their keys are known to be
harmless. What is not harmless at first sight is held against one pattern, and only on a hit walked value by value.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

import orjson
from prometheus_client import Counter

SCREENED = Counter("touchpoints_screened_total", "Personal data taken out of properties.", ["what"])

REDACTED = "[redacted]"
# Deeper than orjson will write; a real property is two or three levels deep.
MAX_DEPTH = 32

# Keys, without case, space, dash and underscore, whose value is an identifier of the person or the vehicle.
IDENTIFIER_KEYS = {
    "phone": "mobile",
    "mobile": "mobile",
    "mobilephone": "mobile",
    "phonenumber": "mobile",
    "tel": "mobile",
    "telephone": "mobile",
    "email": "email",
    "mail": "email",
    "idcard": "id_card",
    "idnumber": "id_card",
    "unionid": "unionid",
    "vin": "vin",
    "plate": "plate",
    "licenseplate": "plate",
    "platenumber": "plate",
}
# Personal, but nothing to recognise anybody by.
DROPPED_KEYS = frozenset(
    [
        *("firstname", "lastname", "fullname", "username", "realname", "customername", "contactname", "nickname"),
        *("address", "street", "birthday", "birthdate", "dateofbirth", "passport", "ssn", "password", "openid", "idfa"),
        *("oaid", "imei", "ip", "ipaddress", "avatar", "手机", "手机号", "姓名", "身份证", "身份证号", "邮箱", "地址"),
        *("车牌", "车牌号", "车架号"),
    ]
)
_PII_KEYS = frozenset(IDENTIFIER_KEYS) | DROPPED_KEYS

_NAMES = "|".join(r"[\s_-]*".join(re.escape(letter) for letter in key) for key in sorted(_PII_KEYS))
# Over-eager on purpose: a hit only means that somebody looks closely. Written for bytes: decoding would cost more.
_SUSPICIOUS = re.compile(
    "|".join(
        (
            rf'"(?:{_NAMES})"\s*:',
            r"1[3-9]\d(?:[ -]?\d){8}",
            r"\d{17}[\dXx]",
            r"[\w.+-]@[\w-]",
            r"[A-HJ-NPR-Z0-9]{17}",
        )
    ).encode(),
    re.IGNORECASE,
)
# Full-width and other compatibility digits hide a number from the pattern above.
_FULL_WIDTH = re.compile(rb"(?:\xef\xbc[\x90-\x99]){4}")

_MOBILE = re.compile(r"(?<!\d)(?:(?:\+|00)?86[\s-]?)?1[3-9]\d(?:[\s-]?\d){8}(?!\d)")
# One character before the @ is enough, and keeps the search linear on long texts without any.
_EMAIL = re.compile(r"[\w.+-]@[\w-]+(?:\.[\w-]+)+")
_ID_CARD = re.compile(r"(?<!\d)[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![\dA-Za-z])")
_VIN = re.compile(
    r"(?<![A-Z0-9])(?=[A-Z0-9]*\d{4}(?![A-Z0-9]))(?=[A-Z0-9]*[A-Z])[A-HJ-NPR-Z0-9]{17}(?![A-Z0-9])", re.IGNORECASE
)
_VALUES = (("email", _EMAIL), ("id_card", _ID_CARD), ("mobile", _MOBILE), ("vin", _VIN))

# Digits become 0, other letters A, the rest blanks: what the patterns look for shows as a run.
_RUNS = bytes(
    ord("0") if chr(byte).isdigit() and byte < 128 else ord("A") if byte < 128 and chr(byte).isalpha() else ord(" ")
    for byte in range(256)
)
_LETTERS = _RUNS.replace(b"0", b"A")
_MANY_DIGITS, _MANY_LETTERS = b"0" * 11, b"A" * 17

Found = list[tuple[str, str, str]]


def screen(properties: dict[str, Any], found: Found) -> bytes:
    """Serialised properties without personal data; identifiers among their top-level keys are added to `found`.

    Raises TypeError (orjson.JSONEncodeError) or RecursionError when they cannot be written.
    """
    if not properties:
        return b""
    raw = orjson.dumps(properties)
    if _harmless(raw) and _harmless_keys(*properties):
        return raw
    if not _SUSPICIOUS.search(raw) and not _FULL_WIDTH.search(raw):
        return raw
    clean = {}
    for key, value in properties.items():
        plain = _plain(key)
        if kind := IDENTIFIER_KEYS.get(plain):
            SCREENED.labels(kind).inc()
            if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
                found.append((kind, "", str(value)))
        elif plain in DROPPED_KEYS:
            SCREENED.labels("dropped_key").inc()
        elif looks_personal(key) is None:
            clean[key] = _clean(value, 0)
    return orjson.dumps(clean)


def redacted(value: Any) -> Any:
    """A JSON value for people to look at: personal keys are gone, what looks personal is replaced."""
    return _clean(value, 0)


def _harmless(raw: bytes) -> bool:
    """Whether values alone, of one level, hold nothing that `_SUSPICIOUS` would find; not the other way round."""
    return (
        b"@" not in raw
        and b"\xef\xbc" not in raw
        and raw.find(b"{", 1) < 0
        # Blanks and dashes may part the digits of a phone number.
        and _MANY_DIGITS not in raw.translate(_RUNS, b" -")
        and _MANY_LETTERS not in raw.translate(_LETTERS)
    )


@lru_cache(8192)
def _harmless_keys(*keys: str) -> bool:
    """Senders have few sets of keys."""
    return not any(_plain(key) in _PII_KEYS or looks_personal(key) for key in keys)


def looks_personal(value: str) -> str | None:
    """What a text looks like: mobile, email, id_card, vin, or None."""
    plain = unicodedata.normalize("NFKC", value)
    for what, pattern in _VALUES:
        if pattern.search(plain):
            return what
    return None


def _clean(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return REDACTED
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        if what := looks_personal(str(value)):
            SCREENED.labels(what).inc()
            return REDACTED
        return value
    if isinstance(value, dict):
        return {k: _clean(v, depth + 1) for k, v in value.items() if _plain(k) not in _PII_KEYS and not looks_personal(k)}
    if isinstance(value, list):
        return [_clean(v, depth + 1) for v in value]
    return value


def _plain(key: str) -> str:
    return re.sub(r"[\s_-]", "", unicodedata.normalize("NFKC", key)).lower()
