"""Calls that are answered later: `Prefer: respond-async` and /jobs."""

import gzip
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from api.app import create_app
from api.services import services
from moodreel.storage.job_store import MAX_ATTEMPTS
from tests.support import accounts
from tests.support.server import HEADERS, Server, video_body, wait_until

ASYNC = {**HEADERS, "Prefer": "respond-async"}
SECRET = b"the video of somebody"
POSTS: dict[str, dict[str, Any]] = {
    "/predict?detail=timeline": {"json": video_body(SECRET)},
    "/thumbnail": {"files": {"file": SECRET}, "data": {"size": "240"}},
    "/api/predict/multimodal": {"json": video_body(SECRET)},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database_settings: dict[str, str]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("jobs")
    settings = {"JOBS": "on", "MAX_JOBS": 4, "HISTORY": "on", **accounts.environment(folder), **database_settings}
    with Server(folder, **settings) as server:
        yield server


def post(server: Server, path: str = "/predict", data: bytes = b"clip", **headers: str) -> requests.Response:
    return server.call("POST", path, headers={**ASYNC, **headers}, json=video_body(data))


def finished(server: Server, location: str, headers: dict[str, str] = HEADERS) -> dict[str, Any]:
    """Wait until a job is done; return it."""
    answers: list[requests.Response] = []

    def is_done() -> bool:
        answers.append(server.call("GET", location, headers=headers))
        return answers[-1].status_code != 202

    wait_until(is_done, lambda: answers[-1].text)
    assert answers[-1].status_code == 200
    assert all(answer.headers["Retry-After"] == "2" for answer in answers[:-1])
    return answers[-1].json()


@pytest.mark.server
@pytest.mark.parametrize("path", POSTS)
def test_a_job_has_the_answer_of_the_call(server: Server, path: str) -> None:
    expected = server.call("POST", path, **POSTS[path])
    response = server.call("POST", path, headers=ASYNC, **POSTS[path])
    assert (response.status_code, response.headers["Preference-Applied"]) == (202, "respond-async")
    assert response.headers["Location"] == f"/jobs/{response.json()['id']}"
    assert response.json()["status"] == "waiting"
    job = finished(server, response.headers["Location"])
    assert (job["id"], job["status"], job["answer_status"]) == (response.json()["id"], "done", 200)
    assert job["answer"] == expected.json()
    assert "error" not in job


@pytest.mark.server
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (video_body(b"raise NoFace"), 422, "no_face"),
        (video_body(b"crash"), 500, "internal"),
        ({"encoding": "base64"}, 422, "invalid_request"),
        ({"encoding": "base64", "content": "%%%"}, 422, "bad_base64"),
    ],
)
def test_an_error_is_a_problem_with_its_own_status(
    server: Server, body: dict[str, Any], status: int, code: str
) -> None:
    response = server.call("POST", "/predict", headers={**ASYNC, "x-request-id": uuid.uuid4().hex}, json=body)
    job = finished(server, response.headers["Location"])
    assert (job["status"], job["answer_status"]) == ("failed", status)
    assert (job["error"]["status"], job["error"]["code"]) == (status, code)
    assert job["error"]["request_id"] == response.headers["x-request-id"]
    assert "answer" not in job


@pytest.mark.server
@pytest.mark.parametrize("prefer", ["", "wait=10", "respond-async-not", "return=minimal"])
def test_a_call_without_the_preference_is_answered_at_once(server: Server, prefer: str) -> None:
    response = post(server, Prefer=prefer)
    assert response.status_code == 200
    assert "Preference-Applied" not in response.headers


@pytest.mark.server
def test_a_job_is_its_callers_alone_and_its_analysis_is_in_their_history(server: Server) -> None:
    ann, bob = (
        {"authorization": f"Bearer {accounts.own_token(userId=name)}", "date": HEADERS["date"]} for name in "ab"
    )
    headers = {**ann, "Prefer": "wait=1, Respond-Async"}
    response = server.call("POST", "/predict", headers=headers, json=video_body(SECRET))
    location = response.headers["Location"]
    for other in (bob, HEADERS):
        assert server.call("GET", location, headers=other).status_code == 404
        assert server.call("DELETE", location, headers=other).status_code == 404
    assert server.call("GET", location, headers={}).status_code == 401
    done = finished(server, location, ann)
    assert done["answer"]["emotion"] == "Happy"
    [entry] = server.call("GET", "/api/history", headers=ann).json()["entries"]
    assert (entry["emotion"], entry["id"]) == ("Happy", done["history_id"])
    assert "history_id" not in done["answer"]
    rows = server.log_rows(request_id=response.headers["x-request-id"])
    assert [(row["status_code"], row["prediction"]) for row in rows] == [(200, "Happy"), (202, None)]
    job = location.removeprefix("/jobs/")
    assert server.log_rows(job=job) == rows
    usage = server.call("GET", "/auth/usage", headers=ann).json()
    assert usage["calls"] == len([row for row in server.log_rows(caller=rows[0]["caller"])]) - 2, "the run, and this"
    assert len({row["caller"] for row in rows}) == 1


@pytest.mark.server
def test_a_repeated_call_with_an_idempotency_key_is_the_same_job(server: Server) -> None:
    key = str(uuid.uuid4())
    first, again = (
        server.call("POST", "/thumbnail", headers={**ASYNC, "Idempotency-Key": key}, files={"file": SECRET})
        for _ in range(2)
    )
    assert first.headers["Location"] == again.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert server.call("DELETE", first.headers["Location"]).status_code == 204
    headers = {**ASYNC, "Idempotency-Key": key}
    anew = server.call("POST", "/thumbnail", headers=headers, files={"file": SECRET})
    assert finished(server, anew.headers["Location"])["status"] == "done"


@pytest.mark.server
def test_a_deleted_job_is_not_found_and_open_jobs_are_bounded(server: Server) -> None:
    locations = [post(server, data=b"sleep 2").headers["Location"] for _ in range(4)]
    refused = post(server)
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert refused.headers["Retry-After"] == "60", "as the text says, although no call waits in the worker"
    for location in locations:
        assert server.call("DELETE", location).status_code == 204
        assert server.call("GET", location).status_code == 404
    assert server.call("DELETE", locations[0]).status_code == 404
    assert finished(server, post(server).headers["Location"])["status"] == "done"


@pytest.mark.server
def test_nothing_that_was_sent_is_left(server: Server) -> None:
    finished(server, post(server, data=SECRET).headers["Location"])
    secrets = SECRET, video_body(SECRET)["content"].encode()

    def contents() -> list[bytes]:
        return [path.read_bytes() for path in server.folder.rglob("*") if path.is_file()]

    assert contents()
    # The journal is emptied just after the answer can be read.
    wait_until(lambda: not any(secret in content for secret in secrets for content in contents()))


@pytest.mark.server
def test_a_job_survives_the_death_of_its_worker_and_a_restart(tmp_path: Path) -> None:
    with Server(tmp_path, JOBS="on") as server:
        killed = post(server, data=b"sleep 2", **{"x-request-id": "killed"}).headers["Location"]
        stopped = post(server, data=b"sleep 3", **{"x-request-id": "stopped"}).headers["Location"]
        [row] = _running(server, "killed")
        psutil.Process(row["worker"]).send_signal(signal.SIGKILL)
        _running(server, "stopped")
        assert server.call("GET", killed).json()["status"] == "running"
        server.stop()
        server.start()
        server.wait_until_ready()
        assert finished(server, stopped)["answer"]["emotion"] == "Happy"
        statuses = [row["status_code"] for row in server.log_rows(request_id="stopped", endpoint="/predict")]
        assert statuses == [200, 202], "the worker finished it"
        assert finished(server, killed)["answer"]["emotion"] == "Happy"
        statuses = [row["status_code"] for row in server.log_rows(request_id="killed", endpoint="/predict")]
        assert statuses == [200, None, 202]


def _running(server: Server, request_id: str) -> list[dict[str, Any]]:
    """Wait until a job runs; return its row in the log."""

    def rows() -> list[dict[str, Any]]:
        return [row for row in server.log_rows(request_id=request_id) if row["status_code"] is None]

    wait_until(rows)
    return rows()


@pytest.fixture
def app(tmp_path: Path) -> Any:
    """Return an app with jobs that no thread runs."""
    paths = {"jobs_path": tmp_path / "jobs.db", "idempotency_path": tmp_path / "answers.db"}
    settings = accounts.settings(tmp_path, jobs=True, max_jobs_bytes=10_000, **paths)
    return create_app(settings, engine=object(), text_pipeline=object(), audiovisual_pipeline=object())  # type: ignore[arg-type]


def test_a_job_that_kills_its_workers_is_given_up(app: Any) -> None:
    client, runner = app.test_client(), services(app).jobs
    location = client.post("/predict", headers=ASYNC, json=video_body(b"deadly")).headers["Location"]
    with runner.store._database.write() as db:
        db.execute("update jobs set attempts = :attempts", {"attempts": MAX_ATTEMPTS})
    assert runner.run_next(app)
    assert not runner.run_next(app)
    job = client.get(location, headers=HEADERS).get_json()
    assert (job["status"], job["error"]["code"]) == ("failed", "internal")
    assert f"stopped the service {MAX_ATTEMPTS} times" in job["error"]["detail"]


def test_a_job_that_finds_no_slot_waits(app: Any) -> None:
    client, runner, limiter = app.test_client(), services(app).jobs, services(app).concurrency_limiter
    location = client.post("/predict", headers=ASYNC, json={}).headers["Location"]
    limiter._timeout_seconds = 0.01
    for _ in range(services(app).settings.threads):
        assert limiter.acquire()
    assert runner.run_next(app)
    assert client.get(location, headers=HEADERS).get_json()["status"] == "waiting"
    assert not runner.run_next(app)
    for _ in range(services(app).settings.threads):
        limiter.release(1.0)
    with runner.store._database.write() as db:
        db.execute("update jobs set lease = 0")
    assert runner.run_next(app)
    assert client.get(location, headers=HEADERS).get_json()["error"]["code"] == "invalid_request"


def test_a_call_that_is_too_large_to_wait_is_told_so(app: Any) -> None:
    client, body = app.test_client(), video_body(b"x" * services(app).settings.max_jobs_bytes)
    answer = client.post("/predict", headers=ASYNC, json=body)
    assert (answer.status_code, answer.get_json()["code"]) == (413, "too_large")
    assert "Send it without respond-async" in answer.get_json()["detail"]


def test_a_refused_webhook_is_not_the_answer_of_its_idempotency_key(app: Any) -> None:
    client, headers = app.test_client(), {**ASYNC, "Idempotency-Key": "a-key"}
    webhook = {"x-webhook-url": "https://hooks.example.com/"}
    assert client.post("/predict", headers={**headers, **webhook}, json={}).status_code == 400
    for _ in range(2):
        answer = client.post("/predict", headers=headers, json={})
        assert answer.status_code == 202
    assert answer.headers["Idempotency-Replayed"] == "true"


def test_a_job_with_a_compressed_body_has_the_problem_of_the_call(app: Any) -> None:
    client, packed = app.test_client(), {"data": gzip.compress(b"{}"), "content_type": "application/json"}
    expected = client.post("/predict", headers={**HEADERS, "Content-Encoding": "gzip"}, **packed).get_json()
    location = client.post("/predict", headers={**ASYNC, "Content-Encoding": "gzip"}, **packed).headers["Location"]
    assert services(app).jobs.run_next(app)
    error = client.get(location, headers=HEADERS).get_json()["error"]
    assert error == {**expected, "request_id": error["request_id"]}
    assert error["code"] == "unsupported_media"


def test_jobs_are_off_by_default(tmp_path: Path) -> None:
    settings = accounts.settings(tmp_path)
    off = create_app(settings, engine=object(), text_pipeline=object(), audiovisual_pipeline=object())  # type: ignore[arg-type]
    client = off.test_client()
    assert client.post("/predict", headers=ASYNC, json={}).status_code == 422
    assert client.get("/jobs/1", headers=HEADERS).get_json()["code"] == "not_found"
    assert not (tmp_path / "data").exists()
