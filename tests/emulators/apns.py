"""APNs as it speaks: HTTP/2 (without TLS by prior knowledge), a signed token in each request, one device per request."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import ssl
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

HOUR_S = 3600
Refusal = tuple[int, dict[str, Any]]


@dataclass
class ApnsServer:
    """`refuses(device)` says with what a device is refused; `fails(n)` how the n-th call fails; after the n-th the line is cut
    where `cuts(n)` says so, with the push shown. `expired`: tokens issued before this moment count as expired."""

    team: str = "TEAM000001"
    key_id: str = "KEY0000001"
    topic: str = "com.example.car"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    refuses: Callable[[str], Refusal | None] = lambda device: None
    fails: Callable[[int], Refusal | None] = lambda n: None
    cuts: Callable[[int], bool] = lambda n: False
    expired: int = 0
    url: str = ""
    calls: int = 0
    connections: int = 0
    judged: Counter[str] = field(default_factory=Counter)
    # What each device shows: collapse id → text; the last of one id stands.
    shown: dict[str, dict[str, str]] = field(default_factory=dict)
    ids: Counter[str] = field(default_factory=Counter)
    priorities: list[str] = field(default_factory=list)
    bearers: set[str] = field(default_factory=set)

    def pem(self) -> str:
        """The text of the .p8 file."""
        kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return self.key.private_bytes(*kinds).decode()

    def answer(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any], bool]:
        """(status, body, whether the line is cut instead)."""
        self.calls += 1
        call = self.calls
        if reason := self._stranger(headers.get("authorization", "")):
            return 403, {"reason": reason}, False
        if failure := self.fails(call):
            return *failure, False
        device = headers[":path"].removeprefix("/3/device/")
        self._judge(headers, body)
        if refusal := self.refuses(device):
            return *refusal, False
        text = orjson.loads(body)["aps"]["alert"]["body"]
        self.shown.setdefault(device, {})[headers["apns-collapse-id"]] = text
        self.ids[headers["apns-id"]] += 1
        self.priorities.append(headers["apns-priority"])
        return 200, {}, self.cuts(call)

    def _stranger(self, authorization: str) -> str:
        bearer = authorization.removeprefix("bearer ")
        head, _, mark = bearer.rpartition(".")
        try:
            raw = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (*head.split("."), mark)]
            signature = encode_dss_signature(int.from_bytes(raw[2][:32]), int.from_bytes(raw[2][32:]))
            self.key.public_key().verify(signature, head.encode(), ec.ECDSA(hashes.SHA256()))
        except (ValueError, IndexError, InvalidSignature):
            return "InvalidProviderToken"
        stated, claims = orjson.loads(raw[0]), orjson.loads(raw[1])
        self.judged["claims"] += (stated, claims["iss"]) != ({"alg": "ES256", "kid": self.key_id}, self.team)
        self.bearers.add(bearer)
        now = time.time()
        self.judged["issued_in_the_future"] += claims["iat"] > now + 1
        return "ExpiredProviderToken" if claims["iat"] < max(now - HOUR_S, self.expired) else ""

    def _judge(self, headers: dict[str, str], body: bytes) -> None:
        aps = orjson.loads(body)["aps"]
        self.judged["authority"] += headers[":authority"] != self.url.partition("://")[2]
        self.judged["method"] += headers[":method"] != "POST"
        self.judged["device"] += not re.fullmatch("/3/device/[0-9a-f]{64}", headers[":path"])
        self.judged["topic"] += headers["apns-topic"] != self.topic
        self.judged["push_type"] += headers["apns-push-type"] != "alert"
        self.judged["id"] += str(uuid.UUID(headers["apns-id"])) != headers["apns-id"]
        self.judged["expiration"] += int(headers["apns-expiration"]) < time.time()
        self.judged["priority"] += headers["apns-priority"] not in ("5", "10")
        self.judged["collapse_id"] += not 0 < len(headers["apns-collapse-id"].encode()) <= 64
        self.judged["too_large"] += len(body) > 4096
        self.judged["no_text"] += not aps["alert"]["body"]


class _Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: ApnsServer) -> None:
        self._server = server
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._open: dict[int, tuple[dict[str, str], bytearray]] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._server.connections += 1
        self._h2.initiate_connection()
        transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    self._open[event.stream_id] = {str(k): str(v) for k, v in event.headers}, bytearray()
                case h2.events.DataReceived():
                    self._open[event.stream_id][1].extend(event.data)
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    headers, body = self._open.pop(event.stream_id)
                    status, said, cut = self._server.answer(headers, bytes(body))
                    if cut:
                        self._transport.abort()
                        return
                    self._h2.send_headers(event.stream_id, [(":status", str(status)), ("apns-id", headers.get("apns-id", ""))])
                    self._h2.send_data(event.stream_id, orjson.dumps(said) if said else b"", end_stream=True)
        self._transport.write(self._h2.data_to_send())


@contextlib.asynccontextmanager
async def serving(server: ApnsServer, name: str = "127.0.0.1", folder: Path | None = None) -> AsyncIterator[ApnsServer]:
    """Serves on a free port of this machine until the block ends; with the certificate in `folder`, if any."""
    context = None
    if folder is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        context.set_alpn_protocols(["h2"])
    listener = await asyncio.get_running_loop().create_server(lambda: _Line(server), "127.0.0.1", 0, ssl=context)
    server.url = f"http{'s' if context else ''}://{name}:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


def wrong(server: ApnsServer) -> dict[str, int]:
    """What the judge found wrong, and how often."""
    return {name: count for name, count in server.judged.items() if count}
