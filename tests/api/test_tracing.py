"""OpenTelemetry traces of the real service, sent to a real collector over OTLP/HTTP."""

import itertools
import json
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from api import doctor
from api.bootstrap import open_tracing
from api.settings import Settings, SettingsError
from tests.support.chat_stand_in import chat_stand_in
from tests.support.server import HEADERS, KEY, REAL_APP, ROOT, Server, free_port, video_body, wait_until

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel: pip install -r requirements-extras.txt")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from tests.support.trace_collector import TraceCollector

pytestmark = pytest.mark.server

CLIP = (ROOT / "examples" / "smile.mp4").read_bytes()
TRACE_ID, PARENT_ID = "ab" * 16, "cd" * 8
TRACEPARENT = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
ENTRY = {"emotion": "Sad", "confidence": 0.8, "text": "a secret of somebody"}
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": 50, "WEB_CONCURRENCY": 1}


@pytest.fixture(scope="module")
def collector() -> Iterator["TraceCollector"]:
    from tests.support.trace_collector import trace_collector

    with trace_collector() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: "TraceCollector") -> Iterator[Server]:
    with chat_stand_in() as llm:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=tests",
            "LOG_FORMAT": "json",
            "JOBS": "on",
            "LLM_BASE_URL": llm.url,
            "LLM_MODEL": "tiny",
        }
        folder = tmp_path_factory.mktemp("traces")
        with Server(folder, REAL_APP, forked=True, **QUICK, **settings) as running:
            running.llm = llm  # type: ignore[attr-defined]
            yield running


def call(server: Server, name: str, path: str, body: dict[str, Any], status: int = 200, **headers: str) -> Any:
    """Post a body with a request id; return the answer."""
    response = server.call("POST", path, headers={**HEADERS, "x-request-id": name, **headers}, json=body)
    assert response.status_code == status, response.text
    return response


def log_line(server: Server, request_id: str) -> dict[str, Any]:
    """Return the line of a call."""
    lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    [line] = [line for line in lines if line["logger"] == "moodreel.calls" and line["request_id"] == request_id]
    return line


def milliseconds(span: "Span") -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6


def test_a_call_is_one_trace_and_its_stages_are_spans_inside_of_its_time(server, collector) -> None:
    from tests.support.trace_collector import attributes

    answer = call(server, "one", "/predict?model=moodreel-five", video_body(CLIP, thumbnail={"size": 120}))
    span = collector.call("one")
    assert (span.name, span.kind, span.parent_span_id) == ("POST /predict", span.SPAN_KIND_SERVER, b"")
    assert attributes(span) == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "moodreel.request_id": "one",
        "moodreel.model": "moodreel-five",
        "moodreel.video_seconds": answer.json()["duration"],
        "moodreel.frames": answer.json()["frames_analysed"],
    }
    stages = [each for each in collector.spans if each.parent_span_id == span.span_id]
    assert {each.trace_id for each in stages} == {span.trace_id}
    waiting = ["auth", "queue.requests", "body", "base64", "cache", "queue.analyses"]
    order = [*waiting, "decode", "people", "model", "encode", "send"]
    assert Counter(each.name for each in stages) == Counter([*order, "faces", "log", "log"])
    for each in stages:
        assert span.start_time_unix_nano <= each.start_time_unix_nano <= each.end_time_unix_nano
        assert each.end_time_unix_nano <= span.end_time_unix_nano
    # Faces are found beside the decoding of the next frames. What is one after the other must not overlap.
    by_name = collector.stages(span)
    for before, after in itertools.pairwise(order):
        assert by_name[before].end_time_unix_nano <= by_name[after].start_time_unix_nano
    assert by_name["decode"].start_time_unix_nano < by_name["faces"].start_time_unix_nano
    assert by_name["faces"].start_time_unix_nano < by_name["decode"].end_time_unix_nano
    # They say the same as the answer.
    timings = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["Server-Timing"]))
    for name in ("decode", "faces"):
        assert attributes(by_name[name])["moodreel.busy_ms"] == pytest.approx(float(timings[name]), abs=0.06)
    for name in ("model", "encode"):
        assert milliseconds(by_name[name]) == pytest.approx(float(timings[name]), abs=0.06)
    assert log_line(server, "one")["trace_id"] == span.trace_id.hex()
    resource = collector.resource
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("moodreel", "tests")
    assert resource["process.pid"] == server.workers[0].pid


def test_a_trace_of_the_caller_is_continued_and_a_failure_is_named(server, collector) -> None:
    from tests.support.trace_collector import attributes

    call(server, "broken", "/predict", video_body(b"\0\0\0\x18ftypmp42" + bytes(99)), status=422, **TRACEPARENT)
    span = collector.call("broken")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert attributes(span)["error.type"] == "video_corrupt"
    assert span.status.code == span.status.STATUS_CODE_UNSET  # the caller's error, not the service's
    call(server, "unsampled", "/api/text", {"text": "I am glad."}, traceparent=TRACEPARENT["traceparent"][:-1] + "0")
    assert "trace_id" not in log_line(server, "unsampled")


def test_a_job_is_in_the_trace_of_the_call_that_made_it(server, collector) -> None:
    answer = call(server, "job", "/predict", video_body(CLIP + b"\0"), 202, Prefer="respond-async", **TRACEPARENT)
    wait_until(lambda: server.call("GET", answer.headers["Location"]).status_code == 200)
    wait_until(lambda: any(span.kind == span.SPAN_KIND_CONSUMER for span in collector.spans))
    made, run = sorted(
        (span for span in collector.spans if span.trace_id.hex() == TRACE_ID and span.name == "POST /predict"),
        key=lambda span: span.start_time_unix_nano,
    )[-2:]
    assert made.parent_span_id.hex() == PARENT_ID
    assert (run.kind, run.parent_span_id) == (run.SPAN_KIND_CONSUMER, made.span_id)
    assert {"decode", "faces", "model"} <= collector.stages(run).keys()


def test_a_stream_ends_its_span_when_it_was_sent_and_the_model_gets_the_trace(server, collector) -> None:
    call(server, "stream", "/api/companion", ENTRY, **TRACEPARENT)
    span = collector.call("stream")
    assert server.llm.headers["traceparent"] == f"00-{TRACE_ID}-{span.span_id.hex()}-01"
    stages = collector.stages(span)
    assert stages["companion"].end_time_unix_nano <= stages["send"].start_time_unix_nano
    assert log_line(server, "stream")["trace_id"] == TRACE_ID


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_the_span_of_a_file_ends(server, collector, encoding: str) -> None:
    headers = {"x-request-id": f"file-{encoding}", "Accept-Encoding": encoding}
    assert server.call("GET", "/static/favicon.svg", headers=headers).status_code == 200
    assert collector.call(f"file-{encoding}").name == "GET /static/<path:filename>"


def test_each_message_of_a_websocket_is_a_trace_and_what_watches_the_service_makes_none(server, collector) -> None:
    from tests.support.trace_collector import attributes

    websocket = pytest.importorskip("websocket")
    connection = websocket.create_connection(
        server.url.replace("http", "ws") + "/api/ws", header=[f"x-api-key: {KEY}", "x-request-id: ws"], timeout=20
    )
    connection.send("I am glad.")
    while json.loads(connection.recv())["type"] != "emotion_classification":
        pass
    span = collector.call("ws")
    assert (span.name, span.parent_span_id, attributes(span)["http.response.status_code"]) == (
        "MESSAGE /api/ws",
        b"",
        200,
    )
    assert {"tokens", "language", "model"} <= collector.stages(span).keys()
    connection.close()
    assert not {"/health", "/ready", "/metrics"} & {attributes(each).get("http.route") for each in collector.spans}


def test_no_span_has_a_key_a_text_or_a_query_string(server, collector) -> None:
    call(server, "private", "/nowhere/a-secret-path?token=a-secret-token", {}, status=404)
    collector.call("private")
    sent = b"".join(collector.bodies)
    assert b"POST" in sent
    for secret in (KEY, "a-secret", ENTRY["text"], "I am glad", "model=moodreel-five", "127.0.0.1"):
        assert secret.encode() not in sent


def test_the_last_spans_are_sent_at_a_stop(tmp_path: Path, collector) -> None:
    settings = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces", "OTEL_SERVICE_NAME": "another"}
    with Server(tmp_path, WEB_CONCURRENCY=2, OTEL_BSP_SCHEDULE_DELAY=60_000, **settings) as server:
        names = [f"last-{number}" for number in range(20)]
        for name in names:
            call(server, name, "/predict", video_body(b"clip"))
        assert b"last-0" not in b"".join(collector.bodies)
        server.stop()
    assert {collector.call(name).name for name in names} == {"POST /predict"}
    assert collector.resource["service.name"] == "another"


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_a_collector_that_is_away_changes_no_answer_and_is_reported_once(tmp_path: Path, fault: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # never accepts
        port = listener.getsockname()[1] if fault == "hangs" else free_port()
        # Most of the spans find the queue full.
        queue = {"OTEL_BSP_MAX_QUEUE_SIZE": 64, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": 16}
        with Server(tmp_path, **QUICK, **queue, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}") as server:
            for number in range(30):
                answer = call(server, f"call-{number}", "/predict", video_body(b"clip"))
                assert answer.elapsed < timedelta(seconds=5)
            started = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - started < 10
    assert server.output.count("OpenTelemetry") == 1
    assert "Traceback" not in server.output


def test_without_the_extra_the_start_fails_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "api.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    settings = Settings(api_key=("k",), otel_exporter_otlp_endpoint="http://127.0.0.1:4318")
    with pytest.raises(SettingsError, match=r"needs OpenTelemetry: pip install -r requirements-extras.txt"):
        open_tracing(settings)


def test_a_variable_that_the_sdk_does_not_accept_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "5")
    with pytest.raises(SettingsError, match="OpenTelemetry does not accept its variables: max_export_batch_size"):
        open_tracing(Settings(api_key=("k",), otel_exporter_otlp_endpoint="http://127.0.0.1:4318"))


def test_a_header_that_cannot_be_parsed_is_reported_without_its_value(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, collector: "TraceCollector"
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Bearer a-secret-token")
    tracing = open_tracing(Settings(api_key=("k",), otel_exporter_otlp_endpoint=collector.url))
    assert tracing is not None
    tracing.stop()
    assert "Header format invalid" in caplog.text
    assert "a-secret" not in caplog.text


def test_the_doctor_says_whether_the_collector_takes_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: "TraceCollector"
) -> None:
    def finding(url: str) -> doctor.Finding:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)
        [only] = doctor.check_traces(Settings(api_key=("k",), otel_exporter_otlp_traces_endpoint=url))
        return only

    taken = finding(f"{collector.url}/v1/traces".replace("//", "//user:secret@"))
    assert (taken.level, taken.text) == (doctor.OK, f"the collector at {collector.url[7:]} takes them")
    wrong = finding(f"{collector.url}/elsewhere")
    assert wrong.level == doctor.WARN
    assert "404" in wrong.text
    assert "Connection refused" in finding(f"http://127.0.0.1:{free_port()}/v1/traces").text
    assert list(doctor.check_traces(Settings(api_key=("k",)))) == []
