"""API keys, dates, request headers, body limits and CORS over a real Gunicorn."""

import json
import re
import socket
import time
from collections.abc import Iterator

import pytest
import requests

from api import analysis_recorder
from tests.support.server import DATE, HEADERS, KEY, Server, video_body

pytestmark = pytest.mark.server

PROTECTED = [("POST", "/predict"), ("POST", "/thumbnail"), ("GET", "/logs")]
PUBLIC = ["/health", "/ready", "/metrics", "/openapi.json", "/docs", "/redoc"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("security")
    with Server(folder, API_KEY=f"{KEY},an-older-key,schlüssel", MAX_BODY_BYTES=4_000_000) as server:
        yield server


def predict(server: Server, headers: dict[str, str | bytes]) -> requests.Response:
    return requests.post(f"{server.url}/predict", headers=headers, json=video_body(b"clip"), timeout=30)


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    "key", [None, "", "wrong", KEY[:-1], KEY + "x", KEY.upper(), f"{KEY},an-older-key", "k" * 5000, "schl\xfcssel"]
)
def test_a_missing_or_wrong_key_is_rejected(server: Server, method: str, path: str, key: str | None) -> None:
    headers = {"date": DATE} | ({} if key is None else {"x-api-key": key.encode("latin-1")})
    response = requests.request(method, server.url + path, headers=headers, timeout=30)  # type: ignore[arg-type]
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert "x-api-key" in response.json()["detail"]
    assert response.headers["WWW-Authenticate"]


@pytest.mark.parametrize("key", [KEY, "an-older-key", "schlüssel"])
def test_each_configured_key_is_accepted(server: Server, key: str) -> None:
    assert predict(server, {"x-api-key": key.encode(), "date": DATE}).status_code == 200


@pytest.mark.parametrize("path", PUBLIC)
def test_public_routes_need_no_header(server: Server, path: str) -> None:
    assert requests.get(server.url + path, timeout=30).status_code == 200


def test_the_key_is_checked_before_everything_else(server: Server) -> None:
    response = requests.post(
        f"{server.url}/predict?detail=wrong",
        data="no json",
        headers={"date": "never", "x-request-id": "a b"},
        timeout=30,
    )
    assert response.status_code == 401


@pytest.mark.parametrize(
    "date",
    [
        "2025-08-16T12:34:56Z",
        "2025-08-16T12:34:56.789Z",
        "2025-08-16T12:34:56+02:00",
        "2025-08-16T12:34Z",
        "20250816T123456Z",
        "Sat, 16 Aug 2025 12:34:56 GMT",
        "Sat, 16 Aug 2025 12:34:56 +0200",
    ],
)
def test_both_date_formats_are_accepted(server: Server, date: str) -> None:
    assert predict(server, {"x-api-key": KEY, "date": date}).status_code == 200


@pytest.mark.parametrize(
    "date",
    [
        None,
        "",
        "yesterday",
        "2025-08-16",
        "2025-08-16T12:34:56",
        "2025-13-16T12:34:56Z",
        "2025-08-16T25:00:00Z",
        "1755347696",
        "Sat, 16 Aug 2025 12:34:56",
        "Sat, 16 Aug 2025 25:34:56 GMT",
        "Sat, 36 Aug 2025 12:34:56 GMT",
        f"{DATE}, {DATE}",
    ],
)
def test_an_invalid_date_is_rejected(server: Server, date: str | None) -> None:
    response = predict(server, {"x-api-key": KEY} | ({} if date is None else {"date": date}))
    assert (response.status_code, response.json()["code"]) == (400, "bad_date")


def test_x_date_replaces_date_for_browsers(server: Server) -> None:
    assert predict(server, {"x-api-key": KEY, "x-date": DATE}).status_code == 200


@pytest.mark.parametrize("client_id", ["ios/2.1 (iPhone)", "x" * 128, "Müller"])
def test_a_client_id_is_recorded(server: Server, client_id: str) -> None:
    predict(server, {**HEADERS, "x-client-id": client_id.encode()})
    assert server.log_rows(client_id=client_id)[0]["endpoint"] == "/predict"


@pytest.mark.parametrize("client_id", [b"x" * 129, b"tab\there", b"\xff\xfe", b"\xc2\x85"])
def test_a_malformed_client_id_is_rejected(server: Server, client_id: bytes) -> None:
    response = predict(server, {**HEADERS, "x-client-id": client_id})
    assert (response.status_code, response.json()["code"]) == (400, "bad_header")
    assert "x-client-id" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/predict", "/health", "/nowhere"])
def test_a_request_id_is_echoed(server: Server, path: str) -> None:
    response = requests.get(server.url + path, headers={"x-request-id": "my-id-7"}, timeout=30)
    assert response.headers["x-request-id"] == "my-id-7"
    assert server.log_rows(request_id="my-id-7")


def test_a_request_id_is_generated_if_absent(server: Server) -> None:
    generated = {predict(server, {}).headers["x-request-id"] for _ in range(3)}
    assert len(generated) == 3
    response = predict(server, {})
    assert response.json()["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("request_id", ["x" * 129, "two words", "\xe9"])
def test_a_malformed_request_id_is_rejected_with_a_generated_one(server: Server, request_id: str) -> None:
    response = predict(server, {**HEADERS, "x-request-id": request_id.encode("latin-1")})
    assert (response.status_code, response.json()["code"]) == (400, "bad_header")
    assert response.headers["x-request-id"] not in ("", request_id)


class RawConnection:
    """A connection on which tests send raw HTTP."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self.file = self.socket.makefile("rb")

    def send(self, *lines: str, body: bytes = b"") -> None:
        self.socket.sendall("\r\n".join([*lines, "Host: here", "", ""]).encode() + body)

    def receive(self) -> tuple[int, dict]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, json.loads(self.file.read(int(headers["content-length"])))

    def is_closed(self) -> bool:
        try:
            return self.file.read(1) == b""
        except ConnectionError:
            return True


@pytest.mark.parametrize("length", [1_000, 3_000_000, 10**12])
def test_an_unauthenticated_client_is_rejected_before_the_body_arrives(server: Server, length: int) -> None:
    connection = RawConnection(server)
    connection.send("POST /predict HTTP/1.1", f"Content-Length: {length}")
    assert connection.receive()[0] == 401
    assert connection.is_closed()


def test_the_unread_body_of_an_unauthenticated_client_is_limited_in_size(server: Server) -> None:
    connection = RawConnection(server)
    connection.send("POST /predict HTTP/1.1", f"Content-Length: {10**12}")
    assert connection.receive()[0] == 401
    sent, piece = 0, b"x" * 65536
    with pytest.raises(OSError):
        while sent < 10**9:
            sent += connection.socket.send(piece)
    assert sent < 200_000_000


def test_a_slow_body_of_an_unauthenticated_client_is_limited_in_time(server: Server) -> None:
    connection = RawConnection(server)
    connection.send("POST /predict HTTP/1.1", f"Content-Length: {10**6}")
    assert connection.receive()[0] == 401
    with pytest.raises(OSError):
        for _ in range(100):
            connection.socket.send(b"x")
            time.sleep(0.2)


def test_unauthenticated_clients_with_incomplete_bodies_do_not_delay_others(server: Server) -> None:
    connections = [RawConnection(server) for _ in range(30)]
    for connection in connections:
        connection.send("POST /predict HTTP/1.1", "Content-Length: 1000000", body=b"x" * 1000)
    assert predict(server, HEADERS).status_code == 200  # type: ignore[arg-type]
    assert {connection.receive()[0] for connection in connections} == {401}


def test_a_malformed_chunked_body_is_rejected(server: Server) -> None:
    connection = RawConnection(server)
    headers = [f"{name}: {value}" for name, value in HEADERS.items()]
    connection.send("POST /predict HTTP/1.1", *headers, "Transfer-Encoding: chunked", body=b"ZZZ\r\n{}\r\n0\r\n\r\n")
    status, answer = connection.receive()
    assert (status, answer["code"]) == (400, "bad_json")


def test_a_rejected_client_that_sent_its_whole_body_may_reuse_the_connection(server: Server) -> None:
    with requests.Session() as session:
        for _ in range(5):
            rejected = session.post(f"{server.url}/predict", data=b"x" * 2_000_000, timeout=30)
            assert (rejected.status_code, rejected.json()["code"]) == (401, "unauthorized")
            answered = session.post(f"{server.url}/predict", json=video_body(b"clip"), headers=HEADERS, timeout=30)
            assert answered.json()["emotion"] == "Happy"


def test_a_rejected_body_is_not_parsed_as_the_next_request(server: Server) -> None:
    smuggled = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"
    connection = RawConnection(server)
    connection.send("POST /predict HTTP/1.1", f"Content-Length: {len(smuggled)}", body=smuggled)
    assert connection.receive()[0] == 401
    connection.send("GET /ready HTTP/1.1")
    assert connection.receive() == (200, {"status": "ready", "prior": "diary"})


@pytest.mark.parametrize("megabytes", [5, 7])
def test_a_too_large_body_is_rejected_by_its_content_length(server: Server, megabytes: int) -> None:
    response = requests.post(f"{server.url}/predict", data=b"x" * (megabytes * 1_000_000), headers=HEADERS, timeout=30)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert server.log_rows(request_id=response.headers["x-request-id"])[0]["bytes_in"] == 0


def test_a_too_large_chunked_body_is_rejected_while_it_is_read(server: Server) -> None:
    pieces = (b"x" * 100_000 for _ in range(60))
    response = requests.post(f"{server.url}/predict", data=pieces, headers=HEADERS, timeout=30)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


def test_the_rate_limit_is_shared_by_all_workers(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Server(tmp_path_factory.mktemp("limited"), API_KEY=f"{KEY},other", RATE_LIMIT=5) as server:
        responses = [predict(server, HEADERS) for _ in range(8)]  # type: ignore[arg-type]
        assert [response.status_code for response in responses] == [200] * 5 + [429] * 3
        assert responses[-1].json()["code"] == "rate_limited"
        assert 1 <= int(responses[-1].headers["Retry-After"]) <= 61
        quotas = [re.fullmatch(r'"calls";r=(\d+);t=(\d+)', response.headers["RateLimit"]) for response in responses]
        assert [int(quota[1]) for quota in quotas if quota] == [4, 3, 2, 1, 0, 0, 0, 0]
        assert all(1 <= int(quota[2]) <= 61 for quota in quotas if quota)
        assert {response.headers["RateLimit-Policy"] for response in responses} == {'"calls";q=5;w=60'}
        assert predict(server, {**HEADERS, "x-api-key": "other"}).status_code == 200
        assert requests.get(f"{server.url}/health", timeout=30).status_code == 200


def test_no_header_changes_the_path(server: Server) -> None:
    headers = {"SCRIPT_NAME": "/x"}
    assert requests.get(f"{server.url}/health", headers=headers, timeout=30).status_code == 200
    assert requests.get(f"{server.url}/x/metrics", headers=headers, timeout=30).status_code == 404


ORIGIN = "https://app.example"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "x-api-key,x-date,content-type",
}


@pytest.fixture(scope="module")
def cors_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("cors"), CORS_ORIGINS=f"{ORIGIN},http://localhost:3000") as server:
        yield server


class TestCors:
    def test_a_preflight_needs_no_key(self, cors_server: Server) -> None:
        response = requests.options(f"{cors_server.url}/predict", headers=PREFLIGHT, timeout=30)
        assert response.status_code == 204
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        allowed = response.headers["Access-Control-Allow-Headers"].replace(" ", "").split(",")
        assert {"x-api-key", "x-date", "x-client-id", "x-request-id", "content-type"} <= set(allowed)
        assert {"traceparent", "tracestate"} <= set(allowed), "a page can continue its trace (docs/operate.md)"
        assert {"range", "if-range", "if-none-match"} <= set(allowed), "a page can keep loops of the history"

    @pytest.mark.parametrize("headers", [HEADERS, {}])
    def test_listed_origins_can_read_answers_and_rejections(self, cors_server: Server, headers: dict[str, str]) -> None:
        response = predict(cors_server, {**headers, "Origin": ORIGIN})
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"x-request-id", *(name.lower() for name in analysis_recorder.HEADERS)} <= set(exposed)
        assert {"etag", "content-range", "accept-ranges"} <= set(exposed)
        assert "Origin" in response.headers["Vary"]

    def test_other_origins_get_no_cors_headers(self, cors_server: Server) -> None:
        headers = {**PREFLIGHT, "Origin": "https://evil.example"}
        assert (
            "Access-Control-Allow-Origin" not in requests.options(cors_server.url, headers=headers, timeout=30).headers
        )

    def test_cors_is_off_by_default(self, server: Server) -> None:
        response = predict(server, {**HEADERS, "Origin": ORIGIN})
        assert "Access-Control-Allow-Origin" not in response.headers
