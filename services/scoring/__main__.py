"""Composition root of scoring."""

from __future__ import annotations

from pathlib import Path

from troika.scoring.v1.scoring_service_pb2_grpc import add_ScoringServiceServicer_to_server

from chassis import run
from chassis.run import Runtime
from services.scoring import consumers, events
from services.scoring.handlers import Scorer
from services.scoring.models import MODELS
from services.scoring.registry import Registry
from services.scoring.rpc import ScoringRpc
from services.scoring.settings import Settings
from services.scoring.tag_door import TagDoor
from services.scoring.trainer import Trainer


async def serve(settings: Settings) -> None:
    """Builds the service and runs it until it is told to stop."""
    async with Runtime("scoring", settings) as runtime:
        await runtime.publishes(*events.STREAMS)
        key = settings.model_signing_key.get_secret_value().encode()
        tags, registry = TagDoor(runtime.client(settings.tags_target)), Registry(key)
        scorer = Scorer(runtime.database, tags, registry, settings.rescore_delay_s)
        trainer = Trainer(
            runtime.database,
            tags,
            registry,
            MODELS,
            signing_key=key,
            lease_s=settings.training_lease_s,
            settle_s=settings.rescore_delay_s,
        )
        runtime.consumes(consumers.tags_changed(scorer), consumers.entities_changed())
        runtime.spawn(scorer.run(), "second looks")
        runtime.spawn(trainer.run(), "trainer")
        door = ScoringRpc(runtime.database, registry, tags, trainer, MODELS)
        await runtime.serve(settings.allowed_callers(), lambda server: add_ScoringServiceServicer_to_server(door, server))


def main() -> None:
    """Command line."""
    run.main("scoring", Settings, Path(__file__).parent / "migrations", serve)


if __name__ == "__main__":
    main()
