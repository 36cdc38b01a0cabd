"""Doors for people: /unsubscribe/{token} (also RFC 8058's one click) and /preferences/{token}. Looking changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from chassis.consents import ALL_CHANNELS, MESSAGES
from chassis.db import Database
from chassis.errors import InvalidArgument
from chassis.web import read_body
from services.touchpoints.optouts import pages, stating
from services.touchpoints.optouts.links import Links, Named
from services.touchpoints.optouts.stating import Use, Wish
from services.touchpoints.web.described import (
    BAD_REQUEST,
    UNAVAILABLE,
    Described,
    Example,
    Operation,
    Reply,
    obj,
    parameter,
    text,
)

MOST_BYTES = 16 * 1024
_FORM = "application/x-www-form-urlencoded"


class OptoutDoors:
    """Pages and what their buttons do."""

    def __init__(self, database: Database, links: Links, regimes: Mapping[str, str]) -> None:
        self._database, self._links, self._regimes = database, links, regimes

    async def ask(self, token: str, request: Request) -> Response:
        """The page with the button."""
        lang, named = _language(request), self._links.read(token)
        return _unknown("unsubscribe", lang) if named is None else _html(pages.confirm(Use(named.purpose, named.channel), lang))

    async def unsubscribe(self, token: str, request: Request) -> Response:
        """One click, by a person on the page or by her mail program."""
        lang, named = _language(request), self._links.read(token)
        if named is None:
            return _unknown("unsubscribe", lang)
        # Mail programs may send a multipart form, too; there is nothing else in it.
        body = await read_body(request, MOST_BYTES)
        if b"List-Unsubscribe" not in body or b"One-Click" not in body:
            raise InvalidArgument("body must be List-Unsubscribe=One-Click", reason="INVALID_REQUEST", field="body")
        use = Use(named.purpose, named.channel)
        if not await self._state(named, [Wish(use, False, "unsubscribe", lang)]):
            return _html(pages.told("unsubscribe", "nobody", lang))
        return _html(pages.told("unsubscribe", "stopped", lang, purpose=use.purpose, channel=use.channel))

    async def choose(self, token: str, request: Request) -> Response:
        """The page of preferences."""
        lang, named = _language(request), self._links.read(token)
        return _unknown("preferences", lang) if named is None else await self._choices(named, lang, saved=False)

    async def save(self, token: str, request: Request) -> Response:
        """What was changed on it."""
        lang, named = _language(request), self._links.read(token)
        if named is None:
            return _unknown("preferences", lang)
        try:
            form = parse_qs((await read_body(request, MOST_BYTES)).decode(), max_num_fields=100)
        except ValueError as error:
            raise InvalidArgument("body must be a form", reason="INVALID_REQUEST", field="body") from error
        await self._state(named, wishes(form, lang))
        return await self._choices(named, lang, saved=True)

    async def _choices(self, named: Named, lang: str, *, saved: bool) -> Response:
        async with self._database.read() as uow:
            who = await stating.subject(uow, named.delivery_id)
            if who is None:
                return _html(pages.told("preferences", "nobody", lang))
            standing = await stating.allowed(uow, who, pages.USES, self._regimes)
        return _html(pages.choices(standing, lang, saved=saved))

    async def _state(self, named: Named, given: Sequence[Wish]) -> bool:
        async with self._database.transaction() as uow:
            who = await stating.speaker(uow, named.delivery_id)
            if who is not None and given:
                await stating.state(uow, who, given, time.time_ns() // 1000)
        return who is not None


def wishes(form: Mapping[str, Sequence[str]], lang: str) -> list[Wish]:
    """What a sent page changes: boxes that stand otherwise than they did when it was shown."""
    if form.get("nothing"):
        return [Wish(Use(purpose, ALL_CHANNELS), False, "preferences", lang) for purpose in MESSAGES]
    on, was, was_not = (set(form.get(name, ())) for name in ("on", "was", "was_not"))
    changed = []
    for use in pages.USES:
        name = f"{use.purpose}/{use.channel}"
        if name in was and name not in on:
            changed.append(Wish(use, False, "preferences", lang))
        elif name in was_not and name in on:
            changed.append(Wish(use, True, "preferences", lang, pages.TEXT_VERSION, pages.shown(use, lang)))
    return changed


def add_optout_doors(app: FastAPI, doors: OptoutDoors) -> None:
    """Adds /unsubscribe/{token} and /preferences/{token}."""
    for path, look, act in (
        ("/unsubscribe/{token}", doors.ask, doors.unsubscribe),
        ("/preferences/{token}", doors.choose, doors.save),
    ):
        app.add_api_route(path, look, methods=["GET"], include_in_schema=False)
        app.add_api_route(path, act, methods=["POST"], include_in_schema=False)


def _language(request: Request) -> str:
    return pages.language(request.query_params.get("lang", ""), request.headers.get("accept-language", ""))


def _html(page: str, status: int = 200) -> Response:
    return HTMLResponse(page, status, headers=dict(pages.HEADERS))


def _unknown(title: str, lang: str) -> Response:
    return _html(pages.told(title, "unknown", lang), 404)


_PAGE = {"text/html": text()}
_REPLIES = {
    200: Reply("The page, in Chinese or English.", _PAGE),
    400: BAD_REQUEST,
    404: Reply("A link that was not made here.", _PAGE),
    503: UNAVAILABLE,
}
_ADDRESS = (
    parameter("token", "path", text(minLength=1, maxLength=1000, pattern="^[A-Za-z0-9._-]+$"), "From a link in a message."),
    parameter("lang", "query", {"enum": list(pages.LANGUAGES)}, "Language of the page; else as the browser asks."),
)
_TOKEN = {"token": "link-token"}
DESCRIBED = Described(
    {
        ("GET", "/unsubscribe/{token}"): Operation(
            "Asks whether to stop these messages on this channel. Looking at it does nothing.",
            _REPLIES,
            parameters=_ADDRESS,
            examples=(Example("asked", path=_TOKEN), Example("no link of ours", status=404, path={"token": "x.y"})),
        ),
        ("POST", "/unsubscribe/{token}"): Operation(
            "Stops these messages on this channel at once, without login (RFC 8058).",
            _REPLIES,
            parameters=_ADDRESS,
            takes={_FORM: obj(("List-Unsubscribe",), **{"List-Unsubscribe": {"const": "One-Click"}})},
            examples=(Example("one click", {"List-Unsubscribe": "One-Click"}, media=_FORM, path=_TOKEN),),
        ),
        ("GET", "/preferences/{token}"): Operation(
            "Shows what the person allows, by purpose and channel, and whether she is told apart.",
            _REPLIES,
            parameters=_ADDRESS,
            examples=(Example("shown", path=_TOKEN),),
        ),
        ("POST", "/preferences/{token}"): Operation(
            "Saves what was changed on the page.",
            _REPLIES,
            "`was` and `was_not` say what the page showed, `on` which boxes are ticked, `nothing` that all messages end.",
            parameters=_ADDRESS,
            takes={_FORM: obj(on=text(), was=text(), was_not=text(), nothing=text())},
            examples=(
                Example("switched off", {"was": "personalisation/all"}, media=_FORM, path=_TOKEN),
                Example("switched on", {"was_not": "marketing/sms", "on": "marketing/sms"}, media=_FORM, path=_TOKEN),
            ),
        ),
    }
)
