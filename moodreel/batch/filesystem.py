"""Open local folders, Google Cloud Storage, S3 and whatever else fsspec supports."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from moodreel.batch.errors import BatchError


def open_filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URL or a local path, and the path in it. Raises BatchError."""
    try:
        files, path = fsspec.url_to_fs(url)
    except ImportError as error:
        raise BatchError(f"{url}: {error}. Install it with: pip install 'moodreel[storage]'") from error
    except Exception as error:  # each storage library raises its own exceptions
        raise BatchError(f"{url} cannot be opened: {error!r}") from error
    return files, path.rstrip("/") or "/"


class OutputFolder:
    """Write files that are there completely or not at all. Can be sent to another process.

    Args:
        url: A local path, file://, gs://, s3:// or another URL that fsspec can write to.

    Attributes:
        url: Of the folder, always with a scheme.
    """

    def __init__(self, url: str) -> None:
        """Open the folder. Raises BatchError."""
        self.files, self.path = open_filesystem(url)
        self.url = str(self.files.unstrip_protocol(self.path))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other batch write to the folder. Raises BatchError if one does.

        The lock ends with the process, also with one that is killed. Object storages have no lock.
        """
        if not isinstance(self.files, LocalFileSystem):
            yield
            return
        try:
            lock = _lock(Path(self.path))
        except BlockingIOError as error:
            raise BatchError(f"Another batch writes to {self.url}. Wait for it, or name another folder.") from error
        except OSError as error:
            raise BatchError(f"{self.url} cannot be written: {error!r}") from error
        try:
            yield
        finally:
            os.close(lock)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, or replace it. Raises BatchError."""
        path = f"{self.path}/{name}"
        try:
            if isinstance(self.files, LocalFileSystem):
                _write_local(Path(path), data)
            else:
                self.files.pipe_file(path, data)  # object storages show an object once its upload is complete
        except Exception as error:  # each storage library raises its own exceptions
            raise BatchError(f"{self.url}/{name} cannot be written: {error!r}") from error

    def delete(self, path: str) -> None:
        """Delete a file by its path in the file system. Raises BatchError."""
        try:
            self.files.rm_file(path)
        except Exception as error:  # each storage library raises its own exceptions
            raise BatchError(f"{path} cannot be deleted: {error!r}") from error


def _lock(folder: Path) -> int:
    """Lock a folder until the returned descriptor is closed. Raises BlockingIOError if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # readers of Parquet skip names that begin with a dot
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power failure may leave an empty file under the final name
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
