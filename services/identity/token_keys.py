"""Which token keys rows stand under, and that none of them is missing here."""

from __future__ import annotations

import asyncio

from chassis.db import Database, UnitOfWork
from chassis.errors import FailedPrecondition, Unavailable, is_operational
from services.identity.vault import Vault

WAIT_S = 0.5
# One look at the index for each number in use, whatever the number of rows.
KEY_NUMBERS = (
    "WITH RECURSIVE used(number) AS ((SELECT get_byte(token, 0) FROM identifier ORDER BY token LIMIT 1)"
    " UNION ALL SELECT (SELECT get_byte(token, 0) FROM identifier WHERE token >= set_byte('\\x00'::bytea, 0, used.number + 1)"
    " ORDER BY token LIMIT 1) FROM used WHERE used.number < 255)"
    " SELECT number FROM used WHERE number IS NOT NULL"
)


async def key_numbers(uow: UnitOfWork) -> set[int]:
    """Numbers of the token keys that rows stand under."""
    return {int(row[0]) for row in await uow.fetch(KEY_NUMBERS)}


async def require_token_keys(uow: UnitOfWork, vault: Vault) -> None:
    """Raises Unavailable TOKEN_KEY_MISSING when rows stand under a key that is not configured: they would not be found, and
    every value in them would be stored once more. Under the graph's lock it stays true until the transaction ends."""
    if missing := sorted(await key_numbers(uow) - vault.tokens.numbers):
        raise Unavailable(
            f"identifiers stand under token key {missing[0]}, which is not configured",
            reason="TOKEN_KEY_MISSING",
            field="token_keys",
        )


async def check(database: Database, vault: Vault) -> None:
    """For readiness: a replica that lacks a key must not be asked."""
    async with database.read() as uow:
        await require_token_keys(uow, vault)


async def wait(database: Database, vault: Vault) -> None:
    """Waits for the database; raises FailedPrecondition when a key is missing, for then the service must not even start."""
    while True:
        try:
            return await check(database, vault)
        except Unavailable as missing:
            raise FailedPrecondition(missing.message, reason="TOKEN_KEY_MISSING", field="token_keys") from None
        except Exception as error:
            if not is_operational(error):
                raise
            await asyncio.sleep(WAIT_S)
