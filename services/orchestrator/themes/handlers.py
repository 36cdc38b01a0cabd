"""One function per command and question about themes. Peers are asked outside of transactions."""

from __future__ import annotations

from chassis.db import UnitOfWork
from chassis.errors import InvalidArgument
from chassis.telemetry import trace_headers
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.handlers import Room
from services.orchestrator.offers.definitions import Offer, name_of
from services.orchestrator.offers.store import OfferStore
from services.orchestrator.store.launches import LaunchStore
from services.orchestrator.themes.definitions import ThemeDefinition, checked
from services.orchestrator.themes.states import Theme, ThemeState, found
from services.orchestrator.themes.store import ThemeStore
from services.orchestrator.themes.words import words_of


async def create_theme(room: Room, stated: ThemeDefinition, request_id: str, author: str) -> Theme:
    """Makes a theme whose audience tags understands; the same request gives the same theme."""
    checked(stated)
    if request_id:
        async with room.database.read() as uow:
            if made := await ThemeStore(uow).by_request(request_id):
                return made
    await room.tags.count(stated.audience, "theme.audience")
    async with room.database.transaction() as uow:
        await check_offers(uow, stated)
        themes = ThemeStore(uow)
        theme_id = await themes.add(stated, request_id, author)
        return found(await themes.get(theme_id), theme_id)


async def get_theme(room: Room, theme_id: ThemeId) -> Theme:
    """One theme in its latest version; raises NotFound."""
    async with room.database.read() as uow:
        return found(await ThemeStore(uow).get(theme_id), theme_id)


async def list_themes(room: Room, before: int, size: int) -> list[Theme]:
    """Up to `size` themes with ids below `before`, newest first."""
    async with room.database.read() as uow:
        return await ThemeStore(uow).page(before, size)


async def launch_theme(room: Room, theme_id: ThemeId) -> Theme:
    """Queues a launch for the worker; a theme launched already stays as it is. Raises what would surely stop it."""
    theme = await get_theme(room, theme_id)
    if theme.state >= ThemeState.RUNNING:
        return theme
    await room.tags.count(theme.definition.audience, "theme.audience")
    if theme.definition.model:
        await room.scoring.require(theme.definition.model, "theme.model")
    async with room.database.transaction() as uow:
        themes = ThemeStore(uow)
        theme = found(await themes.lock(theme_id), theme_id)
        if theme.state < ThemeState.RUNNING:
            offers = await check_offers(uow, theme.definition)
            words_of(theme.definition, offers, room.settings.clock())
            await themes.approve(theme_id, theme.version, [offer.version for offer in offers])
            await themes.set_state(theme_id, ThemeState.RUNNING)
            await LaunchStore(uow).queue(theme_id, room.settings.frequency_cap, trace_headers().get("traceparent", ""))
        return found(await themes.get(theme_id), theme_id)


async def check_offers(uow: UnitOfWork, stated: ThemeDefinition) -> list[Offer]:
    """The theme's offers as they are now; raises InvalidArgument for unknown ones and those of another purpose."""
    known = {offer.offer_id: offer for offer in await OfferStore(uow).at(stated.offers)}
    for number, offer_id in enumerate(stated.offers):
        field = f"theme.offers[{number}]"
        if offer_id not in known:
            raise InvalidArgument(f"there is no {name_of(offer_id)}", reason="OFFER_NOT_FOUND", field=field)
        purpose = known[offer_id].definition.purpose
        if purpose != stated.purpose:
            raise InvalidArgument(
                f"{name_of(offer_id)} is {purpose}, the theme {stated.purpose}", reason="PURPOSE_DIFFERS", field=field
            )
    return [known[offer_id] for offer_id in stated.offers]


async def offers_of(uow: UnitOfWork, theme: Theme) -> list[Offer]:
    """The offers of a theme's version in the versions that were approved, retired and changed ones too."""
    return await OfferStore(uow).at(theme.definition.offers, theme.offer_versions)
