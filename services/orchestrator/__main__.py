"""Composition root: `python -m services.orchestrator serve|migrate`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from troika.orchestrator.v1.orchestrator_service_pb2_grpc import add_OrchestratorServiceServicer_to_server

from chassis import run
from chassis.run import Runtime
from services.orchestrator import events
from services.orchestrator.consumers import consumers
from services.orchestrator.handlers import Room
from services.orchestrator.launching import Launcher
from services.orchestrator.peers import Scoring, Tags
from services.orchestrator.rpc import OrchestratorRpc
from services.orchestrator.settings import Settings


async def serve(settings: Settings) -> None:
    """Builds the service and runs it until it is told to stop."""
    async with Runtime("orchestrator", settings) as runtime:
        tags, scoring = Tags(runtime.client(settings.tags_target)), Scoring(runtime.client(settings.scoring_target))
        room = Room(runtime.database, tags, scoring, settings)
        await runtime.publishes(*events.STREAMS)
        runtime.consumes(*consumers(timedelta(days=settings.goal_window_days)))
        runtime.spawn(Launcher(room).run(), "launcher")
        rpc = OrchestratorRpc(room)
        await runtime.serve(settings.allowed_callers(), lambda server: add_OrchestratorServiceServicer_to_server(rpc, server))


def main() -> None:
    """Entry point."""
    run.main("orchestrator", Settings, Path(__file__).parent / "migrations", serve)


if __name__ == "__main__":
    main()
