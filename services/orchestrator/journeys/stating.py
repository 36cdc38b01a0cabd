"""Tags that journeys write: facts on the bus, which tags keeps by person, the newest counting."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from troika.orchestrator.v1 import events_pb2

from chassis.db import UnitOfWork
from chassis.moments import to_us
from services.orchestrator.events import TAGS_STATED

MOST: Final = 5_000


class Stated(NamedTuple):
    """What a tag of a person is from now on; None: nothing."""

    tag: str
    person_id: int
    value: str | float | None
    at: datetime


def publish_tags(uow: UnitOfWork, stated: Sequence[Stated]) -> None:
    """Puts what was stated into the outbox."""
    for start in range(0, len(stated), MOST):
        message = events_pb2.TagsStated()
        for each in stated[start : start + MOST]:
            told = message.tags.add(tag=each.tag, person_id=each.person_id, stated_at_us=to_us(each.at))
            if isinstance(each.value, str):
                told.word = each.value
            elif each.value is not None:
                told.number = each.value
        uow.publish(TAGS_STATED, message.SerializeToString())
