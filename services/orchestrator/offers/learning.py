"""From the log to the sums: each decision is counted once, when its window has closed; a success told late is added.

The sums are additions of multiples of 1/4096, hence the same to the last bit in whatever order feedback came.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from chassis.db import Database
from chassis.errors import is_operational
from services.orchestrator.offers.contexts import rows
from services.orchestrator.offers.offer_log import FAILED, SUCCEEDED, WAITING, Floats, OfferLog

log = logging.getLogger(__name__)

BATCH = 5_000


class Learner:
    """Any number may run, in one process or many: they take turns."""

    def __init__(self, database: Database, every_s: float, keep: timedelta, late_s: float) -> None:
        self._database, self._every_s, self._keep, self._late_s = database, every_s, keep, late_s

    async def run(self) -> None:
        """Learns until cancelled."""
        while True:
            try:
                while await self.learn_once():
                    pass
                async with self._database.transaction(traced=False) as uow:
                    await OfferLog(uow).forget_before(datetime.now(UTC) - self._keep, BATCH)
            except Exception as error:
                if not is_operational(error):
                    log.exception("learning from offers failed")
            await asyncio.sleep(self._every_s)

    async def learn_once(self) -> bool:
        """Learns from one batch; True when there may be more."""
        async with self._database.transaction(traced=False) as uow:
            store = OfferLog(uow)
            await store.hold_sums()
            found = await store.to_learn(self._late_s, BATCH)
            if found:
                await store.add_to_sums(added(found))
                await store.learnt(
                    [row["decision_id"] for row in found], [SUCCEEDED if row["success"] else FAILED for row in found]
                )
        return len(found) == BATCH


def added(found: Sequence[Any]) -> dict[int, tuple[Floats, Floats]]:
    """(sum of x x', sum of r x) by offer of decisions (offer_id, active, matched, state, success)."""
    contexts = rows([row["active"] for row in found], np.array([row["matched"] for row in found]))
    offers = np.array([row["offer_id"] for row in found], np.int64)
    fresh = np.array([row["state"] == WAITING for row in found], np.bool_)
    success = np.array([row["success"] for row in found], np.bool_)
    sums: dict[int, tuple[Floats, Floats]] = {}
    order = np.argsort(offers, kind="stable")
    ids, starts = np.unique(offers[order], return_index=True)
    for offer_id, part in zip(ids.tolist(), np.split(order, starts[1:]), strict=True):
        counted = contexts[part[fresh[part]]]
        sums[offer_id] = counted.T @ counted, contexts[part[success[part]]].sum(axis=0)
    return sums
