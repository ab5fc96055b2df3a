"""Live video over Socket.IO on a real Gunicorn with two workers."""

import base64
import signal
import socket
import struct
import time
from contextlib import contextmanager, suppress
from unittest.mock import MagicMock

import pytest
import requests
import socketio
import websocket
from flask import Flask

from api.auth.authentication import Caller
from api.socketio.handshake import POLLING_MESSAGE
from api.socketio.session import SocketIOSession
from moodreel.live.messages import LiveFrame, LiveResult
from tests.support import accounts, synthetic_frames, synthetic_image
from tests.support.server import HEADERS, KEY, REAL_APP, Server, wait_until

pytestmark = pytest.mark.server

NAMESPACE = "/emotion-detection"
FRAME = synthetic_image.encode_image(synthetic_frames.face_frames(1, 640, 360)[0], quality=80)
EVENTS = ("status", "detection_result", "performance_suggestion", "error_message")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    settings = {**accounts.environment(folder), "CORS_ORIGINS": "https://app.example", "MAX_LIVE_FRAME_BYTES": 100_000}
    with Server(folder, REAL_APP, forked=True, **settings) as server:
        yield server


class Client:
    """A client that records the events it receives."""

    def __init__(self, origin=None):
        self.received = {event: [] for event in (*EVENTS, "connect_error")}
        self.socket = socketio.Client(reconnection=False, websocket_extra_options={"origin": origin} if origin else {})
        for event, received in self.received.items():
            self.socket.on(event, received.append, namespace=NAMESPACE)

    def connect(self, server, auth, headers=None):
        self.socket.connect(
            server.url,
            headers=headers or {},
            auth=auth,
            namespaces=[NAMESPACE],
            transports=["websocket"],
            wait_timeout=30,
        )

    def emit(self, event, *data):
        self.socket.emit(event, data, namespace=NAMESPACE)

    def wait(self, event, count=1):
        wait_until(lambda: len(self.received[event]) >= count, lambda: self.received)
        return self.received[event]

    def start(self, **settings):
        self.emit("initialize", settings)
        self.emit("control", {"action": "start"})
        wait_until(lambda: self.states and self.states[-1] == "running", lambda: self.received)

    @property
    def states(self):
        return [status["state"] for status in self.received["status"]]


@contextmanager
def connected(server, auth=None, headers=None, origin=None):
    client = Client(origin)
    client.connect(server, {"api_key": KEY} if auth is None else auth, headers)
    try:
        yield client
    finally:
        client.socket.disconnect()


def connect_error(server, auth, headers=None, origin=None):
    """Try to connect; return the error the client receives."""
    client = Client(origin)
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(server, auth, headers)
    client.socket.disconnect()
    received = client.received["connect_error"]
    return received[0]["data"] if received and isinstance(received[0], dict) else None


def sessions(server):
    return [row for row in server.log_rows(endpoint=NAMESPACE) if row["status_code"] is not None]


def test_a_session_gets_results_and_is_logged_at_its_end(server):
    before = len(sessions(server))
    with connected(server) as client:
        [status] = client.wait("status")
        assert status["state"] == "connected"
        assert "moodreel-five" in status["models"]
        client.start(faces="largest", smoothing=0, explain=True)
        client.emit("video_frame", {"frame": FRAME, "sequence": 1, "time": 100.5})
        first = client.wait("detection_result")[0]
        assert (first["sequence"], first["time"], first["width"], first["height"]) == (1, 100.5, 640, 360)
        [face] = first["faces"]
        assert face["emotion"] == "Happy"
        assert face["confidence"] == max(face["probabilities"].values())
        assert face["movements"][0]["name"] == "lip corners up"
        assert "lip corners up" in face["explanation"]["text"]
        for number, frame in enumerate(
            (base64.b64encode(FRAME).decode(), "data:image/jpeg;base64," + base64.b64encode(FRAME).decode())
        ):
            client.emit("video_frame", {"frame": frame, "sequence": 2 + number})
            client.wait("detection_result", 2 + number)
        results = client.received["detection_result"]
        assert [result["sequence"] for result in results] == [1, 2, 3]
        assert [result["latency_ms"] for result in results] == [result["server_ms"] for result in results]
        assert results[0]["fps"] == 0 < results[2]["fps"]
        assert {result["faces"][0]["id"] for result in client.received["detection_result"]} == {0}
        client.emit("control", {"action": "stop"})
        wait_until(lambda: client.states[-1] == "stopped")
        assert client.received["error_message"] == []
        session = status["session"]
    wait_until(lambda: len(sessions(server)) > before)
    [row] = [row for row in sessions(server) if row["request_id"] == session]
    assert (row["status_code"], row["frames"], row["prediction"], row["error"]) == (101, 3, "Happy", None)
    assert row["latency_ms"] > 0
    assert row["video_seconds"] > 0


def test_a_pause_does_not_count_in_the_frame_rate():
    rates = []
    with Flask("app").test_request_context():
        session = SocketIOSession(
            MagicMock(),
            Caller("key"),
            MagicMock(backlog=0),
            MagicMock(),
            lambda event, data: rates.append(data["fps"]) if event == "detection_result" else None,
        )

    def answer():
        session.on_event(LiveResult(LiveFrame(b"", 0), (), 640, 360, 640, 30, 1, 1, 0, "moodreel-five"))

    session.control("start", {})
    answer()
    session.control("stop", {})
    answer()  # to the frame that was analysed at the stop
    time.sleep(0.05)
    session.control("start", {})
    answer()
    session.close()
    assert rates[2] == 0, "it is the first result"


def test_the_defaults_apply_before_initialize_and_frames_are_rejected_before_start(server):
    with connected(server) as client:
        client.emit("video_frame", {"frame": FRAME})
        assert client.wait("error_message")[0]["code"] == "not_started"
        client.emit("control", {"action": "start"})
        client.wait("status", 2)
        client.emit("video_frame", {"frame": FRAME})
        assert client.wait("detection_result")[0]["sequence"] is None
        assert client.received["status"][0]["settings"]["frame_rate"] == 15


def test_settings_can_change_while_running(server):
    with connected(server) as client:
        client.start(faces="all")
        client.emit("control", {"action": "configure", "settings": {"model": "face-expression", "frame_rate": 30}})
        client.wait("status", 4)
        assert client.received["status"][-1]["state"] == "running"
        assert client.received["status"][-1]["settings"]["faces"] == "all"
        client.emit("video_frame", {"frame": FRAME})
        result = client.wait("detection_result")[0]
        assert (result["faces"][0]["emotion"], result["model"]) == ("happy", "face-expression")


INVALID_EVENTS = {
    "unknown event": ("sing", {}),
    "settings are a string": ("initialize", "all"),
    "unknown setting": ("initialize", {"colour": "red"}),
    "unknown choice": ("initialize", {"faces": "some"}),
    "too many faces": ("initialize", {"max_faces": 99}),
    "number as text": ("initialize", {"smoothing": "0.5"}),
    "true as number": ("initialize", {"smoothing": True}),
    "NaN": ("initialize", {"frame_rate": float("nan")}),
    "number too large": ("initialize", {"frame_rate": 10**400}),
    "unknown model": ("initialize", {"model": "nobody"}),
    "unknown action": ("control", {"action": "sing"}),
    "no action": ("control", {}),
    "no frame": ("video_frame", {"sequence": 1}),
    "frame is a list": ("video_frame", {"frame": [1, 2, 3]}),
    "frame is not base64": ("video_frame", {"frame": "*" * 50}),
    "sequence is text": ("video_frame", {"frame": FRAME, "sequence": "1"}),
    "sequence is not an integer": ("video_frame", {"frame": FRAME, "sequence": 1.5}),
    "sequence too large": ("video_frame", {"frame": FRAME, "sequence": 10**40}),
    "time is text": ("video_frame", {"frame": FRAME, "time": "noon"}),
}


@pytest.mark.parametrize(("event", "data"), INVALID_EVENTS.values(), ids=INVALID_EVENTS)
def test_an_invalid_event_is_reported_and_the_session_continues(server, event, data):
    with connected(server) as client:
        client.emit("control", {"action": "start"})
        client.emit(event, data)
        message = client.wait("error_message")[0]
        assert message["code"] == "invalid_request"
        assert message["message"].endswith("send it again.")
        assert message["errors"]
        client.emit("video_frame", {"frame": FRAME, "sequence": 5})
        assert client.wait("detection_result")[0]["sequence"] == 5


def test_a_setting_in_the_wrong_place_is_told_where_there_are_some(server):
    with connected(server) as client:
        client.emit("control", {"action": "start", "faces": "largest"})
        assert client.wait("error_message")[0]["errors"] == {"faces": ["Unknown field. There are action, settings."]}


BAD_FRAMES = {
    "PNG": (synthetic_image.encode_image(synthetic_frames.face_frames(1)[0], "PNG"), "unsupported_media"),
    "too many bytes": (FRAME + bytes(80_000), "picture_too_big"),
    "truncated JPEG": (FRAME[:9000], "picture_corrupt"),
}


@pytest.mark.parametrize(("data", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_bad_frame_is_reported_with_its_sequence_number(server, data, code):
    with connected(server) as client:
        client.start()
        client.emit("video_frame", {"frame": data, "sequence": 3})
        message = client.wait("error_message")[0]
        assert message["code"] == code
        assert message.get("sequence", 3) == 3


def test_sequence_numbers_may_decrease(server):
    with connected(server) as client:
        client.start(frame_rate=30)
        for count, number in enumerate((9, 5, 5, -3), 1):
            client.emit("video_frame", {"frame": FRAME, "sequence": number})
            assert client.wait("detection_result", count)[-1]["sequence"] == number


REJECTED_CREDENTIALS = {
    "no credentials": (None, "unauthorized", 401),
    "wrong key": ({"api_key": "guess"}, "unauthorized", 401),
    "key that is not ASCII": ({"api_key": "ключ"}, "unauthorized", 401),
    "invalid token": ({"token": "a.b.c"}, "invalid_token", 401),
    "expired token": ({"token": accounts.own_token(iat=1, exp=2)}, "token_expired", 401),
    "list": ([1, 2], "unauthorized", 401),
    "token is a number": ({"token": 5}, "unauthorized", 401),
    "lone surrogate": ({"api_key": "\ud800"}, "unauthorized", 401),
}


@pytest.mark.parametrize(("auth", "code", "status"), REJECTED_CREDENTIALS.values(), ids=REJECTED_CREDENTIALS)
def test_unauthenticated_clients_get_the_reason_and_are_logged(server, auth, code, status):
    before = len(sessions(server))
    received = connect_error(server, auth)
    assert received["code"] == code
    assert received["message"]
    wait_until(lambda: len(sessions(server)) > before)
    assert (sessions(server)[0]["status_code"], sessions(server)[0]["error"]) == (status, code)


def test_tokens_and_cookies_are_accepted(server):
    token = accounts.own_token()
    cookie = {"Cookie": f"access_token={token}"}
    with connected(server, {"token": token}) as client:
        client.wait("status")
    with connected(server, {}, headers=cookie) as client:
        client.wait("status")
    with connected(server, {}, headers=cookie, origin="https://app.example") as client:
        client.wait("status")
    with connected(server, {}, headers={"x-api-key": KEY}) as client:
        client.wait("status")


def test_another_origin_gets_no_connection(server):
    cookie = {"Cookie": f"access_token={accounts.own_token()}"}
    assert connect_error(server, {}, cookie, origin="https://evil.example") is None
    assert server.log_rows(endpoint="/socket.io/", status_code=403)


def test_an_expiring_token_ends_the_session(server):
    now = int(time.time())
    # Tokens are accepted for 30 s after their expiry.
    token = accounts.own_token(iat=now - 100, exp=now - 27)
    client = Client()
    client.connect(server, {"token": token})
    client.wait("status")
    assert client.wait("error_message")[0]["code"] == "token_expired"
    wait_until(lambda: not client.socket.connected)
    wait_until(lambda: any(row["error"] == "token_expired" and row["status_code"] == 101 for row in sessions(server)))


@pytest.mark.parametrize("transports", [None, ["polling"], ["polling", "websocket"]])
def test_a_client_that_starts_with_long_polling_is_told_to_use_websocket(server, transports):
    for _ in range(3):  # any of the two workers answers
        received = []
        client = socketio.Client(reconnection=False)
        client.on("connect_error", received.append, namespace=NAMESPACE)
        with pytest.raises(socketio.exceptions.ConnectionError):
            client.connect(
                server.url, auth={"api_key": KEY}, namespaces=[NAMESPACE], transports=transports, wait_timeout=30
            )
        client.disconnect()
        assert received[0]["message"] == POLLING_MESSAGE
        assert received[0]["data"] == {"code": "upgrade_required", "message": POLLING_MESSAGE}
    assert "upgrade_required" in [row["error"] for row in server.log_rows(endpoint="/socket.io/", status_code=200)]


@pytest.mark.parametrize("query", ["", "?EIO=3&transport=polling", "?EIO=3&transport=websocket"])
def test_a_request_without_websocket_is_rejected_with_426(server, query):
    response = requests.get(f"{server.url}/socket.io/{query}", headers=HEADERS, timeout=30)
    assert (response.status_code, response.json()["code"]) == (426, "upgrade_required")
    assert response.headers["Upgrade"] == "websocket"


def test_a_client_faster_than_the_server_gets_the_newest_result_and_the_dropped_count(server):
    with connected(server) as client:
        client.start(frame_rate=10)
        for number in range(300):
            client.emit("video_frame", {"frame": FRAME, "sequence": number})
        wait_until(
            lambda: client.received["detection_result"] and client.received["detection_result"][-1]["sequence"] == 299
        )
        results = client.received["detection_result"]
        assert results[-1]["frames"] == len(results)
        assert results[-1]["frames"] + results[-1]["dropped"] == 300
        assert results[-1]["dropped"] > 100
        sequences = [result["sequence"] for result in results]
        assert sequences == sorted(sequences)
    counts = server.call("GET", "/metrics").text
    assert 'moodreel_live_frames_total{outcome="dropped"}' in counts


def connect_raw(server, auth='{"api_key":"' + KEY + '"}', query="", **options):
    """Open a raw WebSocket and read the handshake."""
    ws = websocket.create_connection(
        server.url.replace("http", "ws") + f"/socket.io/?EIO=4&transport=websocket{query}", timeout=30, **options
    )
    assert ws.recv().startswith("0{")
    if auth is not None:
        ws.send(f"40{NAMESPACE},{auth}")
        assert ws.recv().startswith(f"40{NAMESPACE},")
    return ws


@pytest.mark.parametrize(("query", "explain"), [("", False), ("&explain=true", True), ("&explain=no", False)])
def test_the_url_may_request_explanations(server, query, explain):
    ws = connect_raw(server, query=query)
    ws.send(f'42{NAMESPACE},["initialize",{{"faces":"largest"}}]')
    received = ""
    while '"ready"' not in received:
        received = str(ws.recv())
    ws.close()
    assert f'"explain":{str(explain).lower()}' in received


@pytest.mark.parametrize(("length", "answered"), [(8_000, True), (20_000, False)])
def test_an_unauthenticated_message_is_limited_to_the_size_of_credentials(server, length, answered):
    ws = connect_raw(server, auth=None)
    received = ""
    with suppress(websocket.WebSocketConnectionClosedException, OSError):
        ws.send(f'40{NAMESPACE},{{"token":"{"x" * length}"}}')
        received = str(ws.recv())
    ws.close()
    assert received.startswith(f"44{NAMESPACE}") is answered


GARBAGE = {
    "invalid JSON": f"42{NAMESPACE},[",
    "object instead of list": f'42{NAMESPACE},{{"a":1}}',
    "empty list": f"42{NAMESPACE},[]",
    "number for the event name": f"42{NAMESPACE},[5]",
    "list for the event name": f'42{NAMESPACE},[["a"]]',
    "deeply nested JSON": f'42{NAMESPACE},["a",' + "[" * 100_000 + "]" * 100_000 + "]",
    "JSON with too many parts": f'42{NAMESPACE},["initialize",{{'
    + ",".join(f'"a{number}":1' for number in range(20_000))
    + "}]",
    "too many attachments": f'4599999999-{NAMESPACE},["video_frame",{{"_placeholder":true,"num":0}}]',
    "unexpected acknowledgement": f"43{NAMESPACE},7[1]",
    "number for an event": "4299999",
    "unannounced bytes": b"\x00\x01",
    "packet type of the server": f'44{NAMESPACE},"no"',
    "reserved event": f'42{NAMESPACE},["connect",{{}}]',
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_does_not_break_the_server(server, garbage):
    ws = connect_raw(server)
    received = ""
    # The connection may be closed early, or continue normally.
    with suppress(websocket.WebSocketConnectionClosedException, OSError):
        ws.send(garbage, websocket.ABNF.OPCODE_BINARY if isinstance(garbage, bytes) else websocket.ABNF.OPCODE_TEXT)
        ws.send(f'42{NAMESPACE},["control",{{"action":"start"}}]')
        while '"running"' not in received:
            received = str(ws.recv())
    ws.close()
    assert "Traceback" not in server.output
    with connected(server) as client:
        client.wait("status")


BINARY = f'451-{NAMESPACE},["video_frame",{{"frame":{{"_placeholder":true,"num":%s}}}}]'
UNEXPECTED_BINARY = {
    "unknown placeholder": [BINARY % 5, FRAME],
    "placeholder is not a number": [BINARY % '"a"', FRAME],
    "deeply nested placeholders": [f'451-{NAMESPACE},["video_frame",' + "[" * 490 + "]" * 490 + "]", FRAME],
    "text instead of the announced bytes": [BINARY % 0, f'42{NAMESPACE},["control",{{"action":"stop"}}]'],
}


@pytest.mark.parametrize("messages", UNEXPECTED_BINARY.values(), ids=UNEXPECTED_BINARY)
def test_unexpected_binary_data_does_not_affect_following_messages(server, messages):
    ws = connect_raw(server)
    for message in messages:
        ws.send(message, websocket.ABNF.OPCODE_BINARY if isinstance(message, bytes) else websocket.ABNF.OPCODE_TEXT)
    ws.send(f'42{NAMESPACE},["control",{{"action":"start"}}]')
    received = []
    while not received or '"running"' not in received[-1]:
        received.append(str(ws.recv()))
    ws.close()
    assert any('"invalid_request"' in message for message in received)


def test_other_namespaces_are_rejected(server):
    ws = connect_raw(server, auth=None)
    for connect in ("40", "40/admin,"):
        ws.send(connect)
        assert ws.recv().startswith("44")
    ws.close()


def test_a_flood_of_garbage_is_disconnected(server):
    ws = connect_raw(server)
    with pytest.raises((websocket.WebSocketConnectionClosedException, OSError)):
        for _ in range(2000):
            ws.send(f"42{NAMESPACE},[")
            time.sleep(0.005)
    ws.close()
    wait_until(lambda: any(row["error"] == "rate_limited" for row in sessions(server)))


def test_a_too_large_message_ends_the_connection(server):
    ws = connect_raw(server)
    with pytest.raises((websocket.WebSocketConnectionClosedException, OSError)):
        ws.send(f'42{NAMESPACE},["video_frame",{{"frame":"' + "A" * 2_000_000 + '"}]')
        for _ in range(10):
            ws.recv()
            raise_if_closed(ws)
    ws.close()


def raise_if_closed(ws):
    if not ws.connected:
        raise websocket.WebSocketConnectionClosedException


def test_a_client_without_a_session_is_disconnected(server):
    unauthenticated, ended = connect_raw(server, auth=None), connect_raw(server)
    ended.send(f'42{NAMESPACE},["disconnect"]')
    ended.send(f'42{NAMESPACE},["control",{{"action":"start"}}]')
    started = time.monotonic()
    for ws in (unauthenticated, ended):
        with pytest.raises((websocket.WebSocketConnectionClosedException, OSError)):
            while time.monotonic() < started + 60:
                ws.recv()
                raise_if_closed(ws)
    assert time.monotonic() < started + 60
    assert "Traceback" not in server.output
    with connected(server) as client:
        client.wait("status")


def test_a_client_that_does_not_read_is_disconnected_and_others_are_served(server):
    ws = connect_raw(server, sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
    ws.send(f'42{NAMESPACE},["control",{{"action":"start","settings":{{"frame_rate":30}}}}]')
    frame = f'42{NAMESPACE},["video_frame",{{"frame":"{base64.b64encode(FRAME).decode()}"}}]'
    deadline = time.monotonic() + 120
    disconnected = False
    with connected(server) as client:
        client.start()
        count = 0
        while not disconnected and time.monotonic() < deadline:
            try:
                ws.send(frame)
            except (OSError, websocket.WebSocketException):
                disconnected = True
            client.emit("video_frame", {"frame": FRAME})
            count += 1
            time.sleep(0.05)
        assert disconnected
        client.wait("detection_result", min(count, 5))


def test_sessions_of_a_killed_worker_end_and_the_next_worker_serves(tmp_path):
    with Server(tmp_path, REAL_APP, forked=True, WEB_CONCURRENCY=1) as server:
        with connected(server) as client:
            client.start()
            client.emit("video_frame", {"frame": FRAME})
            client.wait("detection_result")
            [worker] = server.workers
            worker.send_signal(signal.SIGKILL)
            wait_until(lambda: not client.socket.connected)
        server.wait_until_ready()
        with connected(server) as client:
            client.start()
            client.emit("video_frame", {"frame": FRAME})
            client.wait("detection_result")
            unfinished = [
                row
                for row in server.log_rows(endpoint=NAMESPACE)
                if row["status_code"] is None and row["worker"] == worker.pid
            ]
            assert len(unfinished) == 1
            assert "moodreel_live_sessions 1.0" in server.call("GET", "/metrics").text


def test_a_stop_closes_live_sessions_with_1012_at_once(tmp_path):
    with Server(tmp_path) as server:
        sockets = [connect_raw(server) for _ in range(6)]
        client = Client()
        client.connect(server, {"api_key": KEY})
        client.start()
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 30
        wait_until(lambda: not client.socket.connected)
        for ws in sockets:
            assert close_code(ws) == 1012
    assert "Traceback" not in server.output


def close_code(ws):
    while True:
        kind, data = ws.recv_data(control_frame=True)
        if kind == websocket.ABNF.OPCODE_CLOSE:
            return struct.unpack("!H", data[:2])[0]


def test_a_connection_over_the_workers_limit_is_rejected_with_503(tmp_path):
    with Server(tmp_path, WEB_CONCURRENCY=1, MAX_SOCKETS=2) as server:
        with connected(server), connected(server):
            assert connect_error(server, {"api_key": KEY}) is None
            assert server.log_rows(endpoint="/socket.io/", status_code=503)
            assert requests.get(f"{server.url}/health", timeout=30).ok
        wait_until(lambda: "moodreel_live_sessions 0.0" in server.call("GET", "/metrics").text)
        with connected(server) as client:
            client.wait("status")


def test_the_rate_limit_counts_connections(tmp_path):
    with Server(tmp_path, RATE_LIMIT=3) as server:
        for _ in range(3):
            with connected(server):
                pass
        received = connect_error(server, {"api_key": KEY})
        assert received["code"] == "rate_limited"
