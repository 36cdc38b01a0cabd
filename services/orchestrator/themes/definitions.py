"""What a theme states, and what can never hold together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from itertools import pairwise

from chassis.errors import InvalidArgument
from services.orchestrator.domain.channels import SERVICE_ONLY
from services.orchestrator.domain.themes import MARKETING
from services.orchestrator.offers.definitions import OfferId

USUAL_PRIORITY = 500


@dataclass(frozen=True)
class Goal:
    """The event that counts as success; `field` empty when the event alone is enough. `value_fen`: what one is worth."""

    event: str
    field: str
    value: str
    window_days: int
    value_fen: int


@dataclass(frozen=True)
class Band:
    """Persons from a score on: the first channel of these that is open to them is taken; empty for nobody."""

    from_score: float
    channels: tuple[str, ...]


class Pacing(IntEnum):
    """How a budget is spread over time; the numbers are those of the contract."""

    ASAP = 1
    EVEN = 2


class Choice(IntEnum):
    """How one of the offers is taken: the first that can be, or by what was learnt; the numbers are those of the contract."""

    ORDER = 0
    LEARNT = 1


@dataclass(frozen=True)
class Budget:
    """Most people contacted (holdout included) and most of them spoken to (calls, tasks of advisors).

    Most spent (None: no limit), cost by channel in fen.
    """

    max_contacts: int
    max_calls: int
    max_cost_fen: int | None
    unit_cost_fen: Mapping[str, int]
    pacing: Pacing


@dataclass(frozen=True)
class Schedule:
    """None: when somebody says so."""

    starts_at: datetime | None
    ends_at: datetime | None


@dataclass(frozen=True)
class Exclusion:
    """Themes of one group do not reach a person within so many days of each other's pushes."""

    group: str
    cool_down_days: int


@dataclass(frozen=True)
class Waves:
    """Layers, best first: cumulative `shares` of the ranked audience, or the scores they reach down to; one is empty.

    A push is judged once it had `response_hours` to reach the goal. `seeds`: the nearest to whom come first, and to those who
    have reached the goal; empty for the best by score.
    """

    shares: tuple[float, ...]
    from_scores: tuple[float, ...]
    target_rate: float
    least_pushes: int
    response_hours: int
    seeds: str = ""

    @property
    def count(self) -> int:
        """How many layers there are."""
        return len(self.shares) or len(self.from_scores)


@dataclass(frozen=True)
class Filling:
    """What a variable of the offers' words is filled with; one of the three is not None."""

    name: str
    number: float | None = None
    word: str | None = None
    time: datetime | None = None


@dataclass(frozen=True)
class ThemeDefinition:
    """What a business user states. `offers` in order of preference, `bands` ascending from 0; `model` empty: no scores."""

    title: str
    words: str
    audience: str
    goal: Goal
    offers: tuple[OfferId, ...]
    language: str
    values: tuple[Filling, ...]
    purpose: str
    bands: tuple[Band, ...]
    model: str
    budget: Budget
    schedule: Schedule
    priority: int
    holdout_share: float
    exclusion: Exclusion | None
    waves: Waves | None
    choice: Choice = Choice.ORDER

    def band(self, score: float) -> Band:
        """The band that a score falls into; below 0 (none) counts as 0."""
        return [band for band in self.bands if band.from_score <= max(score, 0.0)][-1]

    @property
    def channels(self) -> tuple[str, ...]:
        """All channels of all bands, each once."""
        return tuple(dict.fromkeys(channel for band in self.bands for channel in band.channels))


def checked(stated: ThemeDefinition) -> ThemeDefinition:
    """The definition as it is; raises InvalidArgument naming what cannot be."""
    for name in ("title", "audience"):
        if not getattr(stated, name).strip():
            raise InvalidArgument(f"{name} is blank", field=f"theme.{name}")
    _check_bands(stated)
    if not stated.model and stated.purpose == MARKETING:
        raise InvalidArgument("marketing is for those who want it: say which model", reason="NO_MODEL", field="theme.model")
    if not stated.model and (len(stated.bands) > 1 or stated.waves):
        raise InvalidArgument("bands and waves need the scores of a model", reason="NO_MODEL", field="theme.model")
    _check_time_and_money(stated)
    if stated.waves is not None:
        _check_waves(stated.waves)
    return stated


def _check_time_and_money(stated: ThemeDefinition) -> None:
    starts_at, ends_at = stated.schedule.starts_at, stated.schedule.ends_at
    if starts_at is not None and ends_at is not None and ends_at <= starts_at:
        raise InvalidArgument("ends before it begins", reason="EMPTY_SCHEDULE", field="theme.schedule.ends_at")
    if stated.budget.pacing is Pacing.EVEN and ends_at is None:
        raise InvalidArgument("evenly until when?", reason="NO_END", field="theme.schedule.ends_at")
    if stated.budget.max_cost_fen is not None:
        for channel in stated.channels:
            if channel not in stated.budget.unit_cost_fen:
                raise InvalidArgument(
                    f"what does {channel} cost?", reason="NO_COST", field=f"theme.budget.unit_cost_fen[{channel}]"
                )


def _check_bands(stated: ThemeDefinition) -> None:
    before = -1.0
    for number, band in enumerate(stated.bands):
        field = f"theme.bands[{number}]"
        if number == 0 and band.from_score != 0:
            raise InvalidArgument("the first band begins at 0", reason="INVALID_BANDS", field=f"{field}.from_score")
        if band.from_score <= before:
            raise InvalidArgument("bands ascend", reason="INVALID_BANDS", field=f"{field}.from_score")
        before = band.from_score
        for place, channel in enumerate(band.channels):
            if stated.purpose == MARKETING and channel in SERVICE_ONLY:
                raise InvalidArgument(
                    "WeChat carries no marketing", reason="CHANNEL_FORBIDS_MARKETING", field=f"{field}.channels[{place}]"
                )
    if not stated.channels:
        raise InvalidArgument("no band has a channel", reason="INVALID_BANDS", field="theme.bands")


def _check_waves(waves: Waves) -> None:
    if bool(waves.shares) == bool(waves.from_scores):
        raise InvalidArgument("layers are shares or scores", reason="INVALID_WAVES", field="theme.waves")
    if not _ascends(waves.shares):
        raise InvalidArgument("shares ascend", reason="INVALID_WAVES", field="theme.waves.shares")
    if not _ascends(waves.from_scores[::-1]):
        raise InvalidArgument("scores descend", reason="INVALID_WAVES", field="theme.waves.from_scores")
    if waves.seeds and waves.from_scores:
        raise InvalidArgument("those near to seeds are layered by shares", reason="INVALID_WAVES", field="theme.waves.seeds")


def _ascends(numbers: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(numbers))
