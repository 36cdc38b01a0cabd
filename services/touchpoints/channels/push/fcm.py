"""FCM HTTP v1, for phones outside mainland China: a call per device, shown once by its tag (CONVENTIONS 4).

Spoken through our own client, so that pushes and the buying of tokens keep to the same limits and addresses as all channels.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import orjson
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from services.touchpoints.channels.http import MINUTE_S, PAUSE_S, Answer, Caller
from services.touchpoints.channels.push.providers import Notification, Told, together
from services.touchpoints.channels.push.tokens import Dead, Token
from services.touchpoints.domain.deliveries import Accepted, Refused, Retry
from services.touchpoints.endpoints import Endpoint

log = logging.getLogger(__name__)

URL, TOKEN_URL = "https://fcm.googleapis.com", "https://oauth2.googleapis.com/token"
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
EARLY_S, JWT_LIFE_S = 120.0, 3600
# The app is gone from the device, or the token is another project's.
DEAD = frozenset({"UNREGISTERED", "SENDER_ID_MISMATCH"})


def unsound(account: str) -> str:
    """What is wrong with a service account's key file; empty when nothing is."""
    try:
        assertion(orjson.loads(account), 0)
    except (ValueError, TypeError, KeyError, AttributeError):
        return "is not the JSON key of a service account"
    return ""


def assertion(account: Mapping[str, Any], now: int) -> str:
    """The signed statement (JWT, RS256) that buys a token."""
    key = serialization.load_pem_private_key(account["private_key"].encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("not an RSA key")
    address = account.get("token_uri", TOKEN_URL)
    claims = {"iss": account["client_email"], "scope": SCOPE, "aud": address, "iat": now, "exp": now + JWT_LIFE_S}
    head = _base64(orjson.dumps({"alg": "RS256", "typ": "JWT"})) + "." + _base64(orjson.dumps(claims))
    return head + "." + _base64(key.sign(head.encode(), padding.PKCS1v15(), hashes.SHA256()))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Fcm:
    """One Firebase project per endpoint."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        # Key file → token and when it ends, monotonic.
        self._bought: dict[str, tuple[str, float]] = {}
        self._buying: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def serves(self, endpoint: Endpoint) -> bool:
        """See Provider."""
        return bool(endpoint.settings.get("fcm_project") and endpoint.secrets.get("fcm_service_account"))

    async def send(self, endpoint: Endpoint, notification: Notification, tokens: Sequence[Token], call_id: str) -> Told:
        """See Provider."""
        bearer = await self._token(endpoint.secrets["fcm_service_account"])
        if isinstance(bearer, Told):
            return bearer
        told = await asyncio.gather(*(self._one(endpoint, notification, token, bearer) for token in tokens))
        if any(isinstance(each.outcome, Retry) and each.outcome.reason == "key_refused" for each in told):
            self._bought.pop(endpoint.secrets["fcm_service_account"], None)
        reached = [number for each in told for number in each.reached]
        return Told(together(told), reached, [dead for each in told for dead in each.dead])

    async def _one(self, endpoint: Endpoint, notification: Notification, token: Token, bearer: str) -> Told:
        url = (
            f"{endpoint.settings.get('fcm_url', URL).rstrip('/')}/v1/projects/{endpoint.settings['fcm_project']}/messages:send"
        )
        headers = {"content-type": "application/json", "authorization": f"Bearer {bearer}"}
        answer = await self._caller.post(url, orjson.dumps({"message": message(notification, token)}), headers)
        return told_by(answer, token) if isinstance(answer, Answer) else Told(answer)

    async def _token(self, account: str) -> str | Told:
        async with self._buying[account]:
            known = self._bought.get(account)
            if known and known[1] > time.monotonic():
                return known[0]
            given = orjson.loads(account)
            form = {
                "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
                "assertion": assertion(given, int(time.time())),
            }
            headers = {"content-type": "application/x-www-form-urlencoded"}
            answer = await self._caller.post(given.get("token_uri", TOKEN_URL), urlencode(form).encode(), headers)
            if not isinstance(answer, Answer):
                # Nothing was pushed, whatever became of this call.
                return Told(Retry("no_access_token", sent_perhaps=False))
            body = answer.fields()
            token, life = body.get("access_token"), body.get("expires_in")
            if answer.status != 200 or not isinstance(token, str) or not isinstance(life, int):
                log.error("no access token for FCM", extra={"status": answer.status})
                refused = 400 <= answer.status < 500
                return Told(Retry("no_access_token", PAUSE_S if refused else 0.0, sent_perhaps=False, pauses_endpoint=refused))
            self._bought[account] = token, time.monotonic() + max(0.0, life - EARLY_S)
            return token


def message(notification: Notification, token: Token) -> dict[str, Any]:
    """One message. FCM knows no repeats: devices show one of a tag, so that a second copy takes the place of the first."""
    number = notification.number
    return {
        "token": token.value,
        "notification": {"title": notification.title, "body": notification.body},
        "data": dict(notification.extras),
        "android": {
            "ttl": f"{notification.life_s}s",
            "priority": "high" if notification.purpose == "service" else "normal",
            "collapse_key": number,
            "notification": {"tag": number},
        },
        # Apple takes 64 bytes of it.
        "apns": {"headers": {"apns-collapse-id": number[:64]}},
    }


def told_by(answer: Answer, token: Token) -> Told:
    """What FCM's answer means."""
    given = answer.fields()
    if answer.status == 200:
        name = given.get("name")
        return Told(Accepted(name[-100:] if isinstance(name, str) else ""), [token.token_id])
    code = _code(given)
    # A wrong argument is the message's or the token's: only its field says which.
    if code in DEAD or (code == "INVALID_ARGUMENT" and b"message.token" in answer.body):
        return Told(Refused("no_such_device"), dead=[Dead(token.token_id, f"fcm_{code.lower()}")])
    if answer.status in (401, 403):
        log.error("FCM refuses the key", extra={"status": answer.status, "code": code})
        return Told(Retry("key_refused", PAUSE_S, sent_perhaps=False, pauses_endpoint=True))
    if answer.status == 429:
        return Told(Retry("rate_limited", max(answer.after_s, MINUTE_S), sent_perhaps=False, throttles=True))
    if answer.status >= 500:
        return Told(Retry(f"http_{answer.status}", answer.after_s, faults_endpoint=True))
    return Told(Refused(f"http_{answer.status}"))


def _code(given: Mapping[str, Any]) -> str:
    """FCM's own code, else that of Google's APIs; empty for none."""
    error = given.get("error")
    if not isinstance(error, dict):
        return ""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("errorCode"), str):
            return str(detail["errorCode"])
    status = error.get("status")
    return status if isinstance(status, str) else ""
