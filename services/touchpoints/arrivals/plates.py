"""Number plates as cameras read them, and what they amount to (GA 36; CONVENTIONS 7)."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Longer texts are no plates, whatever a firmware puts there.
MOST_TEXT: Final = 40
_PROVINCES: Final = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_PLATE: Final = re.compile(
    rf"[{_PROVINCES}](?:[A-HJ-NP-Z][A-HJ-NP-Z0-9]{{5}}"  # ordinary
    r"|[A-Z][ABCDEFGHJK][A-HJ-NP-Z0-9]\d{4}|[A-Z]\d{5}[DF]"  # new energy: small, large
    r"|[A-HJ-NP-Z][A-HJ-NP-Z0-9]{4}[学警挂领使港澳])"
)
# Chinese firmware writes the colour before the plate; longer words first.
_COLOURS: Final = re.compile(r"^(?:渐变绿|黄绿双拼|黄绿|新能源|蓝|黄|绿|白|黑|灰)色?(?:牌)?")
_SEPARATORS: Final = re.compile(r"[\s·•・.\-_]+")
_NOTHING: Final = frozenset(
    (
        "",
        "UNKNOWN",
        "NOPLATE",
        "NONE",
        "NULL",
        "NA",
        "N/A",
        "UNLICENSED",
        "无车牌",
        "无牌",
        "无牌车",
        "无",
        "未识别",
        "未知",
        "车牌",
    )
)
# No serial has the letters I and O (GA 36): where a digit may stand and these were read, a digit stands there. Nothing else is
# guessed: 8 and B, 2 and Z, 0 and D are all in use.
_UNAMBIGUOUS: Final = str.maketrans({"I": "1", "O": "0"})


def plate_in(text: str) -> str | None:
    """The plate in a camera's text, None when there is none or it is no plate of any kind."""
    if len(text) > MOST_TEXT:
        return None
    plain = _SEPARATORS.sub("", unicodedata.normalize("NFKC", text)).upper()
    if plain in _NOTHING:
        return None
    plain = _COLOURS.sub("", plain)
    # The second character is the letter of an office, and there a misread digit may stand for several letters.
    plate = plain[:2] + plain[2:].translate(_UNAMBIGUOUS)
    if not _PLATE.fullmatch(plate) or (len(set(plate[2:])) == 1 and plate[2] in "0X"):
        return None
    return plate


def tail(plate: str) -> str:
    """What an advisor needs to tell cars apart on the forecourt, and no more: the last three characters."""
    return plate[-3:]
