"""Models in memory, loaded once per version and process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from chassis.db import UnitOfWork
from chassis.errors import Unavailable
from services.scoring import store
from services.scoring.artefact import ArtefactRefused, ServedModel, check_seal

# The one in use, a challenger, and those that an evaluation looks at.
KEEP_VERSIONS = 8


class Version(NamedTuple):
    """A version of a model as it serves, with its card."""

    served: ServedModel
    card: Mapping[str, Any]

    @property
    def usual(self) -> float:
        """What is said of those of whom nothing may be said: see `services.scoring.usual`."""
        share = self.card["training_positives"] / max(self.card["training_persons"], 1)
        return float(self.card.get("usual", share))


class Registry:
    """Keeps what the database says is in use in memory. A version that another replica made is seen at the next ask."""

    def __init__(self, signing_key: bytes) -> None:
        self._key = signing_key
        self._loaded: dict[tuple[str, int], Version] = {}

    async def in_use(self, uow: UnitOfWork) -> list[Version]:
        """Every model in use; raises ArtefactRefused when one has a false seal."""
        return [await self._load(uow, model, version) for model, version in (await store.versions_in_use(uow)).items()]

    async def one(self, uow: UnitOfWork, model: str) -> Version | None:
        """The version in use of this model; None when there is none yet."""
        version = (await store.versions_in_use(uow)).get(model)
        return None if version is None else await self._load(uow, model, version)

    async def version(self, uow: UnitOfWork, model: str, version: int) -> Version:
        """Any version that is stored; raises ArtefactRefused or Unavailable."""
        return await self._load(uow, model, version)

    async def _load(self, uow: UnitOfWork, model: str, version: int) -> Version:
        loaded = self._loaded.get((model, version))
        if loaded is None:
            stored = await store.read_model(uow, model, version)
            if stored is None:
                raise Unavailable("a version of a model is not stored")
            check_seal(self._key, model, version, stored.artefact, stored.seal)
            loaded = Version(await _opened(model, version, stored.artefact), stored.card)
            while len(self._loaded) >= KEEP_VERSIONS:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[model, version] = loaded
        return loaded


async def _opened(model: str, version: int, artefact: bytes) -> ServedModel:
    try:
        return await asyncio.to_thread(ServedModel, model, version, artefact)
    except ArtefactRefused:
        raise
    except Exception as error:
        # What the runtime says of a file that it cannot read has no common type.
        raise ArtefactRefused("a stored model cannot be opened") from error
