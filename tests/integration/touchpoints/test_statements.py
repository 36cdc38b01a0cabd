"""Hot statements use their indexes, however many pushes have ended."""

from __future__ import annotations

import pytest

from chassis.testing import DatabaseFactory
from services.touchpoints.store.deliveries import CLAIM

BY_PROVIDER = "SELECT delivery_id FROM delivery WHERE provider_id = :id AND provider_id <> '' AND endpoint = :endpoint"
FILL = """
    INSERT INTO delivery (delivery_id, theme, person_id, channel, fallback_channels, offer, title, body, purpose, score, rank,
        reasons, dealer_code, decided_at, expires_at, state, due_at, provider_id, updated_at)
    SELECT 'd' || i, 'themes/1', i, 1, '{}', '', '', '', 'service', 0, 0, '{}', '', now(), now(),
        CASE WHEN i % 500 = 0 THEN 1 ELSE 6 END, now(), 'p' || i, now() FROM generate_series(1, 20000) i
"""


@pytest.mark.parametrize(
    ("statement", "parameters", "index"),
    [
        (CLAIM, {"lease": 30.0, "batch": 64}, "ix_delivery_due_at"),
        (BY_PROVIDER, {"id": "p77", "endpoint": "wechat"}, "ix_delivery_provider_id"),
    ],
)
async def test_a_hot_statement_uses_its_index(
    databases: DatabaseFactory, statement: str, parameters: dict[str, object], index: str
) -> None:
    async with databases.database("touchpoints") as database, database.transaction() as uow:
        await uow.execute(FILL)
        await uow.execute("ANALYZE delivery")
        plan = "\n".join(row[0] for row in await uow.rows(f"EXPLAIN {statement}", **parameters))
        assert index in plan
