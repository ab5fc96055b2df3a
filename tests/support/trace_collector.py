"""A small OTLP/HTTP collector, which keeps the spans that it gets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.server import wait_until


class TraceCollector(ThreadingHTTPServer):
    """The collector.

    Attributes:
        spans: What it got, in the order in which it came.
        resource: The attributes of the process that sent the last of them.
        bodies: The requests as they came.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.resource: dict[str, Any] = {}
        self.bodies: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def call(self, request_id: str) -> Span:
        """Wait for the span of a call."""

        def find() -> list[Span]:
            return [span for span in self.spans if attributes(span).get("moodreel.request_id") == request_id]

        wait_until(find, lambda: [span.name for span in self.spans])
        [span] = find()
        return span

    def stages(self, parent: Span) -> dict[str, Span]:
        """Return the stages of a call by their names. They are sent before it."""
        return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}


def attributes(span: Span) -> dict[str, Any]:
    """Return the attributes of a span."""
    return _plain(span.attributes)


def _plain(pairs: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, pair.value.WhichOneof("value"))

    return {pair.key: value(pair) for pair in pairs}


class _Handler(BaseHTTPRequestHandler):
    server: TraceCollector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.resource = _plain(group.resource.attributes)
            self.server.spans += [span for scope in group.scope_spans for span in scope.spans]
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def trace_collector() -> Iterator[TraceCollector]:
    """Run the collector during a `with` block."""
    with TraceCollector() as collector:
        threading.Thread(target=collector.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield collector
        finally:
            collector.shutdown()
