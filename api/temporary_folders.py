"""Make folders that end with the service, also with one that is killed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path


def make_folder(prefix: str, parent: str) -> str:
    """Make a folder for this process and its workers, and delete those of services that were killed: nobody locks them.

    Args:
        prefix: of its name.
        parent: the folder to make it in.

    Returns:
        Its path.
    """
    for old in Path(parent).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            lock = _lock(old)
            shutil.rmtree(old, ignore_errors=True)
            os.close(lock)
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    _lock(Path(folder))
    return folder


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
