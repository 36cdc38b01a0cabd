"""What a theme would do now, at whatever stage it is; nothing is kept or sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from chassis.errors import TroikaError
from services.orchestrator import foreseeing
from services.orchestrator.arbiter.deciding import HOLDOUT, PUSH
from services.orchestrator.handlers import Room
from services.orchestrator.themes import states
from services.orchestrator.themes.checking import audience_obstacle, channel_obstacles, offer_obstacles, offers_for
from services.orchestrator.themes.states import Theme, VersionState


@dataclass(frozen=True)
class Obstacle:
    """Something that the next command on the way to the launch would refuse."""

    command: str
    reason: str
    field: str
    message: str


@dataclass(frozen=True)
class Preview:
    """What a launch would do now."""

    audience: int
    base: int
    reach_by_channel: dict[str, int]
    chosen: int
    holdout: int
    pushes_by_channel: dict[str, int]
    expected_responses: float
    expected_cost_fen: int
    passed_over: dict[str, int]
    obstacles: tuple[Obstacle, ...]


async def preview_theme(room: Room, theme: Theme) -> Preview:
    """Decides as a launch of this version would, and keeps nothing.

    Quiet hours, pacing and dealers' days move pushes and end none: they are left out.
    """
    size, base = await room.tags.sizes(theme.definition.audience, "theme.audience")
    seen = await foreseeing.foresee(room, theme)
    return Preview(
        audience=seen.audience,
        base=base,
        reach_by_channel={name: seen.reach.get(name, 0) for name in theme.definition.channels},
        chosen=seen.outcomes[PUSH] + seen.outcomes[HOLDOUT],
        holdout=seen.outcomes[HOLDOUT],
        pushes_by_channel=dict(seen.channels),
        expected_responses=seen.responses,
        expected_cost_fen=seen.cost_fen,
        passed_over={name: count for name, count in seen.outcomes.items() if name not in (PUSH, HOLDOUT)},
        obstacles=tuple([each async for each in obstacles(room, theme, size, base)]),
    )


async def obstacles(room: Room, theme: Theme, size: int, base: int) -> AsyncIterator[Obstacle]:
    """What the next command would refuse, of what hangs on the version and on the world, not on who commands."""
    stated, now = theme.definition, datetime.now(UTC)
    match theme.review.state:
        case VersionState.DRAFT:
            command = "submit"
        case VersionState.IN_REVIEW:
            command = "approve"
        case VersionState.APPROVED if theme.launched_at is None:
            command = "launch"
        case _:
            return
    try:
        async with room.database.read() as uow:
            offers = await offers_for(uow, stated, theme.offer_versions)
            faults: list[TroikaError | None] = [*await channel_obstacles(uow, stated)]
        faults += offer_obstacles(stated, offers, room.settings.clock(), now)
    except TroikaError as error:
        faults = [error]
    if command == "submit":
        faults.append(audience_obstacle(size, base, confirm_everybody=False))
    try:
        states.check_time(stated, now)
        if command == "launch":
            states.launched(replace(theme, approved_version=theme.version), now)
    except TroikaError as error:
        faults.append(error)
    for fault in faults:
        if fault is not None:
            yield Obstacle(command, fault.reason, fault.field or "", fault.message)
