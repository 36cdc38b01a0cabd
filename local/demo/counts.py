"""The judge's own look into the databases: what was counted through the doors must be what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg
from sqlalchemy.engine import make_url

# Each question is one number. The demo is the only place that may look into more than one schema.
QUESTIONS: Mapping[str, str] = {}


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
