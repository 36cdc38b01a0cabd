"""Which ports the suite listens on."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

# Below the range that systems take for outgoing connections: a port must still be free when a killed server comes back.
_RANGE = (15_000, 30_000)


def is_free(port: int) -> bool:
    """Whether a TCP server could listen on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Different free ports, drawn at random so that two suites started together hardly meet."""
    ports: list[int] = []
    for port in random.sample(range(*_RANGE), _RANGE[1] - _RANGE[0]):
        if is_free(port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"fewer than {count} free ports on 127.0.0.1")


def preferred(wanted: Sequence[int]) -> list[int]:
    """The wanted ports; those that are taken are replaced by free ones."""
    spare = iter(free_ports(len(wanted)))
    return [port if is_free(port) else next(spare) for port in wanted]
