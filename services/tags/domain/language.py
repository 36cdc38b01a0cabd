"""SQL text to typed tree: sqlglot reads the grammar, this room keeps to the part that we promise and checks types.

One grammar for audiences, business tags, journeys' conditions and what counts as an event (`aggregates_of`). Errors carry a
reason, a position (1-based character of the text) and, for an unknown tag, the nearest names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokens import TokenType  # type: ignore[attr-defined]  # re-exported without saying so

from services.tags.domain.catalogue import Value

MAX_CHARACTERS = 20_000
MAX_TERMS = 1_000
MAX_DEPTH = 32
DAY = 86_400.0
# Months and years have one length, so that a window of one means the same in every execution.
UNITS = {"SECOND": 1.0, "MINUTE": 60.0, "HOUR": 3600.0, "DAY": DAY, "WEEK": 7 * DAY, "MONTH": 30 * DAY, "YEAR": 365 * DAY}
_TIMES = {exp.DataType.Type.DATE, exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPTZ}
Read = TypeVar("Read")


class LanguageError(ValueError):
    """A predicate or definition that can never run."""

    def __init__(self, reason: str, message: str, position: int = 1) -> None:
        super().__init__(f"{message} (at character {position})")
        self.reason, self.position = reason, position


def tree_of(text: str, read: Callable[[exp.Expression], Read]) -> Read:
    """What `read` makes of a text's tree. Raises LanguageError, whatever the text."""
    if len(text) > MAX_CHARACTERS:
        raise LanguageError("TOO_COMPLEX", f"longer than {MAX_CHARACTERS} characters", MAX_CHARACTERS)
    try:
        _check_nesting(text)
        trees = sqlglot.parse(text, dialect="postgres")
        if len(trees) != 1 or not isinstance(trees[0], exp.Expression):
            raise LanguageError("SYNTAX", "expected one expression")
        return read(trees[0])
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


def bare(tree: exp.Expression) -> exp.Expression:
    """A tree without the parentheses around it."""
    return tree.unnest()  # type: ignore[return-value]  # typed as any node of theirs


def fault(reason: str, message: str, tree: exp.Expression) -> LanguageError:
    """An error at the place of a tree."""
    starts = [node.meta["start"] for node in tree.walk() if "start" in node.meta]
    return LanguageError(reason, message, min(starts, default=0) + 1)


def constant(tree: exp.Expression) -> Value:
    """A literal as float, str or bool."""
    inner = bare(tree)
    if isinstance(inner, exp.Neg) and isinstance(number := constant(inner.this), float):
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
    raise fault("SYNTAX", f"expected a constant, not {tree.sql()[:80]}", tree)


def seconds(text: str) -> float:
    """An ISO 8601 date or moment as seconds since the epoch; without an offset it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def moment(tree: exp.Expression) -> float | None:
    """'2026-03-01', DATE '…' or TIMESTAMP '…' as seconds since the epoch; None for anything else."""
    inner = bare(tree)
    if isinstance(inner, exp.Cast) and inner.to.this in _TIMES:
        inner = inner.this
    if not (isinstance(inner, exp.Literal) and inner.is_string):
        return None
    try:
        return seconds(str(inner.this))
    except (ValueError, OverflowError):
        raise fault("TYPE_MISMATCH", f"{inner.sql()[:80]} is not an ISO 8601 date or time", tree) from None


def interval(tree: exp.Expression) -> float | None:
    """INTERVAL '30 days' in seconds; None for anything else."""
    inner = bare(tree)
    if not isinstance(inner, exp.Interval):
        return None
    unit = str(inner.unit.name if inner.unit is not None else "").upper().removesuffix("S")
    try:
        length = float(inner.this.name) * UNITS[unit] if inner.this is not None else math.nan
    except (KeyError, ValueError):
        length = math.nan
    if not math.isfinite(length):
        raise fault("SYNTAX", "write INTERVAL '30 days', in seconds, minutes, hours, days, weeks, months or years", tree)
    return length


def before_now(tree: exp.Expression) -> float | None:
    """NOW(), NOW() - INTERVAL '…' or NOW() + INTERVAL '…' as seconds before now; None for anything else."""
    inner = bare(tree)
    if isinstance(inner, exp.CurrentTimestamp):
        return 0.0
    if isinstance(inner, (exp.Sub, exp.Add)) and isinstance(bare(inner.this), exp.CurrentTimestamp):
        length = interval(inner.expression)
        if length is not None:
            return length if isinstance(inner, exp.Sub) else -length
    return None


def conjuncts(tree: exp.Expression) -> list[exp.Expression]:
    """Operands of a chain a AND b AND c, which sqlglot nests to the left, parentheses around it removed."""
    inner = bare(tree)
    if not isinstance(inner, exp.And):
        return [inner]
    return [part for part in inner.flatten() if isinstance(part, exp.Expression)]
