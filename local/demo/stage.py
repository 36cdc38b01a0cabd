"""Where the demo plays: the suite of this machine, or whatever else runs five services and can be asked the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import grpc

from local import keys
from local.processes import Child


class Stage(Protocol):
    """What the demo must know of those who serve it."""

    folder: Path

    @property
    def postgres_dsn(self) -> str:
        """The address of all services' database, for the judge."""

    @property
    def logs(self) -> Path:
        """Folder of all logs."""

    @property
    def mark(self) -> Mapping[str, str]:
        """What the environment of every process of this run holds."""

    def url(self, service: str) -> str:
        """Base address of a service's HTTP door."""

    def operator_channel(self, service: str, person: str = keys.OPERATOR) -> grpc.aio.Channel:
        """A gRPC channel to a service in the name of a person; the caller closes it."""

    def adopt(self, child: Child) -> None:
        """Starts a program beside the services, which stops before them."""
