"""Hooks that run when a worker stops."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

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


WORKER_INTERRUPTED_IN_SUBMIT = """
import importlib.util, os, signal, threading
from types import SimpleNamespace
from flask import Flask
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker
import api.services

spec = importlib.util.spec_from_file_location("configuration", "api/gunicorn.conf.py")
configuration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(configuration)
hooks = SimpleNamespace(start_watcher=lambda worker: None)
api.services.services = lambda app: SimpleNamespace(shutdown_hooks=hooks, jobs=None)

worker = ThreadWorker(1, os.getppid(), [], SimpleNamespace(), 30, Config(), SimpleNamespace())
worker.tpool = worker.get_thread_pool()
worker.method_queue.init()
worker.wsgi = Flask("app")
signal.signal(signal.SIGNAL, worker.handle_quit)
configuration.post_worker_init(worker)

def start_and_interrupt(thread, start=threading.Thread.start):
    start(thread)
    os.kill(os.getpid(), signal.SIGNAL)

threading.Thread.start = start_and_interrupt
worker.tpool.submit(int)
assert not worker.alive
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGQUIT"])
def test_a_signal_while_a_request_is_handed_to_a_thread_stops_the_worker(number: str) -> None:
    script = WORKER_INTERRUPTED_IN_SUBMIT.replace("signal.SIGNAL", f"signal.{number}")
    environment = os.environ | {"API_KEY": "a-key-for-tests"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)


WORKER_STOPPED_BEFORE_ITS_HANDLERS = """
import importlib.util, os, signal
from queue import SimpleQueue
from types import SimpleNamespace
from gunicorn.config import Config

spec = importlib.util.spec_from_file_location("configuration", "api/gunicorn.conf.py")
configuration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(configuration)

def boot(*signals):
    worker = configuration.StoppableWorker(1, os.getppid(), [], SimpleNamespace(), 30, Config(), SimpleNamespace())
    worker.PIPE, worker.inherited_signals = os.pipe(), SimpleQueue()
    os.set_blocking(worker.PIPE[1], False)
    for number in signals:
        worker.inherited_signals.put(number)
    worker.init_signals()
    return "goes on"

assert boot(signal.SIGCHLD, signal.SIGHUP) == "goes on"
print("goes on", flush=True)
boot(signal.SIGCHLD, signal.SIGTERM)
print("goes on")
"""


def test_a_worker_that_was_stopped_before_it_had_handlers_exits() -> None:
    command, environment = [sys.executable, "-c", WORKER_STOPPED_BEFORE_ITS_HANDLERS], {"API_KEY": "a-key-for-tests"}
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "goes on\n"
