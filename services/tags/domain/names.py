"""What names in the language stand for: tags by name or title, kinds of entities, and who asks whom."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from sqlglot import exp

from services.tags.domain.catalogue import SINGLE, Catalogue, Kind, TagType
from services.tags.domain.language import bare, fault, tree_of
from services.tags.domain.terms import Expression

KIND_WORDS: Mapping[str, Kind] = {
    **{kind.name.lower(): kind for kind in Kind},
    **{"人": Kind.PERSON, "车主": Kind.PERSON, "车辆": Kind.VEHICLE, "家庭": Kind.HOUSEHOLD, "经销商": Kind.DEALER},
}


class Named(NamedTuple):
    """What a name stands for: its canonical name, its type, and its meaning where it crosses relations."""

    name: str
    type: TagType
    view: Expression | None = None


class Names(Protocol):
    """What names mean."""

    def find(self, tree: exp.Expression, wanted: TagType | None) -> Named:
        """The tag or property that a column names. `wanted`: the type that it is compared as, None when any will do."""


def names_in(text: str, kind: Kind) -> set[tuple[Kind, str]]:
    """Names that an expression asks of entities of each kind, whether or not there are such tags. Raises LanguageError."""
    return tree_of(text, lambda tree: set(_names_in(tree, kind)))


def _names_in(tree: exp.Expression, kind: Kind) -> Iterator[tuple[Kind, str]]:
    if isinstance(tree, exp.Column):
        at = SINGLE[kind].get(tree.table.lower(), (kind, ""))[0] if tree.table else kind
        yield at, tree.name if tree.this.args.get("quoted") else tree.name.lower()
        return
    parts = list(tree.iter_expressions())
    across = parts_across(tree)
    if across and (other := KIND_WORDS.get(across[0].name.lower())) is not None:
        kind, parts = other, across[1:]
    for part in parts:
        yield from _names_in(part, kind)


def parts_across(tree: exp.Expression) -> list[exp.Expression]:
    """Arguments of ANY, ALL or COUNT over related entities; empty for anything else."""
    if isinstance(tree, exp.Any) and isinstance(tree.this, exp.Tuple):
        return list(tree.this.expressions)
    if isinstance(tree, exp.Anonymous) and tree.name.upper() == "ALL":
        return list(tree.expressions)
    return [tree.this, *tree.expressions] if isinstance(tree, exp.Count) and isinstance(tree.this, exp.Column) else []


class TagNames:
    """The tags of one kind, by name or title."""

    def __init__(self, kind: Kind, catalogue: Catalogue) -> None:
        self._kind, self._known = kind, catalogue.known_as(kind)
        self._views = catalogue.views[kind]

    def find(self, tree: exp.Expression, wanted: TagType | None) -> Named:
        """Raises LanguageError with the nearest names for one that is not there."""
        inner = bare(tree)
        if not isinstance(inner, exp.Column):
            raise fault("SYNTAX", "expected the name of a tag", tree)
        if inner.table:
            raise fault("UNSUPPORTED", f"{inner.sql()[:80]} can be compared with a constant, no more", inner)
        name = inner.name if inner.this.args.get("quoted") else inner.name.lower()
        tag = self._known.get(name)
        if tag is None and name in ("occurred_at", "event", "source"):
            reason = "WINDOW_WITHOUT_AGGREGATE" if name == "occurred_at" else "UNKNOWN_TAG"
            raise fault(
                reason, f"{name} is an event's: it belongs into the FILTER of an aggregate, which is a tag by itself", inner
            )
        if tag is None:
            near = difflib.get_close_matches(name, self._known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise fault("UNKNOWN_TAG", f"no {self._kind.name.lower()} tag is named {inner.sql()[:80]}{hint}", inner)
        return Named(tag.name, tag.type, self._views.get(tag.name))
