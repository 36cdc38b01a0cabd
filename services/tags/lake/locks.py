"""Who may change the lake's files, held by a transaction and gone with it."""

from __future__ import annotations

from chassis.db import UnitOfWork


async def one_writer(uow: UnitOfWork) -> None:
    """Waits to be the only one that adds rows, or puts other files in the place of a day's."""
    await uow.rows("SELECT pg_advisory_xact_lock(hashtext('troika tags lake rows'))")


async def one_keeper(uow: UnitOfWork) -> None:
    """Waits to be the only one that compacts, erases and deletes."""
    await uow.rows("SELECT pg_advisory_xact_lock(hashtext('troika tags lake keeping'))")


async def tried_keeper(uow: UnitOfWork) -> bool:
    """The same without waiting; False when another is at it."""
    rows = await uow.rows("SELECT pg_try_advisory_xact_lock(hashtext('troika tags lake keeping')) AS held")
    return bool(rows[0].held)
