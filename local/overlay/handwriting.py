"""How clerks and forms write the same value: spaced phones, wrong digits, dotted plates, words where a number belongs.

Each function takes a salt, a large random integer of the record, and makes all its small choices from it.
"""

from datetime import date, timedelta
from typing import Final

from local.overlay.identifiers import PLACEHOLDER_MOBILES, VIN_CHARS
from local.overlay.names import homophone

_FULL_WIDTH: Final = str.maketrans("0123456789", "０１２３４５６７８９")
_NO_PHONE: Final = (*map(str, PLACEHOLDER_MOBILES), "无", "暂无", "测试", "0", "-")
_NO_NAME: Final = ("测试", "无", "未知", "测试客户", "客户")
_SAFE_DIGITS: Final = 3  # a wrong digit falls behind the prefix, so the result is a valid number of somebody else


def spaced_phone(digits: str, salt: int) -> str:
    """An eleven-digit mobile in one of the ways people write it; every one normalises back to the same number."""
    head, middle, tail = digits[:3], digits[3:7], digits[7:]
    ways = (
        f"{head} {middle} {tail}",
        f"{head}-{middle}-{tail}",
        f"+86{digits}",
        f"+86 {head} {middle} {tail}",
        f"0086{digits}",
        f"86-{digits}",
        f"(+86){digits}",
        f" {digits} ",
        digits.translate(_FULL_WIDTH),
        f"{head}\u3000{middle}\u3000{tail}",
    )
    return ways[salt % len(ways)]


def wrong_phone(digits: str, salt: int) -> str:
    """The number with one digit changed (seven in ten), dropped or doubled."""
    at = _SAFE_DIGITS + salt % (len(digits) - _SAFE_DIGITS)
    way = salt // 8 % 10
    if way == 0:
        return digits[:at] + digits[at + 1 :]
    if way <= 2:
        return digits[:at] + digits[at] + digits[at:]
    other = (int(digits[at]) + 1 + salt // 80 % 9) % 10
    return f"{digits[:at]}{other}{digits[at + 1 :]}"


def placeholder_phone(salt: int) -> str:
    """What is typed to get past a mandatory field."""
    return _NO_PHONE[salt % len(_NO_PHONE)]


def placeholder_name(salt: int) -> str:
    """What is typed to get past a mandatory field."""
    return _NO_NAME[salt % len(_NO_NAME)]


def mistyped_name(surname: str, given: str, salt: int) -> str:
    """One homophone, four times of five in the given name."""
    return surname + homophone(given, salt // 5) if salt % 5 else homophone(surname, salt // 5) + given


def spaced_name(name: str, salt: int) -> str:
    """A space or full-width space between the characters, after the surname, or at the end."""
    ways = (f"{name[0]} {name[1:]}", "\u3000".join(name), f"{name} ", f"{name[0]}\u3000{name[1:]}")
    return ways[salt % len(ways)]


def wrong_date(day: date, salt: int) -> date:
    """Day and month swapped where that is a date, else a day late or a year early."""
    if salt % 3 == 0 and day.day <= 12 and day.day != day.month:
        return date(day.year, day.day, day.month)
    return day + timedelta(days=1 if salt % 3 == 1 else -365)


def wrong_vin(vin: str, salt: int) -> str:
    """One character replaced by another that a VIN may have."""
    at = salt % len(vin)
    others = VIN_CHARS.replace(vin[at], "")
    return vin[:at] + others[salt // len(vin) % len(others)] + vin[at + 1 :]


def spaced_vin(vin: str, salt: int) -> str:
    """Lower case, or a space after the manufacturer or before the serial number."""
    return (vin.lower(), f"{vin[:3]} {vin[3:]}", f"{vin[:11]} {vin[11:]}")[salt % 3]


def spaced_plate(plate: str, salt: int) -> str:
    """The dot of the real plate, a space, a dash, or lower case."""
    return (f"{plate[:2]}·{plate[2:]}", f"{plate[:2]} {plate[2:]}", f"{plate[:2]}-{plate[2:]}", plate.lower())[salt % 4]
