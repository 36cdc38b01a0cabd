"""One function per command and question about themes. Peers are asked outside of transactions.

A command with `dry_run` refuses what it would refuse, answers with the theme as it would be and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from chassis.telemetry import trace_headers
from services.orchestrator.domain.themes import ThemeId
from services.orchestrator.handlers import Room
from services.orchestrator.offers.definitions import Offer
from services.orchestrator.offers.store import OfferStore
from services.orchestrator.store.launches import LaunchStore
from services.orchestrator.themes import states
from services.orchestrator.themes.checking import audience_obstacle, channel_obstacles, offer_obstacles, offers_for
from services.orchestrator.themes.definitions import ThemeDefinition, checked
from services.orchestrator.themes.states import Review, Theme, ThemeState, found
from services.orchestrator.themes.store import ThemeStore
from services.orchestrator.themes.words import Words, said
from services.orchestrator.waves.opening import open_first
from services.orchestrator.waves.store import Wave, WaveStore

NOBODY = ThemeId(0)


def unmade(stated: ThemeDefinition, author: str) -> Theme:
    """A theme that nobody stored."""
    now = datetime.now(UTC)
    return Theme(
        theme_id=NOBODY,
        version=1,
        definition=stated,
        offer_versions=(),
        author=author,
        stated_at=now,
        review=Review(),
        owner=author,
        state=ThemeState.DRAFT,
        latest_version=1,
        approved_version=0,
        launching=False,
        salt=bytes(16),
        launch_failure="",
        created_at=now,
        launched_at=None,
        finished_at=None,
        authors=(author,),
    )


async def create_theme(room: Room, stated: ThemeDefinition, request_id: str, author: str, dry_run: bool = False) -> Theme:
    """Makes a theme whose audience tags understands; the same request gives the same theme."""
    checked(stated)
    if request_id:
        async with room.database.read() as uow:
            if made := await ThemeStore(uow).by_request(request_id):
                return made
    await _ask_predicates(room, stated)
    async with room.database.transaction() as uow:
        await offers_for(uow, stated)
        if dry_run:
            return unmade(stated, author)
        themes = ThemeStore(uow)
        theme_id = await themes.add(stated, request_id, author)
        return found(await themes.get(theme_id), theme_id)


async def _ask_predicates(room: Room, stated: ThemeDefinition) -> None:
    """Raises InvalidArgument for predicates that tags does not understand."""
    await room.tags.count(stated.audience, "theme.audience")
    if stated.waves and stated.waves.seeds:
        await room.tags.count(stated.waves.seeds, "theme.waves.seeds")


async def update_theme(
    room: Room, theme_id: ThemeId, version: int, stated: ThemeDefinition, author: str, dry_run: bool = False
) -> Theme:
    """The next version; raises FailedPrecondition for other versions and for what a launched theme cannot change."""
    checked(stated)
    await _ask_predicates(room, stated)

    async def change(uow: UnitOfWork, theme: Theme) -> Theme:
        after = states.edited(theme, version, stated, author, datetime.now(UTC))
        await offers_for(uow, stated)
        await _check_fixed(uow, after)
        return after

    return await _change(room, theme_id, change, dry_run)


async def submit_theme(
    room: Room, theme_id: ThemeId, version: int, submitter: str, confirm_everybody: bool, dry_run: bool = False
) -> Theme:
    """Asks for a version's approval; raises what keeps it from ever being pushed well."""
    now = datetime.now(UTC)
    theme = await get_theme(room, theme_id)
    states.submitted(theme, version, (), submitter, now)
    stated = theme.definition
    if fault := audience_obstacle(*await room.tags.sizes(stated.audience, "theme.audience"), confirm_everybody):
        raise fault
    if stated.waves and stated.waves.seeds and not await room.tags.count(stated.waves.seeds, "theme.waves.seeds"):
        raise FailedPrecondition("the seeds are nobody", reason="EMPTY_AUDIENCE", field="theme.waves.seeds")
    if stated.model:
        await room.scoring.require(stated.model, "theme.model")

    async def change(uow: UnitOfWork, theme: Theme) -> Theme:
        offers = await offers_for(uow, theme.definition)
        after = states.submitted(theme, version, tuple(offer.version for offer in offers), submitter, now)
        await _check_reviewed(room, uow, after, offers, now)
        return after

    return await _change(room, theme_id, change, dry_run)


async def approve_theme(room: Room, theme_id: ThemeId, version: int, reviewer: str, dry_run: bool = False) -> Theme:
    """A version decides from now on; raises PermissionDenied unless a second person says so."""
    now = datetime.now(UTC)

    async def change(uow: UnitOfWork, theme: Theme) -> Theme:
        after = states.approved(theme, version, reviewer, room.settings.theme_approvers, now)
        if after != theme:
            await _check_reviewed(room, uow, after, await offers_for(uow, after.definition, after.offer_versions), now)
        return after

    return await _change(room, theme_id, change, dry_run)


async def reject_theme(room: Room, theme_id: ThemeId, version: int, reviewer: str, reason: str, dry_run: bool = False) -> Theme:
    """A version is refused for good; raises PermissionDenied unless a second person says so."""
    now = datetime.now(UTC)

    async def change(uow: UnitOfWork, theme: Theme) -> Theme:
        return states.rejected(theme, version, reviewer, room.settings.theme_approvers, reason, now)

    return await _change(room, theme_id, change, dry_run)


async def launch_theme(room: Room, theme_id: ThemeId, dry_run: bool = False) -> Theme:
    """Queues a launch for the worker; a theme launched already stays as it is. Raises what would surely stop it."""
    async with room.database.read() as uow:
        theme = found(await ThemeStore(uow).in_force(theme_id), theme_id)
    audience = 0
    if states.launched(theme, datetime.now(UTC)) != theme:
        audience = await room.tags.count(theme.definition.audience, "theme.audience")
        if theme.definition.model:
            await room.scoring.require(theme.definition.model, "theme.model")

    async def change(uow: UnitOfWork, theme: Theme) -> Theme:
        # The version that decides may not be the latest.
        now, theme = datetime.now(UTC), found(await ThemeStore(uow).in_force(theme_id), theme_id)
        after = states.launched(theme, now)
        if after != theme:
            await _check_obstacles(room, uow, after, await offers_of(uow, after), now)
            if not dry_run:
                await LaunchStore(uow).queue(theme_id, trace_headers().get("traceparent", ""))
                await open_first(uow, after, audience)
        return after

    return await _change(room, theme_id, change, dry_run)


async def pause_theme(room: Room, theme_id: ThemeId, dry_run: bool = False) -> Theme:
    """Decides nothing and hands nothing over until it is resumed."""

    async def change(_: UnitOfWork, theme: Theme) -> Theme:
        return states.paused(theme)

    return await _change(room, theme_id, change, dry_run)


async def resume_theme(room: Room, theme_id: ThemeId, dry_run: bool = False) -> Theme:
    """Goes on after a pause."""

    async def change(_: UnitOfWork, theme: Theme) -> Theme:
        after = states.resumed(theme)
        if after != theme:
            states.check_time(theme.definition, datetime.now(UTC))
        return after

    return await _change(room, theme_id, change, dry_run)


async def finish_theme(room: Room, theme_id: ThemeId, dry_run: bool = False) -> Theme:
    """Ends a theme for good."""

    async def change(_: UnitOfWork, theme: Theme) -> Theme:
        return states.finished(theme, datetime.now(UTC))

    return await _change(room, theme_id, change, dry_run)


async def _change(
    room: Room, theme_id: ThemeId, change: Callable[[UnitOfWork, Theme], Awaitable[Theme]], dry_run: bool
) -> Theme:
    async with room.database.transaction() as uow:
        themes = ThemeStore(uow)
        theme = found(await themes.lock(theme_id), theme_id)
        after = await change(uow, theme)
        if dry_run or after == theme:
            return after
        await themes.keep(after)
        return found(await themes.get(theme_id), theme_id)


async def _check_reviewed(room: Room, uow: UnitOfWork, theme: Theme, offers: Sequence[Offer], now: datetime) -> None:
    """Raises what keeps a version from being pushed as it is reviewed."""
    states.check_time(theme.definition, now)
    await _check_obstacles(room, uow, theme, offers, now)
    await _check_fixed(uow, theme)


async def _check_obstacles(room: Room, uow: UnitOfWork, theme: Theme, offers: Sequence[Offer], now: datetime) -> None:
    stated = theme.definition
    for fault in (*offer_obstacles(stated, offers, room.settings.clock(), now), *await channel_obstacles(uow, stated)):
        raise fault


async def _check_fixed(uow: UnitOfWork, theme: Theme) -> None:
    if theme.launched_at is not None:
        decides = found(await ThemeStore(uow).deciding(theme.theme_id), theme.theme_id)
        states.check_fixed(decides.definition, theme.definition)


async def get_theme(room: Room, theme_id: ThemeId, version: int = 0) -> Theme:
    """One theme in a version, 0 for the latest; raises NotFound."""
    async with room.database.read() as uow:
        themes = ThemeStore(uow)
        latest = found(await themes.get(theme_id), theme_id)
        if version in (0, latest.version):
            return latest
        if (theme := await themes.get(theme_id, version)) is None:
            raise NotFound(f"{latest.name} has {latest.version} versions", reason="THEME_VERSION_NOT_FOUND", field="version")
        return theme


async def list_themes(room: Room, before: int, size: int, wanted: Sequence[ThemeState] = ()) -> list[Theme]:
    """Up to `size` themes with ids below `before`, newest first; no states for all."""
    async with room.database.read() as uow:
        return await ThemeStore(uow).page(before, size, wanted)


async def list_versions(room: Room, theme_id: ThemeId, before: int, size: int) -> list[Theme]:
    """Up to `size` versions below `before`, newest first; raises NotFound."""
    async with room.database.read() as uow:
        themes = ThemeStore(uow)
        found(await themes.get(theme_id), theme_id)
        return await themes.versions(theme_id, before, size)


async def words_told(room: Room, theme: Theme) -> list[tuple[Offer, str, Words]]:
    """(offer, channel, words) of all that people could read of a theme's version; what does not fit is left out."""
    async with room.database.read() as uow:
        offers = await offers_of(uow, theme)
    found = []
    for offer in offers:
        for channel in theme.definition.channels:
            with suppress(InvalidArgument):
                if words := said(theme.definition, offer, channel, room.settings.clock()):
                    found.append((offer, channel, words))
    return found


async def list_waves(room: Room, theme_id: ThemeId) -> list[Wave]:
    """The layers that have opened; raises NotFound."""
    async with room.database.read() as uow:
        found(await ThemeStore(uow).get(theme_id), theme_id)
        return await WaveStore(uow).all(theme_id)


async def offers_of(uow: UnitOfWork, theme: Theme) -> list[Offer]:
    """The offers of a theme's version in the versions that were approved; of a draft the present ones."""
    return await OfferStore(uow).at(theme.definition.offers, theme.offer_versions)
