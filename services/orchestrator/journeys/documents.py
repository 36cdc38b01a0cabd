"""What a journey's document may say; journeys/reading.py reads it from YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

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
