"""Reload the service without a gap: new workers start before the old ones stop."""

import os
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from api.gunicorn_worker import STOP_SIGNALS
from api.settings import Settings, SettingsError

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter


def start_new_workers(server: "Arbiter") -> None:
    """Start the new workers, and wait until they have loaded their models: the old ones answer meanwhile.

    Gunicorn itself would stop the old ones first, and calls would wait until a new one is ready. If a new one cannot
    start, the old ones stay: Gunicorn itself would stop the service. This is its hook `on_reload`.
    """
    age = server.worker_age
    new = [server.spawn_worker() for _ in range(server.num_workers)]
    _wait_until_ready(server, new)
    # Gunicorn now starts no others, stops the old ones, and waits until all that are left have come after `worker_age`.
    server.cfg.set("workers", 0)
    server.worker_age = age
    if any(map(_has_ended, new)):
        server.log.error(
            "moodreel keeps running as before: new workers cannot start. Fix what moodreel doctor reports."
        )
        for pid in new:
            server.kill_worker(pid, signal.SIGTERM)
            server.WORKERS.pop(pid).tmp.close()
        server.num_workers, server.worker_age = len(server.WORKERS), 0


def _wait_until_ready(server: "Arbiter", workers: Sequence[int]) -> None:
    """Wait until workers send heartbeats, one of them ends, the service is to stop, or Gunicorn's timeout is over."""
    started = time.monotonic()
    signals: list[int] = []
    while time.monotonic() < started + server.cfg.timeout and not any(map(_has_ended, workers)):
        beats = [server.WORKERS[pid].tmp.last_update() for pid in workers]
        # Before the first heartbeat, when it is ready, a worker's file has the time of the system's clock.
        if all(started <= beat <= time.monotonic() for beat in beats) or not STOP_SIGNALS.isdisjoint(signals):
            break
        time.sleep(0.1)
        while not server.SIG_QUEUE.empty():
            signals.append(server.SIG_QUEUE.get())
    # Gunicorn handles them later, others too, such as one for a second reload.
    for number in signals:
        server.SIG_QUEUE.put(number)


def _has_ended(pid: int) -> bool:
    """Return whether a worker has ended, which Gunicorn has not noticed yet. On macOS, which cannot tell, False."""
    return hasattr(os, "waitid") and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def protect_reload(server: "Arbiter") -> None:
    """Ignore a reload while a setting or api/gunicorn.conf.py is invalid: Gunicorn would end, and with it the service.

    Until the old workers have ended, Gunicorn would replace no new one that ends: start another one here.

    After a reload, continue the count of the workers, which `start_new_workers` set back. Gunicorn stops those with the
    lowest numbers: if two generations had the same ones, the next reload would keep an old worker, with the old
    settings. This is Gunicorn's hook `when_ready`.
    """
    reload, reap = server.handle_hup, server.reap_workers

    def handle_hup() -> None:
        try:
            Settings.from_environment()
        except SettingsError as error:
            server.log.error("moodreel keeps running as before: %s", error)
            return
        try:
            server.app.reload()
        except SystemExit:
            # It cannot be run with the modules that this process has: it is of another version.
            server.app.cfg = server.cfg
            server.log.error("moodreel keeps running as before: a new version needs a restart, not a reload.")
            return
        age = server.worker_age

        def reap_and_replace() -> None:
            reap()
            for _ in range(server.num_workers - sum(worker.age > age for worker in server.WORKERS.values())):
                server.spawn_worker()

        server.reap_workers = reap_and_replace
        try:
            reload()
        finally:
            server.reap_workers = reap
        server.worker_age = max([server.worker_age, *(worker.age for worker in server.WORKERS.values())])

    server.handle_hup = handle_hup
