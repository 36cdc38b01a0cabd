"""The gRPC door of the vault: protobuf in, protobuf out; it decides nothing and shows no value."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.identity.v1 import vault_service_pb2 as pb
from troika.identity.v1.vault_service_pb2_grpc import VaultServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import InvalidArgument, NotFound
from chassis.rpc import caller_of
from services.identity import erasure
from services.identity.domain.identifiers import Known
from services.identity.erasure import Manifest
from services.identity.rpc import DEFAULT_PAGE, LARGEST_PAGE
from services.identity.store import Store
from services.identity.vault import Vault

Context = grpc.aio.ServicerContext[Any, Any]


class VaultRpc(VaultServiceServicer):
    """Erases, proves, lets in again, and shows who looked."""

    def __init__(self, database: Database, store: Store, vault: Vault) -> None:
        self._database, self._store, self._vault = database, store, vault

    async def ErasePerson(self, request: pb.ErasePersonRequest, context: Context) -> pb.ErasePersonResponse:
        """Raises NotFound for unknown persons, FailedPrecondition when a request id is used twice or a key is missing."""
        async with self._database.transaction() as uow:
            manifest = await erasure.erase(
                uow,
                self._store,
                self._vault,
                person_id=request.person_id,
                request_id=request.request_id,
                caller=caller_of(context),
                reason=request.reason,
                dry_run=request.dry_run,
            )
        return pb.ErasePersonResponse(manifest=_manifest(manifest))

    async def GetErasure(self, request: pb.GetErasureRequest, context: Context) -> pb.GetErasureResponse:
        """Looks now, not at what was noted then; raises NotFound."""
        async with self._database.read() as uow:
            manifest = await erasure.find(uow, request.request_id)
            if manifest is None:
                raise NotFound("nothing was erased under this request id", reason="ERASURE_NOT_FOUND", field="request_id")
            checks = await erasure.prove(uow, manifest)
        return pb.GetErasureResponse(
            manifest=_manifest(manifest),
            checks=[pb.ErasureCheck(name=c.name, looked_for=c.looked_for, found=c.found, passed=c.found == 0) for c in checks],
            clean=all(check.found == 0 for check in checks),
        )

    async def LiftSuppression(self, request: pb.LiftSuppressionRequest, context: Context) -> pb.LiftSuppressionResponse:
        """Raises InvalidArgument unless it names either an erasure or values, NotFound for unknown erasures."""
        if bool(request.request_id) == bool(request.identifiers):
            raise InvalidArgument("either a request id or identifiers", reason="ONE_OF_TWO", field="request_id")
        identifiers = []
        for index, ref in enumerate(request.identifiers):
            known = self._vault.known(ref.kind, ref.scope, ref.value)
            if not isinstance(known, Known):
                raise InvalidArgument("not a valid value of its kind", reason=known, field=f"identifiers[{index}].value")
            identifiers.append(known)
        async with self._database.transaction() as uow:
            lifted, erasures = await erasure.lift(
                uow,
                self._vault,
                request_id=request.request_id,
                identifiers=identifiers,
                caller=caller_of(context),
                reason=request.reason,
            )
        return pb.LiftSuppressionResponse(lifted=len(lifted), erasure_ids=erasures)

    async def ListReveals(self, request: pb.ListRevealsRequest, context: Context) -> pb.ListRevealsResponse:
        """Goes on behind the number of the last reveal shown."""
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        listing = f"reveals of {request.person_id}"
        (before,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        async with self._database.read() as uow:
            rows = await uow.fetch(
                "SELECT id, caller, purpose, kind, scope, person_ids, at FROM reveal_audit"
                " WHERE id < $1 AND ($2::bigint = 0 OR $2 = ANY(person_ids)) ORDER BY id DESC LIMIT $3",
                before,
                request.person_id,
                size,
            )
        return pb.ListRevealsResponse(
            reveals=[
                pb.Reveal(
                    reveal_id=row["id"],
                    caller=row["caller"],
                    purpose=row["purpose"],
                    kind=row["kind"],
                    scope=row["scope"],
                    person_ids=row["person_ids"],
                    at=_at(row["at"]),
                )
                for row in rows
            ],
            next_page_token=paging.token(listing, rows[-1]["id"]) if len(rows) == size else "",
        )


def _manifest(manifest: Manifest) -> pb.ErasureManifest:
    return pb.ErasureManifest(
        erasure_id=manifest.erasure_id,
        request_id=manifest.request_id,
        person_id=manifest.person_id,
        caller=manifest.caller,
        reason=manifest.reason,
        anchor_ids=manifest.anchors,
        tombstone_ids=manifest.tombstones,
        destroyed_key_ids=manifest.destroyed_keys,
        removed=manifest.removed,
        at=_at(manifest.at),
    )


def _at(moment: Any) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
