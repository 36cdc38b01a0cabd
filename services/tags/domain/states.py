"""How the values of events fold into one: states that may be joined in any order, over events and over anchors.

LAST and FIRST keep the value whose event is last or first; COUNT a number; SUM a whole number of millionths; AVG [millionths,
how many]; MIN and MAX a number; DISTINCT and VALUES the smallest MOST_WORDS words, sorted; ANY true. Windowed ones keep such a
state per step: {step: state}, for LAST and FIRST {step: [value, occurred_at_us, tie]}. All of it is plain JSON.
"""

from __future__ import annotations

import math
import operator
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.tags.domain.catalogue import Aggregate, Value, Window

# What is past this is not counted: one property must not make a document grow for ever.
MOST_WORDS = 1000
MILLION = 1_000_000
# Sums of more would not stay exact in every engine.
LARGEST_SUMMAND = 1e12

Order = tuple[int, int]


@dataclass(frozen=True)
class Fold:
    """How one tag folds."""

    aggregate: Aggregate
    window: Window | None = None
    # Its value is that of one event, which for FIRST without a window is the earliest one; its state is its value.
    ordered: bool = field(init=False, repr=False, compare=False)
    earliest: bool = field(init=False, repr=False, compare=False)
    plain: bool = field(init=False, repr=False, compare=False)
    _begin: Callable[[Any], Any] | None = field(init=False, repr=False, compare=False)
    _join: Callable[[Any, Any], Any] = field(init=False, repr=False, compare=False)
    _value: Callable[[Any], Any] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = self.aggregate in (Aggregate.LAST, Aggregate.FIRST)
        own = {
            "ordered": ordered,
            "earliest": self.aggregate is Aggregate.FIRST and self.window is None,
            "plain": type(self) is Fold and self.window is None and self.aggregate not in _VALUE,
            "_begin": _BEGIN.get(self.aggregate),
            "_join": _JOIN.get(self.aggregate, operator.add),
            "_value": _VALUE.get(self.aggregate),
        }
        # Looked up once: all of it is asked several times per event.
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @property
    def ages(self) -> bool:
        """True when time alone may change the value."""
        return self.window is not None

    def begin(self, value: Value, occurred_us: int, tie: int) -> Any:
        """The state after one event."""
        state = value if self._begin is None else self._begin(value)
        if self.window is None:
            return state
        return {str(occurred_us // self.window.step_us): [state, occurred_us, tie] if self.ordered else state}

    def join(self, state: Any, value: Value, occurred_us: int, tie: int, newest: Order) -> Any:
        """The state after one more event; `newest`: when and in what order the state's own value happened."""
        if self.window is not None:
            return self._join_step(state, value, occurred_us, tie)
        if self.ordered:
            return value if self.moves((occurred_us, tie), newest) else state
        return self._join(state, value if self._begin is None else self._begin(value))

    def moves(self, given: Order, known: Order) -> bool:
        """Whether the moment of an event replaces that of the fact."""
        return given < known if self.earliest else given > known

    def prefers(self, given: Sequence[Any], known: Sequence[Any]) -> bool:
        """Whether the fact of one anchor is closer to the value than that of another."""
        return self.moves((given[1], given[2]), (known[1], known[2]))

    def value(self, having: Sequence[Sequence[Any]], now_us: int) -> Value | None:
        """The tag's value over facts of several anchors; None when nothing (that is in the window) says anything."""
        if self.window is None:
            if self.ordered:
                best = having[0]
                for fact in having[1:]:
                    if self.moves((fact[1], fact[2]), (best[1], best[2])):
                        best = fact
                return best[0]  # type: ignore[no-any-return]
            states = [fact[0] for fact in having]
        else:
            first = self.window.first(now_us)
            states = [state for fact in having for step, state in fact[0].items() if int(step) >= first]
            if not states:
                return None
            if self.ordered:
                last = self.aggregate is Aggregate.LAST
                return (max if last else min)(states, key=lambda s: (s[1], s[2]))[0]  # type: ignore[no-any-return]
        state = states[0]
        for other in states[1:]:
            state = self._join(state, other)
        return state if self._value is None else self._value(state)  # type: ignore[no-any-return]

    def next_due_us(self, state: Mapping[str, Any], now_us: int) -> int | None:
        """When the oldest step that still counts leaves the window; None when none does."""
        assert self.window is not None  # noqa: S101  # callers ask windowed ones
        first, oldest = self.window.first(now_us), None
        for step in state:
            number = int(step)
            if number >= first and (oldest is None or number < oldest):
                oldest = number
        return None if oldest is None else int((oldest + self.window.steps) * self.window.step_us)

    def pruned(self, state: Mapping[str, Any], now_us: int) -> Mapping[str, Any]:
        """The state, without steps that have left the window once they are many."""
        assert self.window is not None  # noqa: S101
        if len(state) <= self.window.steps:
            return state
        first = self.window.first(now_us)
        return {step: one for step, one in state.items() if int(step) >= first}

    def _join_step(self, state: dict[str, Any], value: Value, occurred_us: int, tie: int) -> dict[str, Any]:
        began = self.begin(value, occurred_us, tie)
        ((step, one),) = began.items()
        known = state.get(step)
        if known is None:
            state[step] = one
        elif self.ordered:
            later = (occurred_us, tie) > (known[1], known[2])
            if later is (self.aggregate is Aggregate.LAST):
                state[step] = one
        else:
            state[step] = self._join(known, one)
        return state


def _millionths(value: Any) -> int:
    # Halves upwards: engines differ in what they call rounding.
    return math.floor(float(value) * MILLION + 0.5)


def _words(one: list[str], other: list[str]) -> list[str]:
    if len(other) == 1:
        if other[0] not in one:
            one = list(one)
            insort(one, other[0])
        return one[:MOST_WORDS]
    return sorted({*one, *other})[:MOST_WORDS]


_BEGIN: Mapping[Aggregate, Callable[[Any], Any]] = {
    Aggregate.SUM: _millionths,
    Aggregate.AVG: lambda value: [_millionths(value), 1],
    Aggregate.DISTINCT: lambda word: [word],
    Aggregate.VALUES: lambda word: [word],
}
_JOIN: Mapping[Aggregate, Callable[[Any, Any], Any]] = {
    Aggregate.COUNT: operator.add,
    Aggregate.SUM: operator.add,
    Aggregate.AVG: lambda one, other: [one[0] + other[0], one[1] + other[1]],
    Aggregate.MAX: max,
    Aggregate.MIN: min,
    Aggregate.DISTINCT: _words,
    Aggregate.VALUES: _words,
    Aggregate.ANY: lambda one, other: one or other,
}
_VALUE: Mapping[Aggregate, Callable[[Any], Any]] = {
    Aggregate.SUM: lambda state: state / MILLION,
    # As a float at once: SQL rounds there too, and past 2**53 rounding later gives another last digit.
    Aggregate.AVG: lambda state: float(state[0]) / state[1] / MILLION,
    Aggregate.DISTINCT: lambda words: float(len(words)),
}
