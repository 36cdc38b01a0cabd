"""HTTP doors: probes, metrics, error bodies that clients can live with, and traces that start or go on here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import SpanKind
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import telemetry
from chassis.connections import Connection
from chassis.errors import (
    InvalidArgument,
    PayloadTooLarge,
    ResourceExhausted,
    TooSlow,
    TroikaError,
    Unavailable,
    is_operational,
)

log = logging.getLogger(__name__)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Content as JSON; orjson, because the hot doors answer thousands of times a second."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def error_response(error: TroikaError) -> Response:
    """`{"code","message","field"?}`: RudderStack's SDK retries permanent errors in any other shape (CONVENTIONS trap 2)."""
    body = {"code": error.reason.lower(), "message": error.message} | ({"field": error.field} if error.field else {})
    headers = {"Retry-After": "1"} if isinstance(error, (ResourceExhausted, Unavailable)) else None
    if isinstance(error, TooSlow):
        # Else the rest of the body would hold the connection on.
        headers = {"Connection": "close"}
    return json_response(body, error.http_status, headers)


def pattern(scope: Scope) -> str:
    """The route's pattern, which may be logged and counted; the path may not: paths carry tokens and ids."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


def translate(error: Exception, path: str) -> Response:
    """Any error as a response: known ones as they are, a world that is down as 503, a bug as 500 with a log line."""
    if isinstance(error, TroikaError):
        return error_response(error)
    if isinstance(error, ClientDisconnect):
        # Nobody is left to read it; the number (nginx's) is for the metrics.
        return Response(status_code=499)
    if is_operational(error):
        return error_response(Unavailable("something this service needs is down, try again"))
    log.error("request failed", exc_info=error, extra={"path": path})
    return error_response(TroikaError("internal error"))


async def read_body(request: Request, limit: int) -> bytes:
    """The raw body; raises PayloadTooLarge as soon as it passes `limit` bytes, TooSlow when it does not end in time."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise PayloadTooLarge(f"body is larger than {limit} bytes", field="body")
    chunks, size, patience_s = [], 0, request.app.state.body_timeout_s
    try:
        async with asyncio.timeout(patience_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise PayloadTooLarge(f"body is larger than {limit} bytes", field="body")
                chunks.append(chunk)
    except TimeoutError:
        raise TooSlow(f"the body did not end within {patience_s:g} s", field="body") from None
    return b"".join(chunks)


class TraceMiddleware:
    """One server span and one metric per request. Plain ASGI: Starlette's base class costs a task per request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wraps HTTP requests other than probes."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), "500"
        carrier = {k.decode(): v.decode("latin-1") for k, v in scope["headers"] if k in (b"traceparent", b"tracestate")}

        async def watch(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        with telemetry.span(f"{scope['method']} request", SpanKind.SERVER, [carrier]) as current:
            try:
                await self._app(scope, receive, watch)
            finally:
                route = pattern(scope)
                current.update_name(f"{scope['method']} {route}")
                telemetry.REQUESTS.labels("http", route, status).observe(time.perf_counter() - start)


# Clients that have anything to say say it within this time; idle connections are closed then.
LEAVE_S = 3.0
_PROBES = ("/livez", "/readyz", "/metrics")


# TraceMiddleware makes the span and the metric of a request. FastAPI's own would be second ones, for a sixth of a hot door.
_OURS_ALONE: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}


def new_app(title: str, checks: dict[str, Callable[[], Awaitable[None]]], body_timeout_s: float = 30.0) -> FastAPI:
    """A FastAPI app with /livez, /readyz, /metrics and typed errors. `checks` raise when a dependency is down."""
    app = FastAPI(title=title, redirect_slashes=False, docs_url=None, redoc_url=None, telemetry=_OURS_ALONE)
    app.state.body_timeout_s = body_timeout_s
    app.add_middleware(TraceMiddleware)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "body")
        return error_response(InvalidArgument(str(first["msg"]), reason="INVALID_REQUEST", field=field or "body"))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        return json_response({"code": code, "message": str(error.detail)}, error.status_code, error.headers)

    # Named beside Exception: what is caught by its own name is not raised again behind the answer.
    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(Exception)
    async def other(request: Request, error: Exception) -> Response:
        return translate(error, pattern(request.scope))

    @app.exception_handler(TroikaError)
    async def typed(_: Request, error: TroikaError) -> Response:
        return error_response(error)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        return Response("ok")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        down = {}
        for name, check in checks.items():
            try:
                async with asyncio.timeout(2):
                    await check()
            except Exception as error:
                down[name] = type(error).__name__
        return json_response({"ready": not down, "down": down}, 503 if down else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


class WebServer(uvicorn.Server):
    """uvicorn inside our own loop: the runtime owns the signals."""

    def __init__(
        self, app: ASGIApp, host: str, port: int, grace_s: float, head_timeout_s: float = 30.0, most_connections: int = 4096
    ) -> None:
        """`head_timeout_s`: seconds a request's head may take; `most_connections`: beyond them new ones are closed."""
        self._grace_s = grace_s
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=partial(Connection, head_timeout_s, most_connections),  # type: ignore[arg-type]  # a callable will do
                log_config=None,
                access_log=False,
                server_header=False,
                # Who the peer is no header may say; doors that stand behind proxies know which ones to believe.
                proxy_headers=False,
                # Longer than proxies keep idle connections (nginx: 60 s): a post that meets the end of its connection is lost.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=max(1, int(grace_s)),
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Left to the runtime."""
        yield

    async def close(self, serving: asyncio.Task[None]) -> None:
        """Tells clients to take their next request elsewhere, lets running ones end, closes.

        Who still holds an idle connection when it is closed may have sent a request that nobody reads any more.
        """
        leave = (b"connection", b"close")
        # The tick makes the defaults anew from the configuration once a second.
        self.config.encoded_headers.append(leave)
        self.server_state.default_headers = [*self.server_state.default_headers, leave]
        deadline = time.monotonic() + min(LEAVE_S, self._grace_s)
        while self.server_state.connections and not serving.done() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self.should_exit = True
        await serving
