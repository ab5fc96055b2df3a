"""What Prometheus may ask, summed over the workers. No label ever holds anything that a caller chose."""

import time
from collections.abc import Mapping

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY

from api import log_fields

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

LIVE_SECONDS = (0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.35, 0.6, 1, 2.5)

SERVER_TIMING_HEADER = {
    "Server-Timing": {
        "description": "Milliseconds by stage.",
        "schema": {"type": "string"},
        "example": "decode;dur=61.2, faces;dur=190.4, model;dur=4.1",
    }
}
"""How the header is documented."""

REQUESTS = Counter("moodreel_requests", "Calls answered", ["endpoint", "status"])
LATENCY = Histogram("moodreel_request_seconds", "Seconds from headers to answer", ["endpoint"], buckets=SECONDS)
STAGES = Histogram("moodreel_stage_seconds", "Seconds in a stage of an analysis", ["stage"], buckets=SECONDS)
IN_FLIGHT = Gauge("moodreel_requests_in_flight", "Calls being answered", multiprocess_mode="livesum")
PREDICTIONS = Counter("moodreel_predictions", "Emotions answered", ["emotion"])
HISTORY_ENTRIES = Counter("moodreel_history_entries", "Analyses written into a history", ["kind"])
HISTORY_FAILURES = Counter("moodreel_history_failures", "Times a history could not be kept or deleted", ["part"])
SOCKETS = Gauge("moodreel_sockets", "WebSockets on /api/ws that are open", multiprocess_mode="livesum")
SOCKETS_ENDED = Counter("moodreel_sockets_ended", "WebSockets on /api/ws that ended, or were refused", ["reason"])
MESSAGES = Counter("moodreel_socket_messages", "Messages on WebSockets that were answered", ["outcome"])
MESSAGE_LATENCY = Histogram("moodreel_socket_message_seconds", "Seconds from message to answer", buckets=SECONDS)
PRESENCE_FAILURES = Counter("moodreel_presence_failures", "Times connections could not be counted over all workers")
LIVE_SESSIONS = Gauge("moodreel_live_sessions", "Live videos that are connected", multiprocess_mode="livesum")
LIVE_FRAMES = Counter("moodreel_live_frames", "Frames of live videos: answered, dropped, failed or unread", ["outcome"])
LIVE_LATENCY = Histogram("moodreel_live_seconds", "Seconds from a live frame to its answer", buckets=LIVE_SECONDS)
LOG_FAILURES = Counter("moodreel_call_log_failures", "Times the call log could not be written")


def init_app(app: Flask) -> None:
    """Count and time each call of the app."""
    app.before_request(_begin)
    app.after_request(_count)
    app.teardown_request(_end)


def with_server_timing(response: Response, emotion: str | None, timings: Mapping[str, float]) -> Response:
    """Count an analysis and its stages' milliseconds, in the call's row too, and tell them to the caller."""
    observe_analysis(emotion, timings)
    response.headers["Server-Timing"] = ", ".join(f"{stage};dur={value:.1f}" for stage, value in timings.items())
    return response


def observe_analysis(emotion: str | None, timings: Mapping[str, float]) -> None:
    """Count an analysis and its stages' milliseconds, in the call's row too."""
    for stage, milliseconds in timings.items():
        STAGES.labels(stage).observe(milliseconds / 1000)
    if emotion:
        PREDICTIONS.labels(emotion).inc()
    log_fields.add(timings={stage: round(milliseconds, 1) for stage, milliseconds in timings.items()})


def render() -> bytes:
    """Write the metrics of all workers; of this process alone where there is only one."""
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)
    except ValueError:
        return generate_latest(REGISTRY)
    return generate_latest(registry)


def _begin() -> None:
    # One that lives for hours is no slow call; sockets have figures of their own.
    if request.url_rule is not None and request.url_rule.websocket:
        return
    IN_FLIGHT.inc()
    g.metered = time.perf_counter()


def _count(response: Response) -> Response:
    endpoint = request.url_rule.rule if request.url_rule else "unmatched"
    REQUESTS.labels(endpoint, str(response.status_code)).inc()
    if "metered" in g:
        LATENCY.labels(endpoint).observe(time.perf_counter() - g.metered)
    return response


def _end(_error: BaseException | None) -> None:
    if g.pop("metered", None) is not None:
        IN_FLIGHT.dec()
