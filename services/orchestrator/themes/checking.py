"""What must hold before a version is reviewed, and still when it is approved and launched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from chassis.db import UnitOfWork
from chassis.errors import FailedPrecondition, InvalidArgument, TroikaError
from services.orchestrator.offers.definitions import Offer, name_of
from services.orchestrator.offers.store import OfferStore
from services.orchestrator.themes.definitions import ThemeDefinition
from services.orchestrator.themes.words import check_words


async def offers_for(uow: UnitOfWork, stated: ThemeDefinition, versions: Sequence[int] = ()) -> list[Offer]:
    """The theme's offers in these versions (none: the present ones); raises InvalidArgument for unknown ones and another
    purpose."""
    known = {offer.offer_id: offer for offer in await OfferStore(uow).at(stated.offers, versions)}
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


def offer_obstacles(stated: ThemeDefinition, offers: Sequence[Offer], clock: timedelta, now: datetime) -> Iterator[TroikaError]:
    """What keeps the offers from being pushed over the whole of the schedule."""
    starts_at = max(stated.schedule.starts_at or now, now)
    for number, offer in enumerate(offers):
        field = f"theme.offers[{number}]"
        match offer.unavailable(starts_at):
            case "":
                pass
            case "RETIRED":
                yield FailedPrecondition(f"{offer.name} is retired", reason="OFFER_RETIRED", field=field)
            case "OUT_OF_STOCK":
                yield FailedPrecondition(f"nothing is left of {offer.name}", reason="OUT_OF_STOCK", field=field)
            case reason:
                yield FailedPrecondition(
                    f"{offer.name} is {reason.lower().replace('_', ' ')}", reason="OFFER_NOT_VALID", field=field
                )
        valid_to, ends_at = offer.definition.valid_to, stated.schedule.ends_at
        if valid_to is not None and valid_to > starts_at and (ends_at is None or valid_to < ends_at):
            until = "the theme has no end" if ends_at is None else f"the theme ends at {ends_at.isoformat()}"
            yield FailedPrecondition(
                f"{offer.name} expires at {valid_to.isoformat()}, {until}", reason="OFFER_EXPIRES", field=field
            )
    try:
        check_words(stated, offers, clock)
    except InvalidArgument as error:
        yield error


async def channel_obstacles(uow: UnitOfWork, stated: ThemeDefinition) -> list[TroikaError]:
    """Channels that touchpoints has no endpoint for, if it spoke lately; it names all that have one each time."""
    rows = await uow.fetch(
        "SELECT channel FROM channel_health WHERE at > now() - interval '2 minutes'"
        " AND at = (SELECT max(at) FROM channel_health)"
    )
    known = {row["channel"] for row in rows}
    return [
        FailedPrecondition(
            f"there is no endpoint for {channel}", reason="CHANNEL_WITHOUT_ENDPOINT", field=f"theme.bands[{i}].channels[{j}]"
        )
        for i, band in enumerate(stated.bands)
        for j, channel in enumerate(band.channels)
        if known and channel not in known
    ]


def audience_obstacle(size: int, base: int, confirm_everybody: bool) -> TroikaError | None:
    """Nobody is refused; everybody must be meant."""
    if not size:
        return FailedPrecondition("the audience holds for nobody", reason="EMPTY_AUDIENCE", field="theme.audience")
    if size == base and not confirm_everybody:
        return FailedPrecondition(
            f"the audience holds for everybody, {base} persons: confirm that they are meant",
            reason="EVERYBODY_MATCHED",
            field="confirm_everybody",
        )
    return None
