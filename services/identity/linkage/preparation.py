"""Texts reduced to what a comparison or a key can use. Pure functions of one value."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

import jellyfish

_QUOTES = re.compile(r"['’`]")
_BREAKS = re.compile(r"[^0-9a-z]+")


def folded(text: str | None) -> str:
    """Lower case without accents and width variants."""
    decomposed = unicodedata.normalize("NFKD", text or "").casefold()
    return "".join(c for c in decomposed if not unicodedata.combining(c)).strip()


def tokens(text: str | None, ignored: frozenset[str] = frozenset()) -> list[str]:
    """Words and initials in order; "l.castle" is two."""
    return [word for word in _BREAKS.split(_QUOTES.sub("", folded(text))) if word and word not in ignored]


@lru_cache(100_000)
def sound(word: str) -> str:
    """Metaphone of a Latin word; the word itself when it has none."""
    return jellyfish.metaphone(re.sub(r"[^a-z]", "", word)) or word


def stubs(words: Iterable[str]) -> list[str]:
    """Beginning and end of each word: what a typo in the other half leaves."""
    found = {word[:3] for word in words if len(word) > 2} | {f"~{word[-4:]}" for word in words if len(word) > 3}
    return sorted(found)


def split_date(text: str | None) -> tuple[int | None, str | None]:
    """Year and month-day of YYYY-MM-DD or YYYYMMDD, even where no such day exists; 1 January says only the year."""
    digits = re.sub(r"\D", "", text or "")
    if len(digits) != 8:
        return None, None
    return int(digits[:4]), (digits[4:] if digits[4:] != "0101" else None)


def distinct(values: Iterable[str]) -> list[str]:
    """Sorted, each once, without empty ones."""
    return sorted({value for value in values if value})


def last(values: Sequence[str]) -> str | None:
    """The last, if any."""
    return values[-1] if values else None
