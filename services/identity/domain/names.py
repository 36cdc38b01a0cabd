"""Names as people type them, reduced to what two clerks agree on: the sound of the characters."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from pypinyin import Style, lazy_pinyin

_TITLE = re.compile(r"(先生|女士|小姐|太太|夫人|老师|师傅|经理|主任|总|哥|姐|mr\.?|mrs\.?|ms\.?|miss)$")
_NOISE = re.compile(r"[\s·•.,，。\-_'’*()（）]+")
_NO_NAME = re.compile(
    r"^(测试.*|试驾.*|.*测试|无|没有|未知|不详|未填|匿名.*|.*客户|客户.*|车主|用户.*|先生|女士|小姐|某某?|张三|李四|"
    r"test.*|unknown|none|null|na|n/a|user.*|admin.*)$"
)
_ONLY_DIGITS = re.compile(r"^\W*[\d\W]*$")


@lru_cache(20_000)
def _sound(char: str) -> str:
    return str(lazy_pinyin(char, style=Style.NORMAL)[0])


@lru_cache(50_000)
def clean(name: str) -> str:
    """The name without titles, spaces and width variants; empty when it is no name (placeholder, one character, digits)."""
    text = _NOISE.sub("", unicodedata.normalize("NFKC", name).casefold())
    if _NO_NAME.match(text) or _ONLY_DIGITS.match(text):
        return ""
    text = _TITLE.sub("", text)
    # One character is a family name at most: it neither tells two people apart nor proves that they are one.
    return text if len(text) > 1 else ""


@lru_cache(50_000)
def sound_key(name: str) -> str:
    """Toneless pinyin of a clean name, syllables apart; two names that differ by homophones have the same key."""
    return " ".join(map(_sound, name))
