"""Composition root: `python -m services.orchestrator serve|migrate`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import grpc
from troika.orchestrator.v1.decide_service_pb2_grpc import add_DecisionServiceServicer_to_server
from troika.orchestrator.v1.experiment_service_pb2_grpc import add_ExperimentServiceServicer_to_server
from troika.orchestrator.v1.journey_service_pb2_grpc import (
    add_JourneyServiceServicer_to_server,
    add_ReferralServiceServicer_to_server,
)
from troika.orchestrator.v1.lead_service_pb2_grpc import add_LeadServiceServicer_to_server
from troika.orchestrator.v1.offer_service_pb2_grpc import add_OfferServiceServicer_to_server
from troika.orchestrator.v1.orchestrator_service_pb2_grpc import add_OrchestratorServiceServicer_to_server
from troika.orchestrator.v1.target_service_pb2_grpc import add_TargetServiceServicer_to_server

from chassis import run
from chassis.run import Runtime
from services.orchestrator import events
from services.orchestrator.arbiter.due import DueWorker
from services.orchestrator.arbiter.passing import Arbiter
from services.orchestrator.consumers import consumers
from services.orchestrator.experiments import command as experiment_command
from services.orchestrator.experiments.handlers import Laboratory
from services.orchestrator.experiments.tag_door import ExperimentTags
from services.orchestrator.handlers import Room
from services.orchestrator.journeys import command as journey_command
from services.orchestrator.journeys.building import Journeys
from services.orchestrator.launching import Launcher
from services.orchestrator.leads import command as lead_command
from services.orchestrator.leads.assigning import Distributor
from services.orchestrator.leads.handlers import Counter
from services.orchestrator.offers import hearing
from services.orchestrator.offers.catalogue import Catalogue
from services.orchestrator.offers.deciding import Decider
from services.orchestrator.offers.learning import Learner
from services.orchestrator.offers.stockroom import Stockroom
from services.orchestrator.peers import Scoring, Tags
from services.orchestrator.rpc import OrchestratorRpc
from services.orchestrator.rpc_decide import DecisionRpc
from services.orchestrator.rpc_experiments import ExperimentRpc
from services.orchestrator.rpc_journeys import JourneyRpc, ReferralRpc
from services.orchestrator.rpc_leads import LeadRpc
from services.orchestrator.rpc_offers import OfferRpc
from services.orchestrator.rpc_targets import TargetRpc
from services.orchestrator.settings import Settings
from services.orchestrator.targets import command as target_command
from services.orchestrator.targets.handlers import Board
from services.orchestrator.targets.keeping import ListKeeper
from services.orchestrator.targets.scoring_door import RankingDoor
from services.orchestrator.themes import command as theme_command
from services.orchestrator.themes.clock import ThemeClock
from services.orchestrator.waves.opening import WaveWatch


async def serve(settings: Settings) -> None:
    """Builds the service and runs it until it is told to stop."""
    async with Runtime("orchestrator", settings) as runtime:
        tags, scoring = Tags(runtime.client(settings.tags_target)), Scoring(runtime.client(settings.scoring_target))
        room = Room(runtime.database, tags, scoring, settings)
        await runtime.publishes(*events.STREAMS)
        runtime.consumes(*consumers(settings.stages(), settings.consent_regimes, settings.offer_successes))
        arbiter = Arbiter(runtime.database, tags, scoring, settings)
        runtime.spawn(Launcher(room, arbiter).run(), "launcher")
        runtime.spawn(DueWorker(arbiter).run(), "arbiter")
        runtime.spawn(ThemeClock(room).run(), "themes-clock")
        runtime.spawn(WaveWatch(room).run(), "waves")
        experiment_tags = ExperimentTags(runtime.client(settings.tags_target), settings.eligibility_age_s)
        laboratory = Laboratory(runtime.database, experiment_tags, settings)
        experiments = ExperimentRpc(laboratory)
        journeys = Journeys(runtime.database, runtime.client(settings.tags_target), laboratory, tags, scoring, settings)
        runtime.consumes(*journeys.consumers())
        for worker in journeys.workers(settings.journey_lanes):
            runtime.spawn(worker.run(), "journeys")
        runtime.consumes(hearing.consumer(settings.offer_successes))
        stockroom = Stockroom(runtime.database, tags, settings)
        decider = Decider(runtime.database, stockroom, settings)
        runtime.spawn(stockroom.follow(), "offers")
        runtime.spawn(stockroom.watch_members(), "offer-audiences")
        for lane in decider.lanes():
            runtime.spawn(lane, "offer-decisions")
        keep = timedelta(days=settings.offer_log_days)
        learner = Learner(runtime.database, settings.decide_refresh_s, keep, settings.offer_late_s)
        runtime.spawn(learner.run(), "offer-learner")

        distributor, ranking = Distributor(runtime.database, settings), RankingDoor(runtime.client(settings.scoring_target))
        runtime.spawn(distributor.run(), "leads")
        leads = LeadRpc(Counter(runtime.database, settings, distributor), ranking)
        board = Board(runtime.database, ranking, settings)
        runtime.spawn(ListKeeper(board).run(), "target-lists")

        def register(server: grpc.aio.Server) -> None:
            add_OrchestratorServiceServicer_to_server(OrchestratorRpc(room), server)
            add_LeadServiceServicer_to_server(leads, server)
            add_TargetServiceServicer_to_server(TargetRpc(board), server)
            add_OfferServiceServicer_to_server(OfferRpc(Catalogue(runtime.database, tags), settings.clock()), server)
            add_DecisionServiceServicer_to_server(DecisionRpc(decider), server)
            add_ExperimentServiceServicer_to_server(experiments, server)
            add_JourneyServiceServicer_to_server(JourneyRpc(journeys.room), server)
            add_ReferralServiceServicer_to_server(ReferralRpc(journeys.referrals), server)

        await runtime.serve(settings.allowed_callers(), register)


def main() -> None:
    """Entry point."""
    commands = (experiment_command, theme_command, lead_command, target_command, journey_command)
    verbs = [verb for command in commands for verb in command.VERBS]
    run.main("orchestrator", Settings, Path(__file__).parent / "migrations", serve, verbs)


if __name__ == "__main__":
    main()
