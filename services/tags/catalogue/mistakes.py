"""What may be wrong with a definition, and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from services.tags.catalogue.places import Place
from services.tags.domain.catalogue import TagDefinition


@dataclass(frozen=True)
class Fault:
    """What is wrong under one key of one definition; `position` (from 1) is a character of that key's text, 0 all of it."""

    key: str
    reason: str
    message: str
    position: int = 0
    is_warning: bool = False


@dataclass(frozen=True)
class Found:
    """A fault of a definition that is well formed by itself."""

    definition: TagDefinition
    fault: Fault


@dataclass(frozen=True)
class Mistake:
    """A fault in a file. `tag` is kind.name where there is one."""

    place: Place
    tag: str
    reason: str
    message: str
    is_warning: bool = False

    def __str__(self) -> str:
        word = "warning" if self.is_warning else "error"
        return f"{self.place}: {word}: {self.tag}{': ' if self.tag else ''}{self.message} [{self.reason}]"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at what may have been meant, to stand behind a message; empty when nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
