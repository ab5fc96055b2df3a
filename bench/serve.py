"""Measure the latency and throughput of the service, compared to decoding the same videos alone.

    python -m bench.serve                    # starts a server and posts synthetic videos
    python -m bench.serve CLIP… --rounds 20  # posts yours

Compare the ratios: machines differ, and times vary. Decoding and the calls alternate within one run.
"""

import argparse
import io
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import av
import requests

from bench.clips import phone_clip
from tests.support.server import REAL_APP, Server

AUDIOVISUAL = "/api/predict/multimodal"
"""Measured too if the service has a model for it. It has no target."""
TARGETS = {"/predict": (1.5, 150.0), "/thumbnail": (1.5, 450.0)}
"""For each call, factor and milliseconds: it takes at most factor times the decoding, plus the milliseconds."""
CLIENTS = (1, 2, 4, 8)
TARGET_CLIP = "made: 6 s 1280x720"


def peak_megabytes(server: Server) -> list[float]:
    """Return the peak resident memory of each worker (VmHWM)."""
    status = [Path(f"/proc/{worker.pid}/status").read_text() for worker in server.workers]
    return [int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) / 1024 for text in status]


def seconds_to_ready() -> float:
    """Return how long a server takes from its start until it is ready."""
    start = time.perf_counter()
    with running_server():
        return time.perf_counter() - start


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server in an empty folder, with the default settings but without the cache: the same clips come again."""
    settings = {"LOG_LEVEL": "WARNING", "ANALYSIS_CACHE_SECONDS": 0}
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), REAL_APP, **settings) as server:
        yield server


def decode_only(data: bytes) -> None:
    """Decode every frame of the main video stream, and nothing else: the baseline."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "AUTO"
        for _ in container.decode(stream):
            pass


def post(server: Server, path: str, data: bytes) -> requests.Response:
    response = server.post(path, data)
    if response.status_code not in (200, 422):
        raise SystemExit(f"{path} answered {response.status_code}: {response.text}")
    return response


def wall_ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def p50_p95(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):8.0f} {ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]:8.0f}"


def print_latencies(server: Server, clips: dict[str, bytes], rounds: int) -> None:
    print(f"\n{'clip':32} {'call':23} {'p50 ms':>8} {'p95 ms':>8} {'x decode':>9}   target (factor x decode + ms)")
    paths = [*TARGETS, AUDIOVISUAL] if has_model(server, next(iter(clips.values()))) else [*TARGETS]
    stages: dict[str, dict[str, list[float]]] = {path: {} for path in paths}
    for name, data in clips.items():
        decoding, calls = [], {path: [] for path in paths}
        for _ in range(rounds):
            decoding.append(wall_ms(lambda data=data: decode_only(data)))
            for path in paths:
                start = time.perf_counter()
                response = post(server, path, data)
                calls[path].append((time.perf_counter() - start) * 1000)
                for stage, value in re.findall(r"(\w+);dur=([\d.]+)", response.headers.get("Server-Timing", "")):
                    stages[path].setdefault(stage, []).append(float(value))
        decode = statistics.median(decoding)
        print(f"{name:32} {'decode only':23} {p50_p95(decoding)} {1.0:9.2f}")
        for path in paths:
            p50 = statistics.median(calls[path])
            target = compare_to_target(path, p50, decode) if name == TARGET_CLIP and path in TARGETS else ""
            print(f"{'':32} {path:23} {p50_p95(calls[path])} {p50 / decode:9.2f}   {target}")
    print(f"\n{'stage (all clips; stages overlap)':45} {'p50 ms':>8} {'p95 ms':>8}")
    for path, by_stage in stages.items():
        for stage, values in by_stage.items():
            print(f"{path:23} {stage:21} {p50_p95(values)}")


def has_model(server: Server, data: bytes) -> bool:
    return server.post(AUDIOVISUAL, data).status_code != 503


def compare_to_target(path: str, p50: float, decode: float) -> str:
    factor, extra = TARGETS[path]
    target_ms = factor * decode + extra
    return f"{factor} x + {extra:.0f} = {target_ms:.0f}: {'met' if p50 <= target_ms else 'MISSED'}"


def print_throughput(server: Server, data: bytes, calls: int) -> None:
    print(f"\n{'clients':>8} {'clips/s':>8} {'p50 ms':>8} {'p95 ms':>8}   (/predict)")
    for clients in CLIENTS:
        with ThreadPoolExecutor(clients) as pool:
            start = time.perf_counter()
            times = list(pool.map(lambda _: wall_ms(lambda: post(server, "/predict", data)), range(calls)))
        print(f"{clients:8} {calls / (time.perf_counter() - start):8.2f} {p50_p95(times)}")


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.serve", description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path, metavar="CLIP")
    parser.add_argument(
        "--rounds", type=int, default=10, help="calls of each kind for each video (default: %(default)s)"
    )
    options = parser.parse_args()
    clips = {TARGET_CLIP: phone_clip(), "made: 3 s 640x360": phone_clip(640, 360, 3.0)}
    clips |= {path.name: path.read_bytes() for path in options.clips}

    starts = ", ".join(f"{seconds_to_ready():.1f}" for _ in range(3))
    print(f"{os.cpu_count()} cores; start to ready: {starts} s (target 5)")
    with running_server() as server:
        for path in TARGETS:  # warm up each worker
            for _ in range(4):
                post(server, path, clips["made: 3 s 640x360"])
        print_latencies(server, clips, options.rounds)
        print_throughput(server, clips[TARGET_CLIP], 24)
        peaks = ", ".join(f"{value:.0f}" for value in peak_megabytes(server))
        print(f"\npeak memory of each worker: {peaks} MB (target 600)")


if __name__ == "__main__":
    main()
