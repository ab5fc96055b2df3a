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
            _lock(old)
            shutil.rmtree(old, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    _lock(Path(folder))
    return folder


def _lock(folder: Path) -> None:
    """Lock a folder until this process and its workers have ended. Raises OSError if it is locked, or not ours."""
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
