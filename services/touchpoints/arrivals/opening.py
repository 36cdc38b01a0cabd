"""Puts the room of arrivals together."""

from __future__ import annotations

from typing import Any

from troika.identity.v1.holder_service_pb2_grpc import HolderServiceStub
from troika.orchestrator.v1.decide_service_pb2_grpc import DecisionServiceStub
from troika.scoring.v1.scoring_service_pb2_grpc import ScoringServiceStub
from troika.tags.v1.tags_service_pb2_grpc import TagsServiceStub

from chassis.run import Runtime
from services.touchpoints.arrivals.delivering import Cards
from services.touchpoints.arrivals.doors import Doors
from services.touchpoints.arrivals.facts import Finder, Peers, Questions
from services.touchpoints.arrivals.limits import Plates
from services.touchpoints.arrivals.permissions import Consents
from services.touchpoints.arrivals.taking import Arrivals
from services.touchpoints.channels.http import Caller
from services.touchpoints.endpoints import Endpoints
from services.touchpoints.rpc_arrivals import ArrivalsRpc
from services.touchpoints.sealer import Sealer
from services.touchpoints.settings import Settings
from services.touchpoints.vault import Vault
from services.touchpoints.web.arrivals import ArrivalDoor, add_arrival_doors


def open_arrivals(
    runtime: Runtime, settings: Settings, identity: Any, vault: Vault, sealer: Sealer, endpoints: Endpoints, caller: Caller
) -> ArrivalsRpc:
    """Opens the doors for cameras, starts sending cards, and returns the door of operators."""
    database = runtime.database
    holders: Any = HolderServiceStub(runtime.client(settings.identity_target))
    tags: Any = TagsServiceStub(runtime.client(settings.tags_target))
    scoring: Any = ScoringServiceStub(runtime.client(settings.scoring_target))
    decisions: Any = DecisionServiceStub(runtime.client(settings.orchestrator_target))
    questions = Questions(settings.arrival_model, settings.arrival_slot, settings.arrival_language)
    consents = Consents(database, settings.consent_regimes)
    budget_s, life_s = settings.arrival_budget_ms / 1000, settings.arrival_card_s
    finder = Finder(Peers(identity, holders, tags, scoring, decisions), consents, questions, budget_s)
    plates = Plates(database, settings.arrival_plates_per_day)
    arrivals = Arrivals(database, sealer, vault, finder, consents, plates)
    doors = Doors(database, settings.arrival_proxies, settings.arrival_posts_per_s)
    cards = Cards(database, arrivals, finder, endpoints, caller, vault, budget_s, life_s)
    add_arrival_doors(runtime.app, ArrivalDoor(doors, arrivals, cards))
    runtime.spawn(arrivals.run(), "arrivals")
    runtime.spawn(cards.run(), "arrival cards")
    runtime.spawn(cards.note(), "arrival notes")
    return ArrivalsRpc(database, doors, identity, vault, settings.public_url)
