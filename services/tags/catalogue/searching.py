"""Finds tags by words, Chinese or English, whatever of them the catalogue has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.tags.domain.catalogue import TagDefinition

_LATIN = re.compile(r"[a-z0-9]+")
# Runs of characters, parted at words that say nothing by themselves.
_CHINESE = re.compile(r"(?:(?![的了是和与或吗呢])[\u3400-\u9fff])+")
# How much a hit in each part says.
_WEIGHTS = {"name": 1.0, "title": 1.0, "words": 0.9, "folder": 0.5, "description": 0.4, "owner": 0.3}
# A word that only begins alike, "visits" for "visit".
_ALIKE, _SHORTEST = 0.8, 4
_WORTH_SHOWING = 0.25


@dataclass(frozen=True)
class Hit:
    """A tag and how well it fits, from 0 to 1."""

    definition: TagDefinition
    relevance: float


def search(definitions: Iterable[TagDefinition], query: str) -> list[Hit]:
    """Tags that fit, the best first; without any words all of them, by kind, folder and name."""
    asked = _tokens(query)
    if not asked:
        ordered = sorted(definitions, key=lambda d: (d.kind, d.folder, d.name))
        return [Hit(definition, 1.0) for definition in ordered]
    plain = query.strip().lower()
    hits = [Hit(definition, _relevance(definition, asked, plain)) for definition in definitions]
    found = [hit for hit in hits if hit.relevance >= _WORTH_SHOWING]
    return sorted(found, key=lambda hit: (-hit.relevance, hit.definition.kind, hit.definition.name))


def _relevance(definition: TagDefinition, asked: Sequence[str], plain: str) -> float:
    if plain in (definition.name, definition.title):
        return 1.0
    parts = _parts(definition)
    each = [max(weight * _fit(token, tokens) for weight, tokens in parts) for token in asked]
    # Who has all of the words comes before who has one of them very well.
    return 0.95 * sum(each) / len(each)


def _fit(token: str, tokens: frozenset[str]) -> float:
    if token in tokens:
        return 1.0
    if len(token) >= _SHORTEST and token.isascii():
        for other in tokens:
            if len(other) >= _SHORTEST and (other.startswith(token) or token.startswith(other)):
                return _ALIKE
    return 0.0


@lru_cache(4096)
def _parts(definition: TagDefinition) -> tuple[tuple[float, frozenset[str]], ...]:
    texts = {key: getattr(definition, key) for key in _WEIGHTS}
    texts["words"] = " ".join(definition.words)
    return tuple((_WEIGHTS[key], frozenset(_tokens(text))) for key, text in texts.items())


def _tokens(text: str) -> list[str]:
    """Latin words; Chinese, which has no spaces, in pairs of characters."""
    lower = text.lower()
    found = _LATIN.findall(lower)
    for run in _CHINESE.findall(lower):
        found += [run[at : at + 2] for at in range(len(run) - 1)] or [run]
    return list(dict.fromkeys(found))
