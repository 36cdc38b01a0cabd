"""All that a decision needs to know of offers, as aligned columns: made every second or two, asked in microseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chassis.errors import InvalidArgument
from services.orchestrator.domain.hashing import units
from services.orchestrator.offers.arranging import Rules
from services.orchestrator.offers.contexts import GRAIN
from services.orchestrator.offers.definitions import Offer, OfferId, Rendered, render, wanted
from services.orchestrator.offers.templates import Value

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MARKETING: Final = "marketing"
NO_RULES: Final = Rules()
# Any key of `units`; those of themes are mixed in before.
_NO_KEY: Final = bytes(8)


@dataclass(frozen=True)
class RunningTheme:
    """What a running theme means for its offers: who is kept out of them, what a success is worth (0: nobody can say), and
    what variables in their words are filled with.
    """

    offers: Sequence[OfferId]
    salt: bytes
    holdout_share: float
    value_fen: int
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Shelf:
    """k offers in order of id and what hangs on each; `audience_rows` -1 for everybody; `content` (k, w) the words' shares."""

    arms_id: int
    offers: tuple[Offer, ...]
    rules: Mapping[str, Rules]
    audience_rows: Ints
    words: tuple[str, ...]
    word_rows: Ints
    content: Floats
    starts: Floats
    ends: Floats
    sold_out: Flags
    marketing: Flags
    values: Floats
    theme_keys: NDArray[np.uint64]
    theme_shares: Floats
    theme_offers: Flags
    # By offer, what its themes fill its variables with, the most valuable theme's first.
    fillings: tuple[tuple[Mapping[str, Value], ...], ...]
    clock: timedelta
    _said: dict[tuple[str, str], tuple[Rendered | None, ...]] = field(default_factory=dict)
    _spoken: dict[tuple[str, str], Flags] = field(default_factory=dict)
    _places: dict[str, tuple[Flags, tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def spoken(self, channel: str, language: str) -> Flags:
        """Which offers have words for a channel and language; words with variables that nothing fills are none."""
        known = self._spoken.get((channel, language))
        if known is None:
            known = np.array([words is not None for words in self.said(channel, language)], np.bool_)
            self._spoken[channel, language] = known
        return known

    def said(self, channel: str, language: str) -> tuple[Rendered | None, ...]:
        """What each offer says on a channel in a language, filled in by the rules of pushes; None where it says nothing."""
        known = self._said.get((channel, language))
        if known is None:
            place = channel, language
            known = tuple(_says(o, *place, self.clock, values) for o, values in zip(self.offers, self.fillings, strict=True))
            self._said[place] = known
        return known

    def says(self, offer: Offer, channel: str, language: str) -> Rendered | None:
        """The same of an offer in the version that somebody was shown, which may not be that of the shelf."""
        here = next((n for n, each in enumerate(self.offers) if each.offer_id == offer.offer_id), -1)
        return _says(offer, channel, language, self.clock, self.fillings[here] if here >= 0 else ())

    def places(self, slot: str) -> tuple[Flags, tuple[int, ...], tuple[int, ...]]:
        """(excluded, pinned, ordered) offers of a slot, the latter as positions."""
        known = self._places.get(slot)
        if known is None:
            rules, at = self.rules.get(slot, NO_RULES), {offer.offer_id: n for n, offer in enumerate(self.offers)}
            excluded = np.array([offer.offer_id in rules.excluded for offer in self.offers], np.bool_)
            pinned, ordered = (tuple(at[i] for i in ids if i in at) for ids in (rules.pinned, rules.ordered))
            known = self._places[slot] = excluded, pinned, ordered
        return known

    def matches(self, true_words: Flags) -> Floats:
        """The share of each offer's content tags that are true of somebody, in 64ths, (k,)."""
        found: Floats = np.rint(self.content @ true_words * GRAIN) / GRAIN
        return found

    def held_out(self, person: int) -> Flags:
        """Offers of themes that keep this person out to measure their effect."""
        if not person or not len(self.theme_keys):
            return np.zeros(len(self.offers), np.bool_)
        # As in_holdout of each theme by itself: persons and keys are mixed by exclusive or, all themes in one pass.
        mixed = (np.uint64(person) ^ self.theme_keys).view(np.int64)
        held: Flags = units(mixed, _NO_KEY) < self.theme_shares
        blocked: Flags = np.asarray(self.theme_offers[held].any(axis=0))
        return blocked


def build(
    arms_id: int,
    offers: Sequence[Offer],
    rules: Mapping[str, Rules],
    themes: Sequence[RunningTheme],
    audience_rows: Ints,
    words: Sequence[str],
    word_rows: Ints,
    usual_value_fen: int,
    clock: timedelta = timedelta(0),
) -> Shelf:
    """The shelf of these offers. An offer is worth what the most valuable of its themes says, `usual_value_fen` without any."""
    stated = [offer.definition for offer in offers]
    column = {word: number for number, word in enumerate(words)}
    content = np.zeros((len(offers), len(words)))
    for row, definition in zip(content, stated, strict=True):
        for tag in definition.content_tags:
            if tag in column:
                row[column[tag]] = 1 / len(definition.content_tags)
    worth: dict[OfferId, int] = {}
    for theme in themes:
        for offer_id in theme.offers:
            worth[offer_id] = max(worth.get(offer_id, 0), theme.value_fen)
    by_worth = sorted(themes, key=lambda theme: -theme.value_fen)
    themed = [[offer.offer_id in set(theme.offers) for offer in offers] for theme in themes]
    return Shelf(
        arms_id,
        tuple(offers),
        rules,
        audience_rows,
        tuple(words),
        word_rows,
        content,
        np.array([definition.valid_from.timestamp() for definition in stated]),
        np.array([d.valid_to.timestamp() if d.valid_to else np.inf for d in stated]),
        np.array([o.definition.stock is not None and o.reserved + o.taken >= o.definition.stock for o in offers], np.bool_),
        np.array([definition.purpose == MARKETING for definition in stated], np.bool_),
        np.array([worth.get(offer.offer_id) or usual_value_fen for offer in offers], np.float64),
        np.array([int.from_bytes(theme.salt[:8], "big") for theme in themes], np.uint64),
        np.array([theme.holdout_share for theme in themes], np.float64),
        np.array(themed, np.bool_).reshape(len(themes), len(offers)),
        tuple(tuple(theme.values for theme in by_worth if offer.offer_id in theme.offers) for offer in offers),
        clock,
    )


def _says(
    offer: Offer, channel: str, language: str, clock: timedelta, fillings: Sequence[Mapping[str, Value]]
) -> Rendered | None:
    for variant in offer.definition.variants:
        if (variant.channel, variant.language) != (channel, language):
            continue
        needs = wanted(variant)
        for values in fillings if needs else ({},):
            try:
                return render(variant, {name: value for name, value in values.items() if name in needs}, clock)
            except InvalidArgument:
                # A theme may have no push on this channel, and none of its values; another one may.
                continue
    return None
