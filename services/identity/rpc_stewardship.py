"""The gRPC door for stewards: protobuf in, protobuf out; it decides nothing."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

from typing import Any

import grpc
import orjson
from troika.identity.v1 import stewardship_service_pb2 as pb
from troika.identity.v1.stewardship_service_pb2_grpc import StewardshipServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.rpc import caller_of
from services.identity import queries, sharing, stewardship, suggestions
from services.identity.domain.identifiers import Known
from services.identity.domain.kinds import Reason
from services.identity.messages import timestamp
from services.identity.rpc import DEFAULT_PAGE, LARGEST_PAGE
from services.identity.stewardship import MergeOrder
from services.identity.store import Store
from services.identity.vault import Vault

Context = grpc.aio.ServicerContext[Any, Any]


class StewardshipRpc(StewardshipServiceServicer):
    """Changes who is who by a person's decision."""

    def __init__(self, database: Database, store: Store, vault: Vault) -> None:
        self._database, self._store, self._vault = database, store, vault

    async def MergePersons(self, request: pb.MergePersonsRequest, context: Context) -> pb.MergePersonsResponse:
        """Conflicts are outcomes; only an unknown target or a reused op_id is an error."""
        order = MergeOrder(
            request.op_id,
            request.target_id,
            list(request.source_ids),
            request.move_limit,
            request.reason,
            caller_of(context),
            request.dry_run,
        )
        async with self._database.transaction() as uow:
            merged = await stewardship.merge_persons(uow, self._store, order)
        return pb.MergePersonsResponse(
            op_id=request.op_id,
            person_id=merged.person_id,
            outcomes=[
                pb.SourceOutcome(source_id=o.source_id, outcome=o.outcome, moved_anchors=o.moved_anchors)
                for o in merged.outcomes
            ],
            repeated_answer=merged.repeated,
        )

    async def Unmerge(self, request: pb.UnmergeRequest, context: Context) -> pb.UnmergeResponse:
        """By the caller's op_id or a number of the ledger."""
        async with self._database.transaction() as uow:
            undone = await stewardship.unmerge(
                uow, self._store, request.op_id, request.reason, caller_of(context), request.dry_run
            )
        return pb.UnmergeResponse(outcome=undone.outcome, person_ids=undone.person_ids, moved_anchors=undone.moved_anchors)

    async def ListMerges(self, request: pb.ListMergesRequest, context: Context) -> pb.ListMergesResponse:
        """Goes on behind the number of the last merge shown."""
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        (before,) = paging.read(f"merges {request.person_id}", request.page_token, (paging.BIGINT_MAX,))
        async with self._database.read() as uow:
            rows = await queries.merges_page(uow, request.person_id, before, size)
        merges = [
            pb.Merge(
                op_id=row["request_id"] or f"{stewardship.LEDGER}{row['op_id']}",
                survivor_id=row["survivor_id"],
                merged_id=row["other_id"],
                reason=row["reason"],
                moved_anchors=row["moved"],
                caller=row["caller"] or "",
                merged_at=timestamp(row["at_us"]),
                undone=row["undone"],
            )
            for row in rows
        ]
        token = paging.token(f"merges {request.person_id}", rows[-1]["op_id"]) if len(rows) == size else ""
        return pb.ListMergesResponse(merges=merges, next_page_token=token)

    async def QuarantineIdentifiers(
        self, request: pb.QuarantineIdentifiersRequest, context: Context
    ) -> pb.QuarantineIdentifiersResponse:
        """Clusters that only these values held together come apart at once."""
        good, invalid = self._known(request.identifiers)
        async with self._database.transaction() as uow:
            quarantined = await sharing.set_aside(uow, self._store, self._vault, good, Reason.QUARANTINED, request.reason)
        return pb.QuarantineIdentifiersResponse(quarantined=quarantined, invalid_indexes=invalid)

    async def ReleaseIdentifiers(
        self, request: pb.ReleaseIdentifiersRequest, context: Context
    ) -> pb.ReleaseIdentifiersResponse:
        """What they held together joins again."""
        good, invalid = self._known(request.identifiers)
        async with self._database.transaction() as uow:
            released, unknown = await sharing.release(uow, self._store, self._vault, good)
        unheard = {known.token for known in unknown}
        for index, ref in enumerate(request.identifiers):
            known = self._vault.known(ref.kind, ref.scope, ref.value)
            if isinstance(known, Known) and known.token in unheard:
                invalid.append(index)
        return pb.ReleaseIdentifiersResponse(released=released, invalid_indexes=sorted(invalid))

    async def ListSuggestions(self, request: pb.ListSuggestionsRequest, context: Context) -> pb.ListSuggestionsResponse:
        """Goes on behind the number of the last suggestion shown."""
        state = request.state or suggestions.PENDING
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        (before,) = paging.read(f"suggestions {state}", request.page_token, (paging.BIGINT_MAX,))
        async with self._database.read() as uow:
            rows = await suggestions.page(uow, state, before, size)
        return pb.ListSuggestionsResponse(
            suggestions=[
                pb.Suggestion(
                    suggestion_id=row["id"],
                    person_a=row["person_a"],
                    person_b=row["person_b"],
                    probability=row["probability"],
                    match_weights=orjson.loads(row["explanation"]),
                    state=row["state"],
                    decided_by=row["decided_by"],
                )
                for row in rows
            ],
            next_page_token=paging.token(f"suggestions {state}", rows[-1]["id"]) if len(rows) == size else "",
        )

    async def DecideSuggestion(self, request: pb.DecideSuggestionRequest, context: Context) -> pb.DecideSuggestionResponse:
        """An accepted suggestion is a merge like any other."""
        async with self._database.transaction() as uow:
            state, op_id, outcome = await suggestions.decide(
                uow, self._store, request.suggestion_id, request.accept, caller_of(context)
            )
        return pb.DecideSuggestionResponse(state=state, op_id=op_id, outcome=outcome)

    def _known(self, refs: Any) -> tuple[list[Known], list[int]]:
        found = [self._vault.known(ref.kind, ref.scope, ref.value) for ref in refs]
        return [k for k in found if isinstance(k, Known)], [i for i, k in enumerate(found) if not isinstance(k, Known)]
