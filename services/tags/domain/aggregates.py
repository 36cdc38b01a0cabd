"""Base tags in the language: one SQL aggregate over an entity's events.

`SUM(amount) FILTER (WHERE event = 'Order Placed' AND model = 'X5' AND occurred_at > NOW() - INTERVAL '30 days')`. Names are
properties as they are written; `event`, `source`, `source_name` (what stands behind the source's colon) and `occurred_at` are
the event's own. What follows from them is the only place where an event may be asked for its time.
"""

from __future__ import annotations

from sqlglot import exp

from services.tags.domain.catalogue import Aggregate, Catalogue, FromEvents, Kind, TagType, Window
from services.tags.domain.language import bare, before_now, conjuncts, fault, tree_of
from services.tags.domain.names import Named
from services.tags.domain.predicates import Reader
from services.tags.domain.terms import And

OWN = ("event", "source", "source_name", "occurred_at")
_FUNCTIONS: dict[type[exp.Expression], Aggregate] = {
    exp.Last: Aggregate.LAST,
    exp.First: Aggregate.FIRST,
    exp.Sum: Aggregate.SUM,
    exp.Avg: Aggregate.AVG,
    exp.Min: Aggregate.MIN,
    exp.Max: Aggregate.MAX,
    exp.ArrayAgg: Aggregate.VALUES,
    exp.LogicalOr: Aggregate.ANY,
}
# The type of a tag that an aggregate alone decides; the others take the type of what they are given.
RESULTS = {
    Aggregate.COUNT: TagType.NUMBER,
    Aggregate.SUM: TagType.NUMBER,
    Aggregate.AVG: TagType.NUMBER,
    Aggregate.DISTINCT: TagType.NUMBER,
    Aggregate.VALUES: TagType.SET,
    Aggregate.ANY: TagType.BOOLEAN,
}
TAKES = {
    Aggregate.MIN: (TagType.NUMBER, TagType.TIME),
    Aggregate.MAX: (TagType.NUMBER, TagType.TIME),
    Aggregate.LAST: (TagType.NUMBER, TagType.TIME, TagType.CATEGORY, TagType.BOOLEAN, TagType.TEXT),
    Aggregate.FIRST: (TagType.NUMBER, TagType.TIME, TagType.CATEGORY, TagType.BOOLEAN, TagType.TEXT),
}
_NOTHING = Catalogue(())


def parse_aggregate(text: str) -> FromEvents | None:
    """What an aggregate over events takes from which; None for a text that is another expression. Raises LanguageError."""
    return tree_of(text, _aggregate)


class _Properties:
    """The properties of one event: any name, of the type that it is compared as."""

    def find(self, tree: exp.Expression, wanted: TagType | None) -> Named:
        inner = bare(tree)
        if not isinstance(inner, exp.Column) or inner.table:
            raise fault("SYNTAX", "expected the name of a property", tree)
        if inner.name in OWN:
            raise fault("UNSUPPORTED", f"{inner.name} stands by itself, joined to the rest by AND", tree)
        if wanted in (TagType.TIME, TagType.SET):
            raise fault("UNSUPPORTED", "a property is compared with a number, a word, TRUE or FALSE", tree)
        return Named(inner.name, wanted or TagType.CATEGORY)


def _aggregate(tree: exp.Expression) -> FromEvents | None:
    whole = bare(tree)
    filtered = isinstance(whole, exp.Filter)
    function = whole.this if filtered else whole
    aggregate, given = _function(function)
    if aggregate is None:
        if filtered or any(isinstance(part, exp.Filter) for part in tree.walk()):
            raise fault("UNSUPPORTED", "an aggregate stands by itself; build on it in a tag of its own", tree)
        return None
    events: frozenset[str] = frozenset()
    source: str | None = None
    window: Window | None = None
    others = []
    for part in conjuncts(whole.expression.this) if filtered else ():
        match _own(part):
            case "event" if not events:
                events = _events(part)
            case "source" if source is None:
                source = _source(part)
            case "occurred_at" if window is None:
                window = _window(part)
            case None:
                others.append(part)
            case name:
                raise fault("UNSUPPORTED", f"{name} is asked twice", part)
    reader = Reader(_Properties(), Kind.PERSON, _NOTHING)
    terms = tuple(reader.term(part, 1) for part in others)
    condition = None if not terms else terms[0] if len(terms) == 1 else And(terms)
    field = _field(given, function)
    if field == "$source" and not (source or "").endswith("*"):
        raise fault("UNSUPPORTED", "source_name needs source LIKE 'prefix:%' beside it", function)
    return FromEvents(aggregate, events, source, field, condition, window)


def _function(tree: exp.Expression) -> tuple[Aggregate | None, exp.Expression | None]:
    """The aggregate that a function is, and what it is given."""
    if isinstance(tree, exp.Count):
        if isinstance(tree.this, exp.Distinct):
            return Aggregate.DISTINCT, _only(tree.this)
        # COUNT(vehicle, …) counts related entities.
        return (Aggregate.COUNT, None) if isinstance(tree.this, exp.Star) else (None, None)
    aggregate = _FUNCTIONS.get(type(tree))
    if aggregate is None:
        return None, None
    given = tree.this
    if aggregate is Aggregate.VALUES:
        if not isinstance(given, exp.Distinct):
            raise fault("UNSUPPORTED", "write ARRAY_AGG(DISTINCT property)", tree)
        given = _only(given)
    return aggregate, given


def _only(tree: exp.Distinct) -> exp.Expression:
    if len(tree.expressions) != 1:
        raise fault("UNSUPPORTED", "DISTINCT of one property", tree)
    return tree.expressions[0]  # type: ignore[no-any-return]


def _field(given: exp.Expression | None, function: exp.Expression) -> str | None:
    inner = bare(given) if given is not None else None
    if inner is None or (isinstance(inner, exp.Boolean) and inner.this and isinstance(function, exp.LogicalOr)):
        return None
    if not isinstance(inner, exp.Column) or inner.table:
        raise fault("UNSUPPORTED", "an aggregate takes one property", function)
    if inner.name in ("event", "source"):
        raise fault("UNSUPPORTED", f"{inner.name} is no property", function)
    return {"occurred_at": "$time", "source_name": "$source"}.get(inner.name, inner.name)


def _own(tree: exp.Expression) -> str | None:
    """Which of an event's own columns a conjunct asks; None for properties."""
    for side in (tree.this, tree.args.get("expression")):
        inner = bare(side) if isinstance(side, exp.Expression) else None
        if isinstance(inner, exp.Column) and inner.name in OWN:
            return str(inner.name)
    return None


def _words(tree: exp.Expression, name: str) -> list[str]:
    literals = tree.expressions if isinstance(tree, exp.In) else [bare(tree.expression)]
    if not isinstance(tree, (exp.EQ, exp.In)) or not all(isinstance(each, exp.Literal) and each.is_string for each in literals):
        raise fault("UNSUPPORTED", f"write {name} = 'name' or {name} IN ('name', …)", tree)
    return [str(each.this) for each in literals]


def _events(tree: exp.Expression) -> frozenset[str]:
    return frozenset(_words(tree, "event"))


def _source(tree: exp.Expression) -> str:
    if isinstance(tree, exp.Like) and isinstance(tree.expression, exp.Literal):
        pattern = str(tree.expression.this)
        # An underscore is any character unless it is escaped.
        parts = pattern[:-1].split("\\_")
        if pattern.endswith("%") and not set("%_\\") & set("".join(parts)):
            return f"{'_'.join(parts)}*"
    elif isinstance(tree, exp.EQ):
        return _words(tree, "source")[0]
    raise fault("UNSUPPORTED", "write source = 'name' or source LIKE 'prefix:%'", tree)


def _window(tree: exp.Expression) -> Window:
    ago = before_now(tree.expression) if isinstance(tree, (exp.GT, exp.GTE)) else None
    if ago is None or ago <= 0:
        raise fault("UNSUPPORTED", "write occurred_at > NOW() - INTERVAL '30 days'", tree)
    return Window.of(ago)
