"""What an experiment is. What it says of itself stands still from its start on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NewType

from chassis.errors import InvalidArgument

ExperimentId = NewType("ExperimentId", int)

# A layer's persons fall into this many buckets; an experiment takes a range of them.
BUCKETS = 10_000


class State(IntEnum):
    """Where an experiment stands; the numbers are those of the contract."""

    DRAFT = 1
    RUNNING = 2
    STOPPED = 3


class Kind(IntEnum):
    """What is compared: the share of persons who did it, a sum per person, or a mean per event."""

    SHARE = 1
    SUM = 2
    MEAN = 3


class Role(IntEnum):
    """What a metric is for: it decides, it is told beside, or it must not get worse."""

    PRIMARY = 1
    SECONDARY = 2
    GUARDRAIL = 3


@dataclass(frozen=True)
class Variant:
    """One of the ways to treat people; weights are relative to each other."""

    name: str
    weight: float


@dataclass(frozen=True)
class Metric:
    """What is measured after a person's first exposure, in a window of hours.

    SHARE: `field` and `value` narrow the event down as a theme's goal does; SUM and MEAN: `field` holds the number.
    `tolerated_harm`: by how much, in the metric's own unit, a guardrail may get worse.
    """

    name: str
    role: Role
    kind: Kind
    event: str
    field: str
    value: str
    window_hours: int
    lower_is_better: bool
    tolerated_harm: float

    @property
    def window(self) -> timedelta:
        """How long after the exposure an event counts."""
        return timedelta(hours=self.window_hours)


@dataclass(frozen=True)
class Definition:
    """What the operator states. The first variant is the control; buckets from `bucket_from` up to, without, `bucket_to`."""

    title: str
    layer: str
    bucket_from: int
    bucket_to: int
    eligibility: str
    variants: tuple[Variant, ...]
    metrics: tuple[Metric, ...]
    covariate_tag: str
    covariate_past: bool
    segment_tags: tuple[str, ...]
    alpha: float
    planned_persons: int

    @property
    def primary(self) -> int:
        """The position of the metric that decides."""
        return next(i for i, metric in enumerate(self.metrics) if metric.role is Role.PRIMARY)

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags that are read when a person is exposed: the covariate first, if there is one."""
        return (*((self.covariate_tag,) if self.covariate_tag else ()), *self.segment_tags)


@dataclass(frozen=True)
class Experiment:
    """A stored experiment. `salt`, 16 random bytes, makes its draw its own; `layer_salt` is shared by its layer."""

    experiment_id: ExperimentId
    definition: Definition
    state: State
    version: int
    salt: bytes
    layer_salt: bytes
    stop_reason: str
    created_at: datetime
    started_at: datetime | None
    stopped_at: datetime | None

    @property
    def name(self) -> str:
        """The resource name, "experiments/12"."""
        return name_of(self.experiment_id)


def name_of(experiment_id: int) -> str:
    """The resource name, "experiments/12"."""
    return f"experiments/{experiment_id}"


def id_of(name: str) -> ExperimentId:
    """The number in a resource name that the contract's pattern has accepted."""
    return ExperimentId(int(name.removeprefix("experiments/")))


def check(definition: Definition) -> None:
    """Raises InvalidArgument for what the contract's own rules cannot say."""
    if not definition.title.strip():
        raise InvalidArgument("title is blank", field="experiment.title")
    if definition.bucket_from >= definition.bucket_to:
        raise InvalidArgument("the range of buckets is empty", reason="EMPTY_BUCKET_RANGE", field="experiment.bucket_to")
    _unique([variant.name for variant in definition.variants], "experiment.variants")
    _unique([metric.name for metric in definition.metrics], "experiment.metrics")
    if definition.covariate_tag and definition.covariate_past:
        raise InvalidArgument("either a tag or the metric's own past", field="experiment.covariate_past")
    if sum(metric.role is Role.PRIMARY for metric in definition.metrics) != 1:
        raise InvalidArgument("exactly one metric decides", reason="NOT_ONE_PRIMARY_METRIC", field="experiment.metrics")
    for number, metric in enumerate(definition.metrics):
        if metric.kind is not Kind.SHARE and not metric.field:
            raise InvalidArgument(
                f"{metric.name} needs the property that holds the number", field=f"experiment.metrics[{number}].property"
            )
        if metric.kind is not Kind.SHARE and metric.value:
            raise InvalidArgument("a number has no value to match", field=f"experiment.metrics[{number}].value")


def _unique(names: Sequence[str], field: str) -> None:
    if len(set(names)) < len(names):
        raise InvalidArgument("names must differ", reason="DUPLICATE_NAME", field=field)
