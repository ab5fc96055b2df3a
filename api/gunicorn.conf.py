# ruff: noqa: N999 - Gunicorn's usual name
"""Configure Gunicorn: `gunicorn -c api/gunicorn.conf.py`, in the folder that holds `.env`.

One worker process per core, each with its own models. It loads them after the fork, because threads of torch and
MediaPipe do not survive one; the libraries are imported before it. A worker has many threads, because a request mostly
waits: for its body, for a slot, for the client to read.
"""

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NoReturn

from gunicorn.http import errors as http_errors
from gunicorn.workers.gthread import TConn, ThreadWorker

from api.temporary_folders import MEMORY, delete_service_folders, service_folder

# prometheus_client reads this when it is first imported, which the imports below do. Version 0.1.0 names its folder
# moodreel-metrics-… and does not lock it: it would be deleted if both run.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = service_folder("moodreel-prometheus-", MEMORY or tempfile.gettempdir())
# The cores are shared by the workers; and a process without further threads can be forked safely.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from api.limits import threads_for
from api.model_download import download_model
from api.preload import import_libraries
from api.settings import Settings, SettingsError
from api.workers import default_workers
from moodreel.errors import MoodreelError

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

# glibc gives every thread an arena that hardly shrinks. With one arena for all, the peak of a worker is 30 MB lower
# than with two. Blocks of up to 8 MB (a frame, an activation of the network) are taken from it again and again: mapping
# and unmapping each took 30,000 page faults a video, a sixth of its CPU time. An idle worker returns what is free.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 8 * 1024 * 1024)
ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, 16 * 1024 * 1024)

# A connection of a client or to SQLite takes one or two file descriptors. Debian's default of 1024 is too low, and a
# worker ends when `accept` finds none free.
_FILES = 8192
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if 0 <= _soft < _FILES:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES if _hard < 0 else min(_FILES, _hard), _hard))


# What MediaPipe's native code, and LiteRT in it, prints at each start. They have no switch for that.
_NOISE = (
    "Logging before InitGoogle|(face_landmarker_graph|inference_feedback_manager|inference_runner_litert)\\.cc"
    "|XNNPACK delegate for CPU|^INFO: \\[[a-z_]+\\.cc:"
)


def _drop_noise() -> None:
    """Send what native code prints through grep, which drops only `_NOISE`. Python writes to standard error as before.

    grep is a separate process, so the last output of a worker that crashes is not lost. It ends with the service.
    """
    stderr, (reader, writer) = os.dup(2), os.pipe()
    script = 'exec 3<&0; grep --line-buffered -vE "$0" <&3 3<&- &'
    subprocess.run(["sh", "-c", script, _NOISE], stdin=reader, stdout=stderr, start_new_session=True, check=True)
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)
    sys.stderr = os.fdopen(stderr, "w", buffering=1, errors="backslashreplace")


# A reload runs this file again.
if sys.stderr.fileno() == 2 and shutil.which("grep"):
    _drop_noise()


def _stop(error: Exception) -> NoReturn:
    print(f"moodreel cannot start: {error}", file=sys.stderr, flush=True)
    delete_service_folders()
    sys.exit(1)


_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
HEADERS_SECONDS = 10.0
"""How long a client may take to send the line and the headers of a request."""


_REFUSALS: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (http_errors.LimitRequestLine,),
        "uri_too_long",
        "The first line of the request has more than 8,190 bytes. Send the options in the body.",
    ),
    (
        (http_errors.LimitRequestHeaders,),
        "headers_too_large",
        "There are more than 100 headers, or one has more than 8,190 bytes. Send fewer or shorter ones.",
    ),
    (
        (http_errors.ExpectationFailed,),
        "expectation_failed",
        "The Expect header supports only 100-continue. Send that, or leave the header out.",
    ),
    (
        (http_errors.UnsupportedTransferCoding,),
        "not_implemented",
        "The Transfer-Encoding header supports only chunked. Send that, or leave the header out.",
    ),
    (
        (http_errors.InvalidHeader, http_errors.InvalidHeaderName, http_errors.ObsoleteFolding),
        "bad_header",
        "A header is not valid HTTP: its name has a space, its value a line break, or it was sent twice. Correct it.",
    ),
    (
        (http_errors.ParseException,),
        "bad_request",
        "This is not an HTTP/1.0 or 1.1 request. Correct the method, address and version in its first line.",
    ),
)
"""Exceptions of Gunicorn's parser, and the code and detail of the answer to each. The first match counts."""
_APP_ERRORS = (http_errors.InvalidResponseHeader, http_errors.InvalidResponseHeaderName)
"""Errors of the app, which Gunicorn derives from those of clients."""


class StoppableWorker(ThreadWorker):
    """A worker that stops in two cases in which Gunicorn's goes on, and that does not wait for a client forever.

    If the parent process was killed, Gunicorn's worker holds the port for as long as clients keep their connections. A
    signal that comes in the first moments of a worker is lost: the parent would wait for `graceful_timeout`. And a
    client that sends a part of its headers would hold a thread for as long as it likes.
    """

    inherited_signals: "SimpleQueue[int]"
    """Queue of the parent's signal handlers, which this process inherits until it sets its own."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._deadlines: dict[TConn, float] = {}
        """Deadline of each connection whose headers are being read."""

    def handle(self, conn: TConn) -> object:
        """Handle a connection, in a thread."""
        self._deadlines[conn] = time.monotonic() + HEADERS_SECONDS
        try:
            return super().handle(conn)
        finally:
            self._deadlines.pop(conn, None)

    def handle_request(self, req: object, conn: TConn) -> object:
        """Answer a request whose headers have come."""
        self._deadlines.pop(conn, None)
        return super().handle_request(req, conn)

    def handle_error(self, req: object, client: socket.socket, addr: tuple[str, int], exc: Exception) -> None:
        """Answer a request that cannot be parsed with a problem, as the app does. Gunicorn itself sends HTML."""
        # Imported here: a reload reads the service's own code again.
        from api.middleware.access_log import answer_unparsed

        refusal = next((refusal for errors, *refusal in _REFUSALS if isinstance(exc, errors)), None)
        if refusal is None or isinstance(exc, _APP_ERRORS):
            super().handle_error(req, client, addr, exc)
            return
        # Not what was sent: it may hold a key.
        self.log.warning("A request was refused: %s", type(exc).__name__)
        with contextlib.suppress(OSError):
            client.sendall(answer_unparsed(self.wsgi, *refusal))

    def notify(self) -> None:
        """Send a heartbeat, about once a second, and end the connections whose headers have not come."""
        super().notify()
        for conn, deadline in self._deadlines.copy().items():
            if time.monotonic() > deadline:
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def init_signals(self) -> None:
        """Set the handlers, and exit if a signal to stop came before."""
        super().init_signals()
        while not self.inherited_signals.empty():
            if self.inherited_signals.get_nowait() in _STOP_SIGNALS:
                sys.exit(0)

    def is_parent_alive(self) -> bool:
        """Return whether the parent process is alive."""
        is_alive: bool = super().is_parent_alive()
        if not is_alive:
            self.alive = False
        return is_alive


try:
    settings = Settings.from_environment()
except SettingsError as error:
    _stop(error)

# The workers share the cache of analyses and the answers to calls with an Idempotency-Key. Both end with them, unless
# ANALYSIS_CACHE_PATH or IDEMPOTENCY_PATH names a file.
_folder = service_folder("moodreel-analyses-", MEMORY or tempfile.gettempdir())
if not settings.analysis_cache_path:
    os.environ["ANALYSIS_CACHE_PATH"] = f"{_folder}/analyses.db"
if not settings.idempotency_path:
    os.environ["IDEMPOTENCY_PATH"] = f"{_folder}/answers.db"
# A worker that could not start has made this file: api/wsgi.py.
Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], "stopped").unlink(missing_ok=True)

wsgi_app = "api.wsgi:app"
bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.web_concurrency or default_workers(settings.use_gpu)
worker_class = StoppableWorker
# An upper limit: threads are started when they are needed, and an idle one costs some 50 kB.
threads = threads_for(
    settings.threads, settings.max_sockets + (settings.llm_max_streams if settings.llm_base_url else 0)
)
# Requests run on at most `threads` connections; the others are idle connections that are kept alive.
worker_connections = threads + 1000
# The main thread, which never analyzes, sends the heartbeat of a worker. So this limits only the loading of the models.
timeout = 120
# At a stop, running requests may still wait for both slots (THREADS, ANALYSES_AT_ONCE), decode and encode.
graceful_timeout = int(2 * settings.max_wait_seconds + settings.max_wall_seconds) + 15
# Longer than the 60 s of nginx and of most load balancers: they would lose a call on a connection that is closed here.
keepalive = 75
limit_request_line = 8190  # the most that Gunicorn allows, and what proxies let through
reload = settings.debug
loglevel = "debug" if settings.debug else settings.log_level.lower()
control_socket_disable = True
# By default SCRIPT_NAME, from a client of a proxy on this machine, changes the path after the proxy has checked it.
forwarder_headers = ""
worker_tmp_dir = MEMORY  # for the heartbeat


def on_starting(_server: object) -> None:
    """Import the libraries, and download the model that MODEL_DOWNLOAD_ID names, once and not in every worker."""
    # Their memory is then shared. Without them the workers say what to install.
    if settings.log_database_url or settings.history_database_url:
        with contextlib.suppress(ImportError):
            importlib.import_module("psycopg")
    if settings.otel_exporter_otlp_endpoint or settings.otel_exporter_otlp_traces_endpoint:
        with contextlib.suppress(ImportError):
            importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    # On macOS, forked processes may not use the system's frameworks that the libraries have initialized.
    if sys.platform == "linux":
        import_libraries()
    if not settings.model_download_id:
        return
    try:
        # In a separate process: verifying the download runs torch, which the workers must do after their fork.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as one:
            checkpoint = one.submit(download_model, settings).result()
    except MoodreelError as error:
        _stop(error)
    if checkpoint is None:
        # It failed, and MODEL_FALLBACK is 1: the workers need not try again.
        os.environ["MODEL_DOWNLOAD_ID"] = ""


def on_reload(server: "Arbiter") -> None:
    """Start the new workers, and wait until they have loaded their models: the old ones answer meanwhile.

    Gunicorn itself would stop the old ones first, and calls would wait until a new one is ready. If a new one cannot
    start, the old ones stay: Gunicorn itself would stop the service.
    """
    started, age = time.monotonic(), server.worker_age
    new = [server.spawn_worker() for _ in range(server.num_workers)]
    signals: list[int] = []
    # Signals to stop end the wait, and so does a new worker that ends. Others, such as for a second reload, come later.
    while time.monotonic() < started + timeout and _STOP_SIGNALS.isdisjoint(signals) and not any(map(_has_ended, new)):
        beats = [server.WORKERS[pid].tmp.last_update() for pid in new]
        # Before the first heartbeat, when it is ready, a worker's file has the time of the system's clock.
        if all(started <= beat <= time.monotonic() for beat in beats):
            break
        time.sleep(0.1)
        while not server.SIG_QUEUE.empty():
            signals.append(server.SIG_QUEUE.get())
    for number in signals:
        server.SIG_QUEUE.put(number)
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


def _has_ended(pid: int) -> bool:
    """Return whether a worker has ended, which Gunicorn has not noticed yet. On macOS, which cannot tell, False."""
    return hasattr(os, "waitid") and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def when_ready(server: "Arbiter") -> None:
    """Ignore a reload while a setting or this file is invalid: Gunicorn itself would end, and with it the service.

    Until the old workers have ended, Gunicorn would replace no new one that ends: start another one here.

    After a reload, continue the count of the workers, which `on_reload` set back. Gunicorn stops those with the lowest
    numbers: if two generations had the same ones, the next reload would keep an old worker, with the old settings.
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


def post_fork(server: "Arbiter", worker: StoppableWorker) -> None:
    """Fork the template of the processes that decode clips while the worker has no threads."""
    worker.inherited_signals = server.SIG_QUEUE
    if sys.platform == "linux":
        # Imported here: a reload reads the service's own code again.
        from moodreel.media.isolated import start_template

        start_template()


def post_worker_init(worker: "ThreadWorker") -> None:
    """Close long-lived connections as soon as the worker is stopped, and release memory when it is idle."""
    # Gunicorn's handler of SIGINT (Ctrl-C) and SIGQUIT takes a lock that the interrupted code may hold: it hands a
    # request to a thread under that lock. The worker would hang until it is killed. SIGTERM's handler takes none.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, worker.handle_exit)
    # Imported here: a reload reads the service's own code again.
    from api.maintenance import release_memory_when_idle
    from api.services import services

    container = services(worker.wsgi)
    if container.jobs is not None:
        container.shutdown_hooks.add(container.jobs.stop)
    container.shutdown_hooks.start_watcher(worker)
    release_memory_when_idle(worker.wsgi)
    if container.jobs is not None:
        # Last: a job that waits is answered at once, and Flask refuses any further set-up from then on.
        container.jobs.start(worker.wsgi)


def worker_exit(_server: object, worker: "ThreadWorker") -> None:
    """Give back the job that has not ended, write the rows of the call log that wait, and send the last spans."""
    from api.services import services

    # It has no app if it could not start. The parent calls this as well, for a worker that it could not kill.
    app = getattr(worker, "wsgi", None)
    if app is not None and worker.pid == os.getpid():
        if (jobs := services(app).jobs) is not None:
            jobs.stop()
        services(app).call_log_writer.stop()
        if (tracing := services(app).tracing) is not None:
            tracing.stop()


def child_exit(_server: object, worker: "ThreadWorker") -> None:
    """Remove the requests of a worker that has ended from the in-flight gauge."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


def on_exit(_server: object) -> None:
    """Delete the folders of the metrics and of the cache."""
    delete_service_folders()
