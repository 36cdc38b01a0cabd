"""What may be done with what is known of somebody who arrives, as they have said so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from chassis.batching import Batching
from chassis.consents import OPT_OUT, SEPARATE, SHARING, regime
from chassis.db import Database
from services.touchpoints.arrivals import store
from services.touchpoints.arrivals.store import Asked

BIOMETRIC: Final = "biometric"
PROFILING: Final = "personalisation"
OPTED_OUT, NO_CONSENT, ERASED = "opted_out", "no_consent", "erased"


class Permissions(NamedTuple):
    """Why something is not allowed; empty where it is."""

    # Telling the dealer who it is and what is known of the car.
    sharing: str
    # Scores, reasons and offers made for this person.
    profiling: str


class Consents:
    """Asks the projection of consent."""

    def __init__(self, database: Database, regimes: Mapping[str, str]) -> None:
        self._database = database
        self._asked: Batching[Asked, list[tuple[bool, bool]] | None] = Batching()
        self._sharing = regime(regimes, SHARING, "dealer")
        # As scoring has it: who never spoke of personalisation is scored, who has switched it off is not (PIPL 24).
        self._profiling = regimes.get(PROFILING, OPT_OUT)

    async def run(self) -> None:
        """Answers all who ask, those who wait together at once, until cancelled."""
        reader = self._database.pinned()
        try:
            await self._asked.run(lambda asked: store.standing(reader, asked))
        finally:
            await reader.close()

    async def of(self, person_id: int) -> Permissions:
        """What a card may say of a person."""
        uses = (SHARING, self._sharing), (PROFILING, self._profiling)
        said = await self._asked.ask(Asked(person_id, tuple((purpose, needs == SEPARATE) for purpose, needs in uses)))
        if said is None:
            return Permissions(ERASED, ERASED)
        return Permissions(*(_why(needs, *answer) for (_, needs), answer in zip(uses, said, strict=True)))

    async def face(self, person_id: int) -> bool:
        """Whether a face may be recognised: only of who said so separately, whatever the settings (CONVENTIONS 6)."""
        said = await self._asked.ask(Asked(person_id, ((BIOMETRIC, True),)))
        return said is not None and said[0] == (False, True)


def _why(needs: str, withdrawn: bool, given: bool) -> str:
    if withdrawn:
        return OPTED_OUT
    return NO_CONSENT if needs != OPT_OUT and not given else ""
