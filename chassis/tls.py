"""Mutual TLS between services: certificates from a folder, read anew when they change, and who a certificate names.

The folder is what cert-manager writes for a Certificate: tls.crt (chain), tls.key, ca.crt. A certificate names its caller as
the URI spiffe://troika/<caller>. Connections that stand are left alone when certificates change; new ones use the new ones.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc

PREFIX: Final = b"spiffe://troika/"
# How often the files are looked at; cert-manager renews weeks ahead.
LOOK_S: Final = 10.0
# Calls under way on an old channel may end, streams too.
GRACE_S: Final = 300.0
FILES: Final = ("tls.key", "tls.crt", "ca.crt")
_END: Final = b"-----END CERTIFICATE-----"
# The two times of a certificate stand side by side, short ones up to 2049. Not every image has a library that reads them.
_VALIDITY: Final = re.compile(rb"(?:\x17\x0d|\x18\x0f)[0-9]{12,14}Z(?:\x17\x0d|\x18\x0f)([0-9]{12,14})Z")


@dataclass(frozen=True)
class Pems:
    """Private key, certificate chain and the authorities to trust, as they stand in the files."""

    key: bytes
    chain: bytes
    authorities: bytes


class Certificates:
    """A folder's certificates; raises ValueError when it is made and one is missing."""

    def __init__(self, folder: str, look_s: float = LOOK_S) -> None:
        self._folder, self._look_s = Path(folder), look_s
        self._looked = time.monotonic()
        self.pems = self._read()
        self._client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=self.pems.authorities.decode())
        self._client.load_cert_chain(self._folder / "tls.crt", self._folder / "tls.key")

    def _read(self) -> Pems:
        try:
            return Pems(*((self._folder / name).read_bytes() for name in FILES))
        except OSError as error:
            raise ValueError(f"no certificate can be read: {error.strerror}: {error.filename}") from error

    def renewed(self) -> bool:
        """Whether the files are others than at the last look; half-written ones wait for the next look."""
        if time.monotonic() - self._looked < self._look_s:
            return False
        self._looked = time.monotonic()
        try:
            pems = self._read()
            if pems == self.pems:
                return False
            # Refuses a key that is not the certificate's: then the other file is still to come.
            self._client.load_cert_chain(self._folder / "tls.crt", self._folder / "tls.key")
            self._client.load_verify_locations(cadata=pems.authorities.decode())
        except (ValueError, ssl.SSLError):
            return False
        self.pems = pems
        return True

    def ends_s(self) -> float:
        """When the certificate ends, seconds since the epoch."""
        self.renewed()
        own = self.pems.chain[: self.pems.chain.index(_END) + len(_END)].decode()
        found = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(own))
        if found is None:
            return 0.0
        years = "%y" if len(found[1]) == len("yymmddhhmmss") else "%Y"
        return datetime.strptime(found[1].decode(), f"{years}%m%d%H%M%S").replace(tzinfo=UTC).timestamp()

    def client_context(self) -> ssl.SSLContext:
        """For clients other than gRPC; one and the same, its certificate follows the files."""
        self.renewed()
        return self._client

    def server_credentials(self, *, for_tokens: bool = False) -> grpc.ServerCredentials:
        """For a door that lets in only who shows a certificate of the same authorities, or `for_tokens` everybody by TLS."""
        given = self.pems

        def configuration() -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration([(self.pems.key, self.pems.chain)], self.pems.authorities)

        def fetch() -> Any:
            """At each handshake; None for what was given last, which the stub of the types does not know."""
            nonlocal given
            self.renewed()
            if self.pems == given:
                return None
            given = self.pems
            return configuration()

        return grpc.dynamic_ssl_server_credentials(configuration(), fetch, require_client_authentication=not for_tokens)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a channel, as the files are now."""
        return grpc.ssl_channel_credentials(self.pems.authorities, self.pems.key, self.pems.chain)


def named_by(auth: Mapping[str, Iterable[bytes]]) -> str:
    """The caller that the peer's certificate names (gRPC's auth_context); empty without such a certificate."""
    found = list(auth.get("peer_spiffe_id", ()))
    return found[0].removeprefix(PREFIX).decode() if len(found) == 1 and found[0].startswith(PREFIX) else ""


class RenewingChannel(grpc.aio.Channel):
    """A channel that is made anew when the certificates change; calls under way end on the old one."""

    def __init__(self, certificates: Certificates, make: Callable[[], grpc.aio.Channel]) -> None:
        self._certificates, self._make = certificates, make
        self._pems, self.present = certificates.pems, make()
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        """The channel that new calls take."""
        self._certificates.renewed()
        if self._certificates.pems != self._pems:
            old, self._pems, self.present = self.present, self._certificates.pems, self._make()
            closing = asyncio.ensure_future(old.close(GRACE_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return self.present

    def unary_unary(self, *shape: Any, **more: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Call(self, "unary_unary", shape, more)

    def unary_stream(self, *shape: Any, **more: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Call(self, "unary_stream", shape, more)

    def stream_unary(self, *shape: Any, **more: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Call(self, "stream_unary", shape, more)

    def stream_stream(self, *shape: Any, **more: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Call(self, "stream_stream", shape, more)

    async def close(self, grace: float | None = None) -> None:
        """Closes the present channel and those that were about to be."""
        for closing in self._closing:
            closing.cancel()
        await self.present.close(grace)

    async def __aenter__(self) -> RenewingChannel:
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of the present channel."""
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the present channel."""
        await self.current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Of the present channel."""
        await self.current().channel_ready()


class _Call:
    """A method of a stub, bound to whatever channel is current when it is called."""

    def __init__(self, channel: RenewingChannel, kind: str, shape: Sequence[Any], more: Mapping[str, Any]) -> None:
        self._channel, self._kind, self._shape, self._more = channel, kind, shape, more
        self._bound: tuple[grpc.aio.Channel, Any] | None = None

    def __call__(self, *request: Any, **how: Any) -> Any:
        current = self._channel.current()
        if self._bound is None or self._bound[0] is not current:
            self._bound = current, getattr(current, self._kind)(*self._shape, **self._more)
        return self._bound[1](*request, **how)
