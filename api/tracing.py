"""Send OpenTelemetry traces: a span for each call, and below it one for each of its stages. Needs the extra `otel`.

The SDK reads the standard variables: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and so on. Names of attributes follow the
semantic conventions for HTTP. No span has media, text, a path, a query string, an address, a key or a user.

opentelemetry-instrumentation-flask is not used: it ends the span of a stream before its first byte, keeps one open for
as long as a WebSocket lives, and writes the query string, which may hold a token, into the span.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import cast

from flask import Flask, Response, g, request
from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from api import log_fields
from api.auth.authentication import JOB_CALLER
from moodreel import __version__
from moodreel.observers import EndedStage, observers
from moodreel.storage.call_log import CallFields

FLUSH_SECONDS = 2.0
"""How long a process that stops waits for the collector to take the last spans."""
REPORT_SECONDS = 60.0
"""Time between two messages of the SDK."""
UNTRACED = ("/health", "/ready", "/metrics")
"""Routes that are called every few seconds by what watches the service."""
_CLOCK = context.create_key("moodreel-clock")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

logger = logging.getLogger(__name__)


class Tracing:
    """The spans of one process. A thread sends them; calls never wait for it. Create it after a fork, never before."""

    def __init__(self) -> None:
        own: dict[str, AttributeValue] = {
            "service.name": "moodreel",
            "service.version": __version__,
            "process.pid": os.getpid(),
        }
        # Merged again, because the operator's settings override what is passed to `create`.
        resource = Resource.create(own).merge(OTELResourceDetector().detect())
        sdk_logger = logging.getLogger("opentelemetry")
        sdk_logger.handlers, sdk_logger.propagate = [_ReportHandler()], False
        self._exporter = OTLPSpanExporter()
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("moodreel", __version__)

    def init_app(self, app: Flask) -> None:
        """Trace the calls of the app. The functions of what is initialized later run inside of the spans."""
        observers.stage_ended = self._add_stage
        app.before_request(self._start)
        app.after_request(self._end_after_response)
        app.teardown_request(self._leave)

    @contextmanager
    def message(self, method: str, endpoint: str) -> Iterator[None]:
        """Trace a message of a WebSocket: a trace of its own. The block sets `g.status`."""
        call = self._begin(f"{method} {endpoint}", Context(), SpanKind.SERVER, {"http.route": endpoint})
        token = context.attach(call)
        try:
            yield
        finally:
            context.detach(token)
            _end(call, g.status, g.request_id, log_fields.current())

    def stop(self, seconds: float = FLUSH_SECONDS) -> None:
        """Send the spans that wait. Those that the collector has not taken after `seconds` are lost."""
        flush = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        flush.start()
        flush.join(seconds)
        if flush.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _start(self) -> None:
        rule = request.url_rule
        if rule is not None and (rule.websocket or rule.rule in UNTRACED):
            return
        method = request.method if request.method in _METHODS else "_OTHER"
        attributes: dict[str, AttributeValue] = {"http.request.method": method, "url.scheme": request.scheme}
        if rule is not None:
            attributes["http.route"] = rule.rule
        name = " ".join(["HTTP" if method == "_OTHER" else method, *([rule.rule] if rule else [])])
        # A job continues the trace of the call that made it.
        kind = SpanKind.CONSUMER if JOB_CALLER in request.environ else SpanKind.SERVER
        g.traced_call = self._begin(name, propagate.extract(request.headers, Context()), kind, attributes)
        g.trace_token = context.attach(g.traced_call)

    def _begin(self, name: str, parent: Context, kind: SpanKind, attributes: Mapping[str, AttributeValue]) -> Context:
        """Start the span of a call, and put its ids into `flask.g`: for log lines, and for what this call calls.

        Returns:
            The context of the call: its span, and its clock, the nanoseconds from `time.perf_counter` to the epoch.
            With one clock for all its spans, none is outside of its parent, whatever happens to the system's.
        """
        clock = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(name, parent, kind, attributes, start_time=clock + time.perf_counter_ns())
        call = context.set_value(_CLOCK, clock, trace.set_span_in_context(span, Context()))
        if span.is_recording():
            g.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        g.trace_headers = {}
        propagate.inject(g.trace_headers, call)
        return call

    def _end_after_response(self, response: Response) -> Response:
        """End the span when the response has been sent; a stream knows its error only then."""
        if (call := g.pop("traced_call", None)) is not None:
            answered, request_id, fields = time.perf_counter(), g.get("request_id", ""), log_fields.current()

            def end() -> None:
                self._add_stage(EndedStage("send", answered, time.perf_counter(), 0.0, 1, None), call)
                _end(call, response.status_code, request_id, fields)

            if response.direct_passthrough:
                end()  # Werkzeug sends a file without closing its response
            else:
                response.call_on_close(end)
        return response

    def _leave(self, _error: BaseException | None) -> None:
        if (token := g.pop("trace_token", None)) is not None:
            context.detach(token)
        # Only a bug in an after_request function leaves one.
        if (call := g.pop("traced_call", None)) is not None:
            _end(call, 500, g.get("request_id", ""), log_fields.current())

    def _add_stage(self, stage: EndedStage, call: Context | None = None) -> None:
        """Add a span for a stage of a call, by default of the current one. Stages outside of a call get none."""
        clock = context.get_value(_CLOCK, call)
        if not isinstance(clock, int):
            return
        span = self._tracer.start_span(stage.name, call, start_time=clock + int(1e9 * stage.started))
        if stage.parts > 1:
            span.set_attributes({"moodreel.busy_ms": round(1000 * stage.busy, 3), "moodreel.parts": stage.parts})
        if stage.error is not None:
            span.set_attribute("error.type", stage.error)
            span.set_status(StatusCode.ERROR)
        span.end(clock + int(1e9 * stage.ended))


def probe_collector() -> str | None:
    """Send a request without spans to the collector. Returns why it was not taken; None if it was."""
    messages: SimpleQueue[logging.LogRecord] = SimpleQueue()
    sdk_logger = logging.getLogger("opentelemetry")
    sdk_logger.handlers, sdk_logger.propagate = [QueueHandler(messages)], False
    if OTLPSpanExporter(timeout=2.0).export([]) is SpanExportResult.SUCCESS:
        return None
    return messages.get_nowait().getMessage()


class _ReportHandler(logging.Handler):
    """Report what the SDK logs, such as that the collector is down: one line a minute, not one for each try."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._reported_at = -REPORT_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        """Log the message, unless there was one in the last minute."""
        if (now := time.monotonic()) - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            # The parser of headers logs those that it cannot parse, with their secrets.
            is_parser = record.name.startswith("opentelemetry.util")
            text = record.msg if is_parser else record.getMessage()
            logger.warning("OpenTelemetry failed; calls are answered without it: %s", text)


def _end(call: Context, status: int, request_id: str, fields: CallFields) -> None:
    """End the span of a call, with what its row in the call log says."""
    span, clock = trace.get_current_span(call), context.get_value(_CLOCK, call)
    known: dict[str, AttributeValue | None] = {
        "http.response.status_code": status,
        "moodreel.request_id": request_id,
        "moodreel.model": fields.get("model"),
        "moodreel.video_seconds": fields.get("video_seconds"),
        "moodreel.frames": fields.get("frames"),
        "error.type": fields.get("error"),
    }
    span.set_attributes({name: value for name, value in known.items() if value is not None})
    if status >= 500:
        span.set_status(StatusCode.ERROR)
    span.end(cast(int, clock) + time.perf_counter_ns())
