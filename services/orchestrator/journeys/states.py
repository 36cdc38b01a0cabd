"""Where a journey and its versions stand, and what leads from one state to the next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import NewType

from chassis.errors import FailedPrecondition, NotFound

JourneyId = NewType("JourneyId", int)


class State(IntEnum):
    """Where a journey stands; the numbers are those of the contract."""

    DRAFT = 1
    IN_REVIEW = 2
    APPROVED = 3
    RUNNING = 4
    PAUSED = 5
    FINISHED = 6


LIVE = (State.RUNNING, State.PAUSED)


@dataclass(frozen=True)
class Journey:
    """A stored journey with its latest version. `running_version`: the one that people enter, 0 for none.

    `salt` (16 random bytes) makes its splits its own. `authors`: whoever edited since the version before it that was approved.
    """

    journey_id: JourneyId
    state: State
    version: int
    running_version: int
    salt: bytes
    document: str
    author: str
    submitted_by: str
    approved_by: str
    stated_at: datetime
    approved_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    authors: tuple[str, ...]

    @property
    def name(self) -> str:
        """The resource name, "journeys/12"."""
        return name_of(self.journey_id)


def name_of(journey_id: int) -> str:
    """The resource name, "journeys/12"."""
    return f"journeys/{journey_id}"


def id_of(name: str) -> JourneyId:
    """The number in a resource name that the contract's pattern has accepted."""
    return JourneyId(int(name.removeprefix("journeys/")))


def found(journey: Journey | None, journey_id: int) -> Journey:
    """The journey; raises NotFound without one."""
    if journey is None:
        raise NotFound(f"there is no {name_of(journey_id)}", reason="JOURNEY_NOT_FOUND", field="name")
    return journey


def require(journey: Journey, *allowed: State) -> None:
    """Raises FailedPrecondition when the journey stands elsewhere."""
    if journey.state not in allowed:
        raise FailedPrecondition(f"{journey.name} is {journey.state.name.lower()}", reason="WRONG_JOURNEY_STATE", field="name")


def require_version(journey: Journey, version: int) -> None:
    """Raises FailedPrecondition when somebody else has changed the journey meanwhile."""
    if journey.version != version:
        raise FailedPrecondition(
            f"{journey.name} has been changed since: it is at version {journey.version}",
            reason="JOURNEY_CHANGED",
            field="version",
        )
