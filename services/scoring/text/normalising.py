"""One spelling of a text, with the way back to the text as given.

Each code point is replaced by its NFKC form in lower case (full width to half width, ligatures, enclosed numbers);
control, format and combining characters are left out, and white space except between two Latin letters or digits, so
that text which came with its words apart reads as text that did not. Done code point by code point, so a letter and a
combining mark that follow each other are not composed. Not done: traditional to simplified characters, which NFKC
knows nothing about: traditional text is read by those characters that both scripts share.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import NamedTuple

_LEFT_OUT = frozenset({"Cc", "Cf", "Cs", "Mn", "Me"})
_LATIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.")


class Normal(NamedTuple):
    """Characters to read, and for each the position in the given text that it comes from, ascending."""

    characters: str
    places: tuple[int, ...]


def normalise(text: str) -> Normal:
    """The one spelling of a text."""
    characters: list[str] = []
    places: list[int] = []
    gap = -1
    for place, given in enumerate(text):
        for character in _spelling(given):
            if character == " ":
                gap = place
                continue
            if gap >= 0:
                if characters and characters[-1] in _LATIN and character in _LATIN:
                    characters.append(" ")
                    places.append(gap)
                gap = -1
            characters.append(character)
            places.append(place)
    return Normal("".join(characters), tuple(places))


@lru_cache(maxsize=1 << 16)
def _spelling(character: str) -> str:
    """What one code point becomes: a space for white space, nothing for what is left out."""
    if character.isspace():
        return " "
    spelt = unicodedata.normalize("NFKC", character).casefold()
    return "".join(" " if c.isspace() else c for c in spelt if unicodedata.category(c) not in _LEFT_OUT)
