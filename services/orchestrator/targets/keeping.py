"""Each day's list of each dealer who has targets is kept as it stood, once, so that it can be measured.

A day is taken by a lease, so any number of replicas may run and a killed one loses nothing: whoever comes after the lease makes
the list anew. What is stored, is stored in one transaction that still holds the lease.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from datetime import date, timedelta

import grpc

from chassis.errors import TroikaError, is_operational
from services.orchestrator.store.holding import hold_off_erasures
from services.orchestrator.targets.handlers import Board, make_lists
from services.orchestrator.targets.store import TargetStore

log = logging.getLogger(__name__)

IDLE_S = 60.0
RETRY_S = 5.0
# Longer than a list of thousands takes to make; after that somebody else tries.
LEASE_S = 300
# A list that could not be made is tried again after so long; the day is not lost before it is over.
FAILED_S = 900
# A year's lists and the longest window in which their outcome is waited for.
KEPT = timedelta(days=460)

_CLAIM = """
UPDATE opportunity_day SET worker = :worker, lease_until = now() + :lease * interval '1 s'
WHERE (dealer_code, day) = (SELECT dealer_code, day FROM opportunity_day WHERE finished_at IS NULL AND lease_until <= now()
  AND day = :day ORDER BY lease_until LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING dealer_code
"""


class ListKeeper:
    """One worker. Any number may run, in one process or many."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def run(self) -> None:
        """Keeps lists until cancelled."""
        while True:
            try:
                while await self.work_once():
                    pass
                await asyncio.sleep(IDLE_S)
            except Exception as error:
                if not is_operational(error):
                    log.exception("a list was not kept")
                await asyncio.sleep(RETRY_S)

    async def work_once(self) -> bool:
        """Keeps one dealer's lists of today; False when there is nothing to do."""
        board = self._board
        today = (board.now() + board.settings.clock()).date()
        worker, month = secrets.token_hex(8), board.month()
        async with board.database.transaction(traced=False) as uow:
            await uow.execute(
                "INSERT INTO opportunity_day (dealer_code, day, lease_until)"
                " SELECT DISTINCT t.dealer_code, CAST(:day AS date), now() FROM dealer_target t WHERE t.month = :month"
                " AND NOT EXISTS (SELECT FROM opportunity_day d WHERE d.dealer_code = t.dealer_code AND d.day = :day)"
                " ORDER BY 1 ON CONFLICT DO NOTHING",
                day=today,
                month=month,
            )
            rows = await uow.rows(_CLAIM, worker=worker, lease=LEASE_S, day=today)
        if not rows:
            return False
        dealer_code = str(rows[0].dealer_code)
        try:
            async with board.database.read() as uow:
                targets = await TargetStore(uow).targets(dealer_code, month)
            lists = await make_lists(board, dealer_code, targets, month)
        except (TroikaError, grpc.aio.AioRpcError) as error:
            reason = error.reason if isinstance(error, TroikaError) else error.code().name
            await self._give_up(dealer_code, today, worker, reason)
            return True
        records = [
            (
                dealer_code, today, metric.value, each.known.person_id, each.rank, each.own_rank, each.probability,
                each.value_fen, each.known.advisor,
            )
            for metric, found in lists.by_metric.items() for each in found
        ]  # fmt: skip
        async with board.database.transaction() as uow:
            await hold_off_erasures(uow)
            held = await uow.rows(
                "UPDATE opportunity_day SET finished_at = :now, failure = '' WHERE dealer_code = :dealer AND day = :day"
                " AND worker = :worker AND finished_at IS NULL RETURNING 1",
                dealer=dealer_code,
                day=today,
                worker=worker,
                now=lists.made_at,
            )
            if held:
                await uow.copy(
                    "opportunity",
                    ("dealer_code", "day", "metric", "person_id", "rank", "own_rank", "probability", "value_fen", "advisor"),
                    records,
                )
                for table in ("opportunity", "opportunity_day"):
                    await uow.execute(
                        f"DELETE FROM {table} WHERE dealer_code = :dealer AND day < :oldest",  # noqa: S608
                        dealer=dealer_code,
                        oldest=today - KEPT,
                    )
                # Erased since they were looked at.
                await uow.execute(
                    "DELETE FROM opportunity o USING erased_anchor e WHERE o.person_id = e.person_id"
                    " AND o.dealer_code = :dealer AND o.day = :day",
                    dealer=dealer_code,
                    day=today,
                )
        return True

    async def _give_up(self, dealer_code: str, today: date, worker: str, reason: str) -> None:
        log.warning("a list could not be made", extra={"dealer": dealer_code, "reason": reason})
        async with self._board.database.transaction() as uow:
            await uow.execute(
                "UPDATE opportunity_day SET failure = :reason, lease_until = now() + :wait * interval '1 s'"
                " WHERE dealer_code = :dealer AND day = :day AND worker = :worker",
                dealer=dealer_code,
                day=today,
                worker=worker,
                reason=reason,
                wait=FAILED_S,
            )
