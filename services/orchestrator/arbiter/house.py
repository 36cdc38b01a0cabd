"""The settings as the arbiter reads them, and a theme as it decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from chassis.db import UnitOfWork
from chassis.errors import InvalidArgument
from chassis.quiet_hours import QuietHours
from services.orchestrator.domain.channels import CHANNELS
from services.orchestrator.offers.definitions import Offer, OfferId
from services.orchestrator.offers.store import OfferStore
from services.orchestrator.settings import Settings
from services.orchestrator.themes.states import Theme
from services.orchestrator.themes.words import Words, said


@dataclass(frozen=True)
class House:
    """`zone`: of the days that budgets are spread over, and of persons whose own nobody knows."""

    settings: Settings
    zone: ZoneInfo
    quiet: QuietHours | None

    @classmethod
    def of(cls, settings: Settings) -> House:
        """The house that the settings describe."""
        return cls(settings, settings.zone(), settings.quiet())


@dataclass(frozen=True)
class Deciding:
    """A theme in the version that decides, its offers in theirs, and what these say, by the channel's code."""

    theme: Theme
    offers: Sequence[Offer]
    words: Sequence[Mapping[int, Words]]

    @property
    def offer_ids(self) -> list[OfferId]:
        """In order of preference."""
        return [offer.offer_id for offer in self.offers]

    @classmethod
    async def of(cls, uow: UnitOfWork, theme: Theme, house: House) -> Deciding:
        """The theme with what it offers; what cannot be told on a channel is not offered there."""
        return cls.told(theme, await OfferStore(uow).at(theme.definition.offers, theme.offer_versions), house)

    @classmethod
    def told(cls, theme: Theme, offers: Sequence[Offer], house: House) -> Deciding:
        """The same of offers that were read already."""
        return cls(theme, offers, [_told(theme, offer, house) for offer in offers])


def _told(theme: Theme, offer: Offer, house: House) -> dict[int, Words]:
    found: dict[int, Words] = {}
    for channel in theme.definition.channels:
        try:
            words = said(theme.definition, offer, channel, house.settings.clock())
        except InvalidArgument:
            continue
        if words:
            found[CHANNELS.index(channel)] = words
    return found
