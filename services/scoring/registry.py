"""The models in use, loaded once per version and process."""

from __future__ import annotations

import asyncio

from chassis.db import UnitOfWork
from chassis.errors import Unavailable
from services.scoring import store
from services.scoring.artefact import ServedModel, check_seal


class Registry:
    """Keeps what the database says is in use in memory. A version that another replica trained is seen at the next ask."""

    def __init__(self, signing_key: bytes) -> None:
        self._key = signing_key
        self._loaded: dict[str, ServedModel] = {}

    async def in_use(self, uow: UnitOfWork) -> list[ServedModel]:
        """Every model in use; raises ArtefactRefused when one has a false seal."""
        return [await self._load(uow, model, version) for model, version in (await store.versions_in_use(uow)).items()]

    async def one(self, uow: UnitOfWork, model: str) -> ServedModel | None:
        """The model in use of this name; None when there is none yet."""
        return next((served for served in await self.in_use(uow) if served.model == model), None)

    async def _load(self, uow: UnitOfWork, model: str, version: int) -> ServedModel:
        loaded = self._loaded.get(model)
        if loaded is None or loaded.version != version:
            stored = await store.read_model(uow, model)
            if stored is None:
                raise Unavailable("the model in use changed just now")
            check_seal(self._key, model, stored.version, stored.artefact, stored.seal)
            loaded = await asyncio.to_thread(ServedModel, model, stored.version, stored.artefact)
            self._loaded[model] = loaded
        return loaded
