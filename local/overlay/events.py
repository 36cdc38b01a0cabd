"""Events in the shape of Segment's track call: the past campaign's real answers, and behaviour that is made.

No draw here looks at an answer or at an attribute of the contact, so behaviour predicts nothing; and a person is reached at a
time that is drawn as well, so neither does recency.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from local.overlay.identifiers import Ints, message_id
from local.overlay.people import Bools
from local.overlay.plan import Source
from local.overlay.times import DAY, stamps
from local.overlay.vehicles import MODELS
from local.overlay.world import World
from local.overlay.writing import Writer

OFFER_ANSWERED: Final = "Offer Answered"
_APP_OPENED: Final = "App Opened"
BEHAVIOUR: Final = (_APP_OPENED, "Model Viewed", "Test Drive Page Viewed", "Price Calculated")
_BEHAVIOUR_SHARE: Final = (0.4, 0.3, 0.15, 0.15)
_MOST_EVENTS: Final = 3
_LONGEST_BEFORE: Final = 30 * DAY  # behaviour falls within the month before the person is reached
_STREAM: Final = 4  # the world takes the streams before
_AT_ONCE: Final = 4096


@dataclass(frozen=True)
class Behaviour:
    """Columns over behaviour events, ordered by source, then time."""

    person: Ints
    source: Ints
    kind: Ints  # index into BEHAVIOUR
    model: Ints  # index into MODELS
    at: Ints


def draw_behaviour(world: World) -> Behaviour:
    """One to three events for every person with an app account or an openid, at one of the two; a random stream of its own."""
    rng = np.random.default_rng(np.random.SeedSequence(world.seed, spawn_key=(_STREAM,)))
    people = world.people
    app, wechat = _has(world, Source.APP), _has(world, Source.WECHAT)
    count = np.where(app | wechat, rng.integers(1, _MOST_EVENTS + 1, len(people)), 0)
    person = np.repeat(np.arange(len(people)), count)
    size = len(person)
    at_app = app[person] & (~wechat[person] | (rng.random(size) < 0.5))
    source = np.where(at_app, int(Source.APP), int(Source.WECHAT))
    kind = np.maximum(rng.choice(len(BEHAVIOUR), size, p=_BEHAVIOUR_SHARE), np.where(at_app, 0, 1))  # only the app is opened
    model = rng.integers(0, len(MODELS), size)
    at = people.contacted_at[person] - rng.integers(1, _LONGEST_BEFORE, size)
    order = np.lexsort((person, at, source))
    return Behaviour(person[order], source[order], kind[order], model[order], at[order])


def _has(world: World, source: Source) -> Bools:
    has = np.zeros(len(world.people), dtype=np.bool_)
    has[world.plan.person[world.plan.rows_of(source)]] = True
    return has


def behaviour_events(source: int, behaviour: Behaviour, world: World, writer: Writer) -> Iterator[dict[str, Any]]:
    """The behaviour seen at one source, in order of time."""
    plan = world.plan
    rows = plan.rows_of(source)
    device = dict(zip(plan.person[rows].tolist(), plan.device[rows].tolist(), strict=True))
    number = dict(zip(plan.person[rows].tolist(), plan.number[rows].tolist(), strict=True))
    first, last = np.searchsorted(behaviour.source, [source, source + 1]).tolist()
    for begin in range(first, last, _AT_ONCE):
        some = slice(begin, min(begin + _AT_ONCE, last))
        columns = (behaviour.person, behaviour.kind, behaviour.model)
        cells = zip(stamps(behaviour.at[some]), *(column[some].tolist() for column in columns), strict=True)
        for at, (stamp, person, kind, model) in enumerate(cells, begin):
            event = {
                "type": "track",
                "messageId": message_id(world.seed, "behaviour", at),
                "userId": writer.record_id(source, person, number[person]),
                "event": BEHAVIOUR[kind],
                "timestamp": stamp,
                "properties": {} if BEHAVIOUR[kind] == _APP_OPENED else {"model": MODELS[model]},
            }
            if device[person] >= 0:
                event["context"] = {"device": {"id": writer.device(device[person])}}
            yield event


def past_events(world: World, writer: Writer) -> Iterator[dict[str, Any]]:
    """The real answers of the past campaign, as the call centre reports them, in order of time."""
    people, plan, answers = world.people, world.plan, world.answers
    rows = plan.rows_of(Source.CALL_CENTER)
    number = np.empty(len(people), dtype=np.int64)
    number[plan.person[rows]] = plan.number[rows]
    past = np.flatnonzero(people.past)
    past = past[np.argsort(people.contacted_at[past], kind="stable")]
    for begin in range(0, len(past), _AT_ONCE):
        some = past[begin : begin + _AT_ONCE]
        columns = (some.tolist(), number[some].tolist(), answers[some].tolist(), stamps(people.contacted_at[some]))
        for person, record, answer, stamp in zip(*columns, strict=True):
            yield {
                "type": "track",
                "messageId": message_id(world.seed, "answer", person),
                "userId": writer.record_id(Source.CALL_CENTER, person, record),
                "event": OFFER_ANSWERED,
                "timestamp": stamp,
                "properties": {"answer": "yes" if answer else "no"},
            }
