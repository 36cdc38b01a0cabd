"""HTTP/2 for providers that speak nothing else, under the same rules as channels/http.Caller."""

from __future__ import annotations

import asyncio
import ssl
import time

import httpx

from services.touchpoints.channels.http import MOST_ANSWER_BYTES, Answer, PublicOnly, after_s, forbidden
from services.touchpoints.domain.deliveries import Refused, Retry

# Of one provider a few connections carry everything: each has hundreds of streams.
MOST_CONNECTIONS = 8
# Apple asks that connections stay open.
IDLE_S = 3600.0
# How long a name's address is used before it is asked for, and judged, again.
RESOLVED_S = 60.0


class _Guarded(httpx.AsyncBaseTransport):
    """Connects to exactly the address that was judged, under the name that was asked for."""

    def __init__(self, allow_private: bool, context: ssl.SSLContext | None) -> None:
        limits = httpx.Limits(
            max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS, keepalive_expiry=300
        )
        self._inner = httpx.AsyncHTTPTransport(verify=context or True, http1=False, http2=True, limits=limits, trust_env=False)
        self._resolver = None if allow_private else PublicOnly()
        self._known: dict[tuple[str, int], tuple[str, float]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises ForbiddenAddress where the name leads into our own network."""
        if self._resolver is not None:
            host, port = request.url.host, request.url.port or 443
            address, until = self._known.get((host, port), ("", 0.0))
            if until < time.monotonic():
                address = (await self._resolver.resolve(host, port))[0]["host"]
                self._known[host, port] = address, time.monotonic() + RESOLVED_S
            # The header `host` and the name in the certificate stay those of the address that was asked for.
            request.extensions = {**request.extensions, "sni_hostname": host}
            request.url = request.url.copy_with(host=address)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._inner.aclose()
        if self._resolver is not None:
            await self._resolver.close()


class Http2:
    """Posts bodies and says what became of them; over http:// with prior knowledge, for machines that try things out."""

    def __init__(self, timeout_s: float, allow_private: bool, context: ssl.SSLContext | None = None) -> None:
        """`context`: whose certificates are believed; without it those of the usual authorities."""
        self._allow_private, self._timeout_s = allow_private, timeout_s
        transport = _Guarded(allow_private, context)
        self._client = httpx.AsyncClient(transport=transport, timeout=timeout_s, follow_redirects=False, trust_env=False)

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> Answer | Retry | Refused:
        """One POST; a Retry when there was no whole answer, Refused when the address is forbidden."""
        if forbidden(url, self._allow_private):
            return Refused("forbidden_address")
        try:
            # The client's own timeouts start anew with each byte.
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", url, content=body, headers=headers) as answer,
            ):
                received = b""
                async for chunk in answer.aiter_raw():
                    received += chunk
                    if len(received) > MOST_ANSWER_BYTES:
                        break
                given = answer.headers
                after = after_s(given["retry-after"], given.get("date", "")) if "retry-after" in given else 0.0
                return Answer(answer.status_code, after, received)
        except httpx.ConnectError:
            return Retry("connection_failed", sent_perhaps=False, faults_endpoint=True)
        except (TimeoutError, httpx.TimeoutException):
            return Retry("timeout", faults_endpoint=True)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
            return Retry("connection_failed", faults_endpoint=True)

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()
