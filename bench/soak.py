"""Send thousands of mixed calls to a real service, and print their statuses and the slope of the workers' memory.

    python -m bench.soak                 # 5,000 calls of clips, pictures, texts and errors
    python -m bench.soak --calls 20000 --workers 4

No two files are the same, so that every analysis is made. The slope is that of the least squares line through the
workers' own memory after the warm-up, in which models are loaded and caches filled.

Own memory is what a worker has allocated. PSS and USS also count pages of libraries' files, and shares of them, that
change by tens of MB when another program that uses the same libraries starts or ends.
"""

import argparse
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import requests

from bench.command import run_command
from moodreel.training.cli.options import at_least
from moodreel.training.evaluation.markdown import format_table
from tests.support import synthetic_frames, synthetic_image, synthetic_video
from tests.support.server import HEADERS, REAL_APP, Server, video_body

CLIENTS = 4
WARM_UP = 0.4
"""Share of the calls before the memory is fitted."""
SAMPLES = 100
"""Measurements of the memory."""
NO_STATUS = 0
"""In place of a status: the connection broke."""


class Call(NamedTuple):
    """A kind of call; `weight` is its share, `options` those of `requests.request`, made of a number that is unique."""

    name: str
    weight: int
    method: str
    path: str
    options: Callable[[int], dict[str, object]]
    statuses: tuple[int, ...]


def kinds() -> list[Call]:
    clip = synthetic_video.encode_video(synthetic_frames.face_frames(30))
    still = synthetic_video.encode_video(synthetic_frames.noise_frames(10))
    photo = synthetic_image.encode_image(synthetic_frames.portrait())

    def of(data: bytes) -> Callable[[int], dict[str, object]]:
        # Bytes behind the end of a file change its hash and nothing else.
        return lambda number: {"files": {"file": data + number.to_bytes(8, "big")}}

    def as_json(data: bytes) -> Callable[[int], dict[str, object]]:
        return lambda number: {"json": video_body(data + number.to_bytes(8, "big"))}

    def text(number: int) -> dict[str, object]:
        return {"json": {"text": f"Day {number}: nailed the interview, I can't believe it! 🎉"}}

    return [
        Call("clip", 12, "POST", "/predict?detail=timeline&explain=true", as_json(clip), (200,)),
        Call("loop", 6, "POST", "/thumbnail?size=240&duration=1.5", of(clip), (200,)),
        Call("clip without a face", 4, "POST", "/predict", of(still), (422,)),
        Call("picture", 14, "POST", "/api/detect", of(photo), (200,)),
        Call("marked picture", 4, "POST", "/api/detect?draw=true", as_json(photo), (200,)),
        Call("face and voice", 3, "POST", "/api/predict/multimodal", of(clip), (200,)),
        Call("text", 22, "POST", "/api/text", text, (200,)),
        Call("half a clip", 5, "POST", "/predict", of(clip[: len(clip) // 2]), (200, 415, 422)),
        Call("random bytes", 8, "POST", "/predict", lambda number: {"files": {"file": _noise(number)}}, (415, 422)),
        Call("picture sent as a clip", 6, "POST", "/thumbnail", of(photo), (415,)),
        Call("no JSON", 5, "POST", "/predict", lambda _: {"data": b"{" * 1000}, (400,)),
        Call("wrong key", 5, "POST", "/predict", lambda _: {"headers": {"x-api-key": "no"}, "data": clip}, (401,)),
        Call("unknown path", 3, "GET", "/nowhere", lambda _: {}, (404,)),
        Call("log", 3, "GET", "/logs?limit=20", lambda _: {}, (200,)),
    ]


def _noise(number: int) -> bytes:
    return random.Random(number).randbytes(20_000)


def megabytes(server: Server) -> float:
    """Return the memory of all workers and decoder processes that no file backs; a shared page counts once."""
    rollups = [Path(f"/proc/{process.pid}/smaps_rollup").read_text() for process in server.processes]
    kilobytes = [size for text in rollups for size in re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB", text, re.MULTILINE)]
    return sum(map(int, kilobytes)) / 1024


def run(server: Server, calls: int) -> tuple[dict[str, Counter[int]], list[tuple[int, float]]]:
    """Make the calls. Returns the statuses of each kind, and the memory after a number of calls."""
    generator, table = random.Random(1), kinds()
    order = generator.choices(table, [kind.weight for kind in table], k=calls)
    statuses: dict[str, Counter[int]] = defaultdict(Counter)
    memory: list[tuple[int, float]] = []

    def call(numbered: tuple[int, Call]) -> tuple[str, int]:
        number, kind = numbered
        options = {"headers": HEADERS, "timeout": 300, **kind.options(number)}
        try:
            return kind.name, requests.request(kind.method, server.url + kind.path, **options).status_code  # type: ignore[arg-type]
        except requests.RequestException:
            return kind.name, NO_STATUS

    with ThreadPoolExecutor(CLIENTS) as clients:
        for done, (name, status) in enumerate(clients.map(call, enumerate(order)), 1):
            statuses[name][status] += 1
            if done % max(1, calls // SAMPLES) == 0:
                memory.append((done, megabytes(server)))
    return statuses, memory


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=at_least(1), default=5000, help="number of calls (default: %(default)s)")
    parser.add_argument("--workers", type=at_least(1), default=2, help="worker processes (default: %(default)s)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), REAL_APP, WEB_CONCURRENCY=options.workers, MAX_WAIT_SECONDS=100) as server,
    ):
        pids, started = {worker.pid for worker in server.workers}, time.monotonic()
        statuses, memory = run(server, options.calls)
        seconds = time.monotonic() - started
        lost = len(pids - {worker.pid for worker in server.workers})
    expected = {kind.name: kind.statuses for kind in kinds()}
    rows: list[tuple[str, ...]] = []
    for name in expected:
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(statuses[name].items()))
        unexpected = sum(n for status, n in statuses[name].items() if status not in expected[name])
        rows.append((name, counts, str(unexpected)))
    print(format_table(("call", "statuses", "unexpected"), rows))
    fitted = [point for point in memory if point[0] > WARM_UP * options.calls]
    slope = float(np.polyfit([calls for calls, _ in fitted], [size for _, size in fitted], 1)[0])
    print(
        f"\n{options.calls} calls in {seconds:.0f} s, workers lost: {lost}. Own memory of the workers: "
        f"{memory[0][1]:.0f} MB after {memory[0][0]} calls, {fitted[0][1]:.0f} MB after {fitted[0][0]}, "
        f"{memory[-1][1]:.0f} MB after {memory[-1][0]}; slope {1000 * slope:+.1f} MB per 1,000 calls."
    )


if __name__ == "__main__":
    run_command(main)
