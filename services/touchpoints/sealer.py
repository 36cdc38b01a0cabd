"""Keeps identity's public key at hand and makes short-lived data keys from it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import grpc
from troika.identity.v1.identity_service_pb2 import GetSealingKeyRequest

from chassis.errors import Unavailable
from chassis.sealing import DataKey

if TYPE_CHECKING:
    from troika.identity.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub

log = logging.getLogger(__name__)

REFRESH_S = 180.0
RETRY_S = 0.5
DATA_KEY_LIFE_S = 300.0


class Sealer:
    """Once it has a public key, identity being down does not matter any more."""

    def __init__(self, identity: IdentityServiceAsyncStub) -> None:
        self._identity = identity
        self._public: tuple[str, bytes] | None = None
        self._current: DataKey | None = None
        self._until = 0.0

    def key(self) -> DataKey:
        """The data key of the moment; raises Unavailable until identity has answered once."""
        now = time.monotonic()
        if self._current is None or now >= self._until:
            if self._public is None:
                raise Unavailable("no sealing key yet, try again", reason="NO_SEALING_KEY")
            self._current = DataKey.agree(self._public[1], self._public[0])
            self._until = now + DATA_KEY_LIFE_S
        return self._current

    async def check(self) -> None:
        """Raises until there is a key: a door that refuses every event is not ready."""
        self.key()

    async def run(self) -> None:
        """Fetches the public key now and then; runs until cancelled."""
        while True:
            try:
                answer = await self._identity.GetSealingKey(GetSealingKeyRequest(), timeout=5)
                public = (answer.key_id, answer.public_key)
                if public != self._public:
                    # Sealed under the old pair what comes next would stay readable only while that pair is kept.
                    self._public, self._current = public, None
            except grpc.aio.AioRpcError as error:
                log.warning("sealing key not refreshed", extra={"code": error.code().name})
            await asyncio.sleep(REFRESH_S if self._public else RETRY_S)
