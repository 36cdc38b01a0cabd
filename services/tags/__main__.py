"""Composition root of tags."""

from __future__ import annotations

import gc
from pathlib import Path

import grpc
from troika.tags.v1.audience_service_pb2_grpc import add_AudienceServiceServicer_to_server
from troika.tags.v1.catalogue_service_pb2_grpc import add_CatalogueServiceServicer_to_server
from troika.tags.v1.import_service_pb2_grpc import add_ImportServiceServicer_to_server
from troika.tags.v1.sharing_service_pb2_grpc import (
    add_SharedTagsServiceServicer_to_server,
    add_SharingServiceServicer_to_server,
)
from troika.tags.v1.tags_service_pb2_grpc import add_TagsServiceServicer_to_server

from chassis import run
from chassis.run import PlainVerb, Runtime, Verb
from services.tags import consumers, events, expiry
from services.tags.audiences.consents import ReachConsents
from services.tags.audiences.live import Live
from services.tags.audiences.naming import keep_defined
from services.tags.audiences.previewing import CHANNELS
from services.tags.audiences.telling import Teller
from services.tags.backfill.cutting import Histories
from services.tags.backfill.running import Filler
from services.tags.catalogue import command as cataloguing
from services.tags.catalogue import yaml_files
from services.tags.catalogue.following import LiveCatalogue
from services.tags.catalogue.indexing import IndexColumns
from services.tags.handlers import TagRules
from services.tags.imports import command as importing
from services.tags.imports.files import ImportFiles
from services.tags.imports.matching import Matcher
from services.tags.imports.running import Importer
from services.tags.index.index import AudienceIndex
from services.tags.index.projection import Projection
from services.tags.index.snapshots import Snapshots
from services.tags.lake import keeping, writing
from services.tags.questions import Questions
from services.tags.rpc import TagsRpc
from services.tags.rpc_audiences import AudienceRpc
from services.tags.rpc_catalogue import CatalogueRpc
from services.tags.rpc_imports import ImportsRpc
from services.tags.rpc_shared_tags import SharedTagsRpc
from services.tags.rpc_sharing import SharingRpc
from services.tags.settings import Settings
from services.tags.sharing import verifying
from services.tags.sharing.keys import SharingKeys
from services.tags.sharing.source import IndexSource


async def serve(settings: Settings) -> None:
    """Runs the service."""
    # Batches make and drop tens of thousands of acyclic documents; with default thresholds walking them cost more than
    # parsing them.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    rules = TagRules(yaml_files.load(settings.catalogue))
    async with Runtime("tags", settings) as runtime:
        await runtime.publishes(*events.STREAMS)
        catalogue = LiveCatalogue(runtime.database, rules)
        await catalogue.start()
        snapshots = Snapshots.opened(settings.index_folder, settings.index_snapshot_s)
        projection = Projection(AudienceIndex(rules.catalogue), runtime.database, runtime.bus, snapshots)
        runtime.checks["index"] = projection.check
        runtime.spawn(projection.run(), "index")
        columns = IndexColumns(projection.index, projection.heal)
        projection.listen(columns.changed)
        catalogue.listen(columns.become)
        runtime.spawn(catalogue.run(), "catalogue")
        runtime.spawn(expiry.run(runtime.database, rules), "expiry")
        runtime.consumes(*consumers.consumers(rules))
        if lake := keeping.opened(settings):
            runtime.consumes(writing.consumer(lake.storage))
            runtime.spawn(keeping.run(runtime.database, lake, keeping.rules_of(settings)), "lake")
            runtime.spawn(Filler(runtime.database, rules, lake, settings.lake_memory_mb).run(runtime.bus), "backfill")
        servicer = TagsRpc(rules, projection, runtime.database, lake, settings.lake_memory_mb)
        questions, live = Questions(rules.catalogue, projection), Live(projection)
        runtime.spawn(live.run(), "live audiences")
        runtime.spawn(keep_defined(runtime.database, questions, live), "definitions of audiences")
        runtime.spawn(Teller(runtime.database, questions, live).run(), "telling of audiences")
        consents = ReachConsents(runtime.database, settings.consent_regimes, CHANNELS)
        audiences = AudienceRpc(runtime.database, questions, live, consents)
        keys = SharingKeys(settings.sharing_keys, settings.sharing_key_id)
        sharing = SharingRpc(runtime.database, rules.catalogue, keys, settings.share_recipients, settings.smallest_group)
        shared = SharedTagsRpc(runtime.database, rules.catalogue, IndexSource(projection), keys)
        files = ImportFiles.of(settings)
        importer = Importer(runtime.database, rules, Matcher(runtime.client(settings.identity_target), patient=True), files)
        runtime.spawn(importer.follow(), "imports")
        catalogue_rpc = CatalogueRpc(runtime.database, catalogue, projection, Histories(runtime.bus, keeps=lake is not None))
        imports = ImportsRpc(runtime.database, rules, files)

        def register(server: grpc.aio.Server) -> None:
            add_TagsServiceServicer_to_server(servicer, server)
            add_SharingServiceServicer_to_server(sharing, server)
            add_SharedTagsServiceServicer_to_server(shared, server)
            add_ImportServiceServicer_to_server(imports, server)
            add_AudienceServiceServicer_to_server(audiences, server)
            add_CatalogueServiceServicer_to_server(catalogue_rpc, server)

        await runtime.serve(settings.allowed_callers(), register)


VERBS: tuple[Verb[Settings] | PlainVerb, ...] = (
    Verb("ledger", "check the data-use ledger", verifying.run, verifying.arguments),
    Verb("compact", "make few files of the event lake's many, delete what expired", keeping.compact_verb, keeping.arguments),
    *importing.VERBS,
    *cataloguing.VERBS,
)


def main() -> None:
    """Command line: migrate, serve, and the verbs above."""
    lake = ("event lake", keeping.look, "TROIKA_LAKE and its keys: may the pod reach the store, does the bucket exist?")
    run.main("tags", Settings, Path(__file__).parent / "migrations", serve, VERBS, [lake])


if __name__ == "__main__":
    main()
