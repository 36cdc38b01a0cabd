"""One definition as it is written (a mapping, be it from YAML, JSON or a call) and as the domain knows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, Final, TypeVar

from sqlglot.dialects.postgres import Postgres

from services.tags.catalogue.mistakes import Fault, nearest
from services.tags.domain.aggregates import RESULTS, TAKES, parse_aggregate
from services.tags.domain.catalogue import (
    Aggregate,
    Conflict,
    FromEvents,
    FromImport,
    FromScore,
    FromTags,
    Kind,
    Sensitivity,
    TagDefinition,
    TagType,
    Window,
)
from services.tags.domain.language import DAY, LanguageError
from services.tags.domain.names import names_in

Body = Mapping[str, Any]
Origin = FromEvents | FromScore | FromImport | FromTags
SOURCES: Final = ("expression", "score", "import")
KEYS: Final = (
    *("type", "title", "description", "folder", "owner", "words", "sensitivity", "retention_days", "version"),
    *(*SOURCES, "conflict"),
)
_KEYWORDS: Final = frozenset(word.lower() for word in Postgres.Tokenizer.KEYWORDS) | {"true", "false", "null", "any", "all"}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
# How long text may be in PostgreSQL, on a screen, in a call.
_LONGEST: Final = {"title": 100, "description": 2000, "folder": 100, "owner": 100, "score": 100}
_MOST_WORDS: Final = 50
E = TypeVar("E", bound=Enum)


def define(kind: Kind, name: str, body: Body) -> tuple[TagDefinition | None, list[Fault]]:
    """The definition, and all that is wrong with it by itself; None when that is too much to make one."""
    faults = _shape(name, body)
    tag_type = _member(TagType, body, "type", None, faults)
    sensitivity = _member(Sensitivity, body, "sensitivity", Sensitivity.INTERNAL, faults)
    given = [key for key in SOURCES if body.get(key) not in (None, "", [])]
    if len(given) != 1:
        faults.append(Fault(given[1] if given else "", "SOURCE", "needs exactly one of expression, score, import"))
    origin = _origin(kind, tag_type, given[0], body, faults) if len(given) == 1 and tag_type else None
    if tag_type is None or sensitivity is None or origin is None or any(not fault.is_warning for fault in faults):
        return None, faults
    return TagDefinition(
        kind,
        name,
        tag_type,
        _text(body, "description"),
        origin,
        _text(body, "expression"),
        title=_text(body, "title"),
        folder=_text(body, "folder"),
        owner=_text(body, "owner"),
        words=tuple(body.get("words") or ()),
        sensitivity=sensitivity,
        retention_days=body.get("retention_days") or 0,
        version=body.get("version") or 1,
    ), faults


def body_of(definition: TagDefinition) -> dict[str, Any]:
    """A definition as it would be written; `define` makes the same of it again."""
    body: dict[str, Any] = {"type": definition.type.value, "description": definition.description}
    match definition.origin:
        case FromScore(model):
            body["score"] = model
        case FromImport(partners, conflict):
            body["import"], body["conflict"] = list(partners), conflict.value
        case _:
            body["expression"] = definition.expression
    body |= {key: text for key in ("title", "folder", "owner") if (text := getattr(definition, key))}
    if definition.words:
        body["words"] = list(definition.words)
    body["sensitivity"] = definition.sensitivity.value
    if definition.retention_days:
        body["retention_days"] = definition.retention_days
    return body


def _shape(name: str, body: Body) -> list[Fault]:
    """Faults of names and values, without what stands in expressions."""
    faults = [
        Fault(str(key), "UNKNOWN_KEY", f"there is no key {key}{nearest(str(key), KEYS)}") for key in body if key not in KEYS
    ]
    if not _NAME.match(name):
        message = "a name is lower case letters, digits and _, at most 63, beginning with a letter"
        faults.append(Fault("name", "NAME", message))
    elif not _is_a_name(name):
        faults.append(Fault("name", "NAME", f"{name} is a word of the language"))
    faults += [Fault(key, "WRONG_VALUE", message) for key, message in _wrong_values(body)]
    if not _text(body, "description").strip():
        faults.append(Fault("description", "NO_DESCRIPTION", "needs a description"))
    if not body.get("title"):
        faults.append(Fault("", "NO_TITLE", "has no title: business people will not find it", is_warning=True))
    return faults


def _wrong_values(body: Body) -> Iterator[tuple[str, str]]:
    """Keys whose value is of the wrong form, and which form it should have."""
    for key, longest in _LONGEST.items():
        value = body.get(key)
        if value is not None and (not isinstance(value, str) or len(value) > longest):
            yield key, f"{key} is a text of at most {longest} characters"
    words = body.get("words") or []
    if not isinstance(words, list) or len(words) > _MOST_WORDS or not all(isinstance(word, str) and word for word in words):
        yield "words", f"words is a list of at most {_MOST_WORDS} words"
    for key in ("retention_days", "version"):
        value = body.get(key) or 0
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            yield key, f"{key} is a whole number, 0 or more"
    if "conflict" in body and "import" not in body:
        yield "conflict", "conflict belongs beside import"
    if not isinstance(body.get("expression", ""), str):
        yield "expression", "an expression is a text"


def _is_a_name(name: str) -> bool:
    """False for words that mean something else in SQL: nobody could ask for such a tag."""
    if name not in _KEYWORDS:
        return True
    try:
        return names_in(name, Kind.PERSON) == {(Kind.PERSON, name)}
    except LanguageError:
        return False


def _origin(kind: Kind, tag_type: TagType, key: str, body: Body, faults: list[Fault]) -> Origin | None:
    if key == "score":
        if tag_type not in (TagType.NUMBER, TagType.CATEGORY) or kind is not Kind.PERSON:
            faults.append(Fault("type", "TYPE_MISMATCH", "a score is a number, or a category, of a person"))
        return FromScore(_text(body, "score"))
    if key == "import":
        partners = body["import"] if isinstance(body["import"], list) else [body["import"]]
        if not all(isinstance(partner, str) and partner for partner in partners):
            faults.append(Fault("import", "WRONG_VALUE", "import is a partner's name, or a list of them"))
        conflict = _member(Conflict, body, "conflict", Conflict.NEWEST, faults)
        return FromImport(tuple(map(str, partners)), conflict) if conflict else None
    origin = _of_expression(kind, tag_type, _text(body, "expression"), faults)
    days = body.get("retention_days")
    return _kept(origin, days) if isinstance(origin, FromEvents) and isinstance(days, int) and days > 0 else origin


def _of_expression(kind: Kind, tag_type: TagType, expression: str, faults: list[Fault]) -> Origin | None:
    try:
        origin = parse_aggregate(expression)
    except LanguageError as error:
        faults.append(of_language(error))
        return None
    if origin is None:
        return FromTags()
    if kind not in (Kind.PERSON, Kind.VEHICLE):
        message = f"events are about persons and vehicles: a {kind.name.lower()} has tags over those that are related to it"
        faults.append(Fault("expression", "UNSUPPORTED", message, 1))
    elif wrong := _wrong_type(origin, tag_type):
        faults.append(Fault("expression", "TYPE_MISMATCH", wrong, 1))
    return origin


def _kept(origin: FromEvents, days: int) -> FromEvents:
    """What is past its retention counts no more: that is a window, whether or not the expression has a longer one or none."""
    kept, own = Window.of(days * DAY), origin.window
    if own is not None and own.steps * own.step_us <= kept.steps * kept.step_us:
        return origin
    return replace(origin, window=kept)


def _wrong_type(origin: FromEvents, tag_type: TagType) -> str:
    """Why an aggregate does not give this type; empty when it does."""
    result, takes = RESULTS.get(origin.aggregate), TAKES.get(origin.aggregate, ())
    if tag_type is not result and tag_type not in takes:
        known = result.value if result else " or ".join(each.value for each in takes)
        return f"{origin.aggregate.value} gives {known}, not {tag_type.value}"
    if origin.field == "$time" and tag_type is not TagType.TIME and origin.aggregate is not Aggregate.DISTINCT:
        return "occurred_at is a time"
    if origin.field == "$source" and tag_type is not TagType.CATEGORY and result is None:
        return "source_name is a category"
    return ""


def of_language(error: LanguageError) -> Fault:
    """An error of the language under the key that it stands in."""
    message = str(error).removesuffix(f" (at character {error.position})")
    return Fault("expression", error.reason, message, error.position)


def _text(body: Body, key: str) -> str:
    value = body.get(key)
    return value if isinstance(value, str) else ""


def _member(enumeration: type[E], body: Body, key: str, default: E | None, faults: list[Fault]) -> E | None:
    given = body.get(key)
    if given is None and default is not None:
        return default
    try:
        return enumeration(given)
    except ValueError:
        choice = [str(member.value) for member in enumeration]
        hint = nearest(str(given), choice) if given is not None else ""
        faults.append(Fault(key, "WRONG_VALUE", f"{key} must be one of {', '.join(choice)}{hint}"))
        return None
