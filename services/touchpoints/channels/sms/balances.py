"""What is left of what was paid for at a gateway, as it told last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chassis.db import Reader, UnitOfWork
from services.touchpoints.channels.contract import Push, Settled
from services.touchpoints.channels.http import PAUSE_S

NOTE = """
    INSERT INTO provider_balance AS b (endpoint, balance, told_at)
    SELECT name, balance, now() FROM unnest($1::text[], $2::bigint[]) AS t(name, balance) ORDER BY name
    ON CONFLICT (endpoint) DO UPDATE SET balance = excluded.balance, told_at = excluded.told_at
"""
# Nothing left is believed for as long as the account rests: only another call tells that somebody has paid since.
READ = """
    SELECT endpoint, balance FROM provider_balance
    WHERE told_at > now() - CASE WHEN balance > 0 THEN interval '1 day' ELSE make_interval(secs => $1) END
"""


@dataclass
class Told:
    """What the answer to one call said; None for nothing."""

    left: int | None = None


class Balances:
    """Keeps what gateways tell."""

    async def take(self, uow: UnitOfWork, pushes: Sequence[Push]) -> Mapping[str, Told]:
        """A place for what each call will tell."""
        return {push.delivery.delivery_id: Told() for push in pushes}

    async def settle(self, uow: UnitOfWork, settled: Sequence[Settled]) -> None:
        """The last word of each account."""
        told = {
            each.push.endpoint.name: each.push.grant.left
            for each in settled
            if isinstance(each.push.grant, Told) and each.push.grant.left is not None
        }
        if told:
            names = sorted(told)
            await uow.fetch(NOTE, names, [told[name] for name in names])


async def read(reader: Reader) -> Mapping[str, int]:
    """What is left, by endpoint."""
    return {row["endpoint"]: row["balance"] for row in await reader.fetch(READ, PAUSE_S)}
