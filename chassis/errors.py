"""Typed errors, written once and translated at the doors (gRPC status, HTTP status)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import asyncpg
import grpc
import nats.errors
from sqlalchemy.exc import DBAPIError


class TroikaError(Exception):
    """Base of all errors that a caller may see. `reason` is UPPER_SNAKE, `field` names the input at fault."""

    grpc_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self, message: str, *, reason: str | None = None, field: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """`metadata` goes along as it is, for programs: a position in a text, a limit."""
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.field = field
        self.metadata = dict(metadata or {})


class InvalidArgument(TroikaError):
    """The input can never be right, whatever the state of the system."""

    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    default_reason = "INVALID_ARGUMENT"


class PayloadTooLarge(InvalidArgument):
    """The input is larger than the door allows. HTTP 400, as Segment does: 413 makes no client behave better."""

    default_reason = "PAYLOAD_TOO_LARGE"


class TooSlow(TroikaError):
    """The sender did not end in time."""

    grpc_code = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 408
    default_reason = "BODY_TOO_SLOW"


class Unauthenticated(TroikaError):
    """Nobody we know."""

    grpc_code = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(TroikaError):
    """Known, but not on the list for this."""

    grpc_code = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403
    default_reason = "PERMISSION_DENIED"


class NotFound(TroikaError):
    """No such thing."""

    grpc_code = grpc.StatusCode.NOT_FOUND
    http_status = 404
    default_reason = "NOT_FOUND"


class FailedPrecondition(TroikaError):
    """Right input, wrong moment: the state of the system forbids it."""

    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 409
    default_reason = "FAILED_PRECONDITION"


class ResourceExhausted(TroikaError):
    """Too much at once; try again later."""

    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    default_reason = "RESOURCE_EXHAUSTED"


class Unavailable(TroikaError):
    """Something we need is down; try again."""

    grpc_code = grpc.StatusCode.UNAVAILABLE
    http_status = 503
    default_reason = "UNAVAILABLE"


_RETRYABLE_GRPC = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
# Deadlock, serialization failure, lock timeout, shutdown, too many connections: PostgreSQL asks to try again.
_RETRYABLE_SQLSTATES = ("40", "53", "55P03", "57", "08")


def is_operational(error: BaseException) -> bool:
    """True when the fault lies in the world (database, bus, peer down or busy) and a retry may succeed."""
    if isinstance(error, DBAPIError):
        if isinstance(getattr(error.orig, "__cause__", None), ValueError):
            return False  # the driver could not encode an argument; asyncpg files that under InterfaceError
        state = getattr(error.orig, "sqlstate", None)
        return error.connection_invalidated or state is None or str(state).startswith(_RETRYABLE_SQLSTATES)
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate).startswith(_RETRYABLE_SQLSTATES)
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _RETRYABLE_GRPC
    return isinstance(error, (OSError, TimeoutError, Unavailable, asyncpg.InterfaceError, nats.errors.Error))
