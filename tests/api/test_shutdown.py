"""Hooks that run when a worker is told to stop."""

import os
import threading
from types import SimpleNamespace

from api.shutdown import ShutdownHooks


def test_the_hooks_run_when_the_worker_stops_even_if_one_fails() -> None:
    worker, farewell, said = SimpleNamespace(alive=True, ppid=os.getppid()), ShutdownHooks(), []
    done = threading.Event()

    def fail() -> None:
        raise OSError

    for task in (fail, lambda: said.append("first"), done.set):
        farewell.add(task)
    farewell.start_watcher(worker)
    assert not done.wait(0.6)
    worker.alive = False
    assert done.wait(30)
    assert (said, farewell.stopping) == (["first"], True)


def test_the_hooks_run_when_the_master_process_has_died() -> None:
    farewell, done = ShutdownHooks(), threading.Event()
    farewell.add(done.set)
    farewell.start_watcher(SimpleNamespace(alive=True, ppid=os.getppid() + 1))
    assert done.wait(30)
