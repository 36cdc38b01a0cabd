"""Where in a file something stands, down to a character of an expression inside a YAML scalar."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

# How many characters of the source an escape of a double-quoted scalar takes beside the backslash and its letter.
_LONG_ESCAPES = {"x": 2, "u": 4, "U": 8}
# Letters that, escaped, are white space; the end of a line is none at all.
_SPACES = " \tntvfrN_LP\n"


@dataclass(frozen=True, order=True)
class Place:
    """Line and column, both from 1; `path` is empty for text that came from no file."""

    path: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path or 'line '}{':' if self.path else ''}{self.line}:{self.column}"


def place_of(path: str, node: yaml.Node) -> Place:
    """Where a node begins."""
    return Place(path, node.start_mark.line + 1, node.start_mark.column + 1)


def place_in(path: str, text: str, node: yaml.ScalarNode, position: int) -> Place:
    """Where the character at a position (from 1) of a scalar's value stands in the text that it was read from.

    Folding and indentation change nothing but white space, so all else is found in the same order.
    """
    at, end = node.start_mark.index, node.end_mark.index
    if node.style in ("|", ">"):
        at = text.index("\n", at) + 1
    elif node.style in ("'", '"'):
        at, end = at + 1, end - 1
    value = str(node.value)
    # A position behind the end, or of a blank, is that of the character before.
    wanted = len(value[: max(1, position)].rstrip()) - 1
    for character in value[: max(0, wanted)]:
        if not character.isspace():
            at = _next(text, at, end, node.style)
            at += _length(text, at, node.style)
    found = _next(text, at, end, node.style)
    before = text[:found]
    return Place(path, before.count("\n") + 1, found - (before.rfind("\n") + 1) + 1)


def _next(text: str, at: int, end: int, style: str | None) -> int:
    """Where the next character stands that is no white space, escaped or not."""
    while at < end and (text[at].isspace() or (style == '"' and _is_escaped_space(text, at))):
        at += 1 if text[at].isspace() else _length(text, at, style)
    return at


def _is_escaped_space(text: str, at: int) -> bool:
    if text[at] != "\\":
        return False
    digits = _LONG_ESCAPES.get(text[at + 1])
    if digits:
        return chr(int(text[at + 2 : at + 2 + digits], 16)).isspace()
    return text[at + 1] in _SPACES


def _length(text: str, at: int, style: str | None) -> int:
    """How many characters write the one that stands here."""
    if style == '"' and text[at] == "\\":
        return 2 + _LONG_ESCAPES.get(text[at + 1], 0)
    return 2 if style == "'" and text[at] == "'" else 1
