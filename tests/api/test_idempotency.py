"""Calls with an Idempotency-Key, over two workers."""

import http.client
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import accounts
from tests.support.server import HEADERS, KEY, Server, video_body

pytestmark = pytest.mark.server

CLIP = b"a clip"
POSTS: dict[str, dict[str, Any]] = {
    "/predict": {"json": video_body(CLIP)},
    "/thumbnail": {"json": video_body(CLIP)},
    "/api/detect": {"files": {"file": CLIP}},
    "/api/detect/batch": {"files": [("file", CLIP), ("file", CLIP)]},
    "/api/predict/": {"files": {"file": CLIP}},
    "/api/predict/multimodal": {"json": video_body(CLIP)},
    "/api/text": {"json": {"text": "hello"}},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("idempotency")
    with Server(folder, API_KEY=f"{KEY},another", HISTORY="on", JOBS="on", **accounts.environment(folder)) as server:
        yield server


def post(server: Server, path: str, key: str, headers: dict[str, str] = HEADERS, **options: Any) -> requests.Response:
    return server.call("POST", path, headers={**headers, "Idempotency-Key": key}, **options)


def new_key() -> str:
    return f'"{uuid.uuid4()}"'


@pytest.mark.parametrize("path", POSTS)
def test_a_repeated_call_gets_the_first_answer(server: Server, path: str) -> None:
    key = new_key()
    # A form has another boundary each time.
    first, *repeated = [post(server, path, key, **POSTS[path]) for _ in range(4)]
    assert (first.status_code, "Idempotency-Replayed" in first.headers) == (200, False)
    for answer in repeated:
        assert (answer.status_code, answer.content) == (200, first.content)
        assert answer.headers["Idempotency-Replayed"] == "true"
        for name in ("Content-Type", "Server-Timing"):
            assert answer.headers[name] == first.headers[name]
        assert answer.headers["x-request-id"] != first.headers["x-request-id"]
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_repeated_call_writes_one_history_entry(server: Server) -> None:
    user = {"authorization": f"Bearer {accounts.own_token()}", "date": HEADERS["date"]}
    key = new_key()
    ids = {post(server, "/api/text", key, user, json={"text": "hello"}).headers["x-history-id"] for _ in range(3)}
    assert len(ids) == 1
    assert server.call("GET", "/api/history", headers=user).json()["count"] == 1


def test_a_problem_is_an_answer_too(server: Server) -> None:
    key = new_key()
    first, second = [post(server, "/predict", key, json=video_body(b"raise NoFace")) for _ in range(2)]
    assert (first.status_code, second.json()) == (422, first.json())
    assert second.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("data", [CLIP, b"raise NoFace"])
def test_the_log_row_of_a_repeated_call_has_the_result(server: Server, data: bytes) -> None:
    key = new_key()
    answers = [post(server, "/predict", key, json=video_body(data)) for _ in range(2)]
    [first], [second] = [server.log_rows(request_id=answer.headers["x-request-id"]) for answer in answers]
    for column in ("status_code", "prediction", "confidence", "error", "model", "frames", "content_sha256"):
        assert second[column] == first[column], column
    assert second["timings"] is None


@pytest.mark.parametrize("data", [b"raise Overloaded", b"crash"])
def test_after_a_failure_of_the_server_the_call_is_made_again(server: Server, data: bytes) -> None:
    key = new_key()
    for _ in range(3):
        answer = post(server, "/predict", key, json=video_body(data))
        assert answer.status_code in (500, 503)
        assert "Idempotency-Replayed" not in answer.headers


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/predict", {"json": video_body(b"another clip")}),
        ("/predict?explain=true", {"json": video_body(CLIP)}),
        ("/thumbnail", {"json": video_body(CLIP)}),
        ("/predict", {"files": {"file": CLIP}, "data": {"explain": "true"}}),
    ],
    ids=["body", "query", "path", "form"],
)
def test_another_call_with_the_same_key_is_refused(server: Server, path: str, options: dict[str, Any]) -> None:
    key = new_key()
    assert post(server, "/predict", key, json=video_body(CLIP)).status_code == 200
    answer = post(server, path, key, **options)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_a_call_that_is_not_answered_yet_is_refused(server: Server) -> None:
    key = new_key()

    def ask(_: int) -> requests.Response:
        return post(server, "/predict", key, json=video_body(b"sleep 3"))

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(ask, range(2)), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 409]
    assert (answers[1].json()["code"], answers[1].headers["Retry-After"]) == ("request_in_progress", "2")
    assert ask(0).headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("options", [{"json": video_body(CLIP)}, {"files": {"file": CLIP}}], ids=["json", "form"])
@pytest.mark.parametrize("prefer", ["", "respond-async"])
def test_a_call_whose_connection_broke_in_the_body_can_be_sent_again(
    server: Server, options: dict[str, Any], prefer: str
) -> None:
    headers = {**HEADERS, "Idempotency-Key": new_key(), "Prefer": prefer}
    call = requests.Request("POST", f"{server.url}/predict", headers=headers, **options).prepare()
    assert isinstance(call.body, bytes)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        lines = [f"{name}: {value}" for name, value in call.headers.items()]
        client.sendall("\r\n".join(["POST /predict HTTP/1.1", "Host: localhost", *lines, "", ""]).encode())
        client.sendall(call.body[:-10])
        client.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 400 and b"The body broke off" in answer.read()
    with requests.Session() as session:
        assert session.send(call).status_code == (202 if prefer else 200)


def test_no_accept_header_accepts_everything(server: Server) -> None:
    key = new_key()
    answers = [
        post(server, "/predict", key, {**HEADERS, "Accept": accept}, **POSTS["/predict"]) for accept in ("", "*/*")
    ]
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true"]


def test_callers_do_not_share_keys(server: Server) -> None:
    key = new_key()
    post(server, "/predict", key, json=video_body(CLIP))
    other = {**HEADERS, "x-api-key": "another"}
    answer = post(server, "/predict", key, other, json=video_body(b"another clip"))
    assert (answer.status_code, "Idempotency-Replayed" in answer.headers) == (200, False)
    for user in ("ada", "grace"):
        headers = {"authorization": f"Bearer {accounts.own_token(userId=user)}", "date": HEADERS["date"]}
        assert "Idempotency-Replayed" not in post(server, "/predict", key, headers, json=video_body(CLIP)).headers


@pytest.mark.parametrize("key", ["x" * 256, "two words", '"', 'a"b'])
def test_a_malformed_key_is_refused(server: Server, key: str) -> None:
    answer = post(server, "/predict", key, json=video_body(CLIP))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_header")


def test_answers_are_in_memory_and_end_with_the_service(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1) as server:
        post(server, "/predict", new_key(), json=video_body(CLIP))
        files = {Path(file.path) for worker in server.workers for file in worker.open_files()}
        [store] = [file for file in files if file.name == "answers.db"]
        assert store.is_relative_to("/dev/shm")
    assert not store.exists()


def test_without_a_time_to_keep_answers_the_header_is_ignored(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1, IDEMPOTENCY_SECONDS=0) as server:
        key = new_key()
        for data in (CLIP, CLIP, b"another clip"):
            answer = post(server, "/predict", key, json=video_body(data))
            assert (answer.status_code, "Idempotency-Replayed" in answer.headers) == (200, False)
