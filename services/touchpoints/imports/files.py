"""Where files of records are: below the import store, in a bucket, or on the machine of who calls the command line."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pyarrow import fs

from chassis import filestores
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound

if TYPE_CHECKING:
    from services.touchpoints.settings import Settings

STORE, BUCKET, FILE = "store:", "s3:", "file:"
ERRORS: Final = ".errors.csv"


class ImportFiles:
    """Opens files for reading, and writes what was refused beside them. A place is a prefix and a path."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[str, fs.FileSystem] = {}

    def of_store(self, path: str) -> str:
        """The place that a path below the import store is. Raises InvalidArgument or NotFound."""
        parts = PurePosixPath(path).parts
        if PurePosixPath(path).is_absolute() or ".." in parts or not parts or "\\" in path:
            raise InvalidArgument("a path below the import store", reason="INVALID_PATH", field="path")
        return self._there(f"{STORE}{path}", "path")

    def of_caller(self, path: str) -> str:
        """The place that a file of this machine, or s3://bucket/key, is. Raises NotFound."""
        if path.startswith("s3://"):
            return self._there(f"{BUCKET}{path.removeprefix('s3://')}", "file")
        return self._there(f"{FILE}{Path(path).resolve()}", "file")

    def open(self, place: str) -> io.BufferedReader:
        """The file, to be read and sought in. Raises FileNotFoundError."""
        return filestores.readable(*self._at(place))

    def beside(self, place: str) -> Any:
        """A new file beside one, to be written and closed. Raises OSError."""
        files, path = self._at(place)
        return files.open_output_stream(f"{path}{ERRORS}")

    def _there(self, place: str, field: str) -> str:
        files, path = self._at(place)
        if files.get_file_info(path).type is not fs.FileType.File:
            raise NotFound(f"no such file: {path}", reason="FILE_NOT_FOUND", field=field)
        return place

    def _at(self, place: str) -> tuple[fs.FileSystem, str]:
        kind, _, path = place.partition(":")
        if kind not in self._opened:
            self._opened[kind] = self._filesystem(kind)
        return self._opened[kind], path

    def _filesystem(self, kind: str) -> fs.FileSystem:
        settings = self._settings
        if kind == "file":
            return fs.LocalFileSystem()
        address = settings.import_store if kind == "store" else "s3://"
        if not address:
            raise FailedPrecondition("set TROIKA_IMPORT_STORE first", reason="NO_IMPORT_STORE", field="import_store")
        files, root = filestores.filesystem(
            address,
            settings.import_s3_endpoint,
            settings.import_s3_region,
            settings.import_s3_access_key.get_secret_value(),
            settings.import_s3_secret_key.get_secret_value(),
        )
        return fs.SubTreeFileSystem(root, files) if kind == "store" else files
