"""Measure what calls of the service cost, compared with the least that they need (`bench.floor`).

    python -m bench.serve                    # starts a server and posts videos that it makes
    python -m bench.serve CLIP… --rounds 20  # posts yours too

Compare the ratios: machines differ, and times vary. The floor and the calls take turns within one run. On a busy
machine, wall-clock time says little: compare the CPU time.
"""

import argparse
import os
import re
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import requests
import torch

from bench.clips import phone_clip, repeat_clip
from bench.command import run_command
from bench.floor import Floor
from moodreel.media.video import VideoReader
from moodreel.pipelines.boomerang import LoopOptions
from moodreel.pipelines.engine import DETECTION_SIDE, Engine
from moodreel.pipelines.people_extractor import ANALYSIS_FPS, SHORT_CLIP_FRAMES
from moodreel.pipelines.video import VideoPipeline
from moodreel.training.cli.options import at_least
from moodreel.training.evaluation.markdown import format_table
from tests.support.server import REAL_APP, STORE, Server

AUDIOVISUAL = "/api/predict/multimodal"
CLIENTS = (1, 8)
WARM_UP_CALLS = 4
"""Enough that each worker has answered once."""
MAIN_CLIP, ALL_REFERENCES = "6 s 1280x720", "6 s 1280x720 without B-frames"
PREDICT_AIMS = {MAIN_CLIP: 0.75, "6 s 1280x720, small": 0.8, "4.8 s 1080x1920": 0.8, ALL_REFERENCES: 1.0}
"""Most that `/predict` should take, in units of the floor, for the clips that are made here."""
THUMBNAIL_AIM, BOTH_AIM = 0.85, 1.25
"""Most that `/thumbnail` should take, in units of its floor, and both answers in one call, in units of `/predict`."""
HOURLY_DOLLARS, VCPUS = 0.067, 2
"""Google's list price of an e2-standard-2, the machine in docs/operate.md, in us-central1, on demand. An assumption."""


class Cost(NamedTuple):
    """Wall-clock time and CPU time in milliseconds."""

    wall: float
    cpu: float


def made_clips() -> dict[str, bytes]:
    clips = (
        phone_clip(),
        phone_clip(crf="28", preset="fast", g="30"),
        phone_clip(1080, 1920, 4.8, preset="veryfast"),
        phone_clip(bf="0", preset="veryfast"),
    )
    return dict(zip(PREDICT_AIMS, clips, strict=True))


def peak_megabytes(server: Server) -> list[float]:
    """Return the peak resident memory of each worker (VmHWM)."""
    status = [Path(f"/proc/{worker.pid}/status").read_text() for worker in server.workers]
    return [int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) / 1024 for text in status]


def cpu_ms(processes: list[psutil.Process]) -> float:
    """Return the CPU time of processes, of user and system, in milliseconds."""
    return 1000 * sum(sum(process.cpu_times()[:2]) for process in processes)


def seconds_to_ready() -> float:
    """Return how long a server takes from its start until it is ready."""
    start = time.perf_counter()
    with running_server():
        return time.perf_counter() - start


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server in an empty folder that analyzes the same clip again, and lets callers wait on a busy machine."""
    settings = {"LOG_LEVEL": "WARNING", "ANALYSIS_CACHE_SECONDS": 0, "MAX_WAIT_SECONDS": 300, "MAX_WALL_SECONDS": 300}
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), REAL_APP, **settings) as server:
        yield server


def post(server: Server, path: str, data: bytes, **fields: object) -> requests.Response:
    response = server.post(path, data, **fields)
    if response.status_code not in (200, 422):
        raise SystemExit(f"{path} answered {response.status_code}: {response.text}")
    return response


def wall_ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def p50_p95(values: list[float]) -> str:
    return f"{statistics.median(values):8.0f} {percentile(values, 0.95):8.0f}"


def compare_to_floor(server: Server, floor: Floor, data: bytes, rounds: int) -> dict[str, Cost]:
    """Return the median cost of each call and of its floor; they take turns."""
    workers, own = server.processes, [psutil.Process()]
    turns: dict[str, tuple[list[psutil.Process], Callable[[], object]]] = {
        "floor of /predict": (own, lambda: floor.predict(data)),
        "/predict": (workers, lambda: post(server, "/predict", data)),
        "floor of /thumbnail": (own, lambda: floor.thumbnail(data)),
        "/thumbnail": (workers, lambda: post(server, "/thumbnail", data)),
        "both": (workers, lambda: post(server, "/predict", data, thumbnail=True)),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, (processes, work) in turns.items():
            before = cpu_ms(processes)
            costs[name].append(Cost(wall_ms(work), cpu_ms(processes) - before))
    return {name: Cost(*map(statistics.median, zip(*values, strict=True))) for name, values in costs.items()}


def stage_costs(pipeline: VideoPipeline, data: bytes) -> dict[str, float]:
    """Return milliseconds of the CPU by stage, of a call without HTTP."""
    own = [psutil.Process()]

    def cost(work: Callable[[], object]) -> float:
        before = cpu_ms(own)
        work()
        return cpu_ms(own) - before

    sampling = {"min_interval": 1 / ANALYSIS_FPS, "min_frames": SHORT_CLIP_FRAMES, "max_side": DETECTION_SIDE}
    decode = cost(lambda: deque(VideoReader(data).frames(**sampling), maxlen=0))
    predict = cost(lambda: pipeline.predict(data))
    both = cost(lambda: pipeline.predict(data, loop=LoopOptions()))
    return {"decoding": decode, "faces and model": predict - decode, "loop": both - predict}


def print_stages(clips: dict[str, bytes], rounds: int) -> None:
    torch.set_num_threads(1)  # as in a worker
    engine = Engine.load(STORE)
    with closing(engine):
        pipeline = VideoPipeline(engine)
        pipeline.predict(clips[MAIN_CLIP], loop=LoopOptions())  # warm up
        rows = []
        for clip, data in clips.items():
            costs = [stage_costs(pipeline, data) for _ in range(rounds)]
            rows.append([clip, *(f"{statistics.median(cost[stage] for cost in costs):.0f}" for stage in costs[0])])
    print("\nCPU ms by stage\n" + format_table(["", *costs[0]], rows), flush=True)


def print_ratios(server: Server, floor: Floor, clips: dict[str, bytes], rounds: int) -> None:
    for clip, data in clips.items():
        costs = compare_to_floor(server, floor, data, rounds)
        pairs = [
            ("/predict", "floor of /predict", PREDICT_AIMS.get(clip)),
            ("/thumbnail", "floor of /thumbnail", THUMBNAIL_AIM if clip in PREDICT_AIMS else None),
            ("both", "/predict", BOTH_AIM if clip in PREDICT_AIMS else None),
        ]
        rows = []
        for name, base, aim in pairs:
            ours, least = costs[name], costs[base]
            values = [f"{value:.0f}" for value in (ours.cpu, least.cpu, ours.wall, least.wall)]
            ratios = [f"{ours.cpu / least.cpu:.2f}", f"{ours.wall / least.wall:.2f}", f"{aim:.2f}" if aim else ""]
            rows.append([f"{name} ÷ {base}", *values, *ratios])
        print(f"\n{clip}")
        print(
            format_table(["", "CPU ms", "base CPU ms", "ms", "base ms", "CPU ratio", "ratio", "aim"], rows), flush=True
        )


def print_throughput(server: Server, data: bytes, calls: int) -> None:
    rows = []
    for clients in CLIENTS:
        with ThreadPoolExecutor(clients) as pool:
            start, before = time.perf_counter(), cpu_ms(server.processes)
            times = list(pool.map(lambda _: wall_ms(lambda: post(server, "/predict", data)), range(calls)))
        seconds, cpu = time.perf_counter() - start, (cpu_ms(server.processes) - before) / 1000
        per_second = [f"{calls / seconds:.2f}", f"{calls / cpu:.2f}"]
        rows.append([str(clients), *per_second, *p50_p95(times).split()])
    print(format_table(["clients", "clips a second", "clips a second of CPU", "p50 ms", "p95 ms"], rows))
    dollars = 1000 * cpu / calls / VCPUS / 3600 * HOURLY_DOLLARS
    print(
        f"1,000 clips: ${dollars:.4f} = 1000 x {cpu / calls:.2f} s of CPU / {VCPUS} vCPUs, always busy, / 3600 "
        f"x ${HOURLY_DOLLARS} an hour (assumed list price of an e2-standard-2)"
    )


def print_long_clip(server: Server, short: bytes) -> None:
    """Compare the cost of a video that is repeated ten times with that of the video once."""
    workers, long = server.processes, repeat_clip(short, 10)
    before = cpu_ms(workers)
    post(server, "/predict", short)
    once = cpu_ms(workers)
    post(server, "/predict", long)
    print(
        f"60 s, in units of 6 s of the same video: {(cpu_ms(workers) - once) / (once - before):.1f} x the CPU (aim 10)"
    )


def print_memory(server: Server, after: str, aim: int) -> None:
    peaks = ", ".join(f"{value:.0f}" for value in peak_megabytes(server))
    print(f"peak memory of each worker after {after}: {peaks} MB (aim {aim})")


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.serve", description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path, metavar="CLIP")
    parser.add_argument(
        "--rounds", type=at_least(1), default=10, help="calls of each kind for each video (default: %(default)s)"
    )
    options = parser.parse_args()
    named = {path.name: path.read_bytes() for path in options.clips}
    clips = made_clips()
    starts = f"{seconds_to_ready():.1f}"
    print(f"{os.cpu_count()} cores; start to ready: {starts} s (aim 3)")
    with closing(Floor()) as floor, running_server() as server:
        with ThreadPoolExecutor(WARM_UP_CALLS) as pool:  # at once, so that each worker has started what decodes for it
            for path in ["/predict", "/thumbnail"]:
                list(pool.map(lambda _, path=path: post(server, path, clips[MAIN_CLIP]), range(2 * WARM_UP_CALLS)))
        print_memory(server, "/predict and /thumbnail", 450)
        all_clips = clips | named
        print_ratios(server, floor, all_clips, options.rounds)
        print_stages(all_clips, options.rounds)
        print_throughput(server, clips[MAIN_CLIP], 24)
        print_memory(server, "all these clips", 450)
        print_long_clip(server, clips[MAIN_CLIP])
        print_memory(server, "60 s of video", 490)
        for _ in range(WARM_UP_CALLS):
            server.call("POST", "/api/text", json={"text": "I am glad."})
            server.post(AUDIOVISUAL, clips[MAIN_CLIP])
        print_memory(server, "texts and multimodal clips", 600)


if __name__ == "__main__":
    run_command(main)
