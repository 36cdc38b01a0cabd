"""Pieces of offers that were put aside for pushes: taken when the person says yes, back when the push fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chassis.db import UnitOfWork
from services.orchestrator.offers.definitions import OfferId
from services.orchestrator.offers.stock import StockStore
from services.orchestrator.store.projections import Update

# States of a delivery as touchpoints numbers them; from the second one on they are failures.
ANSWERED, FIRST_FAILURE = 7, 9

_HELD: Final = (
    "SELECT d.offer_id, d.delivery_id FROM decision d"
    " JOIN offer_hold h ON h.offer_id = d.offer_id AND h.hold_id = d.delivery_id"
    " WHERE d.delivery_id = ANY($1::text[]) ORDER BY 1, 2"
)


async def settle(uow: UnitOfWork, furthest: Mapping[str, Update]) -> None:
    """Settles what deliveries (id, state, reason, answer, moment) say; most pushes hold nothing, and are found by index."""
    over = [each[0] for each in furthest.values() if each[1] >= FIRST_FAILURE or (each[1] >= ANSWERED and each[3] == "yes")]
    if not over:
        return
    held = [(OfferId(row["offer_id"]), str(row["delivery_id"])) for row in await uow.fetch(_HELD, over)]
    # An answer may be older than the failure that it comes with: who said yes keeps the piece.
    taken = [hold for hold in held if furthest[hold[1]][3] == "yes"]
    stock = StockStore(uow)
    if taken:
        await stock.take(taken)
    if back := [hold for hold in held if hold not in taken]:
        await stock.release(back)
