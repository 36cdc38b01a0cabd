"""What a report counts by: cells of decisions that agree in all it tells apart."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

BAND_WIDTH: Final = 200
BANDS: Final = 5
# States of a delivery as touchpoints numbers them: along the usual way they grow, from FAILED on they are failures.
ACCEPTED, DELIVERED, OPENED, ANSWERED, FAILED, SUPPRESSED, EXPIRED = 3, 4, 5, 7, 9, 10, 11


class Breakdown(IntEnum):
    """What a report is broken down by; the numbers are those of the contract."""

    NONE = 0
    CHANNEL = 1
    OFFER = 2
    DEALER = 3
    WAVE = 4
    BAND = 5
    VERSION = 6

    @property
    def comparable(self) -> bool:
        """Whether those kept out fall into the same parts: nobody chose a channel or an offer for them."""
        return self not in (Breakdown.CHANNEL, Breakdown.OFFER)

    @property
    def counted(self) -> bool:
        """Whether its parts have an order of their own."""
        return self in (Breakdown.WAVE, Breakdown.BAND, Breakdown.VERSION)


@dataclass(frozen=True)
class Cell:
    """Decisions that agree in part ("" for none), outcome, why put off, channel, score band (0 to 4) and delivery state.

    A state is 0 when nothing is known. `persons`: for how many persons they are the first push or holdout; `goals`: how many of
    these reached the goal. `cost_fen`: what they cost, were they all accepted.
    """

    part: str
    outcome: str
    reason: str
    channel: str
    band: int
    state: int
    decisions: int
    persons: int
    goals: int
    cost_fen: int

    @property
    def accepted(self) -> bool:
        """Whether a provider took them."""
        return ACCEPTED <= self.state < FAILED
