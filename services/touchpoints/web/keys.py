"""How senders show a source's write key, and how their bodies are packed."""

from __future__ import annotations

import base64
import binascii

from starlette.datastructures import Headers

from chassis.errors import PermissionDenied, Unauthenticated
from services.touchpoints.domain.observed import Source


def encoding(headers: Headers) -> str:
    """The Content-Encoding, lower case; empty without any."""
    return headers.get("content-encoding", "").strip().lower()


def basic_key(headers: Headers) -> str:
    """The user name of Basic authentication, empty without any; raises Unauthenticated for what cannot be read."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Unauthenticated("not valid Basic authentication", reason="UNAUTHORIZED", field="authorization") from error


def bearer_key(headers: Headers) -> str:
    """The Bearer token, empty without any."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def only_server_side(source: Source, what: str, field: str = "authorization") -> None:
    """Raises PermissionDenied for a publishable key: anybody can read it out of a page or an app."""
    if not source.server_side:
        raise PermissionDenied(
            f"{what} needs the server key of {source.name}, and this one is publishable: let your backend ask, with the key"
            f" that `troika source {source.name} --server-side` makes",
            reason="SERVER_KEY_REQUIRED",
            field=field,
        )
