"""Connections of many threads to one SQLite file, and connections that failed."""

import resource
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from moodreel.observers import observers
from moodreel.storage.analysis_store import AnalysisStore
from moodreel.storage.answer_store import AnswerStore
from moodreel.storage.call_log import Call, CallLog, CallLogError
from moodreel.storage.database import FULL
from moodreel.storage.history import History, HistoryError
from moodreel.storage.job_store import JobStore

THREADS = 40


def test_idle_threads_hold_no_connection(tmp_path: Path) -> None:
    log = CallLog(tmp_path / "calls.db")
    written, ended = threading.Barrier(THREADS + 1), threading.Event()

    def write_and_wait() -> None:
        log.write(Call.begin(request_id="a socket", method="GET", endpoint="/api/ws"))
        written.wait(60)
        ended.wait(60)

    threads = [threading.Thread(target=write_and_wait) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    written.wait(60)
    # Every connection opens the journal as well. The database file is no measure: SQLite leaves it open for reuse.
    assert 0 < _open_files(tmp_path / "calls.db-wal") < THREADS / 4
    ended.set()
    for thread in threads:
        thread.join()
    assert len(log.select(limit=1000).rows) == THREADS
    log.close()
    assert _open_files(log.location) == 0


def test_a_transaction_is_rolled_back_when_its_block_raises(tmp_path: Path) -> None:
    log = CallLog(tmp_path / "calls.db")
    with pytest.raises(ZeroDivisionError), log._database.write() as db:
        db.execute("insert into calls (timestamp, request_id, method, endpoint) values ('', '', '', '')")
        raise ZeroDivisionError
    assert log.select().rows == ()
    log.write(call := Call.begin(request_id="next", method="GET", endpoint="/"))
    assert call.id == 1


def test_a_repaired_file_is_used_again(tmp_path: Path) -> None:
    log = CallLog(tmp_path / "calls.db")
    log.close()
    intact = Path(log.location).read_bytes()
    Path(log.location).write_bytes(b"not a database, but longer than a page of one" * 100)
    for path in tmp_path.glob("calls.db-*"):
        path.unlink()
    call = Call.begin(request_id="call", method="GET", endpoint="/")
    with pytest.raises(CallLogError):
        log.write(call)
    Path(log.location).write_bytes(intact)
    log.write(call)
    assert call.id == 1


@pytest.mark.parametrize(
    "open_store",
    [
        lambda path: AnalysisStore(path, seconds=60),
        lambda path: AnswerStore(path, seconds=60, call_seconds=60),
        lambda path: JobStore(path, keep_seconds=60, max_jobs=3, max_bytes=1000),
        History,
    ],
    ids=["analyses", "answers", "jobs", "history"],
)
def test_only_the_owner_may_read_what_users_sent_also_in_a_file_that_is_made_again(
    tmp_path: Path, open_store: Callable[[Path], AnalysisStore | AnswerStore | JobStore | History]
) -> None:
    path = tmp_path / "data" / "store.db"
    store = open_store(path)
    for _ in range(2):
        with store._database.write():
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (path.parent, *path.parent.iterdir())}
        assert modes == {"data": 0o700, "store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
        shutil.rmtree(path.parent)


def test_a_full_disk_is_the_reason_why_a_file_cannot_even_be_read(tmp_path: Path) -> None:
    History(tmp_path / "history.db").close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(HistoryError, match="Free some disk space") as raised:
            History(tmp_path / "history.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.reason == FULL


def _open_files(path: Path) -> int:
    """Count how often this process has a file open."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [str(link.readlink()) for link in links].count(str(path))


def test_observers_are_told_how_long_a_write_waited_for_the_lock(tmp_path: Path, monkeypatch) -> None:
    waits = []
    monkeypatch.setattr(observers, "lock_wait", lambda *wait: waits.append(wait))
    log = CallLog(tmp_path / "calls.db", serving=True)
    call = Call.begin(request_id="first", method="GET", endpoint="/logs")
    log.write(call)
    [(name, seconds, acquired)] = waits
    assert (name, acquired) == ("call log", True)
    assert 0 <= seconds < 10
    with closing(sqlite3.connect(log.location, isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(CallLogError):
            log.write(call)
    assert waits[1][2] is False
    assert waits[1][1] > 0.1
