"""Snapshots of an index on disk, so that a replica boots in seconds: the newest one, then the stream from its sequence on.

A folder per snapshot, named after the sequence. It is written beside its place and renamed, its manifest carries a checksum of
every file, and one that is damaged, of another catalogue or of another stream is passed over.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import orjson
from prometheus_client import Gauge

from chassis.bus import Extent
from services.tags.domain.catalogue import Kind
from services.tags.index.index import AudienceIndex
from services.tags.index.parts import Buffer, Entry, Unreadable, assemble, parts

log = logging.getLogger(__name__)

BYTES = Gauge("troika_index_snapshot_bytes", "Size of the newest snapshot of the audience index.")
_FORMAT: Final = 1
_KEPT: Final = 2
_MANIFEST: Final = "manifest.json"
_PREFIX: Final = ".writing-"
_READERS: Final = 4
_PIECE: Final = 1 << 20


class Snapshots:
    """The snapshots in one folder, which one replica writes."""

    def __init__(self, folder: Path, period_s: float) -> None:
        self._folder, self.period_s = folder, period_s

    @classmethod
    def opened(cls, folder: str, period_s: float) -> Snapshots | None:
        """None when no folder is named."""
        return cls(Path(folder), period_s) if folder else None

    async def write(self, index: AudienceIndex, created: str, sequence: int) -> Path:
        """Writes what the index holds after `sequence` or later of the stream made at `created`.

        Parts are taken one by one in this loop and written in a thread, so that no question waits long.
        """
        await asyncio.to_thread(self._sweep, 0)
        target = self._folder / f"{sequence:020}"
        if (target / _MANIFEST).exists():
            return target
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=_PREFIX, dir=self._folder))
        torn = {kind: set(ids) for kind, ids in index.torn.items()}
        catalogue, entries = digest(index), dict[str, Entry]()
        for part in parts(index):
            checksum, size = await asyncio.to_thread(_write, folder / part.file, part.buffers)
            entries[part.file] = part.entry | {"sha256": checksum, "bytes": size}
        manifest = {
            "format": _FORMAT,
            "created": created,
            "sequence": sequence,
            "catalogue": catalogue,
            # Who was torn at the beginning may be mended by now, and still be torn in the parts that were taken before.
            "torn": {str(int(kind)): sorted(torn[kind] | index.torn[kind]) for kind in Kind},
            "files": entries,
        }
        await asyncio.to_thread(_finish, folder, target, manifest)
        await asyncio.to_thread(self._sweep, _KEPT)
        BYTES.set(sum(entry["bytes"] for entry in entries.values()))
        return target

    async def load(self, index: AudienceIndex, extent: Extent) -> int | None:
        """Fills an empty index from the newest snapshot that can be used; returns its sequence, None when there is none."""
        found = await asyncio.to_thread(self._load, index, extent)
        # The catalogue may have changed meanwhile.
        if found is None or digest(found[0]) != digest(index):
            return None
        index.become(found[0])
        return found[1]

    def _load(self, index: AudienceIndex, extent: Extent) -> tuple[AudienceIndex, int] | None:
        for folder in self._finished():
            began = time.perf_counter()
            try:
                manifest = orjson.loads((folder / _MANIFEST).read_bytes())
                _check(manifest, index, extent)
                made = AudienceIndex(index.catalogue)
                _Files(folder, manifest["files"]).assemble(made)
                made.torn = {kind: set(manifest["torn"][str(int(kind))]) for kind in Kind}
            except Exception as error:
                # Whatever it is, the database has everything.
                log.warning(
                    "snapshot passed over", extra={"snapshot": folder.name, "error": f"{type(error).__name__}: {error}"}
                )
                continue
            log.info("snapshot loaded", extra={"snapshot": folder.name, "seconds": round(time.perf_counter() - began, 3)})
            return made, int(manifest["sequence"])
        return None

    def _finished(self) -> list[Path]:
        """Whole snapshots, the newest first."""
        if not self._folder.is_dir():
            return []
        return sorted((path for path in self._folder.iterdir() if not path.name.startswith(".")), reverse=True)

    def _sweep(self, keep: int) -> None:
        """Deletes all but the newest when some are to be kept, and what an interrupted writing left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob(f"{_PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._finished()[keep:] if keep else ():
            shutil.rmtree(path, ignore_errors=True)


class _Files:
    """Reads and checks files ahead of who needs them, in the order of the manifest."""

    def __init__(self, folder: Path, entries: dict[str, Entry]) -> None:
        self._folder, self._entries = folder, entries
        self._ahead: dict[str, Future[bytearray]] = {}

    def assemble(self, index: AudienceIndex) -> None:
        with ThreadPoolExecutor(_READERS, "snapshot") as pool:
            waiting = iter(self._entries)

            def read(file: str) -> bytearray:
                while len(self._ahead) < 2 * _READERS and (following := next(waiting, None)) is not None:
                    self._ahead[following] = pool.submit(self._checked, following)
                return self._ahead.pop(file).result()

            try:
                assemble(index, self._entries, read)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _checked(self, file: str) -> bytearray:
        entry, path = self._entries[file], self._folder / file
        if path.parent != self._folder:
            raise Unreadable(f"{file} is not a file of the snapshot")
        data = bytearray(entry["bytes"])
        with path.open("rb", buffering=0) as opened:
            if opened.readinto(data) != len(data) or opened.read(1):
                raise Unreadable(f"{file} has another length")
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise Unreadable(f"{file} is damaged")
        return data


def digest(index: AudienceIndex) -> str:
    """Which columns an index has, and of what type: the catalogue may have changed since it was made."""
    columns = sorted((int(kind), tag, type(column).__name__) for kind in Kind for tag, column in index.columns(kind).items())
    return hashlib.sha256(orjson.dumps(columns)).hexdigest()


def _check(manifest: dict[str, Any], index: AudienceIndex, extent: Extent) -> None:
    if manifest["format"] != _FORMAT:
        raise Unreadable("another format")
    if manifest["catalogue"] != digest(index):
        raise Unreadable("another catalogue")
    if not extent.continues(manifest["created"], manifest["sequence"]):
        raise Unreadable("the stream does not go on from there")


def _write(path: Path, buffers: Sequence[Buffer]) -> tuple[str, int]:
    checksum, size = hashlib.sha256(), 0
    with path.open("wb", buffering=0) as opened:
        for buffer in buffers:
            # Numbers may change meanwhile: what is written and what is checked must be the same bytes.
            for start in range(0, len(buffer), _PIECE):
                piece = bytes(buffer[start : start + _PIECE])
                checksum.update(piece)
                opened.write(piece)
                size += len(piece)
    return checksum.hexdigest(), size


def _finish(folder: Path, target: Path, manifest: dict[str, Any]) -> None:
    with (folder / _MANIFEST).open("wb") as opened:
        opened.write(orjson.dumps(manifest))
        opened.flush()
        os.fsync(opened.fileno())
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)
