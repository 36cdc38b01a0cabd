"""The promises of the loop, checked at the end: what the doors counted against what is stored and what receivers saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from local.demo.figures import Outcome
from local.demo.receivers import Judgement

# Each question is one number. The judge alone may look into more than one schema.
QUESTIONS: Mapping[str, str] = {
    "persons": "SELECT count(DISTINCT entity_id) FROM identity.identifier WHERE anchor AND entity_id > 0 AND kind < 9",
    "vehicles": "SELECT count(DISTINCT entity_id) FROM identity.identifier WHERE anchor AND entity_id > 0 AND kind >= 9",
    "merges": "SELECT count(*) FROM identity.ledger WHERE operation = 'merge'",
    "tagged_persons": "SELECT count(DISTINCT entity_id) FROM tags.anchor WHERE entity_kind = 1",
    "tagged_vehicles": "SELECT count(DISTINCT entity_id) FROM tags.anchor WHERE entity_kind = 2",
    "pushes": "SELECT count(*) FROM touchpoints.delivery",
    "pushed_persons": "SELECT count(DISTINCT person_id) FROM touchpoints.delivery",
    "acknowledged": "SELECT count(*) FROM touchpoints.delivery WHERE state BETWEEN 3 AND 8",
    # What came back as failed had arrived before.
    "arrived": (
        "SELECT count(*) FROM touchpoints.delivery d WHERE state BETWEEN 3 AND 8"
        " OR EXISTS (SELECT FROM touchpoints.feedback f WHERE f.delivery_id = d.delivery_id)"
    ),
    "feedback": "SELECT count(*) FROM touchpoints.feedback",
    # Only what says something about the person becomes an event; the rest moves the push alone.
    "feedback_about_persons": (
        "SELECT count(*) FROM touchpoints.feedback f JOIN touchpoints.delivery USING (delivery_id)"
        " WHERE f.kind NOT IN ('message.failed', 'lead.unreachable') AND anchor_id <> 0"
    ),
}


@dataclass(frozen=True)
class Check:
    """Something that must hold, and what was found."""

    name: str
    holds: bool
    found: str


async def stored(dsn: str) -> dict[str, int]:
    """Asks the database every question."""
    connection = await asyncpg.connect(make_url(dsn).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        return {name: int(await connection.fetchval(query)) for name, query in QUESTIONS.items()}
    finally:
        await connection.close()


def agree(name: str, **seen: int) -> Check:
    """All counts are the same."""
    return Check(name, len(set(seen.values())) == 1, ", ".join(f"{where} {count:,}" for where, count in seen.items()))


def check(
    outcome: Outcome,
    in_database: Mapping[str, int],
    judgement: Judgement,
    pushes: Sequence[Mapping[str, Any]],
    expected: int,
) -> list[Check]:
    """Every promise with what was found. `expected`: events accepted at all doors; `pushes`: what reached receivers."""
    sent, statistics, quality = outcome.deliveries, outcome.statistics, outcome.quality
    delivered_twice = len(pushes) - len({push["delivery_id"] for push in pushes})
    twice = delivered_twice + len(judgement.pushed_twice) + in_database["pushes"] - in_database["pushed_persons"]
    return [
        agree("nothing accepted is lost", accepted=expected, identity=statistics.observations),
        agree("nobody is pushed twice", twice=twice, allowed=0),
        agree("no customers are glued by a staff phone", glued=quality.glued_by_staff_phone, allowed=0),
        agree("persons", doors=statistics.persons, database=in_database["persons"], tags=in_database["tagged_persons"]),
        agree("vehicles", doors=statistics.vehicles, database=in_database["vehicles"], tags=in_database["tagged_vehicles"]),
        agree("merges", doors=statistics.merges, database=in_database["merges"]),
        agree("pushes", decided=outcome.report.decisions["push"], sent=sent.total, database=in_database["pushes"]),
        agree("pushes that arrived", receivers=judgement.pushes, database=in_database["arrived"]),
        agree("acknowledged", doors=sent.acknowledged, database=in_database["acknowledged"]),
        agree("feedback", doors=sent.feedback, database=in_database["feedback"]),
        agree("signatures refused by receivers", refused=judgement.bad_signatures, allowed=0),
    ]
