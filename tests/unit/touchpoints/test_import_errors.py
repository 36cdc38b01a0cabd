"""What an import writes beside its file."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from services.touchpoints.imports.jobs import Fault
from services.touchpoints.imports.running import HEAD, Importer


async def test_the_file_of_errors_is_closed_whatever_happens() -> None:
    stream = io.BytesIO()
    maker: Any = Importer
    importer = maker(None, None, None, None, SimpleNamespace(beside=lambda place: stream), 1)

    async def faults(import_id: int, after: int) -> list[Fault]:
        if after >= 0:
            assert stream.getvalue() == HEAD + b"1,a,NOT_A_NUMBER\n"
            raise ValueError("a bug")
        return [Fault(1, "a", "NOT_A_NUMBER")]

    importer._faults = faults
    with pytest.raises(ValueError, match="a bug"):
        await importer._write_errors(SimpleNamespace(id=1, place="store:a.csv"))
    assert stream.closed
