"""Private parts of pinned libraries that this project uses. A version that changes one fails here."""

import inspect
import io
import socket
import time
from types import SimpleNamespace

import engineio
import engineio.socket
import flask_smorest
import pytest
import socketio
from engineio.async_drivers import threading as engineio_threading
from flask import Flask
from flask_socketio import Namespace, SocketIO
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config, make_settings
from gunicorn.http.body import Body
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.workertmp import WorkerTmp
from mediapipe.tasks.python import vision
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


# --- Gunicorn (api/websocket, api/shutdown.py, api/middleware/request_body.py, api/wsgi.py, api/gunicorn_*.py) ---


def test_gunicorn_puts_the_socket_into_the_environ() -> None:
    from gunicorn.http import wsgi

    assert '"gunicorn.socket": sock' in inspect.getsource(wsgi.default_environ)


def test_gunicorn_thread_ends_a_connection_on_stop_iteration() -> None:
    assert "except StopIteration" in inspect.getsource(ThreadWorker.handle)


def test_gunicorn_worker_has_the_attributes_that_shutdown_hooks_read() -> None:
    worker = ThreadWorker(1, 42, [], SimpleNamespace(), 30, Config(), SimpleNamespace())
    assert (worker.alive, worker.ppid) == (True, 42)


def test_gunicorn_worker_checks_its_parent_process_by_a_method_and_then_closes_connections() -> None:
    source = inspect.getsource(ThreadWorker.run)
    assert "if not self.is_parent_alive():\n                break" in source
    assert "if not self.alive" in inspect.getsource(ThreadWorker.finish_request)


def test_gunicorn_parent_queues_signals_until_a_worker_has_handlers_of_its_own() -> None:
    assert "self.SIG_QUEUE.put_nowait(sig)" in inspect.getsource(Arbiter.signal)
    source = inspect.getsource(Arbiter.spawn_worker)
    assert source.index("self.cfg.post_fork(self, worker)") < source.index("worker.init_process()")
    assert "self.init_signals()" in inspect.getsource(ThreadWorker.__base__.init_process)


def test_gunicorn_worker_stops_by_a_handler_that_takes_no_lock() -> None:
    source = inspect.getsource(ThreadWorker.handle_exit)
    assert "self.alive = False" in source
    assert "tpool" not in source


def test_gunicorn_worker_reads_headers_before_it_handles_a_request_and_sends_heartbeats_meanwhile() -> None:
    source = inspect.getsource(ThreadWorker.handle)
    assert source.index("next(conn.parser)") < source.index("self.handle_request(req, conn)")
    assert parameters(ThreadWorker.handle_request) == ["self", "req", "conn"]
    assert "self.notify()" in inspect.getsource(ThreadWorker.run)


def test_gunicorn_worker_answers_what_it_cannot_parse_by_a_method() -> None:
    assert "self.handle_error(req, conn.sock, conn.client, e)" in inspect.getsource(ThreadWorker.handle)
    assert parameters(ThreadWorker.handle_error) == ["self", "req", "client", "addr", "exc"]


def test_gunicorn_body_can_be_marked_as_failed() -> None:
    assert Body(io.BytesIO(b"")).failed is False


def test_gunicorn_reload_calls_its_hook_before_it_starts_workers_and_stops_others() -> None:
    source = inspect.getsource(Arbiter.reload)
    steps = ["self.cfg.on_reload(self)", "range(self.cfg.workers)", "self.spawn_worker()", "self.manage_workers()"]
    assert [source.count(step) for step in steps] == [1, 1, 1, 1]
    assert sorted(steps, key=source.index) == steps
    assert "self.reap_workers()" in source.partition("self.manage_workers()")[2], "while it waits for the old workers"
    config = Config()
    config.set("workers", 0)
    assert config.workers == 0


def test_gunicorn_parent_looks_up_its_handler_of_a_reload_at_each_signal_and_calls_a_hook_before() -> None:
    assert 'getattr(self, "handle_%s" % signame, None)' in inspect.getsource(Arbiter.run)
    assert parameters(Arbiter.handle_hup) == ["self"]
    source = inspect.getsource(Arbiter.run)
    assert source.index("self.start()") < source.index("while True")
    assert "self.cfg.when_ready(self)" in inspect.getsource(Arbiter.start)


def test_gunicorn_heartbeat_is_the_monotonic_clock_and_before_the_first_one_the_system_clock() -> None:
    file = WorkerTmp(Config())
    assert file.last_update() == pytest.approx(time.time(), abs=60)
    file.notify()
    assert file.last_update() == pytest.approx(time.monotonic(), abs=60)
    file.close()


def test_gunicorn_has_a_status_for_an_app_that_cannot_be_loaded() -> None:
    assert isinstance(Arbiter.APP_LOAD_ERROR, int)


def test_gunicorn_control_socket_can_be_disabled() -> None:
    assert "control_socket_disable" in make_settings()


# --- Socket.IO and Engine.IO (api/socketio) ---


def test_engineio_creates_websockets_with_a_replaceable_factory() -> None:
    assert parameters(engineio_threading._async["websocket"])[:2] == ["handler", "server"]
    source = inspect.getsource(engineio.socket.Socket._upgrade_websocket)
    assert "self.server._async['websocket'](\n            self._websocket_handler, self.server)" in source


def test_engineio_socket_has_the_members_that_the_transport_uses() -> None:
    assert parameters(engineio.socket.Socket.close)[1:3] == ["wait", "abort"]
    assert "queue" in vars(engineio.socket.Socket(engineio.Server(async_mode="threading"), "sid"))


def test_flask_socketio_runs_a_handler_in_the_context_of_the_handshake() -> None:
    assert parameters(SocketIO._handle_event) == ["self", "handler", "message", "namespace", "sid", "args"]
    assert "_handle_event" in inspect.getsource(Namespace.trigger_event)


def test_flask_socketio_exposes_its_engineio_server() -> None:
    server = SocketIO(Flask(__name__), async_mode="threading").server
    assert isinstance(server.eio, engineio.Server) and isinstance(server.eio._async, dict)


def test_socketio_manager_and_server_have_the_called_signatures() -> None:
    assert parameters(socketio.Manager.connect) == ["self", "sid", "namespace"]
    assert parameters(socketio.Server.get_environ) == ["self", "sid", "namespace"]


def test_socketio_packet_decodes_text_and_attachments() -> None:
    packet = socketio.packet.Packet
    assert parameters(packet.decode) == ["self", "encoded_packet"]
    assert parameters(packet.add_attachment) == ["self", "attachment"]
    assert {"packet_type", "namespace", "id", "data"} <= set(vars(packet()))
    kinds = ("CONNECT", "DISCONNECT", "EVENT", "ACK", "BINARY_EVENT")
    assert all(isinstance(getattr(socketio.packet, kind), int) for kind in kinds)


# --- wsproto (api/websocket/channel.py): public, but its exact events matter ---


def test_wsproto_reports_a_violation_as_a_close_with_a_reason() -> None:
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.send(Request(host="localhost", target="/")))
    assert isinstance(next(server.events()), Request)
    server.send(AcceptConnection())
    server.receive_data(b"\xff\xff")
    [close] = list(server.events())
    assert isinstance(close, CloseConnection) and close.code == 1002 and close.reason is not None
    assert isinstance(Ping().response().payload, bytes)


def test_the_timeout_of_sendall_covers_all_data() -> None:
    sender, receiver = socket.socketpair()
    with sender, receiver:
        sender.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sender.sendall(bytes(10_000_000))


# --- psycopg (moodreel/storage/postgresql.py) ---


def test_psycopg_waits_for_the_server_in_one_method_that_has_a_timeout() -> None:
    psycopg = pytest.importorskip("psycopg")
    assert parameters(psycopg.Connection.wait) == ["self", "gen", "interval", "timeout"]
    assert "self._conn.wait(" in inspect.getsource(psycopg.Cursor.execute)


# --- flask-smorest (api/openapi.py), MediaPipe (faces/landmarker.py) ---


def test_flask_smorest_stores_the_description_on_the_view() -> None:
    blueprint = flask_smorest.Blueprint("views", __name__)
    assert "_apidoc" in vars(blueprint.response(200)(lambda: None))
    assert isinstance(blueprint._prepare_doc_cbks, list)


def test_flask_smorest_registers_error_handlers_in_one_method() -> None:
    assert parameters(flask_smorest.Api._register_error_handlers) == ["self"]
    assert parameters(flask_smorest.Api._register_pagination_header) == ["self"]
    assert {"DEFAULT_ERROR_RESPONSE_NAME", "ERROR_SCHEMA"} <= set(dir(flask_smorest.Api))


def test_mediapipe_landmarker_frees_its_handle_once() -> None:
    assert "_handle" in inspect.getsource(vision.FaceLandmarker.__init__)
    assert "self._handle" in inspect.getsource(vision.FaceLandmarker.close)
