"""Standard Webhooks 1.0 (CONVENTIONS 2): signing what goes out, verifying what comes in."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from standardwebhooks import Webhook

from chassis.errors import Unauthenticated

_SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")


def new_secret() -> str:
    """A secret for one endpoint: 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def envelope(kind: str, data: Mapping[str, Any], at: datetime) -> bytes:
    """The body of a webhook."""
    return orjson.dumps({"type": kind, "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "data": data})


def signed_headers(secret: str, webhook_id: str, body: bytes) -> dict[str, str]:
    """Headers for one attempt; the id stays the same over attempts, time and signature do not.

    While a secret is exchanged `secret` is both, separated by a space, and so are the signatures: any of them will do.
    """
    # The library takes any datetime for UTC, whatever its zone.
    now = datetime.now(UTC)
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(one.sign(webhook_id, now, body.decode()) for one in _signers(secret)),
    }


@lru_cache(maxsize=1000)
def _signers(secret: str) -> tuple[Webhook, ...]:
    return tuple(map(Webhook, secret.split()))


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> str:
    """The webhook-id of a genuine, recent webhook under any of the secrets; raises Unauthenticated for everything else."""
    given = {name: headers.get(name, "") or headers.get(name.replace("webhook", "svix"), "") for name in _SIGNED}
    # Hostile input makes the library raise ValueError, binascii.Error, UnicodeDecodeError and more (CONVENTIONS trap 8).
    for one in _signers(secret):
        with suppress(Exception):
            one.verify(body, given, json_parse=False)
            return given["webhook-id"]
    raise Unauthenticated("signature, id or timestamp is not valid", reason="UNAUTHORIZED", field="webhook-signature")
