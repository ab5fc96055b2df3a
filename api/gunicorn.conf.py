# ruff: noqa: N999 - Gunicorn's usual name
"""How the service runs: `gunicorn -c api/gunicorn.conf.py`, from the folder that holds `.env`.

A process a core, each with its own models, loaded after the fork and before its first call: torch and MediaPipe don't
survive a fork. Threads in each, because a call mostly waits: for its body, for its turn, for the client to read.
"""

import ctypes
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# prometheus_client reads this once, when it is first imported, and that is below.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="moodreel-metrics-")

from api.limits import threads_for
from api.model_download import download_model
from api.settings import Settings, SettingsError
from moodreel.errors import MoodreelError

if TYPE_CHECKING:
    from gunicorn.workers.gthread import ThreadWorker

# glibc gives every thread a heap of its own that hardly shrinks, and puts ever larger blocks into them. With two heaps,
# and blocks of a picture's size given back as soon as they are free, a worker peaks some 100 MB lower.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)

# A connection is a file or two, and so is a connection to SQLite. Debian's usual 1024 are too few, and an `accept` that
# fails for it ends a worker.
_FILES = 8192
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if 0 <= _soft < _FILES:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES if _hard < 0 else min(_FILES, _hard), _hard))


def _stop(error: Exception) -> NoReturn:
    print(f"moodreel cannot start: {error}", file=sys.stderr, flush=True)
    _forget_metrics()
    sys.exit(1)


def _forget_metrics() -> None:
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


try:
    settings = Settings.from_environment()
except SettingsError as error:
    _stop(error)

wsgi_app = "api.wsgi:app"
bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.web_concurrency
worker_class = "gthread"
# At most: threads are started when they are needed, and one that waits costs some 50 kB.
threads = threads_for(settings.threads, settings.max_sockets)
# Of these as many as there are threads may run; the others are connections kept open for a next call.
worker_connections = threads + 1000
# A worker reports that it is alive from its main thread, which never analyses; this bounds loading the models.
timeout = 120
# Running calls may wait for a place and their turn, decode and encode before a stop takes them away.
graceful_timeout = int(2 * settings.max_wait_seconds + settings.max_wall_seconds) + 15
keepalive = 15
reload = settings.debug
loglevel = "debug" if settings.debug else settings.log_level.lower()
control_socket_disable = True
# The file by which a worker shows that it lives must not wait for a disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None


def on_starting(_server: object) -> None:
    """Fetch the model that MODEL_DOWNLOAD_ID names, once and not in every worker."""
    if not settings.model_download_id:
        return
    try:
        # In a process of its own: checking the download imports torch, which the workers must do after their fork.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as one:
            fetched = one.submit(download_model, settings).result()
    except MoodreelError as error:
        _stop(error)
    if fetched is None:
        # MODEL_FALLBACK took over: the workers need not try again.
        os.environ["MODEL_DOWNLOAD_ID"] = ""


def post_worker_init(worker: "ThreadWorker") -> None:
    """Have sockets closed as soon as the worker is told to stop."""
    # Imported here because it loads torch, which does not survive a fork.
    from api.services import services

    services(worker.wsgi).shutdown_hooks.start_watcher(worker)


def child_exit(_server: object, worker: "ThreadWorker") -> None:
    """Take a dead worker's calls off the in-flight gauge."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


def on_exit(_server: object) -> None:
    """Leave nothing behind."""
    _forget_metrics()
