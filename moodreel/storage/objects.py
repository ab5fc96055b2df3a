"""Store media objects at a URL: a local folder, Google Cloud Storage, S3 or whatever else fsspec supports.

- `file://` is written here and not by fsspec: a folder that only its owner can read, and files that appear only when
  they are complete. All other storages write an object completely or not at all.
- Keys are random, in a folder whose name is a hash of the user: nobody can guess one.
- A storage that hangs must not hang a request: an operation fails after a timeout.
"""

import hashlib
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ParamSpec, TypeVar

import fsspec
from fsspec import AbstractFileSystem

from moodreel.errors import MoodreelError

TIMEOUT_SECONDS = 10.0
"""How long one operation may take."""
_THREADS = 4
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ObjectStorageError(MoodreelError):
    """The storage cannot be opened, or an operation failed. The message tells operators what to do."""


@dataclass(frozen=True)
class StoredFile:
    """A file: its name, such as picture.jpg, its media type, such as image/jpeg, and its contents."""

    name: str
    type: str
    data: bytes


def new_key(user: str, name: str) -> str:
    """Make a random key for a user's new object, with the suffix of `name`."""
    folder = hashlib.sha256(f"media of {user}".encode()).hexdigest()[:32]
    return f"{folder}/{secrets.token_hex(16)}{PurePosixPath(name).suffix}"


class ObjectStorage:
    """Objects by key, at a file://, memory://, gs:// or s3:// URL. Thread-safe. Make one after a fork, never before."""

    def __init__(self, url: str) -> None:
        """Open the storage. Raises ObjectStorageError."""
        self._backend = _open(url)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="media")

    def put(self, key: str, data: bytes) -> None:
        """Store an object. Raises ObjectStorageError; the object may then exist or not."""
        self._with_timeout("written", self._backend.put, key, data)

    def get(self, key: str) -> bytes | None:
        """Read an object. Returns None if there is none. Raises ObjectStorageError."""
        return self._with_timeout("read", self._backend.get, key)

    def delete(self, key: str) -> None:
        """Delete an object if it exists. Raises ObjectStorageError."""
        self._with_timeout("emptied", self._backend.delete, key)

    def _with_timeout(self, action: str, operation: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        future = self._threads.submit(operation, *args, **kwargs)
        try:
            return future.result(TIMEOUT_SECONDS)
        except Exception as error:  # each storage library raises its own exceptions
            future.cancel()
            raise ObjectStorageError(
                f"The media storage cannot be {action}: {error!r}. Check MEDIA_STORAGE and its permissions."
            ) from error


class _LocalBackend:
    """Objects as files that only their owner can read."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{root} cannot be written")
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        path = self._root / key
        partial = _partial_path(path)
        try:
            with os.fdopen(_create_private(partial), "wb") as file:
                file.write(data)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def get(self, key: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self._root / key).read_bytes()
        return None

    def delete(self, key: str) -> None:
        # This fails if the root is missing: an unmounted disk must not look like a deleted object.
        self._root.stat()
        path = self._root / key
        for file in (path, _partial_path(path)):
            file.unlink(missing_ok=True)
        # Remove the user's folder if it is empty now.
        with suppress(OSError):
            path.parent.rmdir()


class _FsspecBackend:
    """Objects in another storage that fsspec supports."""

    def __init__(self, files: AbstractFileSystem, root: str) -> None:
        self._files = files
        self._root = root.rstrip("/")

    def put(self, key: str, data: bytes) -> None:
        self._files.pipe_file(f"{self._root}/{key}", data)

    def get(self, key: str) -> bytes | None:
        with suppress(FileNotFoundError):
            data: bytes = self._files.cat_file(f"{self._root}/{key}")
            return data
        return None

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{key}")


def _open(url: str) -> _LocalBackend | _FsspecBackend:
    scheme = url.partition("://")[0]
    try:
        files, root = fsspec.url_to_fs(url)
        return _LocalBackend(Path(root)) if scheme == "file" else _FsspecBackend(files, root)
    except ImportError as error:
        package = _PACKAGES.get(scheme, "a package")
        raise ObjectStorageError(
            f"MEDIA_STORAGE={scheme}://… needs {package}: pip install 'moodreel[storage]' "
            "(in a clone: pip install -r requirements-extras.txt)."
        ) from error
    except Exception as error:  # each storage library raises its own exceptions
        raise ObjectStorageError(
            f"MEDIA_STORAGE={scheme}://… cannot be opened: {error!r}. Check that the service may use it."
        ) from error


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _create_private(path: Path) -> int:
    """Create a file that only its owner can read. Returns its descriptor."""
    while True:
        # Another thread may remove the folder at any time, after deleting its last object.
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
