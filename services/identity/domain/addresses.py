"""Postal addresses as people type them, reduced to what two clerks agree on. Empty when there is no address in the text."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_NOISE = re.compile(r"[\s,，。.、;；:：\-—–_/\\#'\"()（）\[\]【】]+")
_NO_ADDRESS = re.compile(r"^(无|没有|未知|不详|未填|暂无|同上|测试.*|地址|none|null|na|unknown|test.*|\d*)$")
_NUMERALS = str.maketrans("〇零一二三四五六七八九", "00123456789")
# A run of numerals before a unit of counting is a number; elsewhere they are part of a name (三里屯, 五道口).
_COUNTED = re.compile(r"[〇零一二三四五六七八九十百]+(?=(?:号楼|号院|号|栋|幢|座|楼|单元|室|弄|层|户|门))")
_BUILDING = re.compile(r"(\d+)(?:号楼|栋|幢|座|楼)")
_NUMBER = re.compile(r"(?<!\d)0+(?=\d)")
_COUNTRY = re.compile(r"^(中国|中华人民共和国)")
_MUNICIPALITY = re.compile(r"^(北京|上海|天津|重庆)市?(?:\1市?)?(?:市辖区)?")
_PROVINCE = re.compile(r"^[\u4e00-\u9fff]{2,3}(?:省|壮族自治区|回族自治区|维吾尔自治区|自治区)(?=[\u4e00-\u9fff]{2})")
_SHORTEST = 6


@lru_cache(50_000)
def normal(address: str) -> str:
    """One spelling for one address: widths, numerals, words for a building, and the province that many leave out."""
    text = _NOISE.sub("", unicodedata.normalize("NFKC", address).casefold())
    if _NO_ADDRESS.match(text):
        return ""
    text = _PROVINCE.sub("", _COUNTRY.sub("", text))
    text = _MUNICIPALITY.sub(r"\1", text)
    text = _COUNTED.sub(lambda run: str(_number(run[0])), text)
    text = _BUILDING.sub(r"\1栋", text)
    # What ends in a bare number ends in a room.
    text = _NUMBER.sub("", re.sub(r"[室号户]$", "", text))
    # A street without a house is where many live.
    return text if len(text) >= _SHORTEST and re.search(r"\d", text) else ""


def _number(numeral: str) -> int:
    """Reads 十二, 一二, 一百零三 and 二十."""
    if not re.search("[十百]", numeral):
        return int(numeral.translate(_NUMERALS))
    total, digit = 0, 0
    for char in numeral:
        if char in "十百":
            total += (digit or 1) * (10 if char == "十" else 100)
            digit = 0
        else:
            digit = int(char.translate(_NUMERALS))
    return total + digit
