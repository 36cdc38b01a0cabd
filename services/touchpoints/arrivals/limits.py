"""How many plates a dealer may ask about in a day: whoever holds a door's address could try one after the other.

Counted in the database, for all replicas, but seldom: what arrives between two counts may pass the limit by a tenth.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Final

from chassis.db import Database
from services.touchpoints.arrivals import store

log = logging.getLogger(__name__)

COUNT_EVERY_S: Final = 60.0


@dataclass
class _Count:
    seen: int
    counted_at: float
    since: int = 0


class Plates:
    """The limit of one process. `most` 0: none."""

    def __init__(self, database: Database, most: int) -> None:
        self._database, self._most = database, most
        self._counts: dict[str, _Count] = {}

    async def allowed(self, dealer_code: str) -> bool:
        """Whether cards may still be made for the dealer today."""
        if not self._most:
            return True
        now, count = time.monotonic(), self._counts.get(dealer_code)
        if count is None or now - count.counted_at > COUNT_EVERY_S or count.since >= self._most / 10:
            count = _Count(await store.plates(self._database, dealer_code, self._most), now)
            self._counts[dealer_code] = count
            if count.seen >= self._most:
                log.warning(
                    "a dealer's doors saw more plates than a day has: no cards",
                    extra={"dealer": dealer_code, "plates": count.seen},
                )
        count.since += 1
        return count.seen < self._most
