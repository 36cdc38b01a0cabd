"""The words of a theme's offers on each channel, filled in as they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from chassis.errors import InvalidArgument
from services.orchestrator.offers.definitions import Offer, Variant, render, wanted
from services.orchestrator.offers.templates import Value
from services.orchestrator.themes.definitions import ThemeDefinition


@dataclass(frozen=True)
class Words:
    """What is sent through one channel; `offer` is the offer's name, "offers/12"."""

    offer: str
    title: str
    body: str
    purpose: str


def variant_of(offer: Offer, channel: str, language: str) -> Variant | None:
    """An offer's words for a channel in a language; words for another one are never sent instead."""
    return next((v for v in offer.definition.variants if (v.channel, v.language) == (channel, language)), None)


def values_of(stated: ThemeDefinition) -> dict[str, Value]:
    """What the variables are filled with, by name."""
    found: dict[str, Value] = {}
    for each in stated.values:
        value = next(value for value in (each.number, each.word, each.time) if value is not None)
        found[each.name] = value
    return found


def words_of(stated: ThemeDefinition, offers: Sequence[Offer], clock: timedelta) -> Mapping[str, Words]:
    """By channel, the words of the first offer (in the order given) that has any.

    Raises InvalidArgument for a channel without words and for values that do not fit.
    """
    found: dict[str, Words] = {}
    values = values_of(stated)
    where = {
        channel: f"theme.bands[{i}].channels[{j}]"
        for i, band in reversed(list(enumerate(stated.bands)))
        for j, channel in enumerate(band.channels)
    }
    for channel in stated.channels:
        for offer in offers:
            if variant := variant_of(offer, channel, stated.language):
                needs = wanted(variant)
                said = render(variant, {name: value for name, value in values.items() if name in needs}, clock)
                found[channel] = Words(offer.name, said.title, said.body, stated.purpose)
                break
        else:
            raise InvalidArgument(
                f"no offer has words for {channel} in {stated.language}", reason="CHANNEL_WITHOUT_WORDS", field=where[channel]
            )
    return found


def reading_alike(words: Mapping[str, Words], channel: str) -> frozenset[str]:
    """The channels through which the very words of this one may be sent as well."""
    return frozenset(other for other, said in words.items() if said == words[channel])
