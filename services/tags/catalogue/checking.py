"""What may be wrong with definitions that are well formed one by one, when they stand together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from services.tags.catalogue.mistakes import Fault, Found, nearest
from services.tags.domain.aggregates import parse_aggregate
from services.tags.domain.business import Definition, compile_all
from services.tags.domain.catalogue import Catalogue, FromEvents, FromTags, Kind, TagDefinition
from services.tags.domain.language import DAY, LanguageError
from services.tags.domain.names import names_in

Key = tuple[Kind, str]
_LITERAL = re.compile(r"'(?:[^']|'')*'")


def examine(definitions: Sequence[TagDefinition]) -> list[Found]:
    """All that is wrong with definitions as one catalogue: errors, and warnings about what is allowed but looks wrong."""
    kept, found = _unique(definitions)
    catalogue = Catalogue(kept)
    compiled, errors = compile_all(catalogue)
    for error in errors:
        message = error.message.removesuffix(f" (at character {error.position})")
        definition = catalogue.of(error.kind)[error.name]
        found.append(Found(definition, Fault("expression", error.reason, message, error.position)))
        if error.reason == "UNKNOWN_TAG":
            found += _other_unknown(definition, catalogue, error.position)
    readers = readers_of(catalogue)
    found += _sensitivity(catalogue)
    found += _retention(kept)
    found += _equals(catalogue, compiled)
    for definition in kept:
        if not definition.title and (definition.kind, definition.name) not in readers:
            message = "no tag is built on it, and without a title no person finds it"
            found.append(Found(definition, Fault("", "UNUSED", message, is_warning=True)))
    return found


def readers_of(catalogue: Catalogue) -> dict[Key, list[TagDefinition]]:
    """For each tag the tags whose expressions name it."""
    readers: dict[Key, list[TagDefinition]] = {}
    for definition in catalogue.definitions:
        for read in reads(definition, catalogue):
            readers.setdefault((read.kind, read.name), []).append(definition)
    return readers


def reads(definition: TagDefinition, catalogue: Catalogue) -> list[TagDefinition]:
    """The tags that a business tag's expression names, by kind and name; none for an expression that cannot be read."""
    if not isinstance(definition.origin, FromTags):
        return []
    named = _named(definition.expression, definition.kind)
    found = [tag for kind, name in sorted(named) if (tag := catalogue.known_as(kind).get(name)) is not None]
    return list({(tag.kind, tag.name): tag for tag in found}.values())


def _other_unknown(definition: TagDefinition, catalogue: Catalogue, told: int) -> Iterator[Found]:
    """The names that an expression cannot mean beside the one at a place that was told already."""
    text = _LITERAL.sub(lambda literal: " " * len(literal[0]), definition.expression)
    for kind, name in sorted(_named(definition.expression, definition.kind)):
        if name in catalogue.known_as(kind):
            continue
        at = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)
        if at and not told <= at.start() + 1 < told + len(name) + len("dealer."):
            message = f"no {kind.name.lower()} tag is named {name}{nearest(name, catalogue.known_as(kind))}"
            yield Found(definition, Fault("expression", "UNKNOWN_TAG", message, at.start() + 1))


@lru_cache(4096)
def _named(expression: str, kind: Kind) -> frozenset[Key]:
    try:
        return frozenset(names_in(expression, kind))
    except LanguageError:
        return frozenset()


def _unique(definitions: Sequence[TagDefinition]) -> tuple[list[TagDefinition], list[Found]]:
    """Those whose name and title are their own, and a fault for each other."""
    kept: list[TagDefinition] = []
    found: list[Found] = []
    known: dict[Key, TagDefinition] = {}
    for definition in definitions:
        names = {definition.name, definition.title} - {""}
        twice = sorted(name for name in names if (definition.kind, name) in known)
        if twice:
            other = known[definition.kind, twice[0]]
            whose = "" if other.name == twice[0] else f", it is the title of {other.name}"
            key = "name" if twice[0] == definition.name else "title"
            message = f"{definition.kind.name.lower()}.{twice[0]} is defined twice{whose}"
            found.append(Found(definition, Fault(key, "DEFINED_TWICE", message)))
            continue
        kept.append(definition)
        known |= {(definition.kind, name): definition for name in names}
    return kept, found


def _sensitivity(catalogue: Catalogue) -> Iterator[Found]:
    """Whoever reads something is at least as sensitive."""
    for definition in catalogue.definitions:
        worst = max(reads(definition, catalogue), key=lambda tag: tag.sensitivity.rank, default=definition)
        if worst.sensitivity.rank > definition.sensitivity.rank:
            whose = worst.name if worst.kind is definition.kind else f"{worst.kind.name.lower()}.{worst.name}"
            message = (
                f"is {definition.sensitivity.value} but built on {whose}, which is {worst.sensitivity.value}:"
                f" write sensitivity: {worst.sensitivity.value}"
            )
            at = max(0, definition.expression.find(worst.name)) + 1
            yield Found(definition, Fault("expression", "SENSITIVITY", message, at))


def _retention(definitions: Sequence[TagDefinition]) -> Iterator[Found]:
    """An expression may ask for more than is kept; then what is kept counts."""
    for definition in definitions:
        days = definition.retention_days
        if not days or not isinstance(definition.origin, FromEvents):
            continue
        written = parse_aggregate(definition.expression)
        if written is None or written.window is None:
            continue
        window_days = written.window.steps * written.window.step_us / 1e6 / DAY
        if window_days > days:
            message = f"looks back {math.ceil(window_days)} days, but keeps {days}"
            yield Found(definition, Fault("retention_days", "WINDOW_PAST_RETENTION", message, is_warning=True))


def _equals(catalogue: Catalogue, compiled: dict[Kind, list[Definition]]) -> Iterator[Found]:
    """Business tags that say the same, and those that only repeat another tag; and base tags with one expression."""
    seen: dict[tuple[Kind, object], str] = {}
    expressions: list[tuple[TagDefinition, object]] = [
        (catalogue.of(kind)[each.name], each.expression) for kind in Kind for each in compiled[kind]
    ]
    expressions += [(d, (d.type, d.origin)) for d in catalogue.definitions if isinstance(d.origin, FromEvents)]
    for definition, expression in expressions:
        other = seen.setdefault((definition.kind, expression), definition.name)
        if other != definition.name:
            yield Found(definition, Fault("expression", "SAME_AS", f"says the same as {other}", 1, is_warning=True))
