"""Break the call log, the processes or the clock of a service under load, and count the calls without a row.

    python -m bench.log_faults               # every fault, with pipelines that only sleep
    python -m bench.log_faults reload --real # with the real models
    python -m bench.log_faults --postgresql  # the log in a PostgreSQL server, which is stopped, killed, made to hang

A full disk is a small tmpfs, which only root can mount; the clock is moved by Debian's package libfaketime. Each fault
comes 10 s after the first call; the longest call is that of those that ended later. A service that has stopped is
started again, as systemd does.
"""

import argparse
import collections
import contextlib
import random
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil
import requests

from bench.clips import phone_clip
from bench.command import run_command
from moodreel.storage.call_log import CallLog
from moodreel.training.evaluation.markdown import format_table
from tests.support.movable_clock import LIBRARY, MovableClock
from tests.support.postgresql_server import PostgresqlServer, find_programs
from tests.support.server import FAKE_APP, HEADERS, REAL_APP, Server, video_body

CLIENTS = 4
BEFORE_SECONDS, AFTER_SECONDS = 10.0, 5.0
COLUMNS = ("fault", "calls", "answered", "answered without a row", "longest call", "`/ready` said", "ready again after")


class Answer(NamedTuple):
    """An answer to a client, and when it came; `status` is None if the connection broke."""

    request_id: str
    status: int | None
    seconds: float
    at: float


class Load:
    """Clients that call continuously until `stop`."""

    def __init__(self, server: Server, data: bytes) -> None:
        self.answers: list[Answer] = []
        self._server = server
        self._body = video_body(data)
        self._stopped = threading.Event()
        self._clients = ThreadPoolExecutor(CLIENTS)
        self._futures = [self._clients.submit(self._call_until_stopped, client) for client in range(CLIENTS)]

    def stop(self) -> None:
        self._stopped.set()
        for future in self._futures:
            future.result()

    def _call_until_stopped(self, client: int) -> None:
        number = 0
        while not self._stopped.is_set():
            request_id, started, status = f"client-{client}-{number}", time.monotonic(), None
            headers = {**HEADERS, "x-request-id": request_id}
            try:
                status = self._server.call("POST", "/predict", headers=headers, json=self._body).status_code
            except requests.ConnectionError:
                time.sleep(0.1)
            ended = time.monotonic()
            self.answers.append(Answer(request_id, status, ended - started, ended))
            number += 1


@contextlib.contextmanager
def disk(folder: Path, fault: str) -> Iterator[None]:
    """Mount a disk of 32 MB for the log, if the fault is that it is full."""
    if fault != "disk full":
        yield
        return
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def nothing(server: Server) -> None:
    time.sleep(5)


def fill_disk(server: Server) -> None:
    filler = server.log_path.with_name("filler")
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    time.sleep(10)
    filler.unlink()


def lock(server: Server) -> None:
    with contextlib.closing(sqlite3.connect(server.log_path, isolation_level=None, timeout=30)) as db:
        db.execute("begin immediate")
        time.sleep(25)


def overwrite(server: Server) -> None:
    server.log_path.write_bytes(random.randbytes(100_000))


def kill_worker(server: Server) -> None:
    server.workers[0].kill()
    time.sleep(5)


def kill_parent_only(server: Server) -> None:
    assert server.process is not None
    server.process.kill()
    server.process.wait()


def kill_parent(server: Server) -> float:
    """Kill the parent process and start the service again. Returns when it was killed.

    The old workers answer for a moment: the service is ready again when a new one answers.
    """
    workers, killed = server.workers, time.monotonic()
    kill_parent_only(server)
    server.start()
    psutil.wait_procs(workers, timeout=60)
    return killed


def lock_and_kill_parent(server: Server) -> None:
    with contextlib.closing(sqlite3.connect(server.log_path, isolation_level=None, timeout=30)) as db:
        db.execute("begin immediate")
        time.sleep(3)
        kill_parent_only(server)
        time.sleep(3)


def kill_all(server: Server) -> None:
    workers = server.workers
    kill_parent_only(server)
    for worker in workers:
        worker.kill()


def reload(server: Server) -> None:
    old = {worker.pid for worker in server.workers}
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    while old & {worker.pid for worker in server.workers}:
        time.sleep(0.1)


POSTGRESQL_SECONDS = 10


def stop_database(database: PostgresqlServer) -> None:
    database.stop()
    time.sleep(POSTGRESQL_SECONDS)
    database.start()


def kill_database(database: PostgresqlServer) -> None:
    database.kill()
    time.sleep(POSTGRESQL_SECONDS)
    database.start()


def freeze_database(database: PostgresqlServer) -> None:
    database.freeze()
    time.sleep(POSTGRESQL_SECONDS)
    database.freeze(False)


def restart_database(database: PostgresqlServer) -> None:
    database.stop()
    database.start()


POSTGRESQL_FAULTS: dict[str, Callable[[PostgresqlServer], None]] = {
    "stopped": stop_database,
    "killed": kill_database,
    "hangs": freeze_database,
    "restarted": restart_database,
}
CLOCK_FAULTS = {"clock 3 h forward": 3, "clock 3 h back": -3}
"""Hours from the true time of day."""
FAULTS: dict[str, Callable[[Server], float | None]] = {
    "none": nothing,
    "disk full": fill_disk,
    "locked": lock,
    "overwritten": overwrite,
    "kill": kill_worker,
    "kill parent": kill_parent,
    "locked, kill parent": lock_and_kill_parent,
    "kill all": kill_all,
    "reload": reload,
}


WITH_POSTGRESQL = ("none", "kill", "kill parent", *POSTGRESQL_FAULTS)


def watch(server: Server, ready_statuses: collections.Counter[str], ended: threading.Event) -> None:
    """Count the statuses of `/ready` until the end."""
    while not ended.wait(0.25):
        with contextlib.suppress(requests.ConnectionError):
            answer = requests.get(f"{server.url}/ready", timeout=60)
            ready_statuses[str(answer.status_code)] += 1


def break_service(fault: str, server: Server, database: PostgresqlServer | None, clock: MovableClock) -> float:
    """Cause a fault, and end it. Returns the time from which the service could be ready again."""
    if database is not None and fault in POSTGRESQL_FAULTS:
        POSTGRESQL_FAULTS[fault](database)
    elif fault in CLOCK_FAULTS:
        clock.move(CLOCK_FAULTS[fault])
        time.sleep(5)
    else:
        return FAULTS[fault](server) or time.monotonic()
    return time.monotonic()


def wait_until_ready(server: Server) -> None:
    """Start the service again whenever it has stopped, until it is ready."""
    while True:
        assert server.process is not None
        if server.process.poll() is not None:
            server.start()
        with contextlib.suppress(AssertionError):
            return server.wait_until_ready()


def run(parent: Path, fault: str, app: str, data: bytes, database: PostgresqlServer | None = None) -> tuple[str, ...]:
    folder = Path(tempfile.mkdtemp(dir=parent))
    ready_statuses: collections.Counter[str] = collections.Counter()
    ended = threading.Event()
    settings = {} if database is None else {"LOG_DATABASE_URL": database.make_database()}
    server, clock = Server(folder, app, **settings), MovableClock(folder / "clock")
    if fault in CLOCK_FAULTS:
        server = Server(folder, app, command=clock.command, **settings, **clock.settings)
    with disk(folder / "logs", fault), server:
        load = Load(server, data)
        try:
            time.sleep(BEFORE_SECONDS)
            watcher = threading.Thread(target=watch, args=(server, ready_statuses, ended))
            watcher.start()
            old, broken = server.processes, time.monotonic()
            fixed = break_service(fault, server, database, clock)
            wait_until_ready(server)
            ready = time.monotonic() - fixed
            time.sleep(AFTER_SECONDS)
            left = set(old) - set(server.processes)
            assert not psutil.wait_procs(left, timeout=0)[1], "processes of before are left"
        finally:
            ended.set()
            load.stop()
        watcher.join()
        server.stop()
        with contextlib.closing(CallLog(server.log_location)) as log:
            rows = {row["request_id"]: row["status_code"] for row in log.iterate()}
    # Rows from before are in the file that was overwritten.
    answered = [answer for answer in load.answers if answer.status is not None and answer.at > broken]
    missing = [answer for answer in answered if rows.get(answer.request_id) != answer.status]
    return (
        fault,
        str(len(load.answers)),
        format_counts(collections.Counter(str(answer.status) for answer in load.answers)),
        str(len(missing)),
        f"{max(answer.seconds for answer in load.answers if answer.at > broken):.1f} s",
        format_counts(ready_statuses),
        f"{ready:.1f} s",
    )


def format_counts(counts: collections.Counter[str]) -> str:
    return ", ".join(f"{status}: {count}" for status, count in counts.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.log_faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = f"of {', '.join([*FAULTS, *CLOCK_FAULTS])}; with --postgresql of {', '.join(WITH_POSTGRESQL)}"
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=names)
    parser.add_argument("--postgresql", action="store_true", help="the log in PostgreSQL")
    parser.add_argument("--real", action="store_true", help="with the real models and a clip of 6 s")
    options = parser.parse_args()
    known = WITH_POSTGRESQL if options.postgresql else (*FAULTS, *CLOCK_FAULTS)
    if unknown := set(options.faults) - set(known):
        parser.error(f"no fault {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    data = phone_clip() if options.real else b"sleep 0.1"
    app, faults = REAL_APP if options.real else FAKE_APP, options.faults
    assert LIBRARY or options.postgresql or {*faults}.isdisjoint(CLOCK_FAULTS), "needs libfaketime: apt-get install it"
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        if options.postgresql:
            programs = find_programs()
            assert programs, "needs PostgreSQL: apt-get install postgresql"
            with PostgresqlServer(programs) as database:
                results = [run(parent, fault, app, data, database) for fault in faults or WITH_POSTGRESQL]
        else:
            results = [run(parent, fault, app, data) for fault in faults or [*FAULTS, *CLOCK_FAULTS]]
    print(format_table(COLUMNS, results))


if __name__ == "__main__":
    run_command(main)
