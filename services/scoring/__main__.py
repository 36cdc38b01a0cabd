"""Composition root of scoring."""

from __future__ import annotations

from pathlib import Path

import grpc
from troika.scoring.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from troika.scoring.v1.scoring_service_pb2_grpc import add_ScoringServiceServicer_to_server

from chassis import run
from chassis.run import PlainVerb, Runtime, Verb
from services.scoring import command, consumers, events, retraining, text_command
from services.scoring.evaluating import Evaluation
from services.scoring.everybody import Everybody
from services.scoring.handlers import Scorer
from services.scoring.models import MODELS
from services.scoring.operations import Kind
from services.scoring.registry import Registry
from services.scoring.rpc import ScoringRpc
from services.scoring.rpc_models import ModelRpc
from services.scoring.settings import Settings
from services.scoring.tag_door import TagDoor
from services.scoring.texts import TextReader
from services.scoring.training import Training
from services.scoring.trials import Trial
from services.scoring.watching import Watch
from services.scoring.working import Work, Worker


async def serve(settings: Settings) -> None:
    """Builds the service and runs it until it is told to stop."""
    async with Runtime("scoring", settings) as runtime:
        await runtime.publishes(*events.STREAMS)
        database, key = runtime.database, settings.model_signing_key.get_secret_value().encode()
        tags, registry = TagDoor(runtime.client(settings.tags_target)), Registry(key)
        scorer = Scorer(database, tags, registry, settings.rescore_delay_s)
        everybody = Everybody(database, tags, registry, settings.rescore_delay_s)
        works: dict[Kind, Work] = {
            Kind.TRAIN: Training(database, tags, MODELS, everybody, key),
            Kind.SCORE: everybody,
            Kind.EVALUATE: Evaluation(database, tags, registry, everybody, key),
            Kind.TRIAL: Trial(database, tags, registry),
        }
        worker = Worker(database, works, settings.operation_lease_s)
        reader = TextReader(key)
        runtime.consumes(
            consumers.tags_changed(scorer),
            consumers.entities_changed(),
            consumers.events_resolved(reader, settings.text_properties),
        )
        runtime.spawn(scorer.run(), "second looks")
        runtime.spawn(worker.run(), "worker")
        runtime.spawn(Watch(database, worker, settings.watch_every_s).run(), "watch")
        scores, models = (
            ScoringRpc(database, registry, tags, reader, MODELS),
            ModelRpc(database, tags, registry, worker, MODELS),
        )

        def register(server: grpc.aio.Server) -> None:
            add_ScoringServiceServicer_to_server(scores, server)
            add_ModelServiceServicer_to_server(models, server)

        await runtime.serve(settings.allowed_callers(), register)


VERBS: tuple[Verb[Settings] | PlainVerb, ...] = (
    Verb("train-text", "train the text model on labelled texts", text_command.run, text_command.arguments),
    Verb("retrain", "train again what does not fit any more, as it was trained last", retraining.run, retraining.arguments),
    *command.VERBS,
)


def main() -> None:
    """Command line."""
    run.main("scoring", Settings, Path(__file__).parent / "migrations", serve, VERBS)


if __name__ == "__main__":
    main()
