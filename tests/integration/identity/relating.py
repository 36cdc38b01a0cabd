"""What the tests of relations share: people with cars, and inference until nothing is left."""

from __future__ import annotations

from typing import Any

from services.identity import entities
from services.identity.domain.kinds import Space
from services.identity.entities import Entity
from services.identity.inference import Inferred, infer
from tests.integration.identity.world import World

DAY = 86_400_000_000
VIN, OTHER_VIN = "LSVAA49J132047371", "LTR1A3BC7HT000001"
HOME = "深圳市南山区科技园路12号3栋502室"
ZHANG, LI, WANG = "13912345679", "15012345679", "18612345679"


async def entity(world: World, space: Space, id_: int) -> Entity:
    async with world.database.read() as uow:
        found = await entities.read(uow, space, id_)
    assert found is not None
    return found


async def inferred(world: World) -> Inferred:
    total = Inferred()
    while True:
        total.add(done := await infer(world.database, 7))
        if not done.left:
            return total


def record(dealer: str, number: str, mobile: str, vin: str, **extra: Any) -> tuple[Any, ...]:
    return (f"dealer:{dealer}", ("crm_id", f"dealer:{dealer}", number), ("mobile", mobile), ("vin", vin), extra)
