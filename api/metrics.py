"""Prometheus metrics, summed over the workers. No label holds a value that a caller chose."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY

from api import log_fields
from moodreel.observers import observers
from moodreel.storage.history import HistoryEntry
from moodreel.timing import stage

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_LOCK_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 10)

_LIVE_BUCKETS = (0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.35, 0.6, 1, 2.5)

REQUESTS = Counter("moodreel_requests", "Requests that were answered", ["endpoint", "status"])
LATENCY = Histogram(
    "moodreel_request_seconds", "Seconds from the headers of a request to its response", ["endpoint"], buckets=_BUCKETS
)
STAGES = Histogram("moodreel_stage_seconds", "Seconds per stage of an analysis", ["stage"], buckets=_BUCKETS)
IN_FLIGHT = Gauge("moodreel_requests_in_flight", "Requests in flight", multiprocess_mode="livesum")
PREDICTIONS = Counter("moodreel_predictions", "Predictions by emotion", ["emotion"])
ANALYSIS_CACHE = Counter("moodreel_analysis_cache", "Look-ups in the cache of analyses: hit, miss, failed", ["outcome"])
HISTORY_ENTRIES = Counter("moodreel_history_entries", "Entries written into histories", ["kind"])
HISTORY_FAILURES = Counter(
    "moodreel_history_failures", "Failures to write or delete history entries and their media", ["part"]
)
SOCKETS = Gauge("moodreel_sockets", "Open WebSockets on /api/ws", multiprocess_mode="livesum")
SOCKETS_ENDED = Counter("moodreel_sockets_ended", "WebSockets on /api/ws that were closed or refused", ["reason"])
MESSAGES = Counter("moodreel_socket_messages", "WebSocket messages that were answered", ["outcome"])
MESSAGE_LATENCY = Histogram(
    "moodreel_socket_message_seconds", "Seconds from a WebSocket message to its answer", buckets=_BUCKETS
)
PRESENCE_FAILURES = Counter("moodreel_presence_failures", "Failures to count connections over all workers")
LIVE_SESSIONS = Gauge("moodreel_live_sessions", "Connected live video sessions", multiprocess_mode="livesum")
LIVE_FRAMES = Counter("moodreel_live_frames", "Live frames: answered, dropped, failed or unread", ["outcome"])
LIVE_LATENCY = Histogram("moodreel_live_seconds", "Seconds from a live frame to its result", buckets=_LIVE_BUCKETS)
LOG_FAILURES = Counter("moodreel_call_log_failures", "Failures to write the call log")
ERRORS = Counter("moodreel_errors", "Requests that were answered with an error, by its code", ["code"])
QUEUED = Gauge("moodreel_queue", "Requests and analyses that wait for a slot", ["queue"], multiprocess_mode="livesum")
QUEUE_SECONDS = Histogram("moodreel_queue_seconds", "Seconds until a slot was free", ["queue"], buckets=_BUCKETS)
FACES = Histogram("moodreel_faces", "Faces found in a clip or picture", ["kind"], buckets=(0, 1, 2, 3, 5, 10, 20, 50))
CONFIDENCE = Histogram(
    "moodreel_confidence", "Confidence of predictions", ["kind"], buckets=[tenth / 10 for tenth in range(1, 11)]
)
CERTAIN = Counter("moodreel_certain", "Predictions for clips and pictures, by whether they are certain", ["certain"])
MODELS_LOADED = Gauge("moodreel_models_loaded", "Models in memory, all workers", ["kind"], multiprocess_mode="livesum")
LOCK_SECONDS = Histogram(
    "moodreel_database_lock_seconds",
    "Seconds that writes waited for other writers",
    ["database"],
    buckets=_LOCK_BUCKETS,
)
LOCK_FAILURES = Counter("moodreel_database_lock_failures", "Writes that gave up waiting for the lock", ["database"])
WAITING_CALLS = Gauge(
    "moodreel_call_log_waiting_rows", "Rows that wait in memory for the call log", multiprocess_mode="livesum"
)
LOST_CALLS = Counter("moodreel_call_log_lost_rows", "Rows that the call log will never have")


def observe_domain() -> None:
    """Connect the metrics to the observers of the domain. Call it before models are loaded."""
    observers.slot_wait = partial(queue, "analyses")
    observers.lock_wait = _observe_lock
    observers.models_loaded = lambda kind, count: MODELS_LOADED.labels(kind).set(count)
    observers.analysis_cache = lambda outcome: ANALYSIS_CACHE.labels(outcome).inc()


def init_app(app: Flask) -> None:
    """Count and time each request of the app."""
    app.before_request(_start)
    app.after_request(_observe_request)
    app.teardown_request(_finish)


def observe_analysis(emotion: str | None, timings: Mapping[str, float]) -> None:
    """Count a prediction and observe its stages; the stages go into the log row as well.

    Args:
        emotion: The predicted emotion; None counts no prediction.
        timings: Milliseconds by stage.
    """
    for name, milliseconds in timings.items():
        if not milliseconds:  # it was not run: the analysis came from the cache
            continue
        STAGES.labels(name).observe(milliseconds / 1000)
    if emotion:
        PREDICTIONS.labels(emotion).inc()
    log_fields.add(timings={name: round(milliseconds, 1) for name, milliseconds in timings.items()})


def observe_answer(entry: HistoryEntry) -> None:
    """Observe the faces, the confidence and the certainty of a prediction."""
    if entry.confidence is not None:
        CONFIDENCE.labels(entry.kind).observe(entry.confidence)
    if isinstance(faces := entry.facts.get("faces"), int):
        FACES.labels(entry.kind).observe(faces)
    if isinstance(certain := entry.facts.get("certain"), bool):
        CERTAIN.labels(str(certain).lower()).inc()


@contextmanager
def queue(name: str) -> Iterator[None]:
    """Count and time a `with` block that waits for a slot."""
    with stage(f"queue.{name}"), QUEUED.labels(name).track_inprogress(), QUEUE_SECONDS.labels(name).time():
        yield


def render() -> bytes:
    """Render the metrics of all workers as Prometheus text; of this process alone without a shared directory."""
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)
    except ValueError:
        return generate_latest(REGISTRY)
    return generate_latest(registry)


def _start() -> None:
    # A WebSocket that lives for hours is not a slow request. WebSockets have metrics of their own.
    if request.url_rule is not None and request.url_rule.websocket:
        return
    IN_FLIGHT.inc()
    g.metrics_started = time.perf_counter()


def _observe_request(response: Response) -> Response:
    endpoint = request.url_rule.rule if request.url_rule else "unmatched"
    REQUESTS.labels(endpoint, str(response.status_code)).inc()
    if response.status_code >= 400 and (code := log_fields.current().get("error")):
        ERRORS.labels(code).inc()
    if "metrics_started" in g:
        LATENCY.labels(endpoint).observe(time.perf_counter() - g.metrics_started)
    return response


def _observe_lock(database: str, seconds: float, acquired: bool) -> None:
    LOCK_SECONDS.labels(database).observe(seconds)
    if not acquired:
        LOCK_FAILURES.labels(database).inc()


def _finish(_error: BaseException | None) -> None:
    if g.pop("metrics_started", None) is not None:
        IN_FLIGHT.dec()
