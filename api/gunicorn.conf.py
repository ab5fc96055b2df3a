# ruff: noqa: N999 - Gunicorn's usual name
"""Configure Gunicorn: `gunicorn -c api/gunicorn.conf.py`, in the folder that holds `.env`.

One worker process per core, each with its own models. It loads them after the fork, because threads of torch and
MediaPipe do not survive one; the libraries are imported before it. A worker has many threads, because a request mostly
waits: for its body, for a slot, for the client to read.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from api.temporary_folders import MEMORY, delete_service_folders, service_folder

# prometheus_client reads this when it is first imported, which the imports below do. Version 0.1.0 names its folder
# moodreel-metrics-… and does not lock it: it would be deleted if both run.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = service_folder("moodreel-prometheus-", MEMORY or tempfile.gettempdir())
# The cores are shared by the workers; and a process without further threads can be forked safely.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from api.gunicorn_reload import protect_reload, start_new_workers
from api.gunicorn_worker import StoppableWorker
from api.limits import threads_for
from api.model_download import download_model
from api.preload import import_libraries
from api.process_setup import set_up_process
from api.settings import Settings, SettingsError
from api.workers import default_workers
from moodreel.errors import MoodreelError

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.gthread import ThreadWorker

set_up_process()


def _stop(error: Exception) -> NoReturn:
    print(f"moodreel cannot start: {error}", file=sys.stderr, flush=True)
    delete_service_folders()
    sys.exit(1)


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
on_reload = start_new_workers
when_ready = protect_reload


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
    """Finish the job that runs, write the rows of the call log that wait, and send the last spans."""
    from api.services import services

    # It has no app if it could not start. The parent calls this as well, for a worker that it could not kill.
    app = getattr(worker, "wsgi", None)
    if app is not None and worker.pid == os.getpid():
        if (jobs := services(app).jobs) is not None:
            jobs.finish(services(app).settings.max_wall_seconds)
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
