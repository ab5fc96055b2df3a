"""Pictures and loops that people keep: objects in the storage that a URL names.

- `file://` is written here and not by fsspec: a folder for its owner alone, and a name that appears when the file is
  whole. Every other storage writes an object whole or not at all.
- An object's key is drawn at random, in a folder whose name is a hash of its user: nobody finds one without its record.
- A storage that hangs must not hang a call: whatever takes longer than `seconds` has failed.
"""

import hashlib
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import fsspec

from moodreel.errors import MoodreelError

_THREADS = 4
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}

_T = TypeVar("_T")


class ObjectStorageError(MoodreelError):
    """The storage cannot be opened, or does not do as it is asked; the message tells the operator what to do."""


@dataclass(frozen=True)
class StoredFile:
    """A file; `name` is what its record calls it, `type` its media type."""

    name: str
    type: str
    data: bytes


def new_key(user: str, name: str) -> str:
    """Draw the key of a user's new object; it ends as `name` does."""
    folder = hashlib.sha256(f"media of {user}".encode()).hexdigest()[:32]
    return f"{folder}/{secrets.token_hex(16)}{PurePosixPath(name).suffix}"


class ObjectStorage:
    """Objects by key, for any number of threads. Make one after a fork, never before."""

    def __init__(self, url: str, *, timeout_seconds: float = 10.0) -> None:
        """Open the storage that a URL names: file://, memory://, gs:// or s3://. Raises MediaError."""
        self._objects = _open(url)
        self._seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="media")

    def put(self, key: str, data: bytes) -> None:
        """Store an object. Raises MediaError; the object may then be there or not."""
        self._with_timeout("written", self._objects.put, key, data)

    def get(self, key: str) -> bytes | None:
        """Read an object; None where there is none. Raises MediaError."""
        return self._with_timeout("read", self._objects.get, key)

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is deleted already. Raises MediaError."""
        self._with_timeout("emptied", self._objects.delete, key)

    def _with_timeout(self, done: str, work: Callable[..., _T], *arguments: Any) -> _T:
        future = self._threads.submit(work, *arguments)
        try:
            return future.result(self._seconds)
        except Exception as error:  # every storage's library has errors of its own
            future.cancel()
            raise ObjectStorageError(
                f"The media storage cannot be {done}: {error!r}. Check MEDIA_STORAGE, and that the service may use it."
            ) from error


class _Backend(Protocol):
    def put(self, key: str, data: bytes) -> None: ...

    def get(self, key: str) -> bytes | None: ...

    def delete(self, key: str) -> None: ...


class _LocalBackend:
    """Objects as files, for their owner alone."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{root} cannot be written")
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        path = self._root / key
        part = _partial_path(path)
        try:
            with os.fdopen(_create_private(part), "wb") as file:
                file.write(data)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def get(self, key: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self._root / key).read_bytes()
        return None

    def delete(self, key: str) -> None:
        # Where all of it is gone, on a disk that is not there today, nothing is deleted.
        self._root.stat()
        path = self._root / key
        for file in (path, _partial_path(path)):
            file.unlink(missing_ok=True)
        # The folder of somebody who keeps nothing goes too; it is not empty for all others.
        with suppress(OSError):
            path.parent.rmdir()


class _FsspecBackend:
    """Objects of any other storage that fsspec knows."""

    def __init__(self, files: Any, root: str) -> None:
        self._files = files
        self._root = root.rstrip("/")

    def put(self, key: str, data: bytes) -> None:
        self._files.pipe_file(f"{self._root}/{key}", data)

    def get(self, key: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return self._files.cat_file(f"{self._root}/{key}")
        return None

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{key}")


def _open(url: str) -> _Backend:
    scheme = url.partition("://")[0]
    try:
        files, root = fsspec.url_to_fs(url)
        return _LocalBackend(Path(root)) if scheme == "file" else _FsspecBackend(files, root)
    except ImportError as error:
        package = _PACKAGES.get(scheme, "a package")
        raise ObjectStorageError(
            f"MEDIA_STORAGE={scheme}://… needs {package}: pip install -r requirements-extras.txt."
        ) from error
    except Exception as error:  # every storage's library has errors of its own
        raise ObjectStorageError(
            f"MEDIA_STORAGE={scheme}://… cannot be opened: {error!r}. Check that the service may use it."
        ) from error


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _create_private(path: Path) -> int:
    """Make a file for its owner alone, and give its descriptor."""
    while True:
        # Whoever deletes the folder's last object takes the folder away, at any time.
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
