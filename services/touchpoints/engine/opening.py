"""The engine as the composition root starts it."""

from __future__ import annotations

from chassis.run import Runtime
from services.touchpoints.addresses import Addresses
from services.touchpoints.channels.table import Parts, all_channels
from services.touchpoints.endpoints import Endpoints
from services.touchpoints.engine.sender import Sender
from services.touchpoints.engine.sweeping import Sweeper
from services.touchpoints.rpc_deliveries import DeliveriesRpc


def open_engine(runtime: Runtime, parts: Parts, endpoints: Endpoints, addresses: Addresses) -> DeliveriesRpc:
    """Starts to send, unless this process only listens; returns the gRPC door."""
    channels, database = all_channels(parts), runtime.database
    sweeper = Sweeper(database, endpoints, channels)
    if parts.settings.sender_workers:
        sender = Sender(database, endpoints, addresses, channels, parts.settings)
        runtime.spawn(sender.run(runtime.stopping), "sender", heeds_stopping=True)
        runtime.spawn(sweeper.run(), "sweeper")
    return DeliveriesRpc(database, sweeper)
