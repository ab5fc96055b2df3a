"""Back the call log up and restore it, also while the service writes it, by SQLite's online backup."""

import sqlite3
from contextlib import closing
from pathlib import Path

from moodreel.storage.call_log import CallLog, CallLogError


def back_up(path: Path, target: Path) -> int:
    """Copy the log into a new file. Returns the number of calls in the checked copy. Raises CallLogError."""
    if target.exists():
        raise CallLogError(f"{target} exists already. Name a new file.")
    try:
        _copy(path, target)
        return _check(target)
    except CallLogError:
        target.unlink(missing_ok=True)
        raise


def restore(source: Path, path: Path) -> int:
    """Replace the content of the log by a backup. Returns the number of calls in it. Raises CallLogError.

    The backup is checked first, and migrated in the log afterwards. A log that is not a database is moved aside.
    """
    count = _check(source)
    CallLog(path, serving=True).close()
    _copy(source, path)
    CallLog(path).close()
    return count


def _copy(source: Path, target: Path) -> None:
    try:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target, timeout=30)) as new:
            old.backup(new)
    except sqlite3.Error as error:
        todo = "Check that the folders exist and have room, and that this user may write to them."
        raise CallLogError(f"{source} cannot be copied to {target}: {error}. {todo}") from error


def _check(path: Path) -> int:
    """Return the number of calls in a log. Raises CallLogError if it is missing, damaged, or not a call log."""
    if not path.exists():
        raise CallLogError(f"There is no file {path}.")
    try:
        with closing(sqlite3.connect(path)) as db:
            problems = [row[0] for row in db.execute("pragma integrity_check")]
            [(count,)] = db.execute("select count(*) from calls")
    except sqlite3.Error as error:
        raise CallLogError(f"{path} is not a usable call log: {error}.") from error
    if problems != ["ok"]:
        raise CallLogError(f"{path} is damaged: {problems[0]}.")
    return int(count)
