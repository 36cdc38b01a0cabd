"""Files in a folder or in a bucket of S3, by pyarrow; only services that read or write such files need it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pyarrow import fs

_BUFFER: Final = 1024 * 1024


def filesystem(
    address: str, endpoint: str = "", region: str = "", access_key: str = "", secret_key: str = ""
) -> tuple[fs.FileSystem, str]:
    """The filesystem of an address and the root in it: a path, or s3://bucket/prefix with `endpoint` (https://host:port)
    unless it is Amazon's."""
    if not address.startswith("s3://"):
        return fs.LocalFileSystem(), str(Path(address).absolute())
    given = urlsplit(endpoint)
    options: dict[str, Any] = {"scheme": given.scheme, "endpoint_override": given.netloc} if endpoint else {}
    if access_key:
        options |= {"access_key": access_key, "secret_key": secret_key}
    found = fs.S3FileSystem(region=region or None, allow_delayed_open=True, **options)
    return found, address.removeprefix("s3://").rstrip("/")


def readable(files: fs.FileSystem, path: str) -> io.BufferedReader:
    """A file, to be read and sought in as Python's own. Raises FileNotFoundError."""
    return io.BufferedReader(Raw(files.open_input_file(path)), _BUFFER)


class Raw(io.RawIOBase):
    """A file of a filesystem as Python reads files."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer, or a part of it."""
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes somewhere; returns where that is."""
        self._file.seek(offset, whence)
        return int(self._file.tell())

    def tell(self) -> int:
        """Where it is."""
        return int(self._file.tell())

    def close(self) -> None:
        """Closes it."""
        self._file.close()
        super().close()
