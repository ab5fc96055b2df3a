"""Hooks that run when a worker stops."""

import os
import threading
from types import SimpleNamespace

from api.shutdown import ShutdownHooks


def test_the_hooks_run_when_the_worker_stops_even_if_one_fails() -> None:
    worker, hooks, calls = SimpleNamespace(alive=True, ppid=os.getppid()), ShutdownHooks(), []
    done = threading.Event()

    def fail() -> None:
        raise OSError

    for task in (fail, lambda: calls.append("first"), done.set):
        hooks.add(task)
    hooks.start_watcher(worker)
    assert not done.wait(0.6)
    worker.alive = False
    assert done.wait(30)
    assert (calls, hooks.stopping) == (["first"], True)


def test_the_hooks_run_when_the_master_process_has_died() -> None:
    hooks, done = ShutdownHooks(), threading.Event()
    hooks.add(done.set)
    hooks.start_watcher(SimpleNamespace(alive=True, ppid=os.getppid() + 1))
    assert done.wait(30)
