"""Composition root of identity: who is who."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from troika.identity.v1.consent_service_pb2_grpc import add_ConsentServiceServicer_to_server
from troika.identity.v1.holder_service_pb2_grpc import add_HolderServiceServicer_to_server
from troika.identity.v1.identity_service_pb2_grpc import add_IdentityServiceServicer_to_server
from troika.identity.v1.matching_service_pb2_grpc import add_MatchingServiceServicer_to_server
from troika.identity.v1.relation_service_pb2_grpc import add_RelationServiceServicer_to_server
from troika.identity.v1.stewardship_service_pb2_grpc import add_StewardshipServiceServicer_to_server
from troika.identity.v1.vault_service_pb2_grpc import add_VaultServiceServicer_to_server

from chassis import run
from chassis.bus import Consumer
from chassis.keyrings import key_bytes
from chassis.run import Runtime, Verb
from services.identity import census, consumers, events, inference, linking, partner_hashes, quality, rotation, token_keys
from services.identity.handlers import Resolver
from services.identity.matching import Limits
from services.identity.partners import Partners
from services.identity.rebuild import run as rebuilding
from services.identity.rpc import IdentityRpc
from services.identity.rpc_consent import ConsentRpc
from services.identity.rpc_holders import HolderRpc
from services.identity.rpc_matching import MatchingRpc
from services.identity.rpc_relations import RelationRpc
from services.identity.rpc_stewardship import StewardshipRpc
from services.identity.rpc_vault import VaultRpc
from services.identity.settings import Settings
from services.identity.store import Store
from services.identity.vault import Vault


async def serve(settings: Settings) -> None:
    """Runs until SIGTERM."""
    private_keys = {
        key_id: X25519PrivateKey.from_private_bytes(key_bytes(key)) for key_id, key in settings.sealing_private_keys.items()
    }
    private_key = private_keys[settings.sealing_key_id]
    vault = Vault.of(settings)
    opener = consumers.Opener(private_keys, vault)
    async with Runtime("identity", settings) as runtime:
        store = Store()
        # Where a token key is missing nothing may be asked and nothing stored: every value would be somebody new.
        await token_keys.wait(runtime.database, vault)
        runtime.checks["token keys"] = partial(token_keys.check, runtime.database, vault)
        await runtime.publishes(*events.STREAMS)
        handle = consumers.observed(opener, store, Resolver(store, vault))
        # Full messages hold 500 events: eight make a transaction of about half a second on one core.
        # Two at a time: while one holds the graph and waits for the database, the other opens its events.
        runtime.consumes(*[Consumer(consumers.NAME, consumers.SUBJECT, handle, batch=8)] * 2)
        rpc = IdentityRpc(
            runtime.database,
            store,
            vault,
            settings.sealing_key_id,
            private_key.public_key().public_bytes_raw(),
            settings.reveal_callers,
        )
        consent_rpc = ConsentRpc(runtime.database, store, vault)
        stewardship = StewardshipRpc(runtime.database, store, vault)
        vault_rpc = VaultRpc(runtime.database, store, vault)
        relation_rpc = RelationRpc(runtime.database, vault)
        partners = Partners.of(settings)
        limits = Limits(settings.matching_hashes_per_hour, settings.matching_calls_per_hour)
        holder_rpc = HolderRpc(runtime.database.pinned(), vault, settings.reveal_callers)
        matching_rpc = MatchingRpc(runtime.database, partners, limits, settings.match_callers)
        runtime.spawn(inference.follow(runtime.database, settings.inference_pause_s), "inference")
        runtime.spawn(census.run(runtime.database), "census")
        hashing = partner_hashes.follow(runtime.database, vault, partners, settings.matching_pause_s)
        runtime.spawn(hashing, "partners' hashes")

        def register(server: grpc.aio.Server) -> None:
            add_IdentityServiceServicer_to_server(rpc, server)
            add_HolderServiceServicer_to_server(holder_rpc, server)
            add_ConsentServiceServicer_to_server(consent_rpc, server)
            add_StewardshipServiceServicer_to_server(stewardship, server)
            add_VaultServiceServicer_to_server(vault_rpc, server)
            add_RelationServiceServicer_to_server(relation_rpc, server)
            add_MatchingServiceServicer_to_server(matching_rpc, server)

        await runtime.serve(settings.allowed_callers(), register)


VERBS = (
    Verb("link", "find records that are probably of one person, as suggestions or links", linking.run, linking.arguments),
    Verb("infer", "work out the relations of what changed since the last time", inference.catch_up, inference.arguments),
    Verb("rebuild", "solve the graph from its links alone, compare or mend the clusters", rebuilding.run, rebuilding.arguments),
    Verb("quality", "tell how good each source's records are, worst first", quality.show, quality.arguments),
    *partner_hashes.VERBS,
    *rotation.VERBS,
)


def main() -> None:
    """Command line: migrate, serve, and the verbs below."""
    run.main("identity", Settings, Path(__file__).parent / "migrations", serve, VERBS)


if __name__ == "__main__":
    main()
