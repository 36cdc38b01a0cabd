"""The orchestrator on a real bus: pushes go out once, what happens to them comes back."""

from __future__ import annotations

import asyncio
import time

from troika.orchestrator.v1 import events_pb2
from troika.orchestrator.v1 import orchestrator_service_pb2 as pb
from troika.touchpoints.v1 import events_pb2 as touchpoints_pb2

from chassis.bus import Bus, Message, Stream
from chassis.outbox import Outgoing, Relay
from services.orchestrator.consumers import consumers
from services.orchestrator.events import DELIVERIES_UPDATED, ENTITIES_CHANGED, EVENTS_RESOLVED, STREAMS
from services.orchestrator.launching import Launcher
from tests.integration.orchestrator.conftest import House

OTHERS = [Stream(f"OTHER{i}", (s,)) for i, s in enumerate((DELIVERIES_UPDATED, EVENTS_RESOLVED, ENTITIES_CHANGED))]


async def test_a_launch_goes_out_over_the_bus_and_deliveries_come_back(house: House, bus: Bus) -> None:
    await bus.declare(*STREAMS, *OTHERS)
    requested: list[events_pb2.DeliveryRequest] = []

    async def deliver(message: Message) -> None:
        batch = events_pb2.DeliveriesRequested.FromString(message.data)
        requested.extend(batch.requests)
        updates = touchpoints_pb2.DeliveriesUpdated(
            updates=[
                touchpoints_pb2.DeliveryUpdate(delivery_id=r.delivery_id, state=3, occurred_at_us=time.time_ns() // 1000)
                for r in batch.requests
            ]
        )
        await bus.publish_all([Outgoing.now(DELIVERIES_UPDATED, updates.SerializeToString())])

    work = [
        Relay(house.database, bus).run(),
        Launcher(house.room).run(),
        bus.follow(STREAMS[0], 0, deliver),
        *(bus.consume(consumer, house.database) for consumer in consumers()),
    ]
    tasks = [asyncio.create_task(job) for job in work]
    try:
        name = await house.ready()
        await house.call.LaunchTheme(pb.LaunchThemeRequest(name=name))
        async with asyncio.timeout(20):
            while True:
                report = await house.report(name)
                if report.decisions["push"] and report.decisions["push"] == sum(f.accepted for f in report.channels):
                    break
                await asyncio.sleep(0.1)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert report.decisions["push"] == len(requested) == len({r.delivery_id for r in requested})
    assert report.cost_fen > 0
