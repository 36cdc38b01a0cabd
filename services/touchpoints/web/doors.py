"""Doors that SDKs write to: plain ASGI, because they take thousands of events per second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from fastapi import Request, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from chassis.web import translate

CORS: Mapping[str, str] = {"Access-Control-Allow-Origin": "*"}
_PREFLIGHT = {
    **CORS,
    "Access-Control-Allow-Headers": "content-type, authorization, content-encoding",
    "Access-Control-Max-Age": "86400",
}

Answer = Callable[[Request], Awaitable[Response]]


class Door(Route):
    """A route straight to ASGI: no dependency solving, no body model, errors in the shape that SDKs can read."""

    def __init__(self, path: str, answer: Answer, methods: Sequence[str] = ("POST",), preflight: Answer | None = None) -> None:
        """`preflight` answers OPTIONS; without it browsers of every origin are told that they may write."""
        super().__init__(path, self._endpoint, methods=[*methods, "OPTIONS"], include_in_schema=False)
        self._answer, self._preflight = answer, preflight or self._welcome
        self._allowed = _PREFLIGHT | {"Access-Control-Allow-Methods": ", ".join([*methods, "OPTIONS"])}
        self.app = self._asgi

    async def _endpoint(self, request: Request) -> Response:
        raise NotImplementedError("replaced by _asgi")

    async def _welcome(self, request: Request) -> Response:
        return Response(status_code=204, headers=self._allowed)

    async def _asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        answer = self._preflight if scope["method"] == "OPTIONS" else self._answer
        try:
            response = await answer(Request(scope, receive))
        except Exception as error:
            response = translate(error, self.path)
            response.headers.update(CORS)
        await response(scope, receive, send)
