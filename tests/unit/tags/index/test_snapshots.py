"""A snapshot, taken while changes go on, and what came after it are the whole."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from troika.tags.v1 import events_pb2 as pb

from chassis.bus import Extent
from services.tags.domain.catalogue import Catalogue, Kind
from services.tags.index import edges
from services.tags.index.index import AudienceIndex
from services.tags.index.parts import parts
from services.tags.index.projection import project
from services.tags.index.snapshots import Snapshots
from tests.unit.tags.index.changes import PAIR, History, commits, held, related
from tests.unit.tags.index.worlds import CATALOGUE, World, worlds

MADE = "2026-01-01"
EXTENT = Extent(MADE, 1, 100)


def same(expected: World, index: AudienceIndex) -> None:
    for kind in Kind:
        assert expected.entities[kind] == held(index, kind)
    assert {(one, other) for one, other, _ in expected.relations[PAIR]} == related(index)


@given(worlds())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_there_and_back(tmp_path_factory: pytest.TempPathFactory, world: World) -> None:
    snapshots = Snapshots(tmp_path_factory.mktemp("snapshots"), 1)
    await snapshots.write(world.index(), MADE, 17)
    loaded = AudienceIndex(CATALOGUE)
    assert 17 == await snapshots.load(loaded, EXTENT)
    same(world, loaded)
    for pair, kept in world.index().relations.edges.items():
        assert [kept.row(own) for own in range(5)] == [loaded.relations.edges[pair].row(own) for own in range(5)]
    # And it can be changed.
    for kind in Kind:
        loaded.apply(kind, 300_000, 1, {"number_1": 1.0, "category_1": "new", "set_1": ["new"]}, True)
    loaded.relations.set(PAIR, 4, 9, "owns", False, 1)
    assert "new" == held(loaded, Kind.PERSON)[300_000]["category_1"]


@given(commits, commits, st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_snapshot_taken_amid_changes_and_the_stream_from_its_sequence_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, before: list, during: list, rnd: random.Random
) -> None:
    history, index = History(), AudienceIndex(CATALOGUE)
    for each in before:
        project(index, history.commit(*each))
    later = [history.commit(*each) for each in during]
    snapshots = Snapshots(tmp_path_factory.mktemp("snapshots"), 1)
    await _write_amid(snapshots, index, later, rnd)
    loaded = AudienceIndex(CATALOGUE)
    await snapshots.load(loaded, EXTENT)
    for message in later:
        project(loaded, message)
    history.mend(loaded)
    same(history.world, loaded)


async def _write_amid(snapshots: Snapshots, index: AudienceIndex, later: list[pb.TagsChanged], rnd: random.Random) -> None:
    """Applies one message after the other between parts that are taken."""
    waiting, files = list(later), len(list(parts(index)))
    turns = sorted(rnd.randrange(files) for _ in waiting)
    real, taken = asyncio.to_thread, 0

    async def interrupted(function, *args, **kwargs):  # type: ignore[no-untyped-def]
        nonlocal taken
        result = await real(function, *args, **kwargs)
        while waiting and turns[len(later) - len(waiting)] <= taken:
            project(index, waiting.pop(0))
        taken += 1
        return result

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio, "to_thread", interrupted)
        patched.setattr(edges, "LATE", 1)
        await snapshots.write(index, MADE, 1)


async def test_who_is_torn_stays_torn(tmp_path: Path) -> None:
    index, snapshots = AudienceIndex(CATALOGUE), Snapshots(tmp_path, 1)
    index.apply(Kind.PERSON, 7, 3, {"number_1": 1.0}, None)
    await snapshots.write(index, MADE, 1)
    loaded = AudienceIndex(CATALOGUE)
    await snapshots.load(loaded, EXTENT)
    assert {7} == loaded.torn[Kind.PERSON]


async def written(folder: Path, *sequences: int) -> Snapshots:
    index, snapshots = AudienceIndex(CATALOGUE), Snapshots(folder, 1)
    for sequence in sequences:
        index.apply(Kind.PERSON, sequence, 1, {"number_1": 1.0, "category_1": "yes"}, True)
        await snapshots.write(index, MADE, sequence)
    return snapshots


async def test_the_newest_is_loaded_and_the_oldest_are_deleted(tmp_path: Path) -> None:
    snapshots = await written(tmp_path, 5, 9, 12)
    assert ["00000000000000000009", "00000000000000000012"] == sorted(os.listdir(tmp_path))
    index = AudienceIndex(CATALOGUE)
    assert 12 == await snapshots.load(index, EXTENT)
    assert [5, 9, 12] == list(index.present[Kind.PERSON])


@pytest.mark.parametrize(
    "file", ["person.versions.npy", "person.0002.roaring", "person-vehicle.first_bit.npy", "manifest.json"]
)
async def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, file: str) -> None:
    snapshots = await written(tmp_path, 5, 9)
    damaged = tmp_path / "00000000000000000009" / file
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    assert 5 == await snapshots.load(AudienceIndex(CATALOGUE), EXTENT)
    damaged.unlink()
    assert 5 == await snapshots.load(AudienceIndex(CATALOGUE), EXTENT)


async def test_a_cut_off_one_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    snapshots = await written(tmp_path, 5)
    victim = tmp_path / "00000000000000000005" / "person.0000.npy"
    victim.write_bytes(victim.read_bytes()[:-3])
    index = AudienceIndex(CATALOGUE)
    assert await snapshots.load(index, EXTENT) is None
    assert not index.present[Kind.PERSON] and not len(index.versions[Kind.PERSON])


@pytest.mark.parametrize("extent", [Extent("2026-02-02", 1, 100), Extent(MADE, 7, 100), Extent(MADE, 1, 4)])
async def test_a_stream_that_does_not_go_on_from_there_is_refused(tmp_path: Path, extent: Extent) -> None:
    snapshots = await written(tmp_path, 5)
    assert await snapshots.load(AudienceIndex(CATALOGUE), extent) is None
    assert 5 == await snapshots.load(AudienceIndex(CATALOGUE), Extent(MADE, 6, 5))


async def test_another_catalogue_or_format_is_refused(tmp_path: Path) -> None:
    snapshots = await written(tmp_path, 5)
    fewer = Catalogue(CATALOGUE.definitions[1:])
    assert await snapshots.load(AudienceIndex(fewer), EXTENT) is None
    manifest = tmp_path / "00000000000000000005" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    assert await snapshots.load(AudienceIndex(CATALOGUE), EXTENT) is None


async def test_an_interrupted_writing_leaves_nothing_that_is_loaded(tmp_path: Path) -> None:
    snapshots = await written(tmp_path, 5)
    (tmp_path / ".writing-abc").mkdir()
    assert 5 == await snapshots.load(AudienceIndex(CATALOGUE), EXTENT)
    await snapshots.write(AudienceIndex(CATALOGUE), MADE, 6)
    assert not (tmp_path / ".writing-abc").exists()


async def test_without_a_folder_there_is_none(tmp_path: Path) -> None:
    assert Snapshots.opened("", 1) is None
    assert await Snapshots(tmp_path / "none", 1).load(AudienceIndex(CATALOGUE), EXTENT) is None
