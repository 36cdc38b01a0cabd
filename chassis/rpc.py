"""gRPC doors and clients: one interceptor authenticates, validates, traces, times and translates errors."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc
import protovalidate
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from opentelemetry.trace import SpanKind

from chassis import telemetry, tls
from chassis.errors import InvalidArgument, PermissionDenied, TroikaError, Unauthenticated, Unavailable, is_operational

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# Callers that pass no timeout get this one: a call without a deadline can hold resources for ever.
DEFAULT_TIMEOUT_S = 10.0
STREAM_TIMEOUT_S = 300.0
# A client looks for addresses when it loses one: without an end of connections new pods of a service would stay idle.
CONNECTION_AGE_S = 300.0
# How soon it may look again; gRPC's own 30 s are longer than a call waits for a pod that has moved.
RESOLVE_AGAIN_S = 5.0
DOMAIN = "troika"
# Open to everybody: they show nothing but which services exist and whether they work.
_PUBLIC = ("/grpc.health.v1.Health/", "/grpc.reflection.")


def to_status(error: TroikaError) -> status_pb2.Status:
    """An error as google.rpc.Status: ErrorInfo always, BadRequest when a field is at fault (AIP-193)."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    details: list[Message] = [info]
    if error.field:
        info.metadata["field"] = error.field
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message, reason=error.reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=error.grpc_code.value[0], message=error.message, details=packed)


def validate(request: Message) -> None:
    """Checks the rules written beside the fields in the .proto; raises InvalidArgument naming the first field at fault."""
    violations = protovalidate.collect_violations(request)
    if violations:
        first = violations[0].proto
        elements = first.field.elements if first.field else []
        path = ".".join(e.field_name + (f"[{e.subscript.value}]" if e.subscript else "") for e in elements)
        raise InvalidArgument(first.message or first.rule_id, field=path or "request")
    # PostgreSQL stores no NUL, and no text of ours has one. Most requests have no zero byte at all.
    if b"\0" in request.SerializeToString() and (path := _nul_in(request)):
        raise InvalidArgument("text must not contain NUL", reason="NUL_CHARACTER", field=path)


def _nul_in(message: Message, prefix: str = "") -> str:
    """Path of the first text with a NUL in it; empty when there is none."""
    for field, value in message.ListFields():
        path = prefix + field.name
        parts: Iterable[tuple[str, Any]] = [(path, value)]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            parts = [(f"{path}[{key}]", part) for key, found in value.items() for part in (key, found)]
        elif field.is_repeated:
            parts = [(f"{path}[{index}]", part) for index, part in enumerate(value)]
        for at, part in parts:
            if isinstance(part, str) and "\0" in part:
                return at
            if isinstance(part, Message) and (found_at := _nul_in(part, f"{at}.")):
                return found_at
    return ""


def caller_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Who calls; the gate has checked the certificate, or the secret behind the name."""
    return tls.named_by(context.auth_context()) or _shown(dict(context.invocation_metadata() or ()))[0]


def _shown(metadata: Mapping[str, str | bytes]) -> tuple[str, str]:
    """(caller, secret) of the bearer token "<caller>.<secret>"; empty without one."""
    caller, _, secret = str(metadata.get("authorization", "")).removeprefix("Bearer ").partition(".")
    return caller, secret


class Gate(grpc.aio.ServerInterceptor):
    """Stands before every method of a server."""

    def __init__(self, caller_hashes: Mapping[str, str], allowed: Mapping[str, frozenset[str]]) -> None:
        """`caller_hashes`: caller → SHA-256 of its token; `allowed`: RPC service (full name) → callers."""
        self._hashes, self._allowed = caller_hashes, allowed

    def authenticate(self, method: str, metadata: Mapping[str, str | bytes], named: str = "") -> None:
        """Raises unless the caller is on the service's list: `named` by its certificate, else by a genuine bearer token
        "<caller>.<secret>".
        """
        if method.startswith(_PUBLIC):
            return
        caller = named or self._with_token(metadata)
        service = method.rpartition("/")[0].lstrip("/")
        if caller not in self._allowed.get(service, frozenset()):
            raise PermissionDenied(f"{caller} is not on the caller list of {service}", field="authorization")

    def _with_token(self, metadata: Mapping[str, str | bytes]) -> str:
        caller, secret = _shown(metadata)
        expected = self._hashes.get(caller, "")
        given = hashlib.sha256(secret.encode()).hexdigest()
        if not expected or not hmac.compare_digest(given, expected):
            raise Unauthenticated("unknown caller or wrong token", field="authorization")
        return caller

    async def intercept_service(
        self, continuation: Callable[..., Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps unary-unary and unary-stream handlers; Troika has no client streams."""
        handler: grpc.RpcMethodHandler[Any, Any] | None = await continuation(details)
        method = details.method
        if handler is None or method.startswith(_PUBLIC):
            return handler
        metadata = dict(details.invocation_metadata or ())
        carrier = {k: str(v) for k, v in metadata.items() if k in ("traceparent", "tracestate")}

        if handler.unary_unary:
            inner: Any = handler.unary_unary

            async def unary(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
                with _Call(method, carrier) as call:
                    try:
                        self.authenticate(method, metadata, tls.named_by(context.auth_context()))
                        validate(request)
                        return await inner(request, context)
                    except Exception as error:
                        await call.abort(error, context)

            return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer, handler.response_serializer)
        stream: Any = handler.unary_stream

        async def streaming(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            with _Call(method, carrier) as call:
                try:
                    self.authenticate(method, metadata, tls.named_by(context.auth_context()))
                    validate(request)
                    async for answer in stream(request, context):
                        yield answer
                except Exception as error:
                    await call.abort(error, context)

        return grpc.unary_stream_rpc_method_handler(streaming, handler.request_deserializer, handler.response_serializer)


class _Call:
    """Span and metrics of one call, and the translation of its error."""

    def __init__(self, method: str, carrier: Mapping[str, str]) -> None:
        self._method, self._code = method, "OK"
        self._span = telemetry.span(method.lstrip("/"), SpanKind.SERVER, [carrier], {"rpc.system": "grpc"})

    def __enter__(self) -> _Call:
        self._start = time.perf_counter()
        self._span.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._span.__exit__(None, None, None)
        telemetry.REQUESTS.labels("grpc", self._method, self._code).observe(time.perf_counter() - self._start)

    async def abort(self, error: Exception, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Ends the call with the typed status of an error; unknown ones are logged and shown as INTERNAL without text."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        known = error if isinstance(error, TroikaError) else None
        if known is None and is_operational(error):
            known = Unavailable("something this service needs is down, try again")
        if known is None:
            log.error("call failed", exc_info=error, extra={"method": self._method})
            known = TroikaError("internal error")
        self._code = known.grpc_code.name
        await context.abort_with_status(rpc_status.to_status(to_status(known)))


class Server:
    """A gRPC server with health, reflection and the gate."""

    def __init__(
        self,
        callers: Mapping[str, str],
        allowed: Mapping[str, frozenset[str]],
        with_reflection: bool,
        connection_age_s: float = CONNECTION_AGE_S,
    ) -> None:
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.max_connection_age_ms", int(connection_age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", int(STREAM_TIMEOUT_S * 1000)),
        ]
        self.aio = grpc.aio.server(interceptors=[Gate(callers, allowed)], options=options)
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.aio)
        self._names = [health.SERVICE_NAME, *allowed]
        if with_reflection:
            reflection.enable_server_reflection([*self._names, reflection.SERVICE_NAME], self.aio)

    async def start(self, address: str, certificates: tls.Certificates | None = None, token_address: str = "") -> int:
        """Listens and turns healthy; returns the port. With certificates callers show theirs, except at `token_address`."""
        if certificates is None:
            port = self.aio.add_insecure_port(address)
        else:
            port = self.aio.add_secure_port(address, certificates.server_credentials())
            if token_address:
                self.aio.add_secure_port(token_address, certificates.server_credentials(for_tokens=True))
        await self.aio.start()
        for name in ("", *self._names):
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace: float) -> None:
        """Turns NOT_SERVING, lets running calls end, closes."""
        await self.health.enter_graceful_shutdown()
        await self.aio.stop(grace)


_RETRY_CONFIG = (
    '{"loadBalancingConfig":[{"round_robin":{}}],"methodConfig":[{"name":[{}],"waitForReady":true,'
    '"retryPolicy":{"maxAttempts":4,"initialBackoff":"0.1s","maxBackoff":"2s","backoffMultiplier":2,'
    '"retryableStatusCodes":["UNAVAILABLE"]}}]}'
)


class _Outgoing:
    """Adds who calls, the trace, and a deadline where none was given."""

    def __init__(self, caller: str, token: str) -> None:
        self._authorization = f"Bearer {caller}.{token}"

    def details(self, given: grpc.aio.ClientCallDetails, timeout: float) -> grpc.aio.ClientCallDetails:
        """The call's details with what was missing."""
        metadata = grpc.aio.Metadata(*(given.metadata or ()))
        metadata.add("authorization", self._authorization)
        for key, value in telemetry.trace_headers().items():
            metadata.add(key, value)
        return grpc.aio.ClientCallDetails(
            given.method, given.timeout or timeout, metadata, given.credentials, given.wait_for_ready
        )


# Two classes: grpc.aio takes an interceptor for the first call shape it matches only.
class _Unary(_Outgoing, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self.details(client_call_details, DEFAULT_TIMEOUT_S), request)


class _Stream(_Outgoing, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self.details(client_call_details, STREAM_TIMEOUT_S), request)


def connect(
    target: str,
    caller: str,
    token: str,
    certificates: tls.Certificates | None = None,
    *,
    authorities: bytes = b"",
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """A channel to another service that shows who calls, passes the trace on and retries UNAVAILABLE.

    With `certificates` it is mutual TLS; with `authorities` alone (PEM) it is TLS to a door for tokens. `options`: gRPC's.
    """
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.service_config", _RETRY_CONFIG),
        ("grpc.dns_min_time_between_resolutions_ms", int(RESOLVE_AGAIN_S * 1000)),
        *options,
    ]
    interceptors: list[grpc.aio.ClientInterceptor] = [_Unary(caller, token), _Stream(caller, token)]
    if authorities:
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(authorities), options, interceptors=interceptors)
    if certificates is None:
        return grpc.aio.insecure_channel(target, options, interceptors=interceptors)
    return tls.RenewingChannel(
        certificates,
        lambda: grpc.aio.secure_channel(target, certificates.channel_credentials(), options, interceptors=interceptors),
    )


def reason_of(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """(reason, field) that a Troika service put into its error; empty strings when there are none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # the stub knows only the synchronous call
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return info.reason, info.metadata.get("field", "")
    return "", ""
