"""Hot statements use their indexes, however many pushes have ended."""

from __future__ import annotations

from chassis.testing import DatabaseFactory
from services.touchpoints.engine.health import READ
from services.touchpoints.engine.store import BEGIN, CAPPED, CLAIM, CONCLUDE, NEXT_TURN, TAKE_TURN

BY_PROVIDER = "SELECT delivery_id FROM delivery WHERE provider_id = $1 AND provider_id <> '' AND endpoint = $2"
FILL = (
    """
    INSERT INTO delivery (delivery_id, theme, person_id, channel, fallback_channels, offer, title, body, purpose, score, rank,
        reasons, dealer_code, decided_at, expires_at, state, due_at, provider_id, updated_at, endpoint, held, held_at, sent_at)
    SELECT 'd' || i, 'themes/1', i, 1, '{}', '', '', '', 'service', 0, 0, '{}', '', now(), now() + interval '1 day',
        CASE WHEN i % 2 = 0 THEN 1 ELSE 6 END, now(), 'p' || i, now(), 'e' || i % 7,
        CASE WHEN i % 1000 = 0 THEN 'turn' ELSE '' END, now(), now() FROM generate_series(1, 20000) i
    """,
    "INSERT INTO turn SELECT 'e' || i, 'd' || i FROM generate_series(1, 7) i",
    "INSERT INTO call_slice SELECT 'e' || i % 7, now() - i * interval '10 seconds', 1, 1, 0, 1, '{}'"
    " FROM generate_series(1, 9000) i",
    "ANALYZE delivery, turn, call_slice",
)
HOT = [
    (CLAIM, (64, 30.0), "ix_delivery_due_at"),
    (BY_PROVIDER, ("p77", "wechat"), "ix_delivery_provider_id"),
    (CAPPED, (["d1"], [7], [0], [3], [604_800.0]), "ix_delivery_person_id"),
    (TAKE_TURN, (["e1"], ["d1000"], [1000]), "ix_delivery_held"),
    (NEXT_TURN, (None,), "ix_delivery_held"),
    # Locks taken once, not once for each row.
    (BEGIN, (["d2"], ["e1"], [7], 30.0), "One-Time Filter"),
    (CONCLUDE, (["d2"], [3], [""], [""], [-1.0], [False], [1], [1], [True], [""]), "One-Time Filter"),
    (READ, (300.0,), "ix_call_slice_slice"),
]


async def test_hot_statements_use_their_indexes(databases: DatabaseFactory) -> None:
    async with databases.database("touchpoints") as database, database.transaction() as uow:
        for statement in FILL:
            await uow.execute(statement)
        for statement, parameters, index in HOT:
            plan = "\n".join(row[0] for row in await uow.fetch(f"EXPLAIN {statement}", *parameters))
            assert index in plan, plan
