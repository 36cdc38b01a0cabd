"""What came of calls, written down in groups: states, circuits, turns and the channels' health in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

from chassis.db import Database, UnitOfWork
from chassis.errors import is_operational
from services.touchpoints import store
from services.touchpoints.channels.contract import Channel, Settled
from services.touchpoints.domain import deliveries as domain
from services.touchpoints.domain.deliveries import Accepted, Refused, Retry
from services.touchpoints.endpoints import Endpoints
from services.touchpoints.engine import circuits, health
from services.touchpoints.engine.admission import conclude, ordered
from services.touchpoints.engine.calling import Called, Calls
from services.touchpoints.engine.circuits import Heard
from services.touchpoints.engine.store import pass_turns
from services.touchpoints.selfservice.store import Tried, note_attempts

log = logging.getLogger(__name__)

# The first outcomes wait this long for others: long enough for a group, too short for anybody to notice.
GATHER_S = 0.03
RETRY_S = 0.5


class Notes:
    """Empties `calls` into the database."""

    def __init__(
        self,
        database: Database,
        endpoints: Endpoints,
        channels: Mapping[domain.Channel, Channel],
        calls: Calls,
        failures: int,
    ) -> None:
        """So many `failures` in a row open a circuit."""
        self._database, self._endpoints, self._channels = database, endpoints, channels
        self._calls, self._failures = calls, failures

    async def run(self) -> None:
        """Notes until cancelled. While the database is away outcomes wait here, and keep their places."""
        while True:
            await self._calls.changed.wait()
            self._calls.changed.clear()
            if not self._calls.ended:
                continue
            await asyncio.sleep(GATHER_S)
            group, self._calls.ended = self._calls.ended, []
            await self._write(group)
            self._calls.give_back(len(group))

    async def _write(self, group: Sequence[Called]) -> None:
        while True:
            try:
                await self._transact(group)
                return
            except Exception as error:
                if is_operational(error):
                    await asyncio.sleep(RETRY_S)
                    continue
                log.exception("outcomes not noted")
            if len(group) == 1:
                # Its lease will end, and the call is repeated under the same key.
                return
            for one in group:
                await self._write([one])
            return

    async def _transact(self, group: Sequence[Called]) -> None:
        gone = sorted({c.endpoint.name for c in group if isinstance(c.outcome, Refused) and c.outcome.disables_endpoint})
        async with self._database.transaction(traced=False) as uow:
            # Memories before pushes: the order in which admission takes them.
            for number, channel in self._channels.items():
                theirs = [Settled(e.push, e.outcome, e.change) for e in group if e.push.delivery.channel is number]
                if channel.memory is not None and theirs:
                    await channel.memory.settle(uow, theirs)
            await conclude(uow, [each.change for each in group])
            if in_turn := sorted({each.endpoint.name for each in group if ordered(each.endpoint)}):
                await pass_turns(uow, in_turn)
            for name in gone:
                await store.disable_endpoint(uow, name)
            opened = await self._circuits(uow, group)
            await health.note(uow, group)
            await note_attempts(uow, [_tried(each) for each in group])
        if opened:
            log.warning("endpoints left alone for a while", extra={"endpoints": opened})
        if gone:
            self._endpoints.forget()

    async def _circuits(self, uow: UnitOfWork, group: Sequence[Called]) -> list[str]:
        heard: defaultdict[str, Heard] = defaultdict(Heard)
        for each in group:
            said, outcome = heard[each.endpoint.name], each.outcome
            if isinstance(outcome, Accepted):
                said.accepted += 1
            elif isinstance(outcome, Retry):
                said.failures += outcome.faults_endpoint
                said.throttled += outcome.throttles
                if (outcome.pauses_endpoint or outcome.throttles) and outcome.after_s > said.pause_s:
                    said.pause_s, said.pause_reason = outcome.after_s, outcome.reason
                    said.paused |= outcome.pauses_endpoint
        for said in heard.values():
            # One refusal among many is that message's fate; most of them are the receiver's word for slower.
            if not said.paused and said.throttled <= said.accepted:
                said.pause_s = 0.0
        return await circuits.note(uow, heard, self._failures)


def _tried(each: Called) -> Tried:
    outcome, name = each.outcome, each.push.delivery.delivery_id
    reason = "" if isinstance(outcome, Accepted) else outcome.reason
    return Tried(name, each.endpoint.name, type(outcome).__name__.lower(), reason, round(each.seconds * 1000))
