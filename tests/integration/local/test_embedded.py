"""PostgreSQL as a child process, also where its user may not enter our folders."""

from __future__ import annotations

from pathlib import Path

from local.embedded import _lodging


def test_data_goes_when_the_folder_it_belongs_to_is_gone(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    first = _lodging(tmp_path / "run" / "postgres", shared)
    first.mkdir()
    first.with_suffix(".password").touch()
    assert first == _lodging(tmp_path / "run" / "postgres", shared)
    assert first.exists()
    (tmp_path / "run").rmdir()
    second = _lodging(tmp_path / "other" / "postgres", shared)
    assert {second.with_suffix(".home").name} == {path.name for path in shared.iterdir()}
