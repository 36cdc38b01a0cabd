"""What an offer is, and what its texts must keep to on each channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NewType

from chassis.errors import InvalidArgument, NotFound
from services.orchestrator.domain.channels import SERVICE_ONLY
from services.orchestrator.domain.themes import MARKETING
from services.orchestrator.offers.templates import Parts, Type, Value, check, fill, parse, variables

OfferId = NewType("OfferId", int)

# Characters of (title, body), as the channel counts them; for channels whose provider states nothing, the contract's own.
USUAL: Final = (200, 2000)
LENGTHS: Final[Mapping[str, tuple[int, int]]] = {
    # A template's `thing`.
    "wechat": (20, 20),
    "wechat_mini": (20, 20),
    # 128 and 512 bytes of a card, three to a Chinese character.
    "wecom": (42, 170),
    # Five parts of 67, less 35 for a signature and the ending; the title is for the house, a short message has none.
    "sms": (200, 300),
    # vivo's, the tightest among makers of phones.
    "push": (20, 50),
}
# CONVENTIONS 6: providers accept no other ending, and no variables in marketing by short message.
SMS_PREFIX, SMS_ENDING = "【", "拒收请回复R"


@dataclass(frozen=True)
class Variant:
    """An offer's words on one channel in one language; both texts are templates."""

    channel: str
    language: str
    title: str
    body: str

    def parts(self, field: str) -> tuple[Parts, Parts]:
        """Title and body, parsed."""
        return parse(self.title, f"{field}.title"), parse(self.body, f"{field}.body")


@dataclass(frozen=True)
class Definition:
    """What an operator states. `audience` empty: everybody; `valid_to` None: without end; `stock` None: without limit."""

    title: str
    kind: str
    purpose: str
    content_tags: tuple[str, ...]
    valid_from: datetime
    valid_to: datetime | None
    audience: str
    stock: int | None
    variants: tuple[Variant, ...]

    def variant(self, channel: str, language: str) -> Variant:
        """The words for a channel and language; raises NotFound: words for another one are never sent instead."""
        for variant in self.variants:
            if (channel, language) == (variant.channel, variant.language):
                return variant
        known = any(variant.channel == channel for variant in self.variants)
        raise NotFound(f"no words for {channel} in {language}", reason="NO_VARIANT", field="language" if known else "channel")


@dataclass(frozen=True)
class Offer:
    """A stored offer in one of its versions; `reserved` and `taken` are of now, whatever the version."""

    offer_id: OfferId
    version: int
    definition: Definition
    reserved: int
    taken: int
    created_at: datetime
    updated_at: datetime
    retired_at: datetime | None

    @property
    def name(self) -> str:
        """The resource name, "offers/12"."""
        return name_of(self.offer_id)

    def unavailable(self, at: datetime) -> str:
        """Why it cannot be proposed to anybody at a moment, an UPPER_SNAKE reason; empty when it can."""
        stated = self.definition
        if self.retired_at is not None:
            return "RETIRED"
        if at < stated.valid_from:
            return "NOT_VALID_YET"
        if stated.valid_to is not None and at >= stated.valid_to:
            return "EXPIRED"
        return "OUT_OF_STOCK" if stated.stock is not None and self.reserved + self.taken >= stated.stock else ""


def name_of(offer_id: OfferId) -> str:
    """The resource name, "offers/12"."""
    return f"offers/{offer_id}"


def id_of(name: str) -> OfferId:
    """The number in a resource name that the contract's pattern has accepted."""
    return OfferId(int(name.removeprefix("offers/")))


def checked(stated: Definition) -> Definition:
    """The definition as it is; raises InvalidArgument for what can never be shown or sent."""
    if not stated.title.strip():
        raise InvalidArgument("title is blank", field="offer.title")
    if stated.valid_to is not None and stated.valid_to <= stated.valid_from:
        raise InvalidArgument("ends before it begins", reason="EMPTY_VALIDITY", field="offer.valid_to")
    for number, tag in enumerate(stated.content_tags):
        if tag != tag.strip() or not tag:
            raise InvalidArgument("a content tag is a word without blanks around it", field=f"offer.content_tags[{number}]")
    places = [(variant.channel, variant.language) for variant in stated.variants]
    texts: dict[str, str] = {}
    for number, variant in enumerate(stated.variants):
        field = f"offer.variants[{number}]"
        if places.index(places[number]) != number:
            raise InvalidArgument("a channel has one variant per language", reason="TWO_VARIANTS", field=field)
        _check_variant(variant, stated.purpose, field)
        texts |= {f"{field}.title": variant.title, f"{field}.body": variant.body}
    variables(texts)
    return stated


def _check_variant(variant: Variant, purpose: str, field: str) -> None:
    title, body = variant.parts(field)
    for name, parts in (("title", title), ("body", body)):
        # A variable is a character at least.
        shortest = "".join(part if isinstance(part, str) else "x" for part in parts)
        _check_length(variant.channel, name, shortest, f"{field}.{name}")
    if not variant.title.strip():
        raise InvalidArgument("title is blank", field=f"{field}.title")
    if purpose != MARKETING:
        return
    if variant.channel in SERVICE_ONLY:
        raise InvalidArgument(
            "WeChat templates carry no marketing", reason="CHANNEL_FORBIDS_MARKETING", field=f"{field}.channel"
        )
    if variant.channel == "sms":
        if len(body) != 1:
            raise InvalidArgument("no variables in marketing by SMS", reason="SMS_MARKETING", field=f"{field}.body")
        if not (variant.body.startswith(SMS_PREFIX) and variant.body.endswith(SMS_ENDING)):
            message = f"marketing by SMS begins with a signature in 【】 and ends with {SMS_ENDING}"
            raise InvalidArgument(message, reason="SMS_MARKETING", field=f"{field}.body")


def _length(channel: str, text: str) -> int:
    """Characters as a channel counts them: a picture is two to carriers and phones; WeCom counts bytes, three to one."""
    if channel in ("sms", "push"):
        return len(text.encode("utf-16-le")) // 2
    return -(-len(text.encode()) // 3) if channel == "wecom" else len(text)


def _check_length(channel: str, part: str, text: str, field: str) -> None:
    most, length = LENGTHS.get(channel, USUAL)[part == "body"], _length(channel, text)
    if length > most:
        raise InvalidArgument(
            f"{channel} shows at most {most} characters of a {part}, this has {length}",
            reason="TEXT_TOO_LONG",
            field=field,
            metadata={"limit": str(most), "length": str(length)},
        )
    if channel in SERVICE_ONLY and "\n" in text:
        raise InvalidArgument("WeChat refuses line breaks", reason="INVALID_TEMPLATE", field=field)


@dataclass(frozen=True)
class Rendered:
    """What somebody would read."""

    title: str
    body: str


def render(variant: Variant, values: Mapping[str, Value], clock: timedelta) -> Rendered:
    """The variant filled in; raises InvalidArgument for wrong values and for texts that grew too long."""
    title, body = variant.parts("variant")
    check(values, wanted(variant), "values")
    rendered = Rendered(fill(title, values, clock), fill(body, values, clock))
    _check_length(variant.channel, "title", rendered.title, "title")
    _check_length(variant.channel, "body", rendered.body, "body")
    return rendered


def wanted(variant: Variant) -> dict[str, Type]:
    """The variables of one variant."""
    return variables({"title": variant.title, "body": variant.body})


def shared(content_tags: Sequence[str], words: Sequence[str]) -> list[str]:
    """The content tags that are also among somebody's words, in the offer's order."""
    said = set(words)
    return [tag for tag in content_tags if tag in said]
