"""Where the lake's files are: a folder, or a prefix of a bucket. A file is there as a whole or not at all.

A folder: written beside, synced, renamed, and the folder synced. S3: small files go in one request; large ones are uploaded
under another name and copied by the server, because a stream that breaks off would leave a torn file under the name itself.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from pyarrow import fs

from chassis import filestores

# Beside the rows, never below them: whoever lists rows does not see what is being written.
STAGING: Final = "_staged"
# Up to here one request stores an object.
_ONE_REQUEST: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class File:
    """A file by its path below the lake, its size, and when it was last written (nanoseconds since the epoch)."""

    path: str
    size: int
    changed_ns: int

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.rpartition("/")[2]


class Storage:
    """Files below one root; paths are relative to it and use slashes."""

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        self._local = isinstance(filesystem, fs.LocalFileSystem)
        self._root = root
        self.files: Final = fs.SubTreeFileSystem(root, filesystem)

    @property
    def address(self) -> str:
        """What another engine (Spark) puts before a path."""
        return f"file://{self._root}" if self._local else f"s3a://{self._root}"

    def below(self, folder: str) -> list[File]:
        """All files below a folder, however deep; none when there is no such folder."""
        selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
        found = self.files.get_file_info(selector)
        return sorted(
            (File(i.path, i.size, i.mtime_ns) for i in found if i.type == fs.FileType.File and not i.base_name.startswith(".")),
            key=lambda file: file.path,
        )

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, ascending."""
        found = self.files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def read(self, path: str) -> bytes | None:
        """A file as it is at one moment; None when there is none."""
        try:
            with self.files.open_input_stream(path) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def publish(self, path: str, content: Any) -> None:
        """Writes or replaces a file, durably, all at once."""
        if not self._local and len(content) <= _ONE_REQUEST:
            with self.files.open_output_stream(path) as stream:
                stream.write(content)
            return
        with self.stage(path) as staged:
            staged.sink.write(content)
            staged.finish()
            staged.publish()

    def stage(self, path: str) -> Staged:
        """A file that is being written and appears under its path when it is published."""
        return Staged(self, path)

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes files; those that are gone already are gone."""
        for path in paths:
            try:
                self.files.delete_file(path)
            except FileNotFoundError:
                continue

    # For Staged

    def _open(self, path: str) -> Any:
        if self._local:
            self._on_disk(path).parent.mkdir(parents=True, exist_ok=True)
        return self.files.open_output_stream(path)

    def _move(self, path: str, target: str) -> None:
        if not self._local:
            self.files.move(path, target)
            return
        place = self._on_disk(target)
        made = not place.parent.exists()
        place.parent.mkdir(parents=True, exist_ok=True)
        _sync(self._on_disk(path))
        self._on_disk(path).replace(place)
        _sync(place.parent)
        if made:
            _sync(place.parent.parent)

    def _on_disk(self, path: str) -> Path:
        return Path(self._root) / path


class Staged:
    """A file on its way; unless published it is gone with the block it is used in."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self.path = storage, path
        self._aside = f"{STAGING}/{secrets.token_hex(8)}.parquet"
        self.sink = storage._open(self._aside)
        self._published = False

    def finish(self) -> None:
        """Ends the writing."""
        self.sink.close()

    def publish(self) -> None:
        """Makes the finished file appear."""
        self._storage._move(self._aside, self.path)
        self._published = True

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._published:
            self.sink.close()
            self._storage.delete([self._aside])


def opened(address: str, endpoint: str = "", region: str = "", access_key: str = "", secret_key: str = "") -> Storage:
    """The storage at an address: a path, or s3://bucket/prefix with `endpoint` (https://host:port) unless it is Amazon's."""
    filesystem, root = filestores.filesystem(address, endpoint, region, access_key, secret_key)
    if isinstance(filesystem, fs.LocalFileSystem):
        Path(root).mkdir(parents=True, exist_ok=True)
    return Storage(filesystem, root)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
