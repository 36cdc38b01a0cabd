"""One running suite for all contract tests that speak to the real doors."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from local.supervisor import Suite


@pytest.fixture(scope="package")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    async with Suite(tmp_path_factory.mktemp("suite"), fresh=True) as suite:
        yield suite
