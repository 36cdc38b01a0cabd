"""APNs over HTTP/2: a call per device, under a number of its own, shown once by its collapse id (CONVENTIONS 4).

Spoken through our own client, as FCM is, for the same reasons (docs/adr/0035-fcm-on-our-own-client.md).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from services.touchpoints.channels.http import MINUTE_S, PAUSE_S, Answer
from services.touchpoints.channels.http2 import Http2
from services.touchpoints.channels.push.providers import Notification, Told, together
from services.touchpoints.channels.push.tokens import Dead, Token
from services.touchpoints.domain.deliveries import Accepted, Refused, Retry
from services.touchpoints.endpoints import Endpoint

log = logging.getLogger(__name__)

URL, SANDBOX_URL = "https://api.push.apple.com", "https://api.sandbox.push.apple.com"
# Apple takes a token for an hour, and a new one every 20 minutes at most.
SLOT_S: Final = 2400
RENEW_S: Final = 1260
# A payload of an alert, bytes.
MOST_BYTES: Final = 4096
MOST_COLLAPSE: Final = 64
DEAD = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic", "Unregistered", "ExpiredToken"})
EXPIRED = "ExpiredProviderToken"
# What somebody must mend: the key, the team, the topic. Nothing else goes there meanwhile.
SETUP = frozenset(
    {
        *("InvalidProviderToken", "MissingProviderToken", "TooManyProviderTokenUpdates", "Forbidden", EXPIRED),
        *("BadCertificate", "BadCertificateEnvironment", "BadTopic", "MissingTopic", "TopicDisallowed"),
        *("BadEnvironmentKeyIdInToken", "UnrelatedKeyIdInToken", "BadEnvironmentKeyInToken"),
    }
)
_NUMBERS: Final = uuid.UUID("6f2b1c34-5d0e-4b6e-9a57-1f6d3b0c8e11")
_COORDINATE: Final = 32


def unsound(key: str) -> str:
    """What is wrong with a signing key (.p8); empty when nothing is."""
    try:
        signed(key, "", "", 0)
    except (ValueError, TypeError):
        return "is not a key of Apple's (.p8, ES256)"
    return ""


def signed(key: str, key_id: str, team: str, issued: int) -> str:
    """The provider token (JWT, ES256); the same for the same moment, on every replica."""
    private = serialization.load_pem_private_key(key.encode(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise ValueError("not a P-256 key")
    head = _base64(orjson.dumps({"alg": "ES256", "kid": key_id})) + "." + _base64(orjson.dumps({"iss": team, "iat": issued}))
    r, s = decode_dss_signature(private.sign(head.encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return head + "." + _base64(r.to_bytes(_COORDINATE) + s.to_bytes(_COORDINATE))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class ProviderTokens:
    """Tokens by which Apple knows us: of one slot of time all replicas have the same, so none is renewed too often."""

    def __init__(self) -> None:
        # (team, key id) → token, when it was issued, and which key it is by.
        self._known: dict[tuple[str, str], tuple[str, int, str]] = {}

    def of(self, endpoint: Endpoint) -> str:
        """The token of the present slot; one that Apple wanted renewed stays until the next slot."""
        team, key_id, key = _names(endpoint)
        now = int(time.time())
        slot = now - now % SLOT_S
        token, issued, by = self._known.get((team, key_id), ("", 0, ""))
        # A renewed one stays for as long as Apple wants it to.
        if by != key or (issued < slot and now - issued >= RENEW_S):
            token, issued = signed(key, key_id, team, slot), slot
            self._known[team, key_id] = token, issued, key
        return token

    def renew(self, endpoint: Endpoint) -> bool:
        """Makes a token of this moment because Apple calls the last one old; False when that was done only just now."""
        team, key_id, key = _names(endpoint)
        now = int(time.time())
        _, issued, _ = self._known.get((team, key_id), ("", 0, ""))
        if issued % SLOT_S and now - issued < RENEW_S:
            return False
        # Never the beginning of a slot, by which a renewed one is known.
        issued = now + (now % SLOT_S == 0)
        self._known[team, key_id] = signed(key, key_id, team, issued), issued, key
        return True


def _names(endpoint: Endpoint) -> tuple[str, str, str]:
    settings = endpoint.settings
    return settings["apns_team"], settings["apns_key_id"], endpoint.secrets["apns_key"]


class Apns:
    """One app of Apple's per endpoint."""

    def __init__(self, http2: Http2) -> None:
        self._http2, self._tokens = http2, ProviderTokens()

    def serves(self, endpoint: Endpoint) -> bool:
        """See Provider."""
        named = all(endpoint.settings.get(name) for name in ("apns_team", "apns_key_id", "apns_topic"))
        return bool(named and endpoint.secrets.get("apns_key"))

    async def send(self, endpoint: Endpoint, notification: Notification, tokens: Sequence[Token], call_id: str) -> Told:
        """See Provider."""
        body = orjson.dumps(payload(notification))
        if len(body) > MOST_BYTES:
            return Told(Refused("text_too_long"))
        told = await asyncio.gather(*(self._one(endpoint, notification, token, body) for token in tokens))
        reached = [number for each in told for number in each.reached]
        return Told(together(told), reached, [dead for each in told for dead in each.dead])

    async def _one(self, endpoint: Endpoint, notification: Notification, token: Token, body: bytes) -> Told:
        answer = await self._call(endpoint, notification, token, body)
        if isinstance(answer, Answer) and answer.fields().get("reason") == EXPIRED:
            # Several devices may hear it at once: one of them renews, all call once more.
            self._tokens.renew(endpoint)
            answer = await self._call(endpoint, notification, token, body)
        return told_by(answer, token) if isinstance(answer, Answer) else Told(answer)

    async def _call(
        self, endpoint: Endpoint, notification: Notification, token: Token, body: bytes
    ) -> Answer | Retry | Refused:
        settings = endpoint.settings
        base = (
            settings.get("apns_url", URL)
            if token.environment == "production"
            else settings.get("apns_sandbox_url", SANDBOX_URL)
        )
        service = notification.purpose == "service"
        headers = {
            "authorization": f"bearer {self._tokens.of(endpoint)}",
            "apns-topic": settings["apns_topic"],
            "apns-push-type": "alert",
            "apns-id": str(uuid.uuid5(_NUMBERS, f"{notification.number}\0{token.token_id}")),
            "apns-priority": "10" if service else "5",
            "apns-expiration": str(int(time.time()) + notification.life_s),
            "apns-collapse-id": collapse_id(notification.number),
            "content-type": "application/json",
        }
        return await self._http2.post(f"{base.rstrip('/')}/3/device/{token.value}", body, headers)


def collapse_id(number: str) -> str:
    """What stands for a push on the device, where the last of one id is shown; Apple takes 64 bytes."""
    return number if len(number.encode()) <= MOST_COLLAPSE else uuid.uuid5(_NUMBERS, number).hex


def payload(notification: Notification) -> dict[str, Any]:
    """What the device gets."""
    alert = {"title": notification.title, "body": notification.body}
    return {"aps": {"alert": alert, "sound": "default", "mutable-content": 1}} | dict(notification.extras)


def told_by(answer: Answer, token: Token) -> Told:
    """What Apple's answer means."""
    if answer.status == 200:
        return Told(Accepted(), [token.token_id])
    given = answer.fields()
    stated = given.get("reason")
    reason = stated if isinstance(stated, str) and stated.isalnum() and len(stated) <= 60 else ""
    if reason in DEAD or answer.status == 410:
        return Told(Refused("no_such_device"), dead=[Dead(token.token_id, f"apns_{reason or 410}", _since(given))])
    if reason in SETUP or answer.status in (401, 403):
        log.error("APNs refuses the key or the topic", extra={"status": answer.status, "code": reason})
        return Told(Retry("key_refused", PAUSE_S, sent_perhaps=False, pauses_endpoint=True))
    if answer.status == 429:
        # Too many to one device: the others are not meant.
        return Told(Retry("rate_limited", answer.after_s or MINUTE_S, sent_perhaps=False))
    if answer.status >= 500:
        return Told(Retry(f"http_{answer.status}", answer.after_s, faults_endpoint=True))
    return Told(Refused("text_too_long" if answer.status == 413 else f"apns_{reason or answer.status}"))


def _since(given: Mapping[str, Any]) -> datetime | None:
    """Since when a token is dead: one that registered anew after that lives."""
    at_ms = given.get("timestamp")
    return datetime.fromtimestamp(at_ms / 1000, UTC) if isinstance(at_ms, int) and 0 < at_ms < 10**14 else None
