"""The doors that channels have of their own, beside the engine that sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from troika.orchestrator.v1.decide_service_pb2_grpc import DecisionServiceStub

from chassis.run import Runtime
from services.touchpoints.channels.call_list.lists import CallLists, add_call_list_doors
from services.touchpoints.channels.push.doors import add_token_door, prune_tokens
from services.touchpoints.channels.push.linking import Linker
from services.touchpoints.channels.push.tokens import Tokens
from services.touchpoints.channels.sms.replies import add_reply_door
from services.touchpoints.channels.web.slots import Slots, add_slot_doors
from services.touchpoints.endpoints import Endpoints
from services.touchpoints.ingest import Ingest
from services.touchpoints.sealer import Sealer
from services.touchpoints.settings import Settings
from services.touchpoints.sources import Sources
from services.touchpoints.vault import Vault


@dataclass(frozen=True)
class Opening:
    """What doors are made of."""

    runtime: Runtime
    settings: Settings
    identity: Any
    vault: Vault
    sealer: Sealer
    sources: Sources
    endpoints: Endpoints
    ingest: Ingest


def open_channels(given: Opening) -> None:
    """Adds replies to short messages, device tokens, call lists and slots."""
    runtime, settings = given.runtime, given.settings
    app, database = runtime.app, runtime.database
    add_reply_door(app, database, given.endpoints, given.sealer, given.identity)
    add_token_door(app, database, given.sources, Tokens(given.vault), given.sealer)
    lists = CallLists(
        database,
        given.endpoints,
        given.sources,
        given.vault,
        settings.public_url,
        settings.contact_hours,
        settings.consent_regimes,
    )
    add_call_list_doors(app, lists)
    runtime.spawn(prune_tokens(database), "device tokens")
    runtime.spawn(Linker(database, Tokens(given.vault), given.identity).run(), "owners of device tokens")
    decisions: Any = DecisionServiceStub(runtime.client(settings.orchestrator_target))
    slots = Slots(given.identity, decisions, given.sources, given.ingest, settings.slot_timeout_ms / 1000)
    add_slot_doors(app, slots)
