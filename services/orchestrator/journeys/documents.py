"""A journey as people write it: YAML in, a checked document out, and every mistake with its path and line.

YAML 1.2's core types only: `yes` stays a word and 09:30 stays a text. No anchors, so that a small file stays small.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MOST_CHARACTERS = 100_000
MOST_STEPS = 200
END = "end"
_UNITS = {"minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_DURATION = re.compile(r"([1-9][0-9]{0,5}) (minute|hour|day|week)s?")
_HOUR = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")
LONGEST_S = 5 * 366 * 86_400

Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Predicate = Annotated[str, Field(min_length=1, max_length=20_000)]


@dataclass(frozen=True)
class Fault:
    """A mistake: where in the document ("steps[3].wait"), on which line (0: the whole), and what is wrong."""

    path: str
    line: int
    reason: str
    message: str


def seconds(text: str) -> int:
    """The length of "3 days"; raises ValueError."""
    if not (found := _DURATION.fullmatch(text)):
        raise ValueError('a duration is written "3 days", "12 hours", "30 minutes" or "2 weeks"')
    if (length := int(found[1]) * _UNITS[found[2]]) > LONGEST_S:
        raise ValueError("longer than five years")
    return length


def minutes(text: str) -> int:
    """Minutes since midnight of "09:30"; raises ValueError."""
    if not _HOUR.fullmatch(text):
        raise ValueError('an hour of the day is written "09:00"')
    return int(text[:2]) * 60 + int(text[3:])


def _is_duration(text: str) -> str:
    seconds(text)
    return text


def _is_hour(text: str) -> str:
    minutes(text)
    return text


Duration = Annotated[str, AfterValidator(_is_duration)]
Hour = Annotated[str, AfterValidator(_is_hour)]
Scalar = str | bool | int | float


class _Part(BaseModel):
    """Unknown keys are mistakes: a word that nobody reads is a rule that nobody keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Test(_Part):
    """What a property of an event must be; all that is stated must hold."""

    # Not `is` and `in`: Python keeps these words for itself.
    equals: Scalar | None = None
    is_not: Scalar | None = None
    one_of: Annotated[tuple[Scalar, ...], Field(max_length=200)] | None = None
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("states nothing")
        return self


class Event(_Part):
    """An event with conditions on its properties; a bare value means `equals`."""

    event: Name
    where: Annotated[Mapping[Name, Test], Field(max_length=20)] = {}

    @field_validator("where", mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {name: test if isinstance(test, Mapping) else {"equals": test} for name, test in given.items()}


class AudienceTrigger(_Part):
    """A named audience of persons, entered or left because tags changed; a new definition moves nobody."""

    name: Name
    when: Literal["entered", "left"] = "entered"


class DateTrigger(_Part):
    """So many days after (below 0: before) the day in a time tag, at an hour; `yearly`: each year anew."""

    tag: Word
    of: Literal["person", "vehicle"] = "person"
    offset_days: Annotated[int, Field(ge=-3660, le=3660)] = 0
    at: Hour = "09:00"
    yearly: bool = False
    among: Predicate | None = None

    @model_validator(mode="after")
    def _yearly_of_persons(self) -> Self:
        if self.yearly and self.of != "person":
            raise ValueError("yearly dates are dates of persons: of vehicles nobody can be asked for the day of the year")
        return self


class ScoreTrigger(_Part):
    """A model's score of a person crosses a line: from below to at least it, or from at least it to below."""

    model: Word
    crosses: Annotated[float, Field(gt=0, le=1000)]
    direction: Literal["up", "down"] = "up"


class Trigger(_Part):
    """What makes people enter; exactly one."""

    event: Name | None = None
    where: Annotated[Mapping[Name, Test], Field(max_length=20)] = {}
    audience: AudienceTrigger | None = None
    date: DateTrigger | None = None
    score: ScoreTrigger | None = None

    _short = field_validator("where", mode="before")(Event._short.__func__)  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _one(self) -> Self:
        kinds = [name for name in ("event", "audience", "date", "score") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError("exactly one of event, audience, date, score")
        if self.where and self.event is None:
            raise ValueError("`where` is about the properties of an event")
        return self


class Entry(_Part):
    """Per what somebody is in the journey, and when again: never while in it.

    `per`: person, vehicle (the event's), date (the trigger's day), or property:NAME of the trigger event.
    """

    per: Annotated[str, Field(pattern=r"^(person|vehicle|date|property:.{1,100})$")] = "person"
    again: Literal["once", "always"] | Duration = "once"


class Wait(_Part):
    """For so long, then until an hour of the person's day; one of them at least."""

    lasting: Duration | None = None
    until: Hour | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.lasting is None and self.until is None:
            raise ValueError("waits for nothing")
        return self


class WaitUntil(Event):
    """For an event, or until the time is over. The ways on are `then` and `otherwise`."""

    timeout: Duration
    then: Word | None = None
    otherwise: Word | None = None


class Condition(_Part):
    """Whether a predicate over tags holds for the person now."""

    holds: Predicate
    then: Word | None = None
    otherwise: Word | None = None


class Branch(_Part):
    """A part of a split: its share of people, and where they go."""

    share: Annotated[float, Field(gt=0, le=1_000_000)]
    to: Word | None = None


class Split(_Part):
    """Shares of people, relative to each other, by a draw that is always the same for the same person."""

    branches: Annotated[Mapping[Word, Branch], Field(min_length=2, max_length=20)]


class Experiment(_Part):
    """The variants of an experiment, which logs the exposure; who is in none of them goes `otherwise`."""

    experiment: Annotated[str, Field(pattern=r"^experiments/[1-9][0-9]{0,17}$")]
    variants: Annotated[Mapping[Name, Word | None], Field(min_length=1, max_length=10)]
    otherwise: Word | None = None


class Push(_Part):
    """A proposal to the arbiter on behalf of a theme; without an offer the theme's offers compete."""

    theme: Word
    offer: Word | None = None
    within: Duration = "3 days"


class UpdateTag(_Part):
    """A tag of the person that journeys may write gets a value, or with null none."""

    tag: Word
    value: Annotated[str, Field(max_length=200)] | float | None


class CreateTask(_Part):
    """A task for people: for the dealer or advisor who looks after the person."""

    kind: Word
    text: Annotated[str, Field(max_length=500)] = ""
    due: Duration = "1 day"
    theme: Word | None = None


KINDS = ("wait", "wait_until", "condition", "split", "ab", "push", "update_tag", "create_task", "exit")


class Step(_Part):
    """One step; exactly one kind. `next` is the step after it, the following one if nothing is said, "end" for none."""

    id: Word
    next: Word | None = None
    wait: Wait | None = None
    wait_until: WaitUntil | None = None
    condition: Condition | None = None
    split: Split | None = None
    ab: Experiment | None = None
    push: Push | None = None
    update_tag: UpdateTag | None = None
    create_task: CreateTask | None = None
    exit: Word | None = None

    @field_validator("wait", mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        return {"lasting": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(found := [kind for kind in KINDS if getattr(self, kind) is not None]) != 1:
            raise ValueError(f"exactly one of {', '.join(KINDS)}; here {' and '.join(found) or 'none'}")
        if self.id == END:
            raise ValueError(f'"{END}" means the end of the journey')
        if self.next is not None and found[0] not in ("wait", "push", "update_tag", "create_task"):
            raise ValueError(f"{found[0]} says by itself where people go on")
        return self

    @property
    def kind(self) -> str:
        """Which of KINDS it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)


class Document(_Part):
    """A journey. Steps speak of themes and offers by the short names that `themes` and `offers` give them."""

    title: Name
    about: Annotated[str, Field(max_length=2000)] = ""
    on_update: Literal["stay", "restart", "same_step"] = "stay"
    themes: Annotated[Mapping[Word, str | None], Field(max_length=50)] = {}
    offers: Annotated[Mapping[Word, str | None], Field(max_length=50)] = {}
    trigger: Trigger
    entry: Entry = Entry()
    goal: Event | None = None
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=MOST_STEPS)]

    @model_validator(mode="after")
    def _objects(self) -> Self:
        per = self.entry.per
        if (per == "vehicle" or per.startswith("property:")) and self.trigger.event is None:
            raise ValueError("only events have vehicles and properties to enter by")
        if per == "date" and self.trigger.date is None:
            raise ValueError("only a date trigger has a date to enter by")
        return self


class _Loader(yaml.SafeLoader):
    """SafeLoader with the types of YAML 1.2 and without anchors and repeated keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (as PyYAML has it)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not taken", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in keys[:number]:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is said twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("bool", r"^(?:true|false)$", list("tf")),
    ("int", r"^[-+]?[0-9]{1,18}$", list("-+0123456789")),
    ("float", r"^[-+]?[0-9]{1,18}\.[0-9]{1,18}$", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def read(text: str) -> tuple[Document | None, list[Fault]]:
    """The document, or what is wrong with it."""
    node, given, faults = _parsed(text)
    if faults:
        return None, faults
    try:
        return Document.model_validate(given), []
    except ValidationError as error:
        return None, [
            Fault(path(each["loc"]), line_of(node, each["loc"]), "INVALID_JOURNEY", each["msg"].removeprefix("Value error, "))
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        ]


def _parsed(text: str) -> tuple[Any, Any, list[Fault]]:
    """(node, content) of YAML."""
    if len(text) > MOST_CHARACTERS:
        return None, None, [Fault("", 0, "TOO_LONG", f"at most {MOST_CHARACTERS} characters")]
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            given = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        return None, None, [Fault("", line, "YAML", error.problem or "not YAML")]
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError):
        return None, None, [Fault("", 0, "YAML", "not YAML")]
    if not isinstance(given, dict):
        return None, None, [Fault("", 1, "YAML", "a journey is a mapping: title, trigger, steps")]
    return node, given, []


def path(location: Sequence[int | str]) -> str:
    """A pydantic location as "steps[3].push.theme"; names of alternatives that the author did not write are left out."""
    written = [part for part in location if isinstance(part, int) or "[" not in part]
    found = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in written)
    return found.removeprefix(".")


def lines(text: str) -> Iterator[tuple[str, int]]:
    """(path, line) of each step of a text that was read without mistakes; for faults found later."""
    node: Any = yaml.compose(text, Loader=_Loader)
    count = len(next(value for key, value in node.value if key.value == "steps").value)
    yield from ((f"steps[{number}]", line_of(node, ("steps", number))) for number in range(count))


def line_of(node: Any, location: Sequence[int | str]) -> int:
    """The line of the innermost node on the way that exists."""
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), node)
    return int(node.start_mark.line) + 1
