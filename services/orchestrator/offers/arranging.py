"""Operators' rules for a slot come before anything that was learnt: pins, exclusions, an order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from chassis.errors import InvalidArgument
from services.orchestrator.offers.definitions import Offer, OfferId, name_of, shared

PINNED, ORDERED, MATCHED, REST = "pinned", "ordered", "matched", "rest"
EXCLUDED: Final = "EXCLUDED"
NO_VARIANT: Final = "NO_VARIANT"


@dataclass(frozen=True)
class Rules:
    """What operators said of a slot. Pins stand first in their order; `ordered` stand before what nobody ordered."""

    pinned: tuple[OfferId, ...] = ()
    excluded: tuple[OfferId, ...] = ()
    ordered: tuple[OfferId, ...] = ()


@dataclass(frozen=True)
class Place:
    """An offer in a slot and why it stands there: pinned, ordered, matched (by `words`) or rest."""

    offer: Offer
    why: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Arrangement:
    """A slot's offers, best first, and those that cannot stand there with an UPPER_SNAKE reason."""

    places: tuple[Place, ...]
    left_out: tuple[tuple[Offer, str], ...]


def checked(rules: Rules) -> Rules:
    """The rules as they are; raises InvalidArgument when one offer has two places."""
    seen: dict[OfferId, str] = {}
    for field, offers in (("pinned", rules.pinned), ("excluded", rules.excluded), ("ordered", rules.ordered)):
        for number, offer_id in enumerate(offers):
            if offer_id in seen:
                raise InvalidArgument(
                    f"{name_of(offer_id)} is {seen[offer_id]} already",
                    reason="TWO_RULES",
                    field=f"rules.{field}[{number}]",
                )
            seen[offer_id] = field
    return rules


def arrange(
    offers: Sequence[Offer], rules: Rules, *, at: datetime, channel: str, language: str, words: Sequence[str]
) -> Arrangement:
    """Who stands where at a moment, were everybody eligible: pins, the order, then those sharing most words, then the newest.

    A pin cannot show what is out of stock, out of date or without words for the channel.
    """
    places: list[tuple[tuple[int, int, int], Place]] = []
    left_out: list[tuple[Offer, str]] = []
    for offer in offers:
        spoken = {(variant.channel, variant.language) for variant in offer.definition.variants}
        reason = EXCLUDED if offer.offer_id in rules.excluded else offer.unavailable(at)
        if not reason and (channel, language) not in spoken:
            reason = NO_VARIANT
        if reason:
            left_out.append((offer, reason))
            continue
        matched = tuple(shared(offer.definition.content_tags, words))
        if offer.offer_id in rules.pinned:
            key, why = (0, rules.pinned.index(offer.offer_id), 0), PINNED
        elif offer.offer_id in rules.ordered:
            key, why = (1, rules.ordered.index(offer.offer_id), 0), ORDERED
        else:
            key, why = (2, -len(matched), -offer.offer_id), MATCHED if matched else REST
        places.append((key, Place(offer, why, matched)))
    places.sort(key=lambda each: each[0])
    return Arrangement(tuple(place for _, place in places), tuple(left_out))
