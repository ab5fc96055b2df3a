"""Make folders that are deleted when the service ends, or at the next start if it was killed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A folder in memory, where nothing waits for a disk, and nothing is left on one.

A full disk under the mapped files of the metrics would crash each worker (SIGBUS).
"""

_service_folders: dict[str, str] = {}
"""Path of each folder that `service_folder` made, by its prefix."""


def service_folder(prefix: str, parent: str) -> str:
    """Make a folder for this process and its workers, at the first call: a reload gets the same one.

    Those of killed services, which no process locks, are deleted.
    """
    if prefix in _service_folders:
        return _service_folders[prefix]
    for old in Path(parent).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            lock = _lock(old)
            shutil.rmtree(old, ignore_errors=True)
            os.close(lock)
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    _lock(Path(folder))
    _service_folders[prefix] = folder
    return folder


def delete_service_folders() -> None:
    """Delete the folders that `service_folder` made."""
    for folder in _service_folders.values():
        shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> int:
    """Lock a folder until the returned descriptor is closed, by this process and its workers.

    Raises:
        OSError: It is locked, or not ours.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
