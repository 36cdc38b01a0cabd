"""Normal forms of identifiers, and why a value is refused. A refusal names a reason, never the value."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, NamedTuple

import phonenumbers
from phonenumbers import NumberParseException, PhoneMetadata, PhoneNumberFormat, PhoneNumberType

from services.identity.domain.kinds import KINDS, SCOPED, Kind


class Rejected(ValueError):
    """A value that identifies nobody; the first argument is an UPPER_SNAKE reason."""

    @property
    def reason(self) -> str:
        """UPPER_SNAKE."""
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Identifier:
    """A valid value in its normal form; scope is empty except for openid (appid) and crm_id (source)."""

    kind: Kind
    scope: str
    value: str


class Known(NamedTuple):
    """A valid identifier and the token, 16 bytes, that stands for it in the tables."""

    kind: Kind
    scope: str
    value: str
    token: bytes


_CHINA: Final[Any] = PhoneMetadata.metadata_for_region("CN")
# The library takes 50 µs for a number; its own pattern for mainland mobiles, compiled here, takes one.
_CN_MOBILE: Final = re.compile(rf"(?:\+?86|0086)?({_CHINA.mobile.national_number_pattern})")
_PHONE_NOISE: Final = re.compile(r"[\s\-().·/]+")
_EIGHT_ALIKE: Final = re.compile(r"(\d)\1{7}$")
_PLACEHOLDER_MOBILES: Final = frozenset({"+8613800138000", "+8613912345678", "+8613812345678"})
_WORD: Final = re.compile(r"[\d+]")


def _mobile(text: str) -> str:
    digits = _PHONE_NOISE.sub("", text)
    if not _WORD.search(digits):
        raise Rejected("PLACEHOLDER")
    number = f"+86{match[1]}" if (match := _CN_MOBILE.fullmatch(digits)) else _by_library(digits)
    if _EIGHT_ALIKE.search(number) or number in _PLACEHOLDER_MOBILES:
        raise Rejected("PLACEHOLDER")
    return number


def _by_library(digits: str) -> str:
    try:
        parsed = phonenumbers.parse(digits, "CN")
    except NumberParseException as error:
        raise Rejected("NOT_A_PHONE_NUMBER") from error
    if not phonenumbers.is_valid_number(parsed):
        raise Rejected("NOT_A_VALID_NUMBER")
    if phonenumbers.number_type(parsed) not in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE):
        raise Rejected("NOT_A_MOBILE")
    return phonenumbers.format_number(parsed, PhoneNumberFormat.E164)


_ID_CARD: Final = re.compile(r"[1-9]\d{16}[\dX]")
_ID_WEIGHTS: Final = tuple(pow(2, 17 - i, 11) for i in range(17))
_OLDEST: Final = 1900


def _id_card(text: str) -> str:
    """GB 11643 with ISO 7064 MOD 11-2; 81, 82, 83 and 9 (permits) are as good as any (CONVENTIONS trap 14)."""
    value = re.sub(r"[\s\-]+", "", text).upper()
    if re.fullmatch(r"[1-9]\d{14}", value):
        # Numbers of before 1999 have two digits of the year and no check digit.
        value = value[:6] + "19" + value[6:]
        value += _id_check(value)
    if not _ID_CARD.fullmatch(value):
        raise Rejected("NOT_AN_ID_CARD")
    if value[17] != _id_check(value):
        raise Rejected("WRONG_CHECK_DIGIT")
    try:
        born = date(int(value[6:10]), int(value[10:12]), int(value[12:14]))
    except ValueError as error:
        raise Rejected("NO_SUCH_DATE") from error
    if born.year < _OLDEST or born > date.today():
        raise Rejected("NO_SUCH_DATE")
    if len(set(value[14:17])) == 1 and value[6:14] in ("19000101", "11111111"):
        raise Rejected("PLACEHOLDER")
    return value


def _id_check(value: str) -> str:
    return "10X98765432"[sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, value, strict=False)) % 11]


_VIN: Final = re.compile(r"[A-HJ-NPR-Z0-9]{17}")
_VIN_VALUES: Final = dict(
    zip("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", [*range(1, 9), *range(1, 6), 7, 9, *range(2, 10), *range(10)], strict=True)
)
_VIN_WEIGHTS: Final = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def _vin(text: str) -> str:
    """GB 16735: the check digit binds cars made in China (WMI L, H); importers may leave it out."""
    value = re.sub(r"[\s\-]+", "", text).upper()
    if not _VIN.fullmatch(value):
        raise Rejected("NOT_A_VIN")
    if max(value.count(char) for char in set(value)) > 12:
        raise Rejected("PLACEHOLDER")
    total = sum(_VIN_VALUES[char] * weight for char, weight in zip(value, _VIN_WEIGHTS, strict=True)) % 11
    if value[0] in "LH" and value[8] != "0123456789X"[total]:
        raise Rejected("WRONG_CHECK_DIGIT")
    return value


_PROVINCES: Final = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_PLATE: Final = re.compile(
    rf"[{_PROVINCES}](?:[A-HJ-NP-Z][A-HJ-NP-Z0-9]{{5}}"  # ordinary
    rf"|[A-Z][ABCDEFGHJK][A-HJ-NP-Z0-9]\d{{4}}|[A-Z]\d{{5}}[DF]"  # new energy: small, large
    rf"|[A-HJ-NP-Z][A-HJ-NP-Z0-9]{{4}}[学警挂领使港澳])"
)


def _plate(text: str) -> str:
    value = re.sub(r"[\s·•.\-]+", "", text).upper()
    if not _PLATE.fullmatch(value):
        raise Rejected("NOT_A_PLATE")
    if len(set(value[2:])) == 1 and value[2] in "0X":
        raise Rejected("PLACEHOLDER")
    return value


# GB 32100 without I, O, S, V and Z. Codes of other registries than companies' begin with letters (CONVENTIONS trap 14).
_USCC: Final = re.compile(r"[0-9A-HJ-NPQRTUWXY]{2}\d{6}[0-9A-HJ-NPQRTUWXY]{10}")
_USCC_CHARS: Final = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_WEIGHTS: Final = tuple(pow(3, i, 31) for i in range(17))


def _uscc(text: str) -> str:
    value = re.sub(r"[\s\-]+", "", text).upper()
    if not _USCC.fullmatch(value):
        raise Rejected("NOT_A_USCC")
    if len(set(value[8:17])) == 1:
        raise Rejected("PLACEHOLDER")
    total = sum(_USCC_CHARS.index(char) * weight for char, weight in zip(value[:17], _USCC_WEIGHTS, strict=True))
    if value[17] != _USCC_CHARS[-total % 31]:
        raise Rejected("WRONG_CHECK_DIGIT")
    return value


_EMAIL: Final = re.compile(r"[^\s@<>\"(),:;\[\]\\]{1,64}@(?:[\w](?:[\w-]{0,61}[\w])?\.)+[a-z]{2,24}")
_NO_MAILBOX: Final = re.compile(
    r"^(test|noreply|no-reply|none|null|a{2,}|x{2,}|1{2,}|123456)@|@(example|test)\.|@.*\.(test|invalid|local)$"
)


def _email(text: str) -> str:
    value = text.strip().casefold()
    if not _EMAIL.fullmatch(value):
        raise Rejected("NOT_AN_EMAIL")
    if _NO_MAILBOX.search(value):
        raise Rejected("PLACEHOLDER")
    return value


_WECHAT_ID: Final = re.compile(r"[\w-]{16,64}", re.ASCII)
_NOTHING: Final = frozenset({"", "0", "null", "none", "nil", "undefined", "unknown", "nan", "n/a", "-", "test", "anonymous"})
_ALIKE: Final = re.compile(r"[0\-:]*|[f\-:]*|(.)\1{5,}", re.IGNORECASE)


def _wechat_id(text: str) -> str:
    value = text.strip()
    if not _WECHAT_ID.fullmatch(value):
        raise Rejected("NOT_A_WECHAT_ID")
    return _opaque(value)


def _device(text: str) -> str:
    """OAID, IDFA, GAID: zeros mean that the owner refused tracking; upper and lower case are the same device."""
    return _opaque(text).casefold()


def _opaque(text: str) -> str:
    value = text.strip()
    if value.casefold() in _NOTHING or _ALIKE.fullmatch(value):
        raise Rejected("PLACEHOLDER")
    return value


_RULES: Final[Mapping[Kind, Callable[[str], str]]] = {
    Kind.CRM_ID: _opaque,
    Kind.OPENID: _wechat_id,
    Kind.UNIONID: _wechat_id,
    Kind.DEVICE: _device,
    Kind.COOKIE: _opaque,
    Kind.MOBILE: _mobile,
    Kind.EMAIL: _email,
    Kind.ID_CARD: _id_card,
    Kind.VIN: _vin,
    Kind.PLATE: _plate,
    Kind.USCC: _uscc,
}
_LONGEST: Final = 255


def normalise(kind: str, scope: str, value: str) -> Identifier:
    """The identifier in its normal form; raises Rejected."""
    known = KINDS.get(kind)
    if known is None:
        raise Rejected("UNKNOWN_KIND")
    if known in SCOPED and not scope:
        raise Rejected("SCOPE_MISSING")
    if len(value) > _LONGEST or len(scope) > _LONGEST:
        raise Rejected("TOO_LONG")
    if "\0" in value or "\0" in scope:
        raise Rejected("CONTROL_CHARACTER")
    normal = _RULES[known](value if value.isascii() else unicodedata.normalize("NFKC", value))
    if not normal:
        raise Rejected("EMPTY")
    return Identifier(known, scope if known in SCOPED else "", normal)


def normal_or_reason(kind: str, scope: str, value: str) -> Identifier | str:
    """Like `normalise`, with the reason as a value."""
    try:
        return normalise(kind, scope, value)
    except Rejected as refusal:
        return refusal.reason
