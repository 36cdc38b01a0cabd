"""The cluster's network on loopback: names of Services, pods that are ready, and what the NetworkPolicies let through.

gRPC asks a proxy to connect it (grpc_proxy), by name: the targets stay as the chart writes them, and the certificate must be
for that name. The proxy knows who asks by the user in its own address.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

# PostgreSQL, "Message Formats": the length, then the number that stands for TLS.
SSL_REQUEST: Final = (8).to_bytes(4) + (80877103).to_bytes(4)
Labels = Mapping[str, str]


@dataclass
class Address:
    """A pod as the network knows it."""

    name: str
    ip: str
    labels: Labels
    ports: Mapping[str, int]
    ready: bool = False


def selected(labels: Labels, selector: Mapping[str, Any] | None) -> bool:
    """Whether a label selector of equalities takes these; no selector takes nobody, an empty one everybody."""
    if selector is None:
        return False
    assert set(selector) <= {"matchLabels"}, selector
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


@dataclass
class Network:
    """`refused`: (who asked, for what) that no policy lets through."""

    objects: Sequence[Mapping[str, Any]] = ()
    addresses: dict[str, Address] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    _turn: Iterator[int] = field(default_factory=count)
    _server: asyncio.Server | None = None
    _fronts: list[asyncio.Server] = field(default_factory=list)
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Listens; `proxy` is the address then."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def front(self, service: str, port: int) -> int:
        """A port of this machine that leads to a Service as kube-proxy does: each connection to one ready pod."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with self._noted(writer), suppress(OSError):
                if chosen := self.choose(service, port):
                    await splice((reader, writer), await asyncio.open_connection(chosen[0].ip, chosen[1]))

        self._fronts.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return port_of(self._fronts[-1])

    async def close(self) -> None:
        """Breaks off whoever is still connected."""
        for server in (*self._fronts, *([self._server] if self._server else [])):
            server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def proxy(self, pod: str) -> str:
        """The address under which a pod asks; who is none of ours is outside."""
        assert self._server is not None
        return f"http://{pod}:-@127.0.0.1:{port_of(self._server)}"

    def ready(self, service: str) -> list[Address]:
        """Pods behind a Service that take connections."""
        [found] = [each for each in self._of("Service") if each["metadata"]["name"] == service]
        wanted = {"matchLabels": found["spec"]["selector"]}
        return [each for each in self.addresses.values() if each.ready and selected(each.labels, wanted)]

    def target(self, service: str, port: int) -> str:
        """The pod's own name of a Service's port."""
        [found] = [each for each in self._of("Service") if each["metadata"]["name"] == service]
        [target] = [each["targetPort"] for each in found["spec"]["ports"] if each["port"] == port]
        return str(target)

    def choose(self, service: str, port: int) -> tuple[Address, int] | None:
        """One of the ready pods in turn, with the port it listens on; None while there is none."""
        ready = self.ready(service)
        if not ready:
            return None
        pod = ready[next(self._turn) % len(ready)]
        return pod, pod.ports[self.target(service, port)]

    def lets(self, asking: Address, asked: Address, port: int) -> bool:
        """Whether the policies of both sides allow it."""
        return self._allows(asking, asked, port, "egress", "to") and self._allows(asked, asking, port, "ingress", "from")

    def _allows(self, pod: Address, peer: Address, port: int, direction: str, side: str) -> bool:
        policies = [each["spec"] for each in self._of("NetworkPolicy") if selected(pod.labels, each["spec"]["podSelector"])]
        policies = [each for each in policies if direction.capitalize() in each["policyTypes"]]
        rules = [rule for each in policies for rule in each.get(direction) or ()]
        fitting = (rule for rule in rules if port in [each["port"] for each in rule.get("ports", [{"port": port}])])
        return not policies or any(
            side not in rule or any(selected(peer.labels, each.get("podSelector")) for each in rule[side]) for rule in fitting
        )

    def _of(self, kind: str) -> Iterable[Mapping[str, Any]]:
        return (each for each in self.objects if each["kind"] == kind)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._noted(writer), suppress(OSError, asyncio.IncompleteReadError):
            await self._connect(reader, writer)

    @contextmanager
    def _noted(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            yield
        finally:
            self._open.discard(task)
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        asking = base64.b64decode(headers["proxy-authorization"].removeprefix("Basic ")).decode().partition(":")[0]
        host, _, port = first.split()[1].rpartition(":")
        name, _, zone = host.partition(".")
        known = zone in ("", "crm", "crm.svc", "crm.svc.cluster.local")
        chosen = self.choose(name, int(port)) if known else None
        if chosen is None:
            writer.write(b"HTTP/1.1 503 Nobody Ready\r\n\r\n")
            return
        pod, number = chosen
        if not self.lets(self.addresses.get(asking) or Address(asking, "", {}, {}), pod, number):
            self.refused.append((asking, f"{host}:{port}"))
            writer.write(b"HTTP/1.1 403 Policy\r\n\r\n")
            return
        there, back = await asyncio.open_connection(pod.ip, number)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await splice((reader, writer), (there, back))


def port_of(server: asyncio.Server) -> int:
    """Where it listens."""
    return int(server.sockets[0].getsockname()[1])


async def tls_front(certificates: Path, port: int) -> asyncio.Server:
    """PostgreSQL's TLS before a server on loopback that has none; who does not ask for it is not let in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "tls.crt", certificates / "tls.key")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(8) == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                await splice((reader, writer), await asyncio.open_connection("127.0.0.1", port))
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def splice(one: Stream, other: Stream) -> None:
    """Carries bytes both ways until both ends are silent; an end that is silent is told to the other."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            # TLS has no half of a connection.
            writer.write_eof() if writer.can_write_eof() else writer.close()

    try:
        await asyncio.gather(carry(one[0], other[1]), carry(other[0], one[1]))
    finally:
        one[1].close()
        other[1].close()
