"""Where a partner's file is: below the import store, uploaded in parts, or beside who calls the command line."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pyarrow import fs

from chassis import filestores
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from services.tags.lake import storage

if TYPE_CHECKING:
    from services.tags.settings import Settings

UPLOADS: Final = "uploads"
_STORE, _UPLOAD, _FILE = "store:", "upload:", "file:"
_BUFFER: Final = 1024 * 1024


class ImportFiles:
    """Opens files for reading. `store` None: only files of the command line."""

    def __init__(self, store: fs.FileSystem | None) -> None:
        self._store = store

    @classmethod
    def of(cls, settings: Settings) -> ImportFiles:
        """Those of the settings."""
        if not settings.import_store:
            return cls(None)
        store = storage.opened(
            settings.import_store,
            settings.lake_s3_endpoint,
            settings.lake_s3_region,
            settings.lake_s3_access_key.get_secret_value(),
            settings.lake_s3_secret_key.get_secret_value(),
        )
        return cls(store.files)

    def of_store(self, path: str) -> str:
        """The source that a path below the store is. Raises InvalidArgument or NotFound."""
        parts = PurePosixPath(path).parts
        if PurePosixPath(path).is_absolute() or ".." in parts or not parts or parts[0] == UPLOADS or "\\" in path:
            raise InvalidArgument("a path below the import store", reason="INVALID_PATH", field="path")
        if self._files().get_file_info(path).type is not fs.FileType.File:
            raise NotFound("no such file in the import store", reason="FILE_NOT_FOUND", field="path")
        return f"{_STORE}{path}"

    def of_upload(self, upload_id: str) -> str:
        """The source that an upload is. Raises FailedPrecondition when a part is missing."""
        parts = self._parts(upload_id)
        if not parts or _whole(parts) != parts[-1][0] + parts[-1][1]:
            raise FailedPrecondition(
                "a part of the upload is missing: UploadPart says where to go on", reason="UPLOAD_INCOMPLETE", field="upload_id"
            )
        return f"{_UPLOAD}{upload_id}"

    @staticmethod
    def of_path(path: Path) -> str:
        """The source that a file of this machine is. Raises NotFound."""
        if not path.is_file():
            raise NotFound(f"no such file: {path}", reason="FILE_NOT_FOUND", field="path")
        return f"{_FILE}{path.resolve()}"

    def keep_part(self, upload_id: str, offset: int, content: bytes) -> int:
        """Stores a part; returns how much of the upload is there without a gap."""
        store, folder = self._files(), f"{UPLOADS}/{upload_id}"
        store.create_dir(folder, recursive=True)
        # Under another name first, so that nobody reads a torn part.
        place = f"{folder}/{offset:020d}"
        with store.open_output_stream(f"{place}.new") as stream:
            stream.write(content)
        store.move(f"{place}.new", place)
        return _whole(self._parts(upload_id))

    def forget(self, source: str) -> None:
        """Deletes an upload that is not needed any more."""
        if source.startswith(_UPLOAD):
            self._files().delete_dir(f"{UPLOADS}/{source.removeprefix(_UPLOAD)}")

    def open(self, source: str) -> io.BufferedReader:
        """The file, to be read and sought in. Raises FileNotFoundError."""
        if source.startswith(_FILE):
            return io.BufferedReader(io.FileIO(source.removeprefix(_FILE)), _BUFFER)
        if source.startswith(_STORE):
            return filestores.readable(self._files(), source.removeprefix(_STORE))
        upload_id = source.removeprefix(_UPLOAD)
        parts = self._parts(upload_id)
        if not parts:
            raise FileNotFoundError(upload_id)
        return io.BufferedReader(_Parts(self._files(), f"{UPLOADS}/{upload_id}", parts), _BUFFER)

    def _files(self) -> fs.FileSystem:
        if self._store is None:
            raise FailedPrecondition("set TROIKA_IMPORT_STORE first", reason="NO_IMPORT_STORE", field="import_store")
        return self._store

    def _parts(self, upload_id: str) -> list[tuple[int, int]]:
        """(offset, size), ascending."""
        found = self._files().get_file_info(fs.FileSelector(f"{UPLOADS}/{upload_id}", allow_not_found=True))
        return sorted((int(i.base_name), i.size) for i in found if i.type is fs.FileType.File and i.base_name.isdecimal())


def _whole(parts: Sequence[tuple[int, int]]) -> int:
    """Bytes without a gap from the beginning."""
    end = 0
    for offset, size in parts:
        if offset > end:
            break
        end = max(end, offset + size)
    return end


class _Parts(io.RawIOBase):
    """Parts of an upload as one file; where two overlap the later one counts."""

    def __init__(self, store: fs.FileSystem, folder: str, parts: Sequence[tuple[int, int]]) -> None:
        self._store, self._folder, self._parts = store, folder, parts
        self._at, self._end = 0, _whole(parts)
        self._open: tuple[int, Any] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = next(((o, s) for o, s in reversed(self._parts) if o <= self._at < o + s), None)
        if part is None:
            return 0
        offset, size = part
        if self._open is None or self._open[0] != offset:
            self._close_part()
            self._open = offset, self._store.open_input_file(f"{self._folder}/{offset:020d}")
        file = self._open[1]
        file.seek(self._at - offset)
        following = min((o for o, _ in self._parts if o > self._at), default=self._end)
        content = file.read(min(len(buffer), max(offset + size, self._at) - self._at, following - self._at))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def _close_part(self) -> None:
        if self._open:
            self._open[1].close()
            self._open = None

    def close(self) -> None:
        self._close_part()
        super().close()
