"""/api/ws with real clients and a real server: authentication, answers and rejections."""

import contextlib
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.support import accounts
from tests.support.server import KEY, Server, wait_until
from tests.support.websocket_client import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    RawWebSocketClient,
    WebSocketClient,
    encode_frame,
    wait_for_count,
)

pytestmark = pytest.mark.server

UNAUTHENTICATED, FORBIDDEN, POLICY, TOO_BIG, TRY_LATER = 4001, 4003, 1008, 1009, 1013
ORIGIN, OTHER_ORIGIN = "https://app.example", "https://evil.example"
SECRET_TEXT = "a text that must not be stored anywhere"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("socket")
    with Server(folder, CORS_ORIGINS=ORIGIN, HISTORY="on", **accounts.environment(folder)) as server:
        yield server


def cookie(name: str = "access_token", **claims: Any) -> str:
    return f"{name}={accounts.own_token(**claims)}"


def headers_of(**headers: str) -> dict[str, Any]:
    return {"header": headers}


# --- authentication ---


@pytest.mark.parametrize(
    "credentials",
    [
        {"cookie": cookie()},
        {"cookie": cookie("token")},
        {"cookie": f"token={accounts.openid_token()}"},
        headers_of(Authorization=f"Bearer {accounts.own_token()}"),
        headers_of(**{"x-api-key": KEY}),
    ],
    ids=["access_token", "token", "token of the provider", "bearer", "API key"],
)
def test_an_authenticated_client_gets_the_connection_count_and_answers(
    server: Server, credentials: dict[str, Any]
) -> None:
    with WebSocketClient(server, **credentials) as client:
        update = client.receive()
        assert update["type"] == "connection_update"
        assert update["active_connections"] >= 1
        assert update["time"].endswith("Z")
        assert update["timestamp"] == datetime.fromisoformat(update["time"]).timestamp()
        answer = client.request("What a day!")
        assert (answer["type"], answer["label"], answer["score"]) == ("emotion_classification", "joy", 0.94)
        assert answer["scores"]["joy"] == 0.94
        assert answer["language_supported"] is True


@pytest.mark.parametrize(
    "credentials",
    [
        {"cookie": "access_token=none"},
        {"cookie": cookie(iss="https://evil.example")},
        {"cookie": cookie(iat=int(time.time()) - 999, exp=int(time.time()) - 99)},
        headers_of(**{"x-api-key": "wrong"}),
        headers_of(Authorization="Bearer none"),
    ],
    ids=["invalid token", "other issuer", "expired token", "wrong API key", "invalid bearer token"],
)
def test_an_unauthenticated_client_is_closed_with_4001_before_any_message(
    server: Server, credentials: dict[str, Any]
) -> None:
    wait_for_count(server, 0)
    with WebSocketClient(server, **credentials) as client:
        opcode, data = client.socket.recv_data()
        assert (opcode, int.from_bytes(data[:2], "big")) == (8, UNAUTHENTICATED)
        assert data[2:].decode().endswith(".")
        wait_for_count(server, 0)


@pytest.mark.parametrize("credentials", [{"api_key": KEY}, {"token": accounts.own_token(userId="first message")}])
def test_a_page_signs_in_by_its_first_message(server: Server, credentials: dict[str, str]) -> None:
    [kind] = credentials
    with WebSocketClient(server, header={"x-request-id": f"first-{kind}"}, origin=OTHER_ORIGIN) as client:
        client.socket.send(json.dumps(credentials))
        assert client.receive()["type"] == "connection_update"
        assert client.request("What a day!")["label"] == "joy"
        assert ("history_id" in client.request("What a day!")) is ("token" in credentials)
        client.socket.close()
    wait_for_count(server, 0)
    rows = server.log_rows(request_id=f"first-{kind}")
    assert {row["caller"].partition("-")[0] for row in rows} == {"user" if "token" in credentials else "key"}
    assert KEY not in json.dumps(rows)


@pytest.mark.parametrize("headers", [{"Authorization": "Basic dXNlcjpwYXNzd29yZA=="}, {"x-api-key": ""}])
def test_a_page_signs_in_behind_a_proxy_that_asks_for_a_password(server: Server, headers: dict[str, str]) -> None:
    with WebSocketClient(server, header=headers) as client:
        client.socket.send(json.dumps({"api_key": KEY}))
        assert client.receive()["type"] == "connection_update"


def test_a_token_may_be_longer_than_a_message(tmp_path: Path) -> None:
    with (
        Server(tmp_path, SOCKET_MESSAGE_BYTES=200, **accounts.environment(tmp_path)) as server,
        WebSocketClient(server, header={}) as client,
    ):
        client.socket.send(json.dumps({"token": accounts.own_token()}))
        assert client.receive()["type"] == "connection_update"
        client.socket.send("a" * 201)
        assert client.wait_for_close()[0] == TOO_BIG


@pytest.mark.parametrize("claims", [{}, {"iat": int(time.time()) - 999, "exp": int(time.time()) - 99}])
def test_a_page_may_sign_in_by_its_first_message_in_spite_of_its_cookie(server: Server, claims: dict[str, int]) -> None:
    with WebSocketClient(server, path="/api/ws?auth=message", cookie=cookie(**claims)) as client:
        client.socket.send(json.dumps({"api_key": KEY}))
        assert client.receive()["type"] == "connection_update"
        assert "history_id" not in client.request("What a day!")
    with WebSocketClient(server, path="/api/ws?auth=message", cookie=cookie()) as client:
        client.socket.send("What a day!")
        assert client.wait_for_close()[0] == UNAUTHENTICATED


@pytest.mark.parametrize(
    "message",
    [
        '{"api_key": "wrong"}',
        '{"token": "none"}',
        "What a day!",
        "{}",
        "[1]",
        '{"text": "hello"}',
        '{"api_key": ["a"]}',
    ],
)
def test_a_first_message_without_valid_credentials_is_refused(server: Server, message: str) -> None:
    with WebSocketClient(server, header={}) as client:
        client.socket.send(message)
        opcode, data = client.socket.recv_data()
        assert (opcode, int.from_bytes(data[:2], "big")) == (8, UNAUTHENTICATED)


def test_a_wrong_key_in_the_first_message_is_told_so(server: Server) -> None:
    with WebSocketClient(server, header={}) as client:
        client.socket.send('{"api_key": "wrong"}')
        code, reason = client.wait_for_close()
    assert (code, reason.split(":")[0]) == (UNAUTHENTICATED, "This service has no such API key")


def test_a_client_that_does_not_sign_in_is_closed_within_seconds(server: Server) -> None:
    start = time.monotonic()
    with WebSocketClient(server, header={"x-request-id": "silent"}) as client:
        assert client.wait_for_close() == (
            UNAUTHENTICATED,
            'Send {"token": "…"} or {"api_key": "…"} as the first message, within 5 seconds.',
        )
    assert 4 < time.monotonic() - start < 15
    wait_until(lambda: [row["status_code"] for row in server.log_rows(request_id="silent")] == [401])


@pytest.mark.parametrize(
    ("origin", "code"), [(OTHER_ORIGIN, FORBIDDEN), ("null", FORBIDDEN), (ORIGIN, None), (None, None)]
)
def test_only_same_and_listed_origins_connect_with_a_cookie(
    server: Server, origin: str | None, code: int | None
) -> None:
    options = {"suppress_origin": True} if origin is None else {"origin": origin}
    with WebSocketClient(server, cookie=cookie(), **options) as client:
        if code is None:
            assert client.receive()["type"] == "connection_update"
        else:
            assert client.wait_for_close()[0] == code


def test_an_api_key_is_accepted_from_any_origin(server: Server) -> None:
    with WebSocketClient(server, origin=OTHER_ORIGIN) as client:
        assert client.receive()["type"] == "connection_update"


def test_an_expiring_token_ends_the_connection(server: Server) -> None:
    now = int(time.time())
    # Tokens are accepted for 30 s after their expiry.
    with WebSocketClient(server, cookie=cookie(iat=now - 999, exp=now - 28)) as client:
        assert client.receive()["type"] == "connection_update"
        assert client.wait_for_close() == (UNAUTHENTICATED, "The token has expired. Sign in again.")


def test_a_connection_over_the_user_limit_is_closed_with_1013(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, MAX_SOCKETS_PER_USER=2, **accounts.environment(tmp_path)) as server:
        clients = [WebSocketClient(server, cookie=cookie()) for _ in range(3)]
        for client in clients[:2]:
            assert client.receive()["type"] == "connection_update"
        assert clients[2].wait_for_close()[0] == TRY_LATER
        with WebSocketClient(server, cookie=cookie(userId="43")) as other_user:
            assert other_user.receive()["type"] == "connection_update"
        clients[0].socket.close()
        wait_for_count(server, 1)
        with WebSocketClient(server, cookie=cookie()) as again:
            assert again.receive()["type"] == "connection_update"
        for client in clients:
            client.socket.shutdown()


# --- answers ---


def test_a_text_may_be_sent_plain_or_as_json(server: Server) -> None:
    with WebSocketClient(server) as client:
        for text in ("{smiles} hello", '{"text": "hello"}', ' {"text": "hi", "other": 1}', "[1]", '"quoted"', "null"):
            assert client.request(text)["type"] == "emotion_classification"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('{"words": "hello"}', "invalid_request"),
        ('{"text": 5}', "invalid_request"),
        ('{"text": "a", "text": "b"}', "invalid_request"),
        ("", "text_empty"),
        ('{"text": ""}', "text_empty"),
        ("raise TextTooLong", "text_too_long"),
        ("raise Overloaded", "overloaded"),
        ("crash", "internal"),
    ],
)
def test_an_error_is_reported_and_the_connection_stays_open(server: Server, message: str, code: str) -> None:
    with WebSocketClient(server) as client:
        error = client.request(message)
        assert (error["type"], error["code"]) == ("error", code)
        assert error["message"].endswith(".")
        assert "secret" not in str(error)
        assert client.request("hello")["label"] == "joy"


def test_a_binary_message_is_rejected(server: Server) -> None:
    with WebSocketClient(server) as client:
        client.socket.send_binary(b"hello")
        assert client.receive("error")["code"] == "unsupported_media"


def test_a_fragmented_message_is_assembled(server: Server) -> None:
    with RawWebSocketClient(server) as raw:
        raw.handshake_response()
        raw.send(
            encode_frame(TEXT, b'{"te', final=False),
            encode_frame(PING, b"?"),
            encode_frame(CONTINUATION, b'xt": "hi"}'),
        )
        received = b""
        while b"joy" not in received:
            received += raw.socket.recv(4096)
        assert b"\x8a\x01?" in received  # the pong


def test_the_connection_and_each_message_are_logged_without_the_text(server: Server) -> None:
    with WebSocketClient(
        server, header={"x-api-key": KEY, "x-request-id": "logged", "x-client-id": "diary app"}
    ) as client:
        client.request(SECRET_TEXT)
        client.request("crash")
        [opened] = server.log_rows(request_id="logged", endpoint="/api/ws")[-1:]
        assert (opened["method"], opened["status_code"]) == ("GET", None)
        time.sleep(0.3)
        client.socket.close()
        wait_for_row(server, "logged")
    crashed, answered, connection = server.log_rows(request_id="logged")
    assert (connection["method"], connection["status_code"], connection["success"]) == ("GET", 101, True)
    assert connection["latency_ms"] >= 300
    assert (answered["method"], answered["status_code"]) == ("MESSAGE", 200)
    assert (answered["prediction"], answered["confidence"], answered["bytes_in"]) == ("joy", 0.94, len(SECRET_TEXT))
    assert (crashed["method"], crashed["status_code"], crashed["error"]) == ("MESSAGE", 500, "internal")
    assert {row["client_id"] for row in (connection, answered)} == {"diary app"}
    stored = b"".join(path.read_bytes() for path in server.folder.rglob("*") if path.is_file())
    assert SECRET_TEXT.encode() not in stored


def wait_for_row(server: Server, request_id: str) -> dict[str, Any]:
    """Wait until a connection's row is closed."""
    wait_until(lambda: server.log_rows(request_id=request_id)[-1]["status_code"] is not None)
    return server.log_rows(request_id=request_id)[-1]


def test_a_rejected_connection_is_logged(server: Server) -> None:
    with WebSocketClient(server, header={"x-request-id": "rejected"}) as client:
        client.wait_for_close()
    row = wait_for_row(server, "rejected")
    assert (row["status_code"], row["success"], row["error"]) == (401, False, "unauthorized")


def test_sockets_have_their_own_metrics_and_are_not_counted_as_slow_calls(server: Server) -> None:
    with WebSocketClient(server) as client:
        client.request("hello")
        lines = server.call("GET", "/metrics").text.splitlines()
        assert "moodreel_sockets 1.0" in lines
        assert "moodreel_requests_in_flight 1.0" in lines
        assert any(line.startswith('moodreel_socket_messages_total{outcome="ok"}') for line in lines)
    wait_for_count(server, 0)
    lines = server.call("GET", "/metrics").text.splitlines()
    assert "moodreel_sockets 0.0" in lines
    assert any(line.startswith('moodreel_requests_total{endpoint="/api/ws",status="101"}') for line in lines)
    assert not any("moodreel_request_seconds" in line and "/api/ws" in line for line in lines)


# --- rejections ---


def test_a_message_that_is_too_long_ends_the_connection(server: Server) -> None:
    with WebSocketClient(server) as client:
        assert client.request("x" * 16_384)["label"] == "joy"
        client.socket.send("x" * 16_385)
        assert client.wait_for_close()[0] == TOO_BIG


def test_a_client_over_the_message_rate_gets_an_error_and_is_then_closed(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, SOCKET_MESSAGES_PER_MINUTE=2) as server, WebSocketClient(server) as client:
        assert [client.request("hello")["type"] for _ in range(2)] == ["emotion_classification"] * 2
        error = client.request("hello")
        assert (error["type"], error["code"]) == ("error", "rate_limited")
        client.socket.send("hello")
        for _ in range(30):
            client.socket.sock.sendall(encode_frame(TEXT, b"hello"))
        assert client.wait_for_close()[0] == POLICY
        # A message rejected by the rate limit is not logged.
        assert len(server.log_rows(endpoint="/api/ws")) == 3


def test_the_callers_rate_limit_counts_messages_as_calls(tmp_path: Path) -> None:
    with Server(tmp_path, RATE_LIMIT=3, **accounts.environment(tmp_path)) as server:
        with WebSocketClient(server, cookie=cookie()) as client:
            assert [client.request("hello").get("code") for _ in range(3)] == [None, None, "rate_limited"]
        with WebSocketClient(server, cookie=cookie()) as again:
            assert again.wait_for_close()[0] == TRY_LATER
        with WebSocketClient(server, cookie=cookie(userId="43")) as other_user:
            assert other_user.request("hello")["label"] == "joy"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([encode_frame(TEXT, b"hello", masked=False)], 1002),
        ([encode_frame(TEXT, b"\xff\xfe")], 1007),
        ([encode_frame(3, b"reserved")], 1002),
        ([encode_frame(CONTINUATION, b"of nothing")], 1002),
        ([encode_frame(PING, b"x" * 126)], 1002),
        ([encode_frame(8, b"\x00")], 1002),
        ([b"\xc1\x80" + bytes(4)], 1002),
        ([encode_frame(PING)] * 2000, POLICY),
        ([encode_frame(TEXT, final=False)] + [encode_frame(CONTINUATION, final=False)] * 2000, POLICY),
        ([encode_frame(BINARY, b"x" * 10_000, final=False), encode_frame(CONTINUATION, b"x" * 10_000)], TOO_BIG),
        ([b"\x81\xff" + (1 << 62).to_bytes(8, "big") + bytes(4) + b"x" * 20_000], TOO_BIG),
    ],
    ids=lambda value: value if isinstance(value, int) else value[0][:8].hex(),
)
def test_invalid_frames_end_the_connection_with_their_close_code(
    server: Server, frames: list[bytes], code: int
) -> None:
    with RawWebSocketClient(server) as raw:
        assert raw.handshake_response().startswith(b"HTTP/1.1 101")
        with contextlib.suppress(OSError):
            raw.send(*frames)
        assert raw.close_code() == code


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": None},
        {"Sec-WebSocket-Version": "8"},
        {"Sec-WebSocket-Version": None},
        {"Sec-WebSocket-Key": None},
        {"Sec-WebSocket-Key": "short"},
        {"Content-Length": "5"},
        {"Sec-WebSocket-Protocol": "\u00e4 b, ,"},
    ],
    ids=lambda headers: " ".join(f"{name}={value}" for name, value in headers.items()),
)
def test_a_malformed_handshake_is_rejected_with_426(server: Server, headers: dict[str, Any]) -> None:
    with RawWebSocketClient(server, **headers) as raw:
        answer = raw.handshake_response()
        assert answer.startswith(b"HTTP/1.1 426"), answer
        assert b"Upgrade: websocket" in answer


def test_a_plain_http_request_gets_426_with_the_upgrade_header(server: Server) -> None:
    answer = server.call("GET", "/api/ws", headers={})
    assert (answer.status_code, answer.json()["code"]) == (426, "upgrade_required")
    assert (answer.headers["Upgrade"], answer.headers["Sec-WebSocket-Version"]) == ("websocket", "13")
    assert server.call("POST", "/api/ws").status_code == 405


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"x-api-key": KEY}], ids=str)
def test_anybody_may_read_the_connection_count(server: Server, headers: dict[str, str]) -> None:
    answer = server.call("GET", "/api/connections/count", headers=headers).json()
    assert set(answer) == {"active_connections", "timestamp", "time"}
    assert answer["timestamp"] == answer["time"]


def test_a_private_connection_count_requires_authentication(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, CONNECTIONS_COUNT="private") as server:
        assert server.call("GET", "/api/connections/count", headers={}).status_code == 401
        assert server.call("GET", "/api/connections/count").json()["active_connections"] == 0


def test_compression_is_not_negotiated(server: Server) -> None:
    with RawWebSocketClient(
        server, **{"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    ) as raw:
        assert b"Extensions" not in raw.handshake_response()


def test_messages_of_a_signed_in_user_are_stored_in_the_history_without_the_text(server: Server) -> None:
    signed_in = {"Authorization": f"Bearer {accounts.own_token(userId='writer')}"}
    with WebSocketClient(server, header=signed_in) as client:
        answers = [client.request(text) for text in (SECRET_TEXT, "another one")]
        assert "history_id" not in client.request('{"text": "not finished", "history": false}')
        assert client.request('{"text": "yes", "history": "no"}')["code"] == "invalid_request"
    entries = server.call("GET", "/api/history", headers=signed_in).json()["entries"]
    assert [entry["id"] for entry in entries] == [answer["history_id"] for answer in reversed(answers)]
    assert {(entry["kind"], entry["emotion"], entry["mood"]) for entry in entries} == {("text", "joy", "Happy")}
    assert SECRET_TEXT not in json.dumps(entries)
    with WebSocketClient(server) as api_key_client:
        assert "history_id" not in api_key_client.request(SECRET_TEXT)


def test_the_client_may_disconnect_at_any_time(server: Server) -> None:
    for _ in range(5):
        WebSocketClient(server).socket.sock.close()
        RawWebSocketClient(server).socket.close()
    client = websocket.create_connection(server.url.replace("http", "ws") + "/api/ws", header={"x-api-key": KEY})
    client.close()
    wait_for_count(server, 0)


def test_a_client_that_leaves_during_the_handshake_is_no_error_of_the_server(server: Server) -> None:
    reset = struct.pack("ii", 1, 0)
    for _ in range(100):
        with RawWebSocketClient(server, **{"x-request-id": "gone"}) as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)

    def statuses() -> Counter[int | None]:
        return Counter(row["status_code"] for row in server.log_rows(request_id="gone"))

    wait_until(lambda: (found := statuses()).total() == 100 and None not in found, statuses)
    assert statuses() == {101: 100}
