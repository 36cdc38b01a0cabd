"""The gRPC door: protobuf in, protobuf out; it decides nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import time
from itertools import groupby
from typing import Any

import grpc
import orjson
from troika.identity.v1 import identity_service_pb2 as pb
from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import InvalidArgument, NotFound, PermissionDenied
from chassis.rpc import caller_of
from services.identity import advertising, commands, entities, events, queries, sharing
from services.identity.advertising import Form
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import KINDS, SCOPED, Kind, Reason, Space
from services.identity.messages import entity_message, timestamp
from services.identity.store import Store
from services.identity.vault import Vault

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_PAGE, LARGEST_PAGE = 100, 1000


class IdentityRpc(IdentityServiceServicer):
    """Answers questions about who is who."""

    def __init__(
        self, database: Database, store: Store, vault: Vault, key_id: str, public_key: bytes, reveal_callers: frozenset[str]
    ) -> None:
        self._database, self._store, self._vault = database, store, vault
        self._key = pb.GetSealingKeyResponse(key_id=key_id, public_key=public_key)
        self._reveal_callers = reveal_callers

    async def GetSealingKey(self, request: pb.GetSealingKeyRequest, context: Context) -> pb.GetSealingKeyResponse:
        """The public key."""
        return self._key

    async def ResolveIdentifiers(
        self, request: pb.ResolveIdentifiersRequest, context: Context
    ) -> pb.ResolveIdentifiersResponse:
        """0 where nobody is known by it, or more than one."""
        known = [self._vault.known(ref.kind, ref.scope, ref.value) for ref in request.identifiers]
        tokens = [self._vault.lookup_tokens(k) if isinstance(k, Known) else () for k in known]
        asked = list({token for each in tokens for token in each})
        found = await queries.entity_ids(self._database, asked)
        anchors = await queries.anchors(self._database, asked) if request.with_anchors else {}
        return pb.ResolveIdentifiersResponse(
            entity_ids=[next((found[token] for token in each if token in found), 0) for each in tokens],
            anchor_ids=[next((anchors[token] for token in each if token in anchors), 0) for each in tokens]
            if request.with_anchors
            else (),
        )

    async def GetEntity(self, request: pb.GetEntityRequest, context: Context) -> pb.GetEntityResponse:
        """Raises NotFound for ids that are merged away or never were."""
        space = Space(request.entity_kind)
        found = await entities.read(self._database, space, request.entity_id)
        if found is None:
            raise NotFound("no such entity", reason="ENTITY_NOT_FOUND", field="entity_id")
        return pb.GetEntityResponse(entity=entity_message(space, request.entity_id, found))

    async def ExplainLink(self, request: pb.ExplainLinkRequest, context: Context) -> pb.ExplainLinkResponse:
        """Raises InvalidArgument for values that are none, NotFound for unknown ones."""
        a, b = self._valid(request.a, "a"), self._valid(request.b, "b")
        async with self._database.read() as uow:
            story = await commands.explain_link(uow, self._store, self._vault, a, b)
        answer = pb.ExplainLinkResponse(linked=story.linked, guards=story.guards)
        for hop in story.path:
            answer.path.add(
                kind_a=hop.kind_a,
                kind_b=hop.kind_b,
                source=hop.source,
                observations=hop.observations,
                first_seen=timestamp(hop.first_seen_us),
                last_seen=timestamp(hop.last_seen_us),
            )
        return answer

    async def ListClusterChanges(
        self, request: pb.ListClusterChangesRequest, context: Context
    ) -> pb.ListClusterChangesResponse:
        """Goes on behind the number of the last entry shown."""
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        (before,) = paging.read("cluster changes", request.page_token, (paging.BIGINT_MAX,))
        async with self._database.read() as uow:
            entries = await queries.ledger_page(uow, before, size)
        token = paging.token("cluster changes", entries[-1].op_id) if len(entries) == size else ""
        return pb.ListClusterChangesResponse(
            cluster_changes=[events.cluster_change(entry) for entry in entries], next_page_token=token
        )

    async def RegisterSharedIdentifiers(
        self, request: pb.RegisterSharedIdentifiersRequest, context: Context
    ) -> pb.RegisterSharedIdentifiersResponse:
        """Clusters that only these values held together come apart at once."""
        known = [self._vault.known(ref.kind, ref.scope, ref.value) for ref in request.identifiers]
        good = [k for k in known if isinstance(k, Known)]
        async with self._database.transaction() as uow:
            registered = await sharing.set_aside(uow, self._store, self._vault, good, Reason.REGISTERED, request.reason)
        invalid = [index for index, k in enumerate(known) if not isinstance(k, Known)]
        return pb.RegisterSharedIdentifiersResponse(registered=registered, invalid_indexes=invalid)

    async def ListSharedIdentifiers(
        self, request: pb.ListSharedIdentifiersRequest, context: Context
    ) -> pb.ListSharedIdentifiersResponse:
        """Goes on behind the degree and number of the last value shown."""
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        anchors, last = paging.read("shared", request.page_token, (paging.BIGINT_MAX, paging.BIGINT_MAX))
        async with self._database.read() as uow:
            rows = await queries.shared_page(uow, (anchors, last), size)
        return pb.ListSharedIdentifiersResponse(
            shared_identifiers=[
                pb.SharedIdentifier(
                    identifier_id=row.id,
                    kind=Kind(row.kind).name.lower(),
                    reason=row.reason,
                    anchors=row.links,
                )
                for row in rows
            ],
            next_page_token=paging.token("shared", rows[-1].links, rows[-1].id) if len(rows) == size else "",
        )

    async def RevealAddresses(self, request: pb.RevealAddressesRequest, context: Context) -> pb.RevealAddressesResponse:
        """Only for callers on the reveal list; every call leaves a line in the audit."""
        caller = self._revealed_to(context)
        kind = KINDS[request.kind]
        if (kind in SCOPED) != bool(request.scope):
            raise InvalidArgument("openid and crm_id need a scope, mobile has none", reason="INVALID_SCOPE", field="scope")
        if any(person <= 0 for person in request.person_ids):
            raise InvalidArgument("person ids are positive", field="person_ids")
        with_name = request.purpose == "dealer_contact"
        async with self._database.transaction() as uow:
            found = await queries.addresses(uow, request.person_ids, kind, request.scope, with_name)
            await queries.audit_reveal(
                uow,
                caller=caller,
                purpose=request.purpose,
                kind=request.kind,
                scope=request.scope,
                persons=[row.person_id for row in found],
            )
        vault = self._vault
        return pb.RevealAddressesResponse(
            addresses=[
                pb.Address(
                    person_id=row.person_id,
                    anchor_id=row.anchor_id,
                    value=vault.open(*row.address),
                    person_name=orjson.loads(vault.open(*row.profile)).get("name", "") if row.profile else "",
                )
                for row in found
            ]
        )

    async def HashAddresses(self, request: pb.HashAddressesRequest, context: Context) -> pb.HashAddressesResponse:
        """Only for callers on the reveal list; every call leaves a line in the audit, with those whose hashes it gave."""
        caller = self._revealed_to(context)
        if "mobile" in request.kinds and not request.mobile_form:
            raise InvalidArgument("say how mobile numbers are written", reason="MOBILE_FORM_MISSING", field="mobile_form")
        if any(person <= 0 for person in request.person_ids):
            raise InvalidArgument("person ids are positive", field="person_ids")
        form = Form(request.digest, request.mobile_form, request.device_capitals)
        async with self._database.transaction() as uow:
            allowed = await advertising.allowed(uow, request.person_ids, time.time_ns() // 1000)
            found = await advertising.identifiers(uow, allowed, [KINDS[kind] for kind in request.kinds])
            await queries.audit_reveal(
                uow,
                caller=caller,
                purpose="ads",
                kind=",".join(sorted(request.kinds)),
                scope="",
                persons=sorted({row.person_id for row in found}),
            )
        answer = pb.HashAddressesResponse()
        for person_id, rows in groupby(found, lambda row: row.person_id):
            digests = {(row.kind.name.lower(), form.digest(row.kind, self._vault.open(*row.address))) for row in rows}
            hashes = [pb.HashedAddress(kind=kind, digest=digest) for kind, digest in sorted(digests)]
            answer.persons.add(person_id=person_id, hashes=hashes)
        return answer

    async def GetStatistics(self, request: pb.GetStatisticsRequest, context: Context) -> pb.GetStatisticsResponse:
        """Counted, not estimated."""
        async with self._database.read() as uow:
            return pb.GetStatisticsResponse(**await queries.statistics(uow))

    def _revealed_to(self, context: Context) -> str:
        caller = caller_of(context)
        if caller not in self._reveal_callers:
            raise PermissionDenied(f"{caller} may not see addresses", reason="REVEAL_NOT_ALLOWED", field="authorization")
        return caller

    def _valid(self, ref: pb.IdentifierRef, field: str) -> Known:
        known = self._vault.known(ref.kind, ref.scope, ref.value)
        if isinstance(known, Known):
            return known
        raise InvalidArgument("not a valid value of its kind", reason=known, field=f"{field}.value")
