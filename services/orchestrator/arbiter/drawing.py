"""Which of a theme's offers each person gets where the theme lets what was learnt choose (ADR 23), a whole chunk at once.

Chances hang on the channel, on the offers that are for the person there, and on her words: persons who agree in all of that
share one row of the quadrature. The number that draws is hers in this theme, so that deciding again draws the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.domain.channels import CHANNELS
from services.orchestrator.domain.hashing import key_of, units
from services.orchestrator.offers.bandit import Tuning, chances_of, draw
from services.orchestrator.offers.contexts import GRAIN, MATCH

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Contexts whose chances are computed together: with 20 offers some 5 MB.
_AT_ONCE: Final = 250


@dataclass(frozen=True)
class Learnt:
    """What was learnt of a theme's offers, in its order: weights (k, features) and their covariance.

    `content` (k, words): the share that each word has of an offer's content; persons have a bit for each of the `words`.
    `active`: the features that are 1 now, by the channel's code. `arms_id` and `learnt` tell the log what competed.
    """

    mean: Floats
    covariance: Floats
    tuning: Tuning
    content: Floats
    words: tuple[str, ...]
    active: Mapping[int, tuple[int, ...]]
    arms_id: int
    learnt: int

    def match(self, masks: Ints) -> Floats:
        """The share of each offer's content that is true of somebody, in 64ths, (n, k)."""
        has = (masks[:, None] >> np.arange(len(self.words)) & 1).astype(np.float64)
        found: Floats = np.rint(has @ self.content.T * GRAIN) / GRAIN
        return found

    def believed(self, channel: int, match: Floats) -> tuple[Floats, Floats]:
        """(mean, standard deviation) of each offer's rate on a channel, both (n, k)."""
        here = np.array(self.active[channel])
        within = self.covariance[:, here]
        once, cross = within[:, :, here].sum(axis=(1, 2)), within[:, :, MATCH].sum(axis=1)
        variance = once + match * (2 * cross + match * self.covariance[:, MATCH, MATCH])
        return self.mean[:, here].sum(axis=1) + self.mean[:, MATCH] * match, np.sqrt(np.maximum(variance, 0))

    def chances(self, channel: int, eligible: Flags, masks: Ints, personal: Flags) -> Floats:
        """The chance of each offer, (n, k): rows sum to 1, but to 0 where no offer is eligible.

        Who has switched personalisation off is told apart by nothing: her offer is drawn evenly.
        """
        found: Floats = eligible / np.maximum(eligible.sum(axis=1, keepdims=True), 1)
        rows = np.flatnonzero(personal & eligible.any(axis=1))
        for part in np.array_split(rows, -(-len(rows) // _AT_ONCE)) if len(rows) else []:
            mean, spread = self.believed(channel, self.match(masks[part]))
            found[part] = chances_of(mean, spread, eligible[part], None, self.tuning)
        return found


@dataclass(frozen=True)
class Drawn:
    """By person and channel the place of the offer drawn (-1: none can be), its chance, and the mask of all that competed."""

    offer: NDArray[np.int8]
    chance: Floats
    competed: Ints


@dataclass(frozen=True)
class Possible:
    """By person: the mask of channels that are open, of offers that may be proposed, of words that are true; and who she is."""

    channels: NDArray[np.uint8]
    offers: Ints
    words: Ints
    personal: Flags
    human_id: Ints


def draw_offers(learnt: Learnt, words: Sequence[int], people: Possible, salt: bytes) -> Drawn:
    """Draws on each open channel. `words`: of each offer the channels it can be told on."""
    size, luck = len(people.offers), units(people.human_id, key_of("offer", salt))
    masks, personal = np.where(people.personal, people.words, 0), people.personal.astype(np.int64)
    shape = size, len(CHANNELS)
    drawn = Drawn(np.full(shape, -1, np.int8), np.zeros(shape), np.zeros(shape, np.int64))
    for channel in learnt.active:
        spoken = sum(1 << place for place, mask in enumerate(words) if mask >> channel & 1)
        there = np.flatnonzero(people.channels >> np.uint8(channel) & 1)
        alike = np.stack([people.offers & spoken, masks, personal], axis=1)[there]
        groups, of = np.unique(alike, axis=0, return_inverse=True)
        of = of.reshape(-1)
        eligible: Flags = (groups[:, :1] >> np.arange(len(words)) & 1).astype(np.bool_)
        chances = learnt.chances(channel, eligible, groups[:, 1], groups[:, 2] == 1)
        some = groups[of, 0] > 0
        rows, of = there[some], of[some]
        if len(rows):
            chosen = draw(chances[of], luck[rows])
            drawn.offer[rows, channel] = chosen
            drawn.chance[rows, channel] = chances[of, chosen]
            drawn.competed[rows, channel] = groups[of, 0]
    return drawn
