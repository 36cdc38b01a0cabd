"""The lock between erasures and all who write what hangs on persons; imports nobody, so that everybody may take it."""

from __future__ import annotations

from chassis.db import UnitOfWork


async def hold_off_erasures(uow: UnitOfWork) -> None:
    """Keeps erasures waiting until this transaction ends."""
    await uow.rows("SELECT pg_advisory_xact_lock_shared(hashtext('orchestrator erasure'))")
