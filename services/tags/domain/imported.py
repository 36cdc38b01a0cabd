"""What partners say of an anchor, and which of it counts.

A fact of an imported tag is [{import: said}, occurred_at_us, 0, 0], as long as facts of events are, with one `said` per import:
[value, occurred_at_us, confidence, partner, until_us or null, line]. Which one counts is decided by an order over what
is said, never by what came first, so the order of files does not matter; and it is decided over all anchors of an entity, so
an unmerge undoes a merge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from services.tags.domain.catalogue import Aggregate, Conflict, FromImport, Value
from services.tags.domain.states import Fold

# The house itself, where it delivers a file: what `keep_ours` keeps.
OURS = "ours"
# What one anchor keeps of one tag. Files that come daily for years must not make a document grow for ever.
MOST_SAID = 16

Said = list[Any]
Facts = dict[str, list[Any]]


class Statement(NamedTuple):
    """One cell of one line. `until_us` None: for ever; `confidence` from 0 to 1."""

    tag: str
    value: Value
    occurred_us: int
    confidence: float
    until_us: int | None


@dataclass(frozen=True)
class Imported(Fold):
    """How an imported tag follows from all that is said of it."""

    partners: tuple[str, ...] = ()
    conflict: Conflict = Conflict.NEWEST

    @classmethod
    def of(cls, origin: FromImport) -> Imported:
        """The rule of a definition."""
        return cls(Aggregate.LAST, None, origin.partners, origin.conflict)

    @property
    def ages(self) -> bool:
        """What is said may expire."""
        return True

    def value(self, having: Sequence[Sequence[Any]], now_us: int) -> Value | None:
        """The value that counts at a moment; None when none does."""
        alive = [said for fact in having for said in fact[0].values() if self.counts(said, now_us)]
        if len(alive) < 2:
            return alive[0][0] if alive else None
        return max(alive, key=self.order)[0]  # type: ignore[no-any-return]

    def prefers(self, given: Sequence[Any], known: Sequence[Any]) -> bool:
        """By the strongest that is said of each anchor."""
        one, other = (max(fact[0].values(), key=self.order) for fact in (given, known))
        return self.order(one) > self.order(other)

    def next_due_us(self, state: Mapping[str, Said], now_us: int) -> int | None:
        """When the next of what is said expires; None for never."""
        return min((said[4] for said in state.values() if said[4] is not None and said[4] > now_us), default=None)

    def counts(self, said: Said, now_us: int) -> bool:
        """Whether it may count at all: the partner may still say it, and it is not too old."""
        return said[3] in self.partners and (said[4] is None or now_us < said[4])

    def order(self, said: Said) -> tuple[Any, ...]:
        """The greatest counts. Where everything else is the same the value itself decides: any order of files ends alike."""
        value, occurred, confidence, partner, until, _ = said
        rank: tuple[Any, ...]
        match self.conflict:
            case Conflict.NEWEST:
                rank = (occurred, confidence)
            case Conflict.HIGHEST_CONFIDENCE:
                rank = (confidence, occurred)
            case Conflict.PARTNER_ORDER:
                place = self.partners.index(partner) if partner in self.partners else len(self.partners)
                rank = (-place, occurred, confidence)
            case Conflict.KEEP_OURS:
                rank = (partner == OURS, occurred, confidence)
        lasting = until if until is not None else 2**63
        return (*rank, lasting, partner, orjson.dumps(value))


def add(facts: Facts, rule: Imported, said: Statement, *, key: int, partner: str, line: int) -> bool:
    """Adds what one line says of an anchor, in place; False when this import had said something of the tag before."""
    fact = facts.get(said.tag)
    state: dict[str, Said] = fact[0] if fact else {}
    new: Said = [said.value, said.occurred_us, said.confidence, partner, said.until_us, line]
    old = state.get(str(key))
    if old is None or (rule.order(new), -line) > (rule.order(old), -old[5]):
        state[str(key)] = new
    if len(state) > MOST_SAID:
        del state[min(state, key=lambda each: (rule.order(state[each]), each))]
    _settle(facts, said.tag, rule, state)
    return old is None


def withdraw(facts: Facts, rules: Mapping[str, Fold], key: int) -> set[str]:
    """Removes all that one import said of an anchor, in place; returns the tags."""
    tags = {tag for tag, _, said in spoken(facts, rules) if said == str(key)}
    for tag in tags:
        rule, state = rules[tag], facts[tag][0]
        del state[str(key)]
        if not state:
            del facts[tag]
        elif isinstance(rule, Imported):
            _settle(facts, tag, rule, state)
    return tags


def spoken(facts: Facts, rules: Mapping[str, Fold]) -> Iterator[tuple[str, Said, str]]:
    """(tag, said, import) of all that imports said of an anchor."""
    for tag, fact in facts.items():
        if isinstance(rules.get(tag), Imported):
            for key, said in fact[0].items():
                yield tag, said, key


def said_elsewhere(anchors: Iterable[Facts], tag: str, key: int, line: int) -> bool:
    """Whether another line of the same file says something of the same entity's tag."""
    states = (facts[tag][0] for facts in anchors if tag in facts)
    return any((said := state.get(str(key))) is not None and said[5] != line for state in states)


def _settle(facts: Facts, tag: str, rule: Imported, state: dict[str, Said]) -> None:
    best = max(state.values(), key=rule.order) if len(state) > 1 else next(iter(state.values()))
    facts[tag] = [state, best[1], 0, 0]
