"""Composition root of touchpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from troika.touchpoints.v1.advertising_service_pb2_grpc import add_AdvertisingServiceServicer_to_server
from troika.touchpoints.v1.arrivals_service_pb2_grpc import add_ArrivalsServiceServicer_to_server
from troika.touchpoints.v1.delivery_service_pb2_grpc import add_DeliveryServiceServicer_to_server
from troika.touchpoints.v1.endpoints_service_pb2_grpc import add_EndpointServiceServicer_to_server
from troika.touchpoints.v1.imports_service_pb2_grpc import add_ImportServiceServicer_to_server
from troika.touchpoints.v1.plan_service_pb2_grpc import add_PlanServiceServicer_to_server
from troika.touchpoints.v1.touchpoints_service_pb2_grpc import add_TouchpointsServiceServicer_to_server

from chassis import run
from chassis.run import Runtime
from services.touchpoints import command as registering
from services.touchpoints import consumers, events, walking
from services.touchpoints.addresses import Addresses
from services.touchpoints.arrivals.opening import open_arrivals
from services.touchpoints.channels.ads.opening import open_ads
from services.touchpoints.channels.dealer.notices import DealerNotices
from services.touchpoints.channels.http import Caller
from services.touchpoints.channels.http2 import Http2
from services.touchpoints.channels.opening import Opening, open_channels
from services.touchpoints.channels.table import Parts
from services.touchpoints.endpoints import Endpoints
from services.touchpoints.engine.opening import open_engine
from services.touchpoints.imports import command as importing
from services.touchpoints.imports.files import ImportFiles
from services.touchpoints.imports.running import Importer
from services.touchpoints.ingest import Ingest
from services.touchpoints.oidc import Issuer
from services.touchpoints.optouts.links import Links
from services.touchpoints.plan import command as planning
from services.touchpoints.plan import holding
from services.touchpoints.plan.gate import Gate
from services.touchpoints.plan.held import Holder
from services.touchpoints.plan.live import LivePlan
from services.touchpoints.plan.replaying import Replayer, Rereader
from services.touchpoints.publishing import Publisher
from services.touchpoints.rpc import TouchpointsRpc
from services.touchpoints.rpc_imports import ImportsRpc
from services.touchpoints.rpc_plan import PlanRpc
from services.touchpoints.sealer import Sealer
from services.touchpoints.selfservice.opening import open_selfservice
from services.touchpoints.settings import Settings
from services.touchpoints.sources import Sources
from services.touchpoints.vault import Vault
from services.touchpoints.web.adf import add_adf_door
from services.touchpoints.web.cloudevents import add_cloudevents_door
from services.touchpoints.web.contacts import add_contact_door
from services.touchpoints.web.feedback import add_feedback_door
from services.touchpoints.web.ingest import add_ingest_doors
from services.touchpoints.web.optouts import OptoutDoors, add_optout_doors
from services.touchpoints.web.sensors import add_sensors_doors
from services.touchpoints.web.wechat import WechatDoor, add_wechat_doors
from services.touchpoints.wechat.api import Api
from services.touchpoints.wechat.contacts import Contacts
from services.touchpoints.wechat.errors import WECOM_RULES
from services.touchpoints.wechat.tokens import Tokens


async def serve(settings: Settings) -> None:
    """Runs the service until SIGTERM."""
    async with Runtime("touchpoints", settings) as runtime:
        database, app = runtime.database, runtime.app
        await runtime.publishes(*events.STREAMS)
        identity: Any = IdentityServiceStub(runtime.client(settings.identity_target))
        vault = Vault(bytes.fromhex(settings.secrets_key.get_secret_value()))
        runtime.consumes(*consumers.consumers(DealerNotices(vault, settings.consent_regimes)))
        # An issuer's address is ours to set: it may well be one of the cluster.
        issuers = Caller(settings.send_timeout_s, allow_private=True)
        runtime.at_end(issuers.close)
        issuer = Issuer(settings, issuers)
        sealer, sources, endpoints = Sealer(identity), Sources(database, issuer), Endpoints(database, vault)
        runtime.checks["sealing key"] = sealer.check
        runtime.spawn(sealer.run(), "sealing key")
        runtime.spawn(sources.run(), "sources")
        publisher, live = Publisher(runtime.bus, settings.publish_timeout_s), LivePlan(database)
        holder = Holder(bytes.fromhex(settings.secrets_key.get_secret_value()))
        runtime.checks["plan"] = live.check
        runtime.spawn(live.run(), "plan")
        gate, rereader = Gate(live, holder), Rereader(holder, sources, settings.oldest_event_days)
        replayer = Replayer(database, rereader, live, sealer, settings.quarantine_days, settings.quarantine_mb * 1024 * 1024)
        runtime.consumes(holding.CONSUMER)
        runtime.spawn(replayer.run(), "quarantine")
        ingest, files = Ingest(sealer, publisher, gate, settings.oldest_event_days), ImportFiles(settings)
        if settings.import_store:
            importer = Importer(database, sealer, publisher, gate, files, settings.oldest_event_days)
            runtime.spawn(importer.follow(), "imports")
        addresses = Addresses(identity)
        add_ingest_doors(app, ingest, sources)
        add_sensors_doors(app, ingest, sources)
        add_cloudevents_door(app, ingest, sources)
        add_adf_door(app, ingest, sources)
        add_feedback_door(app, database, endpoints, settings.app_source)
        add_wechat_doors(app, partial(WechatDoor, database, endpoints, sealer, vault))
        room = Opening(runtime, settings, identity, vault, sealer, sources, endpoints, ingest)
        open_channels(room)
        add_contact_door(app, database, vault, addresses, settings.consent_regimes)
        add_optout_doors(app, OptoutDoors(database, Links(vault, settings.public_url), settings.consent_regimes))
        caller = Caller(settings.send_timeout_s, settings.allow_private_endpoints)
        http2 = Http2(settings.send_timeout_s, settings.allow_private_endpoints)
        runtime.at_end(caller.close)
        parts = Parts(settings, caller, http2, vault, database)
        wecom = Api(caller, Tokens(database, vault, caller), WECOM_RULES)
        runtime.spawn(Contacts(database, endpoints, wecom, sealer, vault).run(), "contacts")
        rooms: Sequence[tuple[Callable[[Any, grpc.aio.Server], None], Any]] = (
            (add_DeliveryServiceServicer_to_server, open_engine(runtime, parts, endpoints, addresses)),
            (add_ImportServiceServicer_to_server, ImportsRpc(database, files)),
            (add_PlanServiceServicer_to_server, PlanRpc(database, live, replayer, holder)),
            (add_AdvertisingServiceServicer_to_server, open_ads(room, caller)),
            (
                add_ArrivalsServiceServicer_to_server,
                open_arrivals(runtime, settings, identity, vault, sealer, endpoints, caller),
            ),
            (add_EndpointServiceServicer_to_server, open_selfservice(runtime, settings, endpoints, vault, caller, issuer)),
            (
                add_TouchpointsServiceServicer_to_server,
                TouchpointsRpc(database, endpoints, settings.allow_private_endpoints),
            ),
        )

        def register(server: grpc.aio.Server) -> None:
            for add, servicer in rooms:
                add(servicer, server)

        await runtime.serve(settings.allowed_callers(), register)


def main() -> None:
    """Command line."""
    run.main(
        "touchpoints",
        Settings,
        Path(__file__).parent / "migrations",
        serve,
        [*importing.VERBS, *registering.VERBS, *planning.VERBS, *walking.VERBS],
    )


if __name__ == "__main__":
    main()
