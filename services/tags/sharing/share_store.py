"""SQL of shares."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from chassis.db import Reader, UnitOfWork
from services.tags.domain.sharing import Form, Share, Terms

_COLUMNS = (
    "share_id, request_id, recipient, purpose, form, tags, predicate, min_group_size, points, expires_at, key_id, created_by,"
    " created_at, revoked_at, revoke_reason"
)


async def add(uow: UnitOfWork, request_id: str, terms: Terms, key_id: str, caller: str) -> Share | None:
    """A new share; None when the request made one before."""
    rows = await uow.rows(
        "INSERT INTO share (request_id, recipient, purpose, form, tags, predicate, min_group_size, points,"  # noqa: S608
        " expires_at, key_id, created_by, created_at, revoke_reason) VALUES (:request, :recipient,"
        " :purpose, :form, CAST(:tags AS text[]), :predicate, :size, :points, :expires, :key, :caller, clock_timestamp(), '')"
        f" ON CONFLICT (request_id) DO NOTHING RETURNING {_COLUMNS}",
        request=request_id,
        recipient=terms.recipient,
        purpose=terms.purpose,
        form=int(terms.form),
        tags=list(terms.tags),
        predicate=terms.predicate,
        size=terms.min_group_size,
        points=terms.points,
        expires=terms.expires_at,
        key=key_id,
        caller=caller,
    )
    return _share(rows[0]) if rows else None


async def requested(uow: UnitOfWork, request_id: str) -> Share | None:
    """The share that a request made."""
    rows = await uow.rows(f"SELECT {_COLUMNS} FROM share WHERE request_id = :request", request=request_id)  # noqa: S608
    return _share(rows[0]) if rows else None


async def find(uow: UnitOfWork, share_id: int) -> Share | None:
    """A share, kept from being revoked until this transaction ends."""
    rows = await uow.rows(f"SELECT {_COLUMNS} FROM share WHERE share_id = :id FOR SHARE", id=share_id)  # noqa: S608
    return _share(rows[0]) if rows else None


async def is_open(database: Reader, share_id: int) -> bool:
    """Whether a share may be read at this moment, by the database's clock."""
    rows = await database.fetch(
        "SELECT 1 FROM share WHERE share_id = $1 AND revoked_at IS NULL AND expires_at > clock_timestamp()", share_id
    )
    return bool(rows)


async def revoke(uow: UnitOfWork, share_id: int, reason: str) -> Share | None:
    """Ends a share unless it was ended; a use that is being recorded comes first."""
    await uow.execute(
        "UPDATE share SET revoked_at = clock_timestamp(), revoke_reason = :reason WHERE share_id = :id AND revoked_at IS NULL",
        id=share_id,
        reason=reason,
    )
    return await find(uow, share_id)


async def page(uow: UnitOfWork, recipient: str, before: int, size: int) -> list[Share]:
    """Shares of a recipient, or of all (""), by falling number, those below `before`."""
    rows = await uow.rows(
        f"SELECT {_COLUMNS} FROM share WHERE share_id < :before AND (:recipient = '' OR recipient = :recipient)"  # noqa: S608
        " ORDER BY share_id DESC LIMIT :size",
        before=before,
        recipient=recipient,
        size=size,
    )
    return [_share(row) for row in rows]


async def clock(uow: UnitOfWork) -> datetime:
    """The database's clock: one for all replicas."""
    moment: datetime = (await uow.fetch("SELECT clock_timestamp()"))[0][0]
    return moment


def _share(row: Any) -> Share:
    terms = Terms(
        row.recipient,
        row.purpose,
        Form(row.form),
        tuple(row.tags),
        row.predicate,
        row.min_group_size,
        row.points,
        row.expires_at,
    )
    return Share(
        row.share_id, row.request_id, terms, row.key_id, row.created_by, row.created_at, row.revoked_at, row.revoke_reason
    )
