"""Typed async calls to Troika's services, with deadlines and retries.

    async with Troika("crm.9f3c…", identity="identity.example.com:443") as troika:
        found = await IdentityServiceStub(troika.identity).ResolveIdentifiers(request)

The stubs are those of the contracts (`troika.<service>.v1.<room>_service_pb2_grpc`); type checkers know what each call takes
and gives. What a service refuses is raised as grpc.aio.AioRpcError, and `Refusal.of` says why.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

__all__ = ["Refusal", "Troika", "pages"]

SERVICES: Final = ("identity", "tags", "scoring", "orchestrator", "touchpoints")
# What the services take and give in one message.
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
TIMEOUT_S: Final = 10.0
STREAM_TIMEOUT_S: Final = 300.0
# A call that may not have reached a service is made again: commands carry ids, so that twice does what once does.
_CONFIGURATION: Final = (
    '{"loadBalancingConfig":[{"round_robin":{}}],"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":5,'
    '"initialBackoff":"0.2s","maxBackoff":"3s","backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]}'
)
Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Refusal:
    """Why a call failed: `reason` is one of docs/reference/errors.md, `field` the path of what is wrong in the request."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    field: str = ""

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Refusal:
        """What a service put into its error; without reason when the call never reached one."""
        code, message = error.code(), error.details() or ""
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # the stub knows only the synchronous call
        info = error_details_pb2.ErrorInfo()
        for detail in status.details if status else ():
            if detail.Unpack(info):
                return cls(code, message, info.reason, info.metadata.get("field", ""))
        return cls(code, message)


class Troika:
    """Connections to services, each made when it is first asked for, all closed at the end of `async with`."""

    def __init__(
        self,
        token: str = "",
        *,
        identity: str = "",
        tags: str = "",
        scoring: str = "",
        orchestrator: str = "",
        touchpoints: str = "",
        authorities: bytes | None = None,
        certificate: tuple[bytes, bytes] | None = None,
        plaintext: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`token`: "<caller>.<secret>" as the platform team gave it. A service's name: its host:port.

        `authorities`: PEM of who signs the services' certificates, None for those that this machine trusts.
        `certificate`: (private key, chain) in PEM of a caller that has a certificate instead of a token.
        `plaintext`: no TLS, for a suite on this machine. `timeout_s`: of calls that are given none.
        """
        self._targets = dict(zip(SERVICES, (identity, tags, scoring, orchestrator, touchpoints), strict=True))
        self._credentials = None if plaintext else grpc.ssl_channel_credentials(authorities, *(certificate or (None, None)))
        self._interceptors: list[grpc.aio.ClientInterceptor] = [
            _Unary(token, timeout_s),
            _Stream(token, max(timeout_s, STREAM_TIMEOUT_S)),
        ]
        self._channels: dict[str, grpc.aio.Channel] = {}

    @classmethod
    def from_environment(cls) -> Troika:
        """Reads TROIKA_TOKEN, TROIKA_<SERVICE>_TARGET, TROIKA_AUTHORITIES (a file; "none" for no TLS)."""
        identity, tags, scoring, orchestrator, touchpoints = (
            os.environ.get(f"TROIKA_{service.upper()}_TARGET", "") for service in SERVICES
        )
        authorities = os.environ.get("TROIKA_AUTHORITIES", "")
        plaintext = authorities == "none"
        return cls(
            os.environ.get("TROIKA_TOKEN", "").strip(),
            identity=identity,
            tags=tags,
            scoring=scoring,
            orchestrator=orchestrator,
            touchpoints=touchpoints,
            authorities=Path(authorities).read_bytes() if authorities and not plaintext else None,
            plaintext=plaintext,
        )

    @property
    def identity(self) -> grpc.aio.Channel:
        """For the stubs of troika.identity.v1."""
        return self._channel("identity")

    @property
    def tags(self) -> grpc.aio.Channel:
        """For the stubs of troika.tags.v1."""
        return self._channel("tags")

    @property
    def scoring(self) -> grpc.aio.Channel:
        """For the stubs of troika.scoring.v1."""
        return self._channel("scoring")

    @property
    def orchestrator(self) -> grpc.aio.Channel:
        """For the stubs of troika.orchestrator.v1."""
        return self._channel("orchestrator")

    @property
    def touchpoints(self) -> grpc.aio.Channel:
        """For the stubs of troika.touchpoints.v1."""
        return self._channel("touchpoints")

    async def close(self) -> None:
        """Ends all connections; calls under way are cancelled."""
        for channel in self._channels.values():
            await channel.close()

    async def __aenter__(self) -> Troika:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self._channels:
            target = self._targets[service]
            if not target:
                raise ValueError(f"no address of {service}: Troika({service}='host:port') or TROIKA_{service.upper()}_TARGET")
            options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.service_config", _CONFIGURATION)]
            self._channels[service] = (
                grpc.aio.insecure_channel(target, options, interceptors=self._interceptors)
                if self._credentials is None
                else grpc.aio.secure_channel(target, self._credentials, options, interceptors=self._interceptors)
            )
        return self._channels[service]


async def pages(call: grpc.aio.UnaryUnaryMultiCallable[Request, Answer], request: Request) -> AsyncIterator[Answer]:
    """The answers of a listing call, page by page, until there is none left; the request itself stays as it is."""
    turned: Any = type(request)()
    turned.CopyFrom(request)
    while True:
        page: Any = await call(turned)
        yield page
        if not page.next_page_token:
            return
        turned.page_token = page.next_page_token


class _Outgoing:
    """Adds who calls, and a deadline where none was given."""

    def __init__(self, token: str, timeout_s: float) -> None:
        self._token, self._timeout_s = token, timeout_s

    def details(self, given: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        """The call's details with what was missing."""
        metadata = grpc.aio.Metadata(*(given.metadata or ()))
        if self._token:
            metadata.add("authorization", f"Bearer {self._token}")
        timeout = self._timeout_s if given.timeout is None else given.timeout
        return grpc.aio.ClientCallDetails(given.method, timeout, metadata, given.credentials, given.wait_for_ready)


# Two classes: grpc.aio takes an interceptor for the first call shape it matches only.
class _Unary(_Outgoing, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self.details(client_call_details), request)


class _Stream(_Outgoing, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self.details(client_call_details), request)
