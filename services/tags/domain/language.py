"""SQL text to typed tree: sqlglot reads the grammar, this module keeps to the part that we promise and checks types.

Errors carry a reason, a position (1-based character of the text) and, for an unknown tag, the nearest names.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokens import TokenType  # type: ignore[attr-defined]  # re-exported without saying so

from services.tags.domain.catalogue import Catalogue, Kind, TagDefinition, TagType, Value
from services.tags.domain.terms import (
    And,
    Case,
    Compares,
    Constant,
    Equals,
    Holds,
    IsMissing,
    IsTruth,
    Not,
    Operator,
    Or,
    Related,
    Term,
)

MAX_CHARACTERS = 20_000
MAX_TERMS = 1_000
MAX_DEPTH = 32
_ORDER: Mapping[type[exp.Expression], tuple[Operator, Operator]] = {
    exp.LT: ("<", ">"),
    exp.LTE: ("<=", ">="),
    exp.GT: (">", "<"),
    exp.GTE: (">=", "<="),
}
Read = TypeVar("Read")
_TIMES = {exp.DataType.Type.DATE, exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPTZ}


class LanguageError(ValueError):
    """A predicate that can never run."""

    def __init__(self, reason: str, message: str, position: int = 1) -> None:
        super().__init__(f"{message} (at character {position})")
        self.reason, self.position = reason, position


def parse_predicate(text: str, kind: Kind, catalogue: Catalogue) -> Term:
    """A predicate over entities of a kind; empty text is TRUE. Raises LanguageError."""
    if not text.strip():
        return Constant(True)
    return _guarded(text, kind, catalogue, _Reader.whole)


def parse_expression(text: str, kind: Kind, catalogue: Catalogue) -> Term | Case:
    """A business tag's definition: a predicate or a CASE of constants. Raises LanguageError."""
    return _guarded(text, kind, catalogue, _Reader.whole_or_case)


def seconds(text: str) -> float:
    """An ISO 8601 date or moment as seconds since the epoch; without an offset it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _guarded(text: str, kind: Kind, catalogue: Catalogue, read: Callable[[_Reader, exp.Expression], Read]) -> Read:
    if len(text) > MAX_CHARACTERS:
        raise LanguageError("TOO_COMPLEX", f"longer than {MAX_CHARACTERS} characters", MAX_CHARACTERS)
    try:
        _check_nesting(text)
        trees = sqlglot.parse(text, dialect="postgres")
        if len(trees) != 1 or not isinstance(trees[0], exp.Expression):
            raise LanguageError("SYNTAX", "expected one predicate")
        return read(_Reader(kind, catalogue), trees[0])
    except ParseError as error:
        first = error.errors[0] if error.errors else {}
        position = _offset(text, first.get("line"), first.get("col"))
        # Its own texts quote its classes; the position says more.
        raise LanguageError("SYNTAX", "this is not a predicate", position) from None
    except TokenError:
        raise LanguageError("SYNTAX", "a quotation or character that does not end") from None
    except RecursionError:
        raise LanguageError("TOO_COMPLEX", "nested too deeply") from None


def _check_nesting(text: str) -> None:
    """sqlglot recurses once per parenthesis, CASE or prefix operator, so depth is refused before it parses."""
    depth = prefixes = 0
    for token in sqlglot.tokenize(text, dialect="postgres"):
        depth += (token.token_type in (TokenType.L_PAREN, TokenType.CASE)) - (
            token.token_type in (TokenType.R_PAREN, TokenType.END)
        )
        prefixes = prefixes + 1 if token.token_type in (TokenType.NOT, TokenType.DASH, TokenType.TILDE) else 0
        if depth > MAX_DEPTH or prefixes > MAX_DEPTH:
            raise LanguageError("TOO_COMPLEX", f"nested more than {MAX_DEPTH} deep", token.start + 1)


def _offset(text: str, line: int | None, column: int | None) -> int:
    if not line or not column:
        return 1
    return sum(len(part) for part in text.splitlines(keepends=True)[: line - 1]) + column


class _Reader:
    """Turns one sqlglot tree into one typed tree over the tags of one kind."""

    def __init__(self, kind: Kind, catalogue: Catalogue, inside_any: bool = False) -> None:
        self._kind, self._catalogue, self._inside_any = kind, catalogue, inside_any
        self._tags = catalogue.of(kind)
        self._terms = 0

    def whole(self, tree: exp.Expression) -> Term:
        return self.term(tree, 0)

    def whole_or_case(self, tree: exp.Expression) -> Term | Case:
        return self.case(tree) if isinstance(tree, exp.Case) else self.term(tree, 0)

    def case(self, tree: exp.Case) -> Case:
        if tree.this is not None:
            raise _error("SYNTAX", "write CASE WHEN condition THEN constant", tree)
        branches = tuple((self.term(branch.this, 1), _constant(branch.args["true"])) for branch in tree.args["ifs"])
        default = tree.args.get("default")
        otherwise = None if default is None or isinstance(default, exp.Null) else _constant(default)
        kinds = {type(value) for _, value in branches} | ({type(otherwise)} if otherwise is not None else set())
        if len(kinds) != 1:
            raise _error("TYPE_MISMATCH", "all results of CASE must have one type", tree)
        return Case(branches, otherwise)

    def term(self, tree: exp.Expression, depth: int) -> Term:  # noqa: C901, PLR0911, PLR0912  # one arm per form of the grammar
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise _error("TOO_COMPLEX", f"more than {MAX_TERMS} terms", tree)
        if depth > MAX_DEPTH:
            raise _error("TOO_COMPLEX", f"nested more than {MAX_DEPTH} deep", tree)
        match tree:
            case exp.Paren():
                return self.term(tree.this, depth + 1)
            case exp.And():
                return And(tuple(self.term(part, depth + 1) for part in _parts(tree)))
            case exp.Or():
                return Or(tuple(self.term(part, depth + 1) for part in _parts(tree)))
            case exp.Not():
                return Not(self.term(tree.this, depth + 1))
            case exp.Boolean():
                return Constant(bool(tree.this))
            case exp.Column():
                return self._holds(tree)
            case exp.EQ():
                return self._equals(tree, tree.this, tree.expression, depth)
            case exp.NEQ():
                return Not(self._equals(tree, tree.this, tree.expression, depth))
            case exp.LT() | exp.LTE() | exp.GT() | exp.GTE():
                return self._compares(tree)
            case exp.Between():
                low = self._ordered(tree.this, ">=", tree.args["low"])
                return And((low, self._ordered(tree.this, "<=", tree.args["high"])))
            case exp.In():
                return self._in(tree)
            case exp.Is():
                return self._is(tree, depth)
            case exp.Any():
                return self._any(tree, depth)
        raise _error("UNSUPPORTED", f"{tree.key.upper()} is not part of the language", tree)

    def _tag(self, tree: exp.Expression) -> TagDefinition:
        inner = tree.unnest()
        if not isinstance(inner, exp.Column):
            raise _error("SYNTAX", "expected the name of a tag", tree)
        name = inner.name if inner.this.args.get("quoted") else inner.name.lower()
        if inner.table or name not in self._tags:
            near = difflib.get_close_matches(name, self._tags, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise _error("UNKNOWN_TAG", f"no {self._kind.name.lower()} tag is named {inner.sql()[:80]}{hint}", inner)
        return self._tags[name]

    def _holds(self, tree: exp.Column) -> Term:
        tag = self._tag(tree)
        if tag.type is not TagType.BOOLEAN:
            raise _error("TYPE_MISMATCH", f"{tag.name} is a {tag.type.value}, compare it with something", tree)
        return Holds(tag.name)

    def _equals(self, tree: exp.Expression, left: exp.Expression, right: exp.Expression, depth: int) -> Term:
        if not isinstance(left.unnest(), exp.Column):
            left, right = right, left
        if not isinstance(left.unnest(), exp.Column):
            raise _error("SYNTAX", "compare a tag with a constant", tree)
        tag = self._tag(left)
        if tag.type is TagType.BOOLEAN:
            if not isinstance(right, exp.Boolean):
                raise _error("TYPE_MISMATCH", f"{tag.name} is a boolean, compare it with TRUE or FALSE", tree)
            return Holds(tag.name) if right.this else Not(Holds(tag.name))
        return Equals(tag.name, (self._literal(tag, right),))

    def _compares(self, tree: exp.Expression) -> Term:
        straight, mirrored = _ORDER[type(tree)]
        if isinstance(tree.this.unnest(), exp.Column):
            return self._ordered(tree.this, straight, tree.expression)
        if isinstance(tree.expression.unnest(), exp.Column):
            return self._ordered(tree.expression, mirrored, tree.this)
        raise _error("SYNTAX", "compare a tag with a constant", tree)

    def _ordered(self, left: exp.Expression, operator: Operator, right: exp.Expression) -> Compares:
        tag = self._tag(left)
        value = self._literal(tag, right)
        if isinstance(value, str):
            raise _error("TYPE_MISMATCH", f"{tag.name} is a {tag.type.value}, which has no order", left)
        return Compares(tag.name, operator, value)

    def _in(self, tree: exp.In) -> Term:
        tag = self._tag(tree.this)
        items = tree.expressions
        if not items:
            raise _error("UNSUPPORTED", "IN needs a list of constants", tree)
        self._terms += len(items)
        return Equals(tag.name, tuple(self._literal(tag, item) for item in items))

    def _is(self, tree: exp.Is, depth: int) -> Term:
        if isinstance(tree.expression, exp.Null):
            result: Term = IsMissing(self._tag(tree.this).name)
        elif isinstance(tree.expression, exp.Boolean):
            result = IsTruth(self.term(tree.this, depth + 1), bool(tree.expression.this))
        else:
            raise _error("UNSUPPORTED", "IS takes NULL, TRUE or FALSE", tree)
        return Not(result) if tree.args.get("negate") else result

    def _any(self, tree: exp.Any, depth: int) -> Term:
        other = self._kind.other
        parts = tree.this.expressions if isinstance(tree.this, exp.Tuple) else []
        if len(parts) != 2 or parts[0].name.lower() != other.name.lower():
            raise _error("SYNTAX", f"write ANY({other.name.lower()}, predicate)", tree)
        if self._inside_any:
            raise _error("TOO_COMPLEX", "ANY inside ANY", tree)
        inner = _Reader(other, self._catalogue, inside_any=True)
        inner._terms = self._terms
        term = inner.term(parts[1], depth + 1)
        self._terms = inner._terms
        return Related(other, term)

    def _literal(self, tag: TagDefinition, tree: exp.Expression) -> float | str:
        value = _moment(tree) if tag.type is TagType.TIME else _constant(tree)
        expected = str if tag.type is TagType.CATEGORY else float
        if type(value) is not expected:
            raise _error("TYPE_MISMATCH", f"{tag.name} is a {tag.type.value}, not comparable with {tree.sql()[:80]}", tree)
        return value


def _parts(tree: exp.Connector) -> list[exp.Expression]:
    """Operands of a chain a AND b AND c, which sqlglot nests to the left, parentheses removed."""
    return [part for part in tree.flatten() if isinstance(part, exp.Expression)]


def _constant(tree: exp.Expression) -> Value:
    """A literal as float, str or bool."""
    inner = tree.unnest()
    if isinstance(inner, exp.Neg) and isinstance(number := _constant(inner.this), float):
        return -number
    if isinstance(inner, exp.Boolean):
        return bool(inner.this)
    if isinstance(inner, exp.Literal):
        if inner.is_string:
            return str(inner.this)
        try:
            number = float(inner.this)
        except ValueError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise _error("SYNTAX", f"expected a constant, not {tree.sql()[:80]}", tree)


def _moment(tree: exp.Expression) -> Value | None:
    """'2026-03-01', DATE '…' or TIMESTAMP '…' as seconds since the epoch."""
    inner = tree.unnest()
    if isinstance(inner, exp.Cast) and inner.to.this in _TIMES:
        inner = inner.this
    if not (isinstance(inner, exp.Literal) and inner.is_string):
        return None
    try:
        return seconds(str(inner.this))
    except ValueError:
        raise _error("TYPE_MISMATCH", f"{inner.sql()[:80]} is not an ISO 8601 date or time", tree) from None


def _error(reason: str, message: str, tree: exp.Expression) -> LanguageError:
    starts = [node.meta["start"] for node in tree.walk() if "start" in node.meta]
    return LanguageError(reason, message, min(starts, default=0) + 1)
