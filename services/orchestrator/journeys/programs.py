"""A document made ready to run: steps by number, every way on known, and no loop that never waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from services.orchestrator.journeys import reading
from services.orchestrator.journeys.documents import END, Document, Fault, Step, minutes, seconds

OVER = -1
MAX_ID = 10**18


class Kind(IntEnum):
    """What a step does."""

    WAIT = 1
    WAIT_UNTIL = 2
    CONDITION = 3
    SPLIT = 4
    AB = 5
    PUSH = 6
    UPDATE_TAG = 7
    CREATE_TASK = 8
    EXIT = 9


WAITING = frozenset({Kind.WAIT, Kind.WAIT_UNTIL})
# Outcomes of steps, as paths tell them.
WAITED, HEARD, TIMEOUT, YES, NO = "waited", "event", "timeout", "yes", "no"
DONE = {Kind.PUSH: "proposed", Kind.UPDATE_TAG: "stated", Kind.CREATE_TASK: "created"}
OUTSIDE = "none"


@dataclass(frozen=True)
class Node:
    """A step: `ways` leads from each outcome to the next step's number, OVER for the end. Times in seconds and minutes."""

    number: int
    stated: Step
    kind: Kind
    ways: Mapping[str, int]
    lasting_s: int = 0
    until_minutes: int | None = None

    @property
    def id(self) -> str:
        """The name that its author gave it."""
        return self.stated.id

    @property
    def reason(self) -> str:
        """Why people end here."""
        return self.stated.exit or "completed"


@dataclass(frozen=True)
class Program:
    """A whole journey."""

    document: Document
    nodes: tuple[Node, ...]

    @property
    def numbers(self) -> Mapping[str, int]:
        """The number of each step by its name."""
        return {node.id: node.number for node in self.nodes}

    def theme_id(self, alias: str) -> int:
        """The theme behind a short name."""
        return int((self.document.themes[alias] or "0").removeprefix("themes/"))

    def offer_id(self, alias: str | None) -> int | None:
        """The offer behind a short name."""
        return int((self.document.offers[alias] or "0").removeprefix("offers/")) if alias else None


def read(text: str, bound: bool = True) -> tuple[Program | None, list[Fault]]:
    """The program of a YAML text, or every mistake in it; not `bound`: short names may still stand for nothing."""
    document, faults = reading.read(text)
    if document is None:
        return None, faults
    nodes, faults = _nodes(document)
    faults += _names(document, bound)
    if not faults:
        faults = _graph(nodes)
    if faults:
        lines = dict(reading.lines(text))
        return None, [Fault(f.path, f.line or lines.get(f.path.split(".")[0], 0), f.reason, f.message) for f in faults]
    return Program(document, nodes), []


def _nodes(document: Document) -> tuple[tuple[Node, ...], list[Fault]]:
    numbers: dict[str, int] = {}
    faults = []
    for number, step in enumerate(document.steps):
        if step.id in numbers:
            faults.append(Fault(f"steps[{number}].id", 0, "DUPLICATE_STEP", f"{step.id} is the name of two steps"))
        numbers.setdefault(step.id, number)
    found = []
    for number, step in enumerate(document.steps):
        follows = number + 1 if number + 1 < len(document.steps) else OVER
        ways = {}
        for outcome, (field, target) in _ways(step).items():
            if target is not None and target != END and target not in numbers:
                where = f"steps[{number}].{field}"
                faults.append(Fault(where, 0, "UNKNOWN_STEP", f"there is no step {target}"))
            ways[outcome] = follows if target is None else OVER if target == END else numbers.get(target, OVER)
        lasting = (step.wait and step.wait.lasting) or (step.wait_until and step.wait_until.timeout)
        until = step.wait.until if step.wait else None
        found.append(
            Node(
                number,
                step,
                Kind[step.kind.upper()],
                ways,
                seconds(lasting) if lasting else 0,
                minutes(until) if until else None,
            )
        )
    return tuple(found), faults


def _ways(step: Step) -> dict[str, tuple[str, str | None]]:
    """Outcome → (field that says so, target)."""
    if (waits := step.wait_until) is not None:
        return {HEARD: ("wait_until.then", waits.then), TIMEOUT: ("wait_until.otherwise", waits.otherwise)}
    if (condition := step.condition) is not None:
        return {YES: ("condition.then", condition.then), NO: ("condition.otherwise", condition.otherwise)}
    if (split := step.split) is not None:
        return {name: (f"split.branches.{name}.to", branch.to) for name, branch in split.branches.items()}
    if (ab := step.ab) is not None:
        variants = {name: (f"ab.variants.{name}", target) for name, target in ab.variants.items()}
        return variants | {OUTSIDE: ("ab.otherwise", ab.otherwise)}
    if step.exit is not None:
        return {}
    return {WAITED if step.wait else DONE[Kind[step.kind.upper()]]: ("next", step.next)}


def _names(document: Document, bound: bool) -> list[Fault]:
    """Themes and offers that are missing, are no names of such, or that nobody uses."""
    faults = []
    used: set[tuple[str, str]] = set()
    for number, step in enumerate(document.steps):
        push, task = step.push, step.create_task
        for kind, field, alias in (
            ("themes", "push.theme", push.theme if push else None),
            ("offers", "push.offer", push.offer if push else None),
            ("themes", "create_task.theme", task.theme if task else None),
        ):
            if not alias:
                continue
            used.add((kind, alias))
            if alias not in getattr(document, kind):
                missing = "MISSING_THEME" if kind == "themes" else "MISSING_OFFER"
                faults.append(Fault(f"steps[{number}].{field}", 0, missing, f"`{kind}` does not say what {alias} is"))
    for kind in ("themes", "offers"):
        for alias, resource in getattr(document, kind).items():
            missing = "MISSING_THEME" if kind == "themes" else "MISSING_OFFER"
            digits = (resource or "").removeprefix(f"{kind}/")
            is_name = digits.isascii() and digits.isdigit() and resource != digits and 0 < int(digits) < MAX_ID
            if resource is not None and not is_name:
                faults.append(Fault(f"{kind}.{alias}", 0, missing, f'named like "{kind}/12"'))
            elif resource is None and bound:
                faults.append(Fault(f"{kind}.{alias}", 0, missing, f"say which of the {kind} {alias} is"))
            if (kind, alias) not in used:
                faults.append(Fault(f"{kind}.{alias}", 0, "UNUSED_NAME", f"no step speaks of {alias}"))
    return faults


def _graph(nodes: tuple[Node, ...]) -> list[Fault]:
    reached, ahead = set(), [0]
    while ahead:
        if (number := ahead.pop()) not in reached and number != OVER:
            reached.add(number)
            ahead.extend(nodes[number].ways.values())
    faults = [
        Fault(f"steps[{node.number}]", 0, "UNREACHABLE_STEP", f"no way leads to {node.id}")
        for node in nodes
        if node.number not in reached
    ]
    if (loop := _restless(nodes)) is not None:
        names = " → ".join(nodes[number].id for number in [*loop, loop[0]])
        faults.append(Fault(f"steps[{loop[0]}]", 0, "LOOP_WITHOUT_WAIT", f"goes round for ever without waiting: {names}"))
    return faults


def _restless(nodes: tuple[Node, ...]) -> list[int] | None:
    """A cycle of steps that do not wait."""
    done: set[int] = set()
    for start in nodes:
        way: list[int] = []
        ahead = [iter([start.number])]
        while ahead:
            number = next(ahead[-1], None)
            if number is None:
                ahead.pop()
                if way:
                    done.add(way.pop())
            elif number in way:
                return way[way.index(number) :]
            elif number != OVER and number not in done and nodes[number].kind not in WAITING:
                way.append(number)
                ahead.append(iter(nodes[number].ways.values()))
    return None
