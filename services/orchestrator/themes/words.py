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
    return {
        each.name: next(value for value in (each.number, each.word, each.time) if value is not None) for each in stated.values
    }


def said(stated: ThemeDefinition, offer: Offer, channel: str, clock: timedelta) -> Words | None:
    """An offer's words on a channel, None when it has none; raises InvalidArgument for values that do not fit."""
    if not (variant := variant_of(offer, channel, stated.language)):
        return None
    needs, values = wanted(variant), values_of(stated)
    rendered = render(variant, {name: value for name, value in values.items() if name in needs}, clock)
    return Words(offer.name, rendered.title, rendered.body, stated.purpose)


def words_of(stated: ThemeDefinition, offers: Sequence[Offer], clock: timedelta) -> Mapping[str, Words]:
    """By channel, the words of the first offer (in the order given) that has any."""
    found: dict[str, Words] = {}
    for channel in stated.channels:
        for offer in offers:
            if words := said(stated, offer, channel, clock):
                found[channel] = words
                break
    return found


def check_words(stated: ThemeDefinition, offers: Sequence[Offer], clock: timedelta) -> None:
    """Raises InvalidArgument for a channel without words, values that do not fit, and values that nothing asks for."""
    wants: set[str] = set()
    for i, band in enumerate(stated.bands):
        for j, channel in enumerate(band.channels):
            if not any(variant_of(offer, channel, stated.language) for offer in offers):
                raise InvalidArgument(
                    f"no offer has words for {channel} in {stated.language}",
                    reason="CHANNEL_WITHOUT_WORDS",
                    field=f"theme.bands[{i}].channels[{j}]",
                )
    for number, offer in enumerate(offers):
        for channel in stated.channels:
            if variant := variant_of(offer, channel, stated.language):
                wants |= set(wanted(variant))
                try:
                    said(stated, offer, channel, clock)
                except InvalidArgument as error:
                    about_value = (error.field or "").startswith("values.")
                    name = (error.field or "").removeprefix("values.")
                    raise InvalidArgument(
                        f"{offer.name} on {channel}: {error.message}",
                        reason=error.reason,
                        field=f"theme.values[{name}]" if about_value else f"theme.offers[{number}]",
                        metadata=error.metadata,
                    ) from error
    for each in stated.values:
        if each.name not in wants:
            raise InvalidArgument(
                f"no offer has a variable {each.name}", reason="UNKNOWN_VARIABLE", field=f"theme.values[{each.name}]"
            )


def reading_alike(words: Mapping[str, Words], channel: str) -> frozenset[str]:
    """The channels through which the very words of this one may be sent as well."""
    return frozenset(other for other, each in words.items() if each == words[channel])
