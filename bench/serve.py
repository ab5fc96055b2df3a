"""How fast a running service answers, beside what decoding the same clips alone takes.

    python -m bench.serve                    # starts a server of its own, posts clips made from NASA's portrait
    python -m bench.serve CLIP… --rounds 20  # your own clips

Machines differ and are noisy: the ratios are what to compare. Decoding alone and each call take turns within one run.
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

SEEING = "/api/predict/multimodal"
"""Timed as well where the service has a model for it; there is no target."""
ALLOWED = {"/predict": (1.5, 150.0), "/thumbnail": (1.5, 450.0)}
"""The target for each call: at most `factor` times the decoding alone, plus so many milliseconds."""
CLIENTS = (1, 2, 4, 8)
TARGET_CLIP = "made: 6 s 1280x720"


def peak_megabytes(server: Server) -> list[float]:
    """Peak resident memory of each worker, as Linux counts it (VmHWM)."""
    status = [Path(f"/proc/{worker.pid}/status").read_text() for worker in server.workers]
    return [int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) / 1024 for text in status]


def seconds_to_ready() -> float:
    """Start a server and stop it once it is ready."""
    begun = time.perf_counter()
    with running():
        return time.perf_counter() - begun


@contextmanager
def running() -> Iterator[Server]:
    """Serve with the default settings from an empty folder."""
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), REAL_APP, LOG_LEVEL="WARNING") as server:
        yield server


def decode_only(data: bytes) -> None:
    """Decode every frame of the main video stream, and nothing else: the floor."""
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


def milliseconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000


def p50_p95(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):8.0f} {ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]:8.0f}"


def latencies(server: Server, clips: dict[str, bytes], rounds: int) -> None:
    print(f"\n{'clip':32} {'call':23} {'p50 ms':>8} {'p95 ms':>8} {'x decode':>9}   target (factor x decode + ms)")
    paths = [*ALLOWED, SEEING] if has_model(server, next(iter(clips.values()))) else [*ALLOWED]
    stages: dict[str, dict[str, list[float]]] = {path: {} for path in paths}
    for name, data in clips.items():
        floor, calls = [], {path: [] for path in paths}
        for _ in range(rounds):
            floor.append(milliseconds(lambda data=data: decode_only(data)))
            for path in paths:
                begun = time.perf_counter()
                response = post(server, path, data)
                calls[path].append((time.perf_counter() - begun) * 1000)
                for stage, value in re.findall(r"(\w+);dur=([\d.]+)", response.headers.get("Server-Timing", "")):
                    stages[path].setdefault(stage, []).append(float(value))
        decode = statistics.median(floor)
        print(f"{name:32} {'decode only':23} {p50_p95(floor)} {1.0:9.2f}")
        for path in paths:
            p50 = statistics.median(calls[path])
            target = judge(path, p50, decode) if name == TARGET_CLIP and path in ALLOWED else ""
            print(f"{'':32} {path:23} {p50_p95(calls[path])} {p50 / decode:9.2f}   {target}")
    print(f"\n{'stage (all clips; stages overlap)':45} {'p50 ms':>8} {'p95 ms':>8}")
    for path, by_stage in stages.items():
        for stage, values in by_stage.items():
            print(f"{path:23} {stage:21} {p50_p95(values)}")


def has_model(server: Server, data: bytes) -> bool:
    return server.post(SEEING, data).status_code != 503


def judge(path: str, p50: float, decode: float) -> str:
    factor, extra = ALLOWED[path]
    allowed = factor * decode + extra
    return f"{factor} x + {extra:.0f} = {allowed:.0f}: {'met' if p50 <= allowed else 'MISSED'}"


def throughput(server: Server, data: bytes, calls: int) -> None:
    print(f"\n{'clients':>8} {'clips/s':>8} {'p50 ms':>8} {'p95 ms':>8}   (/predict)")
    for clients in CLIENTS:
        with ThreadPoolExecutor(clients) as pool:
            begun = time.perf_counter()
            taken = list(pool.map(lambda _: milliseconds(lambda: post(server, "/predict", data)), range(calls)))
        print(f"{clients:8} {calls / (time.perf_counter() - begun):8.2f} {p50_p95(taken)}")


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.serve", description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path, metavar="CLIP")
    parser.add_argument("--rounds", type=int, default=10, help="calls of each kind for each clip (default 10)")
    options = parser.parse_args()
    clips = {TARGET_CLIP: phone_clip(), "made: 3 s 640x360": phone_clip(640, 360, 3.0)}
    clips |= {path.name: path.read_bytes() for path in options.clips}

    starts = ", ".join(f"{seconds_to_ready():.1f}" for _ in range(3))
    print(f"{os.cpu_count()} cores; start to ready: {starts} s (target 5)")
    with running() as server:
        for path in ALLOWED:  # until each worker is warm
            for _ in range(4):
                post(server, path, clips["made: 3 s 640x360"])
        latencies(server, clips, options.rounds)
        throughput(server, clips[TARGET_CLIP], 24)
        peaks = ", ".join(f"{value:.0f}" for value in peak_megabytes(server))
        print(f"\npeak memory of each worker: {peaks} MB (target 600)")


if __name__ == "__main__":
    main()
