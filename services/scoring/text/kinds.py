"""Kind by rules that people can read: `kinds.toml`. Praise and complaint are the network's to tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from services.scoring.text.reading import Kind, Span

# Rules look at so much of a text: what a text is for stands in its first page.
LOOKED_AT = 2_000


@dataclass(frozen=True)
class Rule:
    """Words that say what a text is for."""

    kind: Kind
    name: str
    confidence: float
    patterns: tuple[re.Pattern[str], ...]
    takes_back: tuple[str, ...]

    def places(self, text: str) -> list[Span]:
        """Where it shows in a normalised text."""
        return [
            found.span()
            for pattern in self.patterns
            for found in pattern.finditer(text)
            if not any(word in _clause(text, found.span()) for word in self.takes_back)
        ]


@dataclass(frozen=True)
class Told:
    """What the rules say: a kind, how sure whoever wrote the rule was, and where, in the normalised text."""

    kind: Kind
    confidence: float
    places: tuple[Span, ...]


def tell(text: str, rules: Sequence[Rule] | None = None) -> Told | None:
    """The surest rule that a normalised text meets, the first of equals; None when it meets none."""
    best: tuple[Rule, list[Span]] | None = None
    for rule in shipped() if rules is None else rules:
        if best is None or rule.confidence > best[0].confidence:
            places = rule.places(text[:LOOKED_AT])
            if places:
                best = rule, places
    if best is None:
        return None
    rule, places = best
    return Told(rule.kind, rule.confidence, tuple(sorted(places)))


@cache
def shipped() -> tuple[Rule, ...]:
    """The rules of `kinds.toml`."""
    return tuple(_rule(given) for given in tomllib.loads((Path(__file__).parent / "kinds.toml").read_text())["rule"])


def _rule(given: dict[str, Any]) -> Rule:
    patterns = tuple(re.compile(pattern) for pattern in given["patterns"])
    return Rule(Kind(given["kind"]), given["name"], given["confidence"], patterns, tuple(given["not"]))


def _clause(text: str, span: Span) -> str:
    """The clauses that a span touches."""
    start = max((text.rfind(mark, 0, span[0]) for mark in ",。!?;、…"), default=-1) + 1
    ends = [end for mark in ",。!?;、…" if (end := text.find(mark, span[1])) >= 0]
    return text[start : min(ends, default=len(text))]
