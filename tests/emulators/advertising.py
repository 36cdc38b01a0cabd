"""An advertising platform (docs/howto/channels.md, Advertising): lists of hashes and conversions, judged."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import orjson
from aiohttp import web

from tests.emulators.providers import Provider

# What somebody could read: a number, an address; a hash of 64 or 32 small hexadecimal digits is none.
_READABLE = re.compile(rb"@|\+?86|1[3-9][0-9]{9}(?![0-9a-f])")
_LENGTHS = {"sha256": 64, "md5": 32}


@dataclass
class AdPlatform(Provider):
    """`quota`: hashes that it takes in one call; `lists`: who is on each list, (kind, hash)."""

    key: str = "ads-key"
    digest: str = "sha256"
    quota: int = 5000
    lists: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    # Every change that was made: list, operation, how many.
    changes: list[tuple[str, str, int]] = field(default_factory=list)
    # Hashes that were ever told to it.
    told: set[str] = field(default_factory=set)
    conversions: dict[str, dict[str, str]] = field(default_factory=dict)
    clicks: Counter[str] = field(default_factory=Counter)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/audiences/{name}/members", self._change), web.post("/conversions", self._convert)]

    async def _begun(self, request: web.Request) -> tuple[bytes, web.Response | None]:
        body = await request.read()
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return body, web.json_response({"code": "unauthorized"}, status=401)
        number = orjson.loads(body)["number"]
        self.judged["key_is_not_number"] += request.headers.get("idempotency-key") != number
        return body, await self.next_failure()

    async def _change(self, request: web.Request) -> web.Response:
        body, failure = await self._begun(request)
        if failure:
            return failure
        call, given = self.calls, orjson.loads(body)
        members = [(each["kind"], each["hash"]) for each in given["members"]]
        if not 0 < len(members) <= self.quota:
            return web.json_response({"code": "too_many_members"}, status=413)
        for kind, value in members:
            self.judged["kind"] += kind not in ("mobile", "email", "device")
            self.judged["not_a_hash"] += not re.fullmatch(f"[0-9a-f]{{{_LENGTHS[self.digest]}}}", value)
        self.judged["digest"] += given["digest"] != self.digest
        self.judged["more_than_hashes"] += set(given) != {"number", "operation", "digest", "members"}
        self.judged["twice_in_one_call"] += len(set(members)) != len(members)
        rest = re.sub(rb'"(hash|number)":"[0-9a-f]*"', b"", body)
        self.judged["readable"] += bool(_READABLE.search(rest))
        listed = self.lists.setdefault(request.match_info["name"], set())
        if self.keep(given["number"], given):
            match given["operation"]:
                case "add":
                    self.judged["added_again"] += len(listed & set(members))
                    listed |= set(members)
                case "remove":
                    self.judged["removed_who_never_came"] += len(set(members) - listed)
                    listed -= set(members)
                case _:
                    self.judged["operation"] += 1
            self.told |= {value for _, value in members}
            self.changes.append((request.match_info["name"], given["operation"], len(members)))
        if self.loses(call):
            return web.Response(status=502, body=b"<html>Bad Gateway</html>")
        return web.json_response({"accepted": len(members)})

    async def _convert(self, request: web.Request) -> web.Response:
        body, failure = await self._begun(request)
        if failure:
            return failure
        call, given = self.calls, orjson.loads(body)
        self.judged["no_click"] += not given["click_id"]
        self.judged["more_than_a_conversion"] += set(given) != {"number", "click_id", "event", "occurred_at"}
        if self.keep(given["number"], given):
            self.conversions[given["number"]] = given
            self.clicks[given["click_id"]] += 1
        if self.loses(call):
            return web.Response(status=502, body=b"<html>Bad Gateway</html>")
        return web.json_response({}, status=202)
