"""Predicates and business tags: the language over the tags of one kind of entity."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sqlglot import exp

from services.tags.domain.catalogue import SINGLE, Catalogue, Kind, TagType, related_kinds
from services.tags.domain.language import (
    DAY,
    MAX_DEPTH,
    MAX_TERMS,
    bare,
    before_now,
    conjuncts,
    constant,
    fault,
    interval,
    moment,
    tree_of,
)
from services.tags.domain.names import KIND_WORDS, Named, Names, TagNames, parts_across
from services.tags.domain.terms import (
    And,
    Arithmetic,
    Case,
    Compares,
    Constant,
    Contains,
    CountOf,
    DaysSince,
    Equals,
    Expression,
    Figure,
    Holds,
    IsMissing,
    IsTruth,
    Measures,
    Not,
    Number,
    NumberOf,
    Operator,
    Or,
    Related,
    Since,
    Term,
    Through,
)

MAX_HOPS = 3
_MIRRORED: Mapping[Operator, Operator] = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}
_ORDER: Mapping[type[exp.Expression], Operator] = {exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_ARITHMETIC: Mapping[type[exp.Expression], str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/"}
_AGGREGATES = (exp.Filter, exp.AggFunc)


def parse_predicate(text: str, kind: Kind, catalogue: Catalogue) -> Term:
    """A predicate over entities of a kind; empty text is TRUE. Raises LanguageError."""
    if not text.strip():
        return Constant(True)
    return tree_of(text, lambda tree: Reader(TagNames(kind, catalogue), kind, catalogue).term(tree, 0))


def parse_expression(text: str, kind: Kind, catalogue: Catalogue) -> Expression:
    """A business tag's definition: a predicate, a number or a CASE of constants. Raises LanguageError."""
    return tree_of(text, Reader(TagNames(kind, catalogue), kind, catalogue).expression)


class Reader:
    """Turns one sqlglot tree into one typed tree."""

    def __init__(self, names: Names, kind: Kind, catalogue: Catalogue, hops: int = 0) -> None:
        self._names, self._kind, self._catalogue, self._hops = names, kind, catalogue, hops
        self.terms = 0

    def expression(self, tree: exp.Expression) -> Expression:
        """A CASE, a number or a predicate, whatever the text is."""
        inner = bare(tree)
        if isinstance(inner, exp.Case):
            return self._case(inner)
        if type(inner) in _ARITHMETIC or (isinstance(inner, (exp.Count, exp.Anonymous, exp.Neg)) and self._is_number(inner)):
            return self._number(inner, 0)
        return self.term(tree, 0)

    def term(self, tree: exp.Expression, depth: int) -> Term:  # noqa: C901, PLR0911, PLR0912  # one arm per form of the grammar
        """A predicate."""
        self._count(1, tree)
        if depth > MAX_DEPTH:
            raise fault("TOO_COMPLEX", f"nested more than {MAX_DEPTH} deep", tree)
        match tree:
            case exp.Paren():
                return self.term(tree.this, depth + 1)
            case exp.And():
                return And(tuple(self.term(part, depth + 1) for part in conjuncts(tree)))
            case exp.Or():
                parts = [part for part in tree.flatten() if isinstance(part, exp.Expression)]
                return Or(tuple(self.term(part, depth + 1) for part in parts))
            case exp.Not():
                return Not(self.term(tree.this, depth + 1))
            case exp.Boolean():
                return Constant(bool(tree.this))
            case exp.Column():
                return self._holds(tree)
            case exp.EQ() | exp.NEQ():
                equal = self._compared(tree.this, "=", tree.expression, tree, depth)
                return equal if isinstance(tree, exp.EQ) else Not(equal)
            case exp.LT() | exp.LTE() | exp.GT() | exp.GTE():
                return self._compared(tree.this, _ORDER[type(tree)], tree.expression, tree, depth)
            case exp.Between():
                low = self._compared(tree.this, ">=", tree.args["low"], tree, depth)
                return And((low, self._compared(tree.this, "<=", tree.args["high"], tree, depth)))
            case exp.In():
                return self._in(tree)
            case exp.Is():
                return self._is(tree, depth)
            case exp.Contains():
                return self._contains(tree)
            case exp.Any():
                kind, inner = self._across(tree, "ANY", depth)
                return Related(kind, inner)
            case exp.Anonymous() if tree.name.upper() == "ALL":
                kind, inner = self._across(tree, "ALL", depth)
                return Not(Related(kind, Not(IsTruth(inner, True))))
        if isinstance(tree, _AGGREGATES):
            raise fault("UNSUPPORTED", "an aggregate over events defines a tag by itself: name that tag here", tree)
        raise fault("UNSUPPORTED", f"{tree.key.upper()} is not part of the language", tree)

    def _count(self, terms: int, tree: exp.Expression) -> None:
        self.terms += terms
        if self.terms > MAX_TERMS:
            raise fault("TOO_COMPLEX", f"more than {MAX_TERMS} terms", tree)

    def _case(self, tree: exp.Case) -> Case:
        if tree.this is not None:
            raise fault("SYNTAX", "write CASE WHEN condition THEN constant", tree)
        branches = tuple((self.term(branch.this, 1), constant(branch.args["true"])) for branch in tree.args["ifs"])
        default = tree.args.get("default")
        otherwise = None if default is None or isinstance(default, exp.Null) else constant(default)
        kinds = {type(value) for _, value in branches} | ({type(otherwise)} if otherwise is not None else set())
        if len(kinds) != 1:
            raise fault("TYPE_MISMATCH", "all results of CASE must have one type", tree)
        return Case(branches, otherwise)

    def _through(self, tree: exp.Column) -> tuple[Kind, str, Reader, exp.Expression] | None:
        """For `owner.x`: where it leads, who reads there, and the name without its owner."""
        if not tree.table:
            return None
        names = SINGLE[self._kind]
        if tree.table.lower() not in names:
            known = " or ".join(f"{name}.{tree.name}" for name in names)
            hint = f"; did you mean {known}?" if known else ""
            raise fault("UNKNOWN_TAG", f"no relation of a {self._kind.name.lower()} is named {tree.table[:80]}{hint}", tree)
        kind, relation = names[tree.table.lower()]
        name = exp.Column(this=tree.this.copy())
        name.meta.update(tree.meta)
        return kind, relation, self._reader(kind, tree), name

    def _reader(self, kind: Kind, tree: exp.Expression) -> Reader:
        if self._hops >= MAX_HOPS:
            raise fault("TOO_COMPLEX", f"more than {MAX_HOPS} relations deep", tree)
        other = Reader(TagNames(kind, self._catalogue), kind, self._catalogue, self._hops + 1)
        other.terms = self.terms
        return other

    def _holds(self, tree: exp.Column) -> Term:
        if led := self._through(tree):
            kind, relation, reader, name = led
            return Through(kind, relation, reader.term(name, 1))
        tag = self._names.find(tree, TagType.BOOLEAN)
        if tag.type is not TagType.BOOLEAN:
            raise fault("TYPE_MISMATCH", f"{tag.name} is a {tag.type.value}, compare it with something", tree)
        return Holds(tag.name) if tag.view is None else tag.view  # type: ignore[return-value]  # a boolean view is a term

    def _compared(
        self, left: exp.Expression, operator: Operator, right: exp.Expression, whole: exp.Expression, depth: int
    ) -> Term:
        one, other = bare(left), bare(right)
        if isinstance(other, exp.Column) and not isinstance(one, exp.Column) and not self._is_number(one):
            one, other, operator = other, one, _MIRRORED[operator]
        if (
            isinstance(one, exp.Sub)
            and isinstance(bare(one.this), exp.CurrentTimestamp)
            and (age := interval(other)) is not None
        ):
            return self._aged(one.expression, operator, age)
        if isinstance(one, exp.Column):
            if led := self._through(one):
                kind, relation, reader, name = led
                inner = reader._compared(name, operator, other, whole, depth)
                self.terms = reader.terms
                return Through(kind, relation, inner)
            if not self._is_number(other):
                return self._simple(one, operator, other)
            value = _figure(other)
            if value is not None:
                return self._simple(one, operator, other)
        elif not self._is_number(one) or not self._is_number(other):
            for side in (one, other):
                if isinstance(side, _AGGREGATES):
                    self.term(side, depth)
            raise fault("SYNTAX", "compare a tag with a constant", whole)
        return _measured(self._number(one, depth), operator, self._number(other, depth))

    def _simple(self, left: exp.Expression, operator: Operator, right: exp.Expression) -> Term:
        """A tag against a constant or a moment before now."""
        if (ago := before_now(right)) is not None:
            return self._aged(left, _MIRRORED[operator], ago)
        literal = bare(right)
        number = _figure(literal)
        wanted = TagType.BOOLEAN if isinstance(literal, exp.Boolean) else TagType.NUMBER if number is not None else None
        tag = self._names.find(left, wanted or TagType.CATEGORY)
        if tag.type is TagType.BOOLEAN:
            if not isinstance(literal, exp.Boolean) or operator != "=":
                raise fault("TYPE_MISMATCH", f"{tag.name} is a boolean, compare it with TRUE or FALSE", left)
            held = self._holds(bare(left))  # type: ignore[arg-type]
            return held if literal.this else Not(held)
        value = self._literal(tag, right)
        if tag.view is not None:
            return _measured(tag.view, operator, Figure(value))  # type: ignore[arg-type]  # a number view is a number
        if operator == "=":
            return Equals(tag.name, (value,))
        if isinstance(value, str):
            raise fault("TYPE_MISMATCH", f"{tag.name} is a {tag.type.value}, which has no order", left)
        return Compares(tag.name, operator, value)

    def _aged(self, tree: exp.Expression, operator: Operator, age: float) -> Term:
        column = bare(tree)
        if isinstance(column, exp.Column) and (led := self._through(column)):
            kind, relation, reader, name = led
            return Through(kind, relation, reader._aged(name, operator, age))
        tag = self._names.find(tree, TagType.TIME)
        if tag.type is not TagType.TIME:
            raise fault("TYPE_MISMATCH", f"{tag.name} is a {tag.type.value}, only a time has an age", tree)
        if operator == "=":
            raise fault("UNSUPPORTED", "an age to the microsecond never comes true; use <, <=, > or >=", tree)
        return Since(tag.name, operator, age)

    def _in(self, tree: exp.In) -> Term:
        items = tree.expressions
        if not items:
            raise fault("UNSUPPORTED", "IN needs a list of constants", tree)
        self._count(len(items), tree)
        column = bare(tree.this)
        if isinstance(column, exp.Column) and (led := self._through(column)):
            kind, relation, reader, name = led
            inner = tree.copy()
            inner.set("this", name)
            return Through(kind, relation, reader.term(inner, 1))
        wanted = TagType.NUMBER if _figure(bare(items[0])) is not None else TagType.CATEGORY
        tag = self._names.find(tree.this, wanted)
        values = tuple(self._literal(tag, item) for item in items)
        if tag.view is not None:
            return Or(tuple(_measured(tag.view, "=", Figure(value)) for value in values))  # type: ignore[arg-type]
        return Equals(tag.name, values)

    def _is(self, tree: exp.Is, depth: int) -> Term:
        if isinstance(tree.expression, exp.Null):
            result = self._missing(tree.this)
        elif isinstance(tree.expression, exp.Boolean):
            result = IsTruth(self.term(tree.this, depth + 1), bool(tree.expression.this))
        else:
            raise fault("UNSUPPORTED", "IS takes NULL, TRUE or FALSE", tree)
        return Not(result) if tree.args.get("negate") else result

    def _missing(self, tree: exp.Expression) -> Term:
        column = bare(tree)
        if isinstance(column, exp.Column) and (led := self._through(column)):
            kind, relation, reader, name = led
            # Missing, too, where nobody stands in that relation.
            return Not(IsTruth(Through(kind, relation, reader._missing(name)), False))
        tag = self._names.find(tree, None)
        if tag.view is None:
            return IsMissing(tag.name)
        if tag.type is TagType.NUMBER:
            return Not(IsTruth(Measures(tag.view, "=", tag.view), True))  # type: ignore[arg-type]
        return And((Not(IsTruth(tag.view, True)), Not(IsTruth(tag.view, False))))  # type: ignore[arg-type]

    def _contains(self, tree: exp.Contains) -> Term:
        column = bare(tree.this)
        if isinstance(column, exp.Column) and (led := self._through(column)):
            kind, relation, reader, name = led
            inner = tree.copy()
            inner.set("this", name)
            return Through(kind, relation, reader._contains(inner))
        tag = self._names.find(tree.this, TagType.SET)
        if tag.type is not TagType.SET:
            raise fault("TYPE_MISMATCH", f"{tag.name} is a {tag.type.value}, CONTAINS asks sets", tree)
        if tree.args.get("json_scope") is not None:
            raise fault(
                "UNSUPPORTED", f"one word at a time: CONTAINS({tag.name}, 'one') OR CONTAINS({tag.name}, 'other')", tree
            )
        word = constant(tree.expression)
        if not isinstance(word, str):
            raise fault("TYPE_MISMATCH", f"{tag.name} holds words, write CONTAINS({tag.name}, 'word')", tree)
        return Contains(tag.name, (word,))

    def _across(self, tree: exp.Expression, word: str, depth: int) -> tuple[Kind, Term]:
        parts = parts_across(tree)
        others = related_kinds(self._kind)
        named = bare(parts[0]).name.lower() if parts and isinstance(bare(parts[0]), exp.Column) else ""
        kind = KIND_WORDS.get(named)
        if len(parts) not in ((1, 2) if word == "COUNT" else (2,)) or kind not in others:
            choice = ", ".join(f"{word}({other.name.lower()}, predicate)" for other in others)
            raise fault("SYNTAX", f"write {choice}", tree)
        assert kind is not None  # noqa: S101  # it is in `others`
        if len(parts) == 1:
            return kind, Constant(True)
        reader = self._reader(kind, tree)
        inner = reader.term(parts[1], depth + 1)
        self.terms = reader.terms
        return kind, inner

    def _is_number(self, tree: exp.Expression) -> bool:
        """True for what may stand in a calculation; a comparison of a tag with a constant is none."""
        inner = bare(tree)
        return (
            type(inner) in _ARITHMETIC
            or isinstance(inner, (exp.Column, exp.Count, exp.Neg))
            or (isinstance(inner, exp.Literal) and not inner.is_string)
            or (isinstance(inner, exp.Anonymous) and inner.name.upper() == "DAYS_SINCE")
        ) and before_now(inner) is None

    def _number(self, tree: exp.Expression, depth: int) -> Number:  # noqa: C901  # one arm per form
        self._count(1, tree)
        if depth > MAX_DEPTH:
            raise fault("TOO_COMPLEX", f"nested more than {MAX_DEPTH} deep", tree)
        inner = bare(tree)
        if (figure := _figure(inner)) is not None:
            return Figure(figure)
        if (sign := _ARITHMETIC.get(type(inner))) is not None:
            left, right = self._number(inner.this, depth + 1), self._number(inner.expression, depth + 1)
            if sign == "/" and right == Figure(0.0):
                raise fault("DIVISION_BY_ZERO", "division by zero", tree)
            return Arithmetic(sign, left, right)  # type: ignore[arg-type]
        if isinstance(inner, exp.Neg):
            return Arithmetic("-", Figure(0.0), self._number(inner.this, depth + 1))
        if isinstance(inner, exp.Count):
            return CountOf(*self._across(inner, "COUNT", depth))
        if isinstance(inner, exp.Anonymous) and inner.name.upper() == "DAYS_SINCE" and len(inner.expressions) == 1:
            tag = self._names.find(inner.expressions[0], TagType.TIME)
            if tag.type is TagType.TIME:
                return DaysSince(tag.name)
            raise fault("TYPE_MISMATCH", f"{tag.name} is a {tag.type.value}, DAYS_SINCE asks times", tree)
        if not isinstance(inner, exp.Column):
            raise fault("SYNTAX", f"expected a number, not {tree.sql()[:80]}", tree)
        if inner.table:
            raise fault("UNSUPPORTED", f"compare {inner.sql()[:80]} with a constant", tree)
        tag = self._names.find(inner, TagType.NUMBER)
        if tag.type is not TagType.NUMBER:
            raise fault("TYPE_MISMATCH", f"{tag.name} is a {tag.type.value}, one calculates with numbers", tree)
        return NumberOf(tag.name) if tag.view is None else tag.view  # type: ignore[return-value]

    def _literal(self, tag: Named, tree: exp.Expression) -> float | str:
        value = moment(tree) if tag.type is TagType.TIME else constant(tree)
        expected = str if tag.type is TagType.CATEGORY else float
        if tag.type in (TagType.SET, TagType.TEXT) or type(value) is not expected:
            hint = ", use CONTAINS" if tag.type is TagType.SET else ""
            raise fault("TYPE_MISMATCH", f"{tag.name} is a {tag.type.value}, not comparable with {tree.sql()[:80]}{hint}", tree)
        return value


def _figure(tree: exp.Expression) -> float | None:
    """A number that is written out; None for anything else."""
    inner = bare(tree)
    if isinstance(inner, exp.Neg):
        number = _figure(inner.this)
        return None if number is None else -number
    if isinstance(inner, exp.Literal) and not inner.is_string:
        value = constant(inner)
        return value if isinstance(value, float) else None
    return None


def _measured(left: Number, operator: Operator, right: Number) -> Term:  # noqa: PLR0911  # one arm per operator
    """A comparison of numbers, in its simplest form: whole days since are an age."""
    if isinstance(left, DaysSince) and isinstance(right, Figure) and right.number == math.floor(right.number):
        days = right.number
        match operator:
            case ">=":
                return Since(left.tag, ">=", days * DAY)
            case ">":
                return Since(left.tag, ">=", (days + 1) * DAY)
            case "<":
                return Since(left.tag, "<", days * DAY)
            case "<=":
                return Since(left.tag, "<", (days + 1) * DAY)
            case "=":
                return And((Since(left.tag, ">=", days * DAY), Since(left.tag, "<", (days + 1) * DAY)))
    if isinstance(left, Figure) and not isinstance(right, Figure):
        return _measured(right, _MIRRORED[operator], left)
    if isinstance(left, NumberOf) and isinstance(right, Figure):
        return Equals(left.tag, (right.number,)) if operator == "=" else Compares(left.tag, operator, right.number)
    return Measures(left, operator, right)
