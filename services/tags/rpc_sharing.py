"""The gRPC door of sharing for the house, which makes shares, looks after their use and lets points be spent."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.tags.v1 import sharing_service_pb2 as pb
from troika.tags.v1.sharing_service_pb2_grpc import SharingServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from chassis.moments import moment
from chassis.rpc import caller_of
from services.tags.domain.catalogue import Catalogue
from services.tags.domain.ledger import paths
from services.tags.domain.sharing import Form, Share, Terms
from services.tags.sharing import ledger_store, points, share_store, terms
from services.tags.sharing.keys import SharingKeys
from services.tags.sharing.ledger_store import Recorded

Context = grpc.aio.ServicerContext[Any, Any]
DEFAULT_PAGE, LARGEST_PAGE = 100, 1000


class SharingRpc(SharingServiceServicer):
    """Makes shares and shows what was done with them."""

    def __init__(
        self, database: Database, catalogue: Catalogue, keys: SharingKeys, recipients: frozenset[str], smallest_group: int
    ) -> None:
        self._database, self._catalogue, self._keys = database, catalogue, keys
        self._recipients, self._smallest_group = recipients, smallest_group

    async def CreateShare(self, request: pb.CreateShareRequest, context: Context) -> pb.CreateShareResponse:
        """Checks everything before anything is written."""
        asked = self._terms(request)
        async with self._database.transaction() as uow:
            made = await share_store.add(uow, request.request_id, asked, self._keys.active(), caller_of(context))
            if made is None:
                made = await share_store.requested(uow, request.request_id)
                if made is None or made.terms != asked:
                    raise FailedPrecondition(
                        "this request id made another share", reason="REQUEST_ID_TAKEN", field="request_id"
                    )
            elif made.terms.expires_at <= made.created_at:
                raise InvalidArgument("must be in the future", reason="EXPIRES_IN_THE_PAST", field="expires_at")
        return pb.CreateShareResponse(share=_share(made))

    def _terms(self, request: pb.CreateShareRequest) -> Terms:
        if request.recipient not in self._recipients:
            raise InvalidArgument(
                "not among TROIKA_SHARE_RECIPIENTS, so nobody could read it", reason="UNKNOWN_RECIPIENT", field="recipient"
            )
        if request.min_group_size < self._smallest_group:
            raise InvalidArgument(
                f"groups of fewer than {self._smallest_group} are never shown",
                reason="GROUP_TOO_SMALL",
                field="min_group_size",
            )
        form = Form(request.form)
        definitions, _ = terms.check(self._catalogue, request.tags, request.predicate, form)
        expires_at = moment(request.expires_at, "expires_at")
        return Terms(
            request.recipient,
            request.purpose,
            form,
            tuple(definition.name for definition in definitions),
            request.predicate,
            request.min_group_size,
            request.points_per_use,
            expires_at,
        )

    async def ListShares(self, request: pb.ListSharesRequest, context: Context) -> pb.ListSharesResponse:
        """Goes on below the number of the last share shown."""
        listing = f"shares {request.recipient}"
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        (before,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        async with self._database.read() as uow:
            found = await share_store.page(uow, request.recipient, before, size)
        token = paging.token(listing, found[-1].share_id) if len(found) == size else ""
        return pb.ListSharesResponse(shares=map(_share, found), next_page_token=token)

    async def RevokeShare(self, request: pb.RevokeShareRequest, context: Context) -> pb.RevokeShareResponse:
        """Waits for a use that is being recorded; its stream then stops before its first chunk."""
        async with self._database.transaction() as uow:
            revoked = await share_store.revoke(uow, request.share_id, request.reason)
        if revoked is None:
            raise NotFound("no such share", reason="SHARE_NOT_FOUND", field="share_id")
        return pb.RevokeShareResponse(share=_share(revoked))

    async def ListDataUses(self, request: pb.ListDataUsesRequest, context: Context) -> pb.ListDataUsesResponse:
        """Goes on below the number of the last entry shown."""
        listing = f"data uses {request.share_id}"
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        (before,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        async with self._database.read() as uow:
            found = await ledger_store.page(uow, request.share_id, before, size)
        token = paging.token(listing, found[-1].use.number) if len(found) == size else ""
        return pb.ListDataUsesResponse(uses=map(_use, found), next_page_token=token)

    async def GetDataUse(self, request: pb.GetDataUseRequest, context: Context) -> pb.GetDataUseResponse:
        """By who is who now: what was used before a merge is the merged person's, and after an unmerge each side's own."""
        listing = f"data use {request.person_id}"
        size = paging.size(request.page_size, DEFAULT_PAGE, LARGEST_PAGE)
        (before,) = paging.read(listing, request.page_token, (paging.BIGINT_MAX,))
        async with self._database.read() as uow:
            account = await points.account(uow, request.person_id, before, size)
        token = paging.token(listing, account.uses[-1].use.number) if len(account.uses) == size else ""
        answer = pb.GetDataUseResponse(
            next_page_token=token, points_earned=account.balance.earned, points_spent=account.balance.spent
        )
        for use, balance in account.uses:
            answer.uses.add(
                number=use.number,
                recipient=use.recipient,
                purpose=use.purpose,
                tags=use.tags,
                form=pb.ShareForm.ValueType(use.form),
                used_at=micros(use.used_at_us),
                points=balance.earned,
                points_spent=balance.spent,
            )
        return answer

    async def ProveDataUse(self, request: pb.ProveDataUseRequest, context: Context) -> pb.ProveDataUseResponse:
        """Reads all leaves of the entry; hashes of others, who cannot be recognised by them."""
        async with self._database.read() as uow:
            included = await ledger_store.inclusions(uow, request.person_id, request.number)
            if not included:
                raise NotFound("this person was not in that use", reason="NOT_IN_USE", field="number")
            entry = (await ledger_store.numbered(uow, [request.number]))[request.number]
            leaves = [leaf async for _, leaf in ledger_store.leaves(uow, request.number)]
        proofs = await asyncio.to_thread(paths, leaves, [each.position for each in included])
        answer = pb.ProveDataUseResponse(content=entry.use.content(), hash=entry.hash)
        for each, path in zip(included, proofs, strict=True):
            answer.inclusions.add(anchor_id=each.anchor_id, row=each.line, nonce=each.nonce, position=each.position, path=path)
        return answer

    async def SpendPoints(self, request: pb.SpendPointsRequest, context: Context) -> pb.SpendPointsResponse:
        """One transaction: points are spent once or not at all."""
        async with self._database.transaction() as uow:
            spent = await points.spend(
                uow,
                person_id=request.person_id,
                points=request.points,
                reason=request.reason,
                op_id=request.op_id,
                caller=caller_of(context),
            )
        return pb.SpendPointsResponse(balance=spent.balance, repeated_answer=spent.repeated)


def _share(share: Share) -> pb.Share:
    agreed = share.terms
    return pb.Share(
        share_id=share.share_id,
        recipient=agreed.recipient,
        purpose=agreed.purpose,
        form=pb.ShareForm.ValueType(agreed.form),
        tags=agreed.tags,
        predicate=agreed.predicate,
        min_group_size=agreed.min_group_size,
        points_per_use=agreed.points,
        expires_at=_moment(agreed.expires_at),
        created_by=share.created_by,
        created_at=_moment(share.created_at),
        revoked_at=_moment(share.revoked_at) if share.revoked_at else None,
        revoke_reason=share.revoke_reason,
        key_id=share.key_id,
    )


def _use(recorded: Recorded) -> pb.DataUse:
    use = recorded.use
    return pb.DataUse(
        number=use.number,
        share_id=use.share_id,
        recipient=use.recipient,
        purpose=use.purpose,
        form=pb.ShareForm.ValueType(use.form),
        tags=use.tags,
        predicate=use.predicate,
        persons=use.persons,
        suppressed=use.suppressed,
        without_consent=use.without_consent,
        points=use.points,
        used_at=micros(use.used_at_us),
        hash=recorded.hash,
        previous_hash=use.previous,
        root=use.root,
    )


def _moment(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def micros(since_epoch: int) -> Timestamp:
    """Microseconds since the epoch as protobuf."""
    stamp = Timestamp()
    stamp.FromMicroseconds(since_epoch)
    return stamp
