"""Statements that come often find their rows by an index, however many others there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chassis.db import UnitOfWork
from chassis.testing import DatabaseFactory
from services.touchpoints.channels.ads.conversions import LAST
from services.touchpoints.channels.ads.store import LEAVING, SEND_OFF
from services.touchpoints.channels.call_list.lists import LISTED
from services.touchpoints.channels.dealer.store import WITHDRAWALS
from services.touchpoints.store.erasures import ERASED_PERSONS, FAMILY, THEIRS


@pytest.fixture
async def uow(databases: DatabaseFactory) -> AsyncIterator[UnitOfWork]:
    async with databases.database("touchpoints") as database, database.transaction() as uow:
        await uow.execute(
            "INSERT INTO delivery (delivery_id, theme, person_id, channel, fallback_channels, offer, title, body, purpose,"
            " score, rank, reasons, dealer_code, decided_at, expires_at, state, due_at, endpoint, anchor_id, updated_at, kind,"
            " details) SELECT 'lead-' || i || '-2', 't', i, CASE WHEN i % 4 = 0 THEN 8 ELSE 3 END, '{}', '', '', '', 'service',"
            " i % 1000, 0, '{}', 'D1', now(), now() + interval '1 day', 3, now(), 'e' || i % 9, i + 1, now(),"
            " CASE WHEN i % 10 = 0 THEN 'lead.withdrawn' ELSE '' END, '{}' FROM generate_series(1, 20000) i"
        )
        await uow.execute("INSERT INTO person_alias SELECT i, i + 1, 1 FROM generate_series(1, 20000, 3) i")
        await uow.execute("INSERT INTO erased_person SELECT i FROM generate_series(2, 20000, 7) i")
        await uow.execute(
            "INSERT INTO ad_member (list, digest, sealed, person_id, seen, leaving) SELECT 'l' || i % 3,"
            " decode(md5(i::text), 'hex'), '', i / 2, 1, i % 1000 = 0 FROM generate_series(1, 20000) i"
        )
        await uow.execute(
            "INSERT INTO ad_click (endpoint, anchor_id, clicked_us, person_id, sealed)"
            " SELECT 'e' || i % 3, i, i, i / 2, '' FROM generate_series(1, 20000) i"
        )
        for table in ("delivery", "person_alias", "erased_person", "ad_member", "ad_click"):
            await uow.execute(f"ANALYZE {table}")
        yield uow


async def test_statements_read_by_index(uow: UnitOfWork) -> None:
    given: dict[str, tuple[dict[str, Any], set[str]]] = {
        LISTED: ({"endpoint": "e1", "most": 100}, {"ix_delivery_listed"}),
        WITHDRAWALS: ({"leads": ["12", "13"]}, {"ix_delivery_withdrawn"}),
        THEIRS: ({"persons": [1], "anchors": [2, 3]}, {"ix_delivery_person_id", "ix_delivery_anchor_id"}),
        FAMILY: ({"persons": [2, 5]}, {"ix_person_alias_survivor_id"}),
        ERASED_PERSONS: ({"persons": [1, 2, 3]}, {"pk_person_alias"}),
    }
    for statement, (parameters, indexes) in given.items():
        plan = "\n".join(row[0] for row in await uow.rows(f"EXPLAIN {statement}", **parameters))
        assert indexes <= {word for word in plan.split() if word in indexes}, plan
        assert "Seq Scan on delivery" not in plan and "Seq Scan on person_alias" not in plan, plan


async def test_statements_of_advertising_read_by_index(uow: UnitOfWork) -> None:
    given: dict[str, tuple[list[Any], set[str]]] = {
        SEND_OFF: ([[1, 2], False], {"ix_ad_member_person_id"}),
        LEAVING: (["l1", 2000], {"ix_ad_member_leaving"}),
        LAST: ([[0], ["e1"], [7], [9], [10**15], [0]], {"pk_ad_click", "ix_ad_click_person_id"}),
    }
    for statement, (parameters, indexes) in given.items():
        plan = "\n".join(row[0] for row in await uow.fetch(f"EXPLAIN {statement}", *parameters))
        assert indexes <= {word for word in plan.split() if word in indexes}, plan
        assert "Seq Scan on ad_" not in plan, plan
