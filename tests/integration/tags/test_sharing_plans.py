"""Questions of sharing keep their indexes however many uses there were."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chassis.db import Database
from services.tags.sharing import consents, forgetting, ledger_store, share_store
from tests.integration.tags.test_plans import Explained

IDS = list(range(1, 500))


@pytest.fixture
async def filled(database: Database) -> Database:
    """200 uses of 500 anchors each, 50,000 anchors with their consents."""
    made = "(SELECT u, p, (u * 37 + p * 101) % 50000 + 1 AS anchor FROM generate_series(1, 200) u, generate_series(0, 499) p) s"
    async with database.transaction() as uow:
        await uow.fetch("INSERT INTO anchor SELECT 1, i, i / 2, 1, '{}' FROM generate_series(1, 50000) i")
        await uow.fetch(
            "INSERT INTO consent SELECT i, 'sharing', 'all', true, i / 2, -1, 1, 9 FROM generate_series(1, 50000) i"
        )
        await uow.fetch("INSERT INTO points_spent SELECT i, 1, 1 FROM generate_series(1, 50000) i")
        await uow.fetch("INSERT INTO spending SELECT 'op' || i, i, i, 1, '', 0, '' FROM generate_series(1, 50000) i")
        await uow.fetch(
            "INSERT INTO data_use SELECT i, i % 9, 'a', 'p', 1, '{}', '', 5, 'k1', 500, 0, 0, 1, 500, '', 0, '', ''"
            " FROM generate_series(1, 50000) i"
        )
        await uow.fetch(
            "INSERT INTO data_use_inclusion (number, position, anchor_id, line, nonce)"
            f" SELECT DISTINCT ON (u, anchor) u, p, anchor, p, '' FROM {made}"
        )
        await uow.fetch(
            "INSERT INTO share (request_id, recipient, purpose, form, tags, predicate, min_group_size, points, expires_at,"
            " key_id, created_by, created_at, revoke_reason) SELECT i, 'a', '', 1, '{}', '', 5, 1, now(), 'k1', '', now(), ''"
            " FROM generate_series(1, 20000) i"
        )
    async with database.transaction() as uow:
        await uow.execute("ANALYZE anchor, consent, points_spent, spending, data_use, data_use_inclusion, share")
    return database


async def first_leaf(uow: Any) -> None:
    async for _ in ledger_store.leaves(uow, 7):
        return


async def first_entry(uow: Any) -> None:
    async for _ in ledger_store.entries(uow):
        return


STATEMENTS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "agreed": lambda uow: consents.agreed(uow, IDS, 5),
    "of_person": lambda uow: uow.fetch(ledger_store.OF_PERSON, 7),
    "inclusions": lambda uow: ledger_store.inclusions(uow, 7, 7),
    "leaves": first_leaf,
    "entries": first_entry,
    "uses": lambda uow: ledger_store.page(uow, 0, 100, 10),
    "uses of a share": lambda uow: ledger_store.page(uow, 3, 49_000, 10),
    "numbered": lambda uow: ledger_store.numbered(uow, [1, 2, 3]),
    "shares": lambda uow: share_store.page(uow, "", 100, 10),
    "is_open": lambda uow: share_store.is_open(uow, 7),
    "forget": lambda uow: forgetting.forget(uow, IDS[:20]),
}


async def test_no_question_of_sharing_reads_a_whole_table(filled: Database) -> None:
    plans = {}
    async with filled.read() as uow:
        for name, ask in STATEMENTS.items():
            explained = Explained(uow)
            await ask(explained)
            plans[name] = explained.plan
    assert {} == {name: plan for name, plan in plans.items() if "Index" not in plan or "Seq Scan" in plan}
