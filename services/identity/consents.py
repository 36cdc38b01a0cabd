"""The consent ledger in SQL: statements of events are added, and read back by anchor or person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from chassis.db import UnitOfWork
from services.identity import events
from services.identity.domain.consents import EVENTS, Evidence, Statement, read_event
from services.identity.domain.kinds import Space
from services.identity.domain.observations import Observation
from services.identity.queries import kinds_of
from services.identity.store import Owner

_COLUMNS: Mapping[str, str] = {
    "statement_id": "bytea",
    "anchor_id": "bigint",
    "purpose": "text",
    "channel": "text",
    "kind": "text",
    "given": "boolean",
    "stated_us": "bigint",
    "expires_us": "bigint",
    "text_version": "text",
    "text_sha256": "bytea",
    "language": "text",
    "screen": "text",
    "event_id": "bytea",
    "source": "text",
    "void": "text",
    "consent_id": "text",
}
_NAMES = ", ".join(_COLUMNS)
_ARRAYS = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(_COLUMNS.values(), 1))

ADD = f"INSERT INTO consent ({_NAMES}) SELECT * FROM unnest({_ARRAYS}) ON CONFLICT DO NOTHING RETURNING statement_id"  # noqa: S608

_LINE = f"{_NAMES}, number, (extract(epoch FROM at) * 1000000)::bigint AS recorded_us"
BY_ID = f"SELECT {_LINE} FROM consent WHERE statement_id = ANY($1::bytea[])"  # noqa: S608
# All that was ever said through some anchors.
OF_ANCHORS = f"SELECT {_LINE} FROM consent WHERE anchor_id = ANY($1::bigint[]) AND void = ''"  # noqa: S608
# The last recorded of some anchors, before a number.
PAGE = (
    f"SELECT {_LINE} FROM consent WHERE anchor_id = ANY($1::bigint[]) AND number < $2"  # noqa: S608
    " ORDER BY number DESC LIMIT $3"
)


class Line(NamedTuple):
    """A statement in its place in the ledger, and when it was recorded (microseconds)."""

    statement: Statement
    number: int
    recorded_us: int


async def from_events(uow: UnitOfWork, fresh: Iterable[tuple[Observation, Owner, Owner]]) -> None:
    """Adds what new events say, and publishes it. `fresh`: observations with the owners of their person and vehicle anchors."""
    said: list[Statement] = []
    persons: dict[int, int] = {}
    for o, person, _ in fresh:
        if o.event in EVENTS and person.anchor_id:
            # A clock that runs ahead must not outweigh what the person says tomorrow.
            stated_us = min(o.occurred_us, o.received_us) if o.received_us else o.occurred_us
            evidence = Evidence(o.event_id, person.anchor_id, o.source, stated_us)
            said += read_event(o.event, _properties(o.properties), evidence)
            persons[person.anchor_id] = person.entity_id
    if said:
        await add(uow, said, persons)


def _properties(properties: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(properties or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


async def add(uow: UnitOfWork, statements: Iterable[Statement], persons: Mapping[int, int]) -> set[bytes]:
    """Adds statements and publishes those that count; returns the ids of those that were not there before.

    `persons`: anchor → the person it belongs to.
    """
    by_id = {s.statement_id: s for s in statements}
    # In one order, so that writers never wait for each other in a circle.
    rows = [by_id[statement_id] for statement_id in sorted(by_id)]
    added = await uow.fetch(ADD, *([getattr(row, name) for row in rows] for name in _COLUMNS))
    new = {bytes(row[0]) for row in added}
    events.publish_consents(uow, [s for s in rows if s.statement_id in new and not s.void], persons)
    return new


async def by_id(uow: UnitOfWork, statement_ids: Sequence[bytes]) -> dict[bytes, Statement]:
    """Statements that the ledger holds, by id."""
    lines = [line(row) for row in await uow.fetch(BY_ID, list(statement_ids))]
    return {line.statement.statement_id: line.statement for line in lines}


async def anchors_of(uow: UnitOfWork, person_id: int) -> list[int]:
    """The anchors that are a person's now; none when there is no such person."""
    rows = await uow.fetch(
        "SELECT id FROM identifier WHERE entity_id = $1 AND anchor AND kind = ANY($2::smallint[])",
        person_id,
        kinds_of(Space.PERSON),
    )
    return [int(row[0]) for row in rows]


async def counting(uow: UnitOfWork, anchors: Sequence[int]) -> dict[bytes, Line]:
    """All that counts of what was said through anchors, by id."""
    lines = [line(row) for row in await uow.fetch(OF_ANCHORS, list(anchors))]
    return {line.statement.statement_id: line for line in lines}


async def page(uow: UnitOfWork, anchors: Sequence[int], before: int, size: int) -> list[Line]:
    """Lines of anchors with numbers below `before`, the last recorded first."""
    return [line(row) for row in await uow.fetch(PAGE, list(anchors), before, size)]


def line(row: Any) -> Line:
    """A row of the ledger."""
    return Line(Statement(**{name: row[name] for name in _COLUMNS}), row["number"], row["recorded_us"])
