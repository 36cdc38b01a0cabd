"""Which offer somebody sees: what may be shown at all, then operators' rules, then the bandit. No input but the arguments.

Who has switched personalisation off is told apart by nothing: offers whose audience is asked by tags do not stand, no tag is
looked at, and after the rules an offer is drawn evenly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.orchestrator.offers.bandit import Flags, Floats, Tuning, chances_of, draw
from services.orchestrator.offers.contexts import believed
from services.orchestrator.offers.shelf import Shelf

PINNED, ORDERED, DRAWN, NEUTRAL, NONE = WHYS = ("pinned", "ordered", "drawn", "neutral", "none")
# By code, in the order they are asked; 0 may be shown. Stored codes keep their meaning: new ones go to the end.
REASONS: Final = (
    "",
    "EXCLUDED",
    "NOT_VALID_YET",
    "EXPIRED",
    "OUT_OF_STOCK",
    "NO_VARIANT",
    "NO_CONSENT",
    "HOLDOUT",
    "PERSONAL",
    "AUDIENCE_UNKNOWN",
    "NOT_ELIGIBLE",
    "CAPPED",
)


@dataclass(frozen=True)
class Asked:
    """Who asks for what, and when (seconds since the epoch)."""

    slot: str
    channel: str
    language: str
    at: float
    active: tuple[int, ...]


@dataclass(frozen=True)
class Person:
    """What is known of somebody, `person_id` 0 of nobody; `shown` counts lately shown offers by id.

    `closed`: marketing is forbidden here; `kept_out`: she is in the global holdout; `known_audiences` (those read lately) and
    `member` are aligned with the shelf's offers, `true_words` with its words.
    """

    person_id: int
    personal: bool
    closed: bool
    kept_out: bool
    shown: Mapping[int, int]
    known_audiences: Flags
    member: Flags
    true_words: Flags


@dataclass(frozen=True)
class Posterior:
    """What was learnt of each of the shelf's offers: weights (k, features), their covariance, and how far learning had come."""

    mean: Floats
    covariance: Floats
    tuning: Tuning
    learnt: int


@dataclass(frozen=True)
class Choice:
    """The position of the offer shown (-1 none), why and with which chance, and what led there.

    `rate` and `sd` are what was believed of the offer shown; `codes` say for each offer why it could not stand (0: it could).
    """

    place: int
    why: str
    propensity: float
    rate: float
    sd: float
    match: float
    codes: NDArray[np.uint8]
    words: tuple[str, ...]


def judge(shelf: Shelf, asked: Asked, person: Person, cap: int) -> NDArray[np.uint8]:
    """For each offer the code of the first reason for which it cannot be shown; 0 when it can."""
    excluded, _, _ = shelf.places(asked.slot)
    everybody = shelf.audience_rows < 0
    capped = np.zeros(len(shelf.offers), np.bool_)
    if person.shown:
        capped = np.array([person.shown.get(offer.offer_id, 0) >= cap for offer in shelf.offers], np.bool_)
    held = shelf.held_out(person.person_id) | (shelf.marketing & person.kept_out)
    conditions = (
        excluded,
        asked.at < shelf.starts,
        asked.at >= shelf.ends,
        shelf.sold_out,
        ~shelf.spoken(asked.channel, asked.language),
        shelf.marketing & person.closed,
        held,
        ~everybody & (not person.personal),
        ~everybody & ~person.known_audiences,
        ~everybody & ~person.member,
        capped,
    )
    codes = np.zeros(len(shelf.offers), np.uint8)
    for code in range(len(conditions), 0, -1):
        codes[conditions[code - 1]] = code
    return codes


def chances(
    shelf: Shelf, posterior: Posterior, asked: Asked, person: Person, eligible: Flags
) -> tuple[Floats, Floats, Floats, Floats]:
    """(chance, rate, standard deviation, match) of each offer once no rule decides, (k,) each; chances sum to 1."""
    match = shelf.matches(person.true_words) if person.personal else np.zeros(len(shelf.offers))
    rate, sd = believed(posterior.mean, posterior.covariance, asked.active, match)
    if not person.personal:
        return eligible / eligible.sum(), rate, sd, match
    found = chances_of(rate[None], sd[None], eligible[None], shelf.values, posterior.tuning)[0]
    return found, rate, sd, match


def choose(shelf: Shelf, posterior: Posterior, asked: Asked, person: Person, cap: int, unit: float) -> Choice:
    """The decision; `unit`, a number of [0, 1), is all the chance in it."""
    codes = judge(shelf, asked, person, cap)
    eligible = codes == 0
    words: tuple[str, ...] = ()
    if person.personal and person.true_words.any():
        words = tuple(shelf.words[n] for n in np.flatnonzero(person.true_words).tolist())
    if not eligible.any():
        return Choice(-1, NONE, 1.0, 0.0, 0.0, 0.0, codes, words)
    _, pinned, ordered = shelf.places(asked.slot)
    found, rate, sd, match = chances(shelf, posterior, asked, person, eligible)
    for why, places in ((PINNED, pinned), (ORDERED, ordered)):
        for place in places:
            if eligible[place]:
                return Choice(place, why, 1.0, rate[place], sd[place], match[place], codes, words)
    place = int(draw(found[None], np.array([unit]))[0])
    why = DRAWN if person.personal else NEUTRAL
    return Choice(place, why, float(found[place]), rate[place], sd[place], match[place], codes, words)
