"""The decoder processes of a real service: one that crashes or hangs ends one call, and the worker stays."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.support import synthetic_frames, synthetic_video
from tests.support.server import REAL_APP, Server, wait_until

pytestmark = pytest.mark.server

SETTINGS = {"WEB_CONCURRENCY": 1, "ANALYSIS_CACHE_SECONDS": 0, "MAX_WALL_SECONDS": 4, "MAX_WAIT_SECONDS": 100}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("decoder"), REAL_APP, forked=True, **SETTINGS) as server:
        yield server


def decoders(server: Server) -> list[psutil.Process]:
    [worker] = server.workers
    return [process for template in worker.children() for process in template.children()]


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(signal.SIGSEGV, 422, "video_corrupt"), (signal.SIGSTOP, 413, "video_too_long")],
)
def test_the_worker_survives(server: Server, number: signal.Signals, status: int, code: str) -> None:
    clip = synthetic_video.encode_video(synthetic_frames.face_frames(50))
    assert server.post("/predict", clip).status_code == 200
    [worker], [decoder] = server.workers, decoders(server)
    long = synthetic_video.encode_video(synthetic_frames.noise_frames(60, 960, 540))
    before = sum(decoder.cpu_times()[:2])
    with ThreadPoolExecutor() as pool:
        call = pool.submit(server.call, "POST", "/predict", files={"file": long})
        wait_until(lambda: sum(decoder.cpu_times()[:2]) > before + 0.03)
        os.kill(decoder.pid, number)
        beside = server.call("POST", "/api/text", json={"text": "I am glad."})
        answer = call.result()
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert beside.status_code == 200
    assert server.post("/predict", clip).status_code == 200
    assert server.workers == [worker]
    assert decoder not in decoders(server)


def test_a_worker_whose_template_is_killed_is_replaced(server: Server) -> None:
    [worker] = server.workers
    [template] = worker.children()
    template.kill()
    clip = synthetic_video.encode_video(synthetic_frames.face_frames(10))
    assert server.post("/predict", clip).json()["code"] in ("overloaded", "video_corrupt", "video_too_big")
    wait_until(lambda: server.workers not in ([worker], []) and not worker.is_running())
    wait_until(lambda: server.call("GET", "/ready").ok)
    assert server.post("/predict", clip).status_code in (200, 422)
