"""Measure the memory of each worker of the service: after its start, after clips, and after texts and multimodal clips.

    python -m bench.memory                    # one worker, synthetic videos
    python -m bench.memory CLIP… --workers 2  # yours

RSS counts all pages that a process uses, PSS shares of those that several use, USS only its own: the sum of the PSS is
what the service takes. The peak is that of the RSS. From /proc: Linux only.
"""

import argparse
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from api.maintenance import IDLE_SECONDS
from bench.clips import phone_clip
from bench.command import run_command
from bench.serve import post
from moodreel.training.cli.options import at_least
from tests.support.server import REAL_APP, Server

TEXT = "I was so happy to see her again, and then I was sad all day. " * 5


def megabytes(pid: int) -> dict[str, float]:
    """Return RSS, PSS, USS and the peak of the RSS of a process, in MB of 1024 kB."""
    rollup = dict(re.findall(r"(\w+): +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text()))
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]
    own = int(rollup["Private_Clean"]) + int(rollup["Private_Dirty"])
    return {
        "RSS": int(rollup["Rss"]) / 1024,
        "PSS": int(rollup["Pss"]) / 1024,
        "USS": own / 1024,
        "peak": int(peak) / 1024,
    }


def print_row(server: Server, stage: str) -> None:
    rows = [megabytes(worker.pid) for worker in server.workers]
    columns = (" ".join(f"{row[name]:4.0f}" for row in rows) for name in ("RSS", "PSS", "USS", "peak"))
    print(f"| {stage} | {' | '.join(columns)} |", flush=True)


def stages(server: Server, clips: list[bytes], calls: int) -> dict[str, Callable[[], None]]:
    """Return what is called in each stage, `calls` times for each worker."""

    def post_clips(path: str) -> None:
        for number in range(calls * len(server.workers)):
            post(server, path, clips[number % len(clips)])

    def post_texts() -> None:
        for _ in range(calls * len(server.workers)):
            response = server.call("POST", "/api/text", json={"text": TEXT})
            assert response.ok, response.text

    return {
        "/predict": lambda: post_clips("/predict"),
        "/thumbnail": lambda: post_clips("/thumbnail"),
        "idle": lambda: time.sleep(2 * IDLE_SECONDS + 1),
        "/api/text": post_texts,
        "/api/predict/multimodal": lambda: post_clips("/api/predict/multimodal"),
    }


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.memory", description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path, metavar="CLIP")
    parser.add_argument(
        "--calls", type=at_least(1), default=20, help="calls of each kind for each worker (default: %(default)s)"
    )
    parser.add_argument("--workers", type=at_least(1), default=1, help="default: %(default)s")
    options = parser.parse_args()
    clips = [path.read_bytes() for path in options.clips] or [phone_clip(), phone_clip(1080, 1920, 4.8)]
    with TemporaryDirectory() as folder:
        settings = {"WEB_CONCURRENCY": options.workers, "ANALYSIS_CACHE_SECONDS": 0, "MAX_WALL_SECONDS": 300}
        server = Server(Path(folder), REAL_APP, LOG_LEVEL="WARNING", **settings)
        start = time.perf_counter()
        with server:
            print(f"{os.cpu_count()} cores; start to ready: {time.perf_counter() - start:.1f} s\n")
            print("| MB, each worker | RSS | PSS | USS | peak |\n| --- | --- | --- | --- | --- |")
            print_row(server, "ready")
            for stage, call in stages(server, clips, options.calls).items():
                call()
                print_row(server, stage)
            decoders = [each.pid for each in server.processes if each not in server.workers]
            decoding = sum(megabytes(pid)["PSS"] for pid in decoders)
            total = sum(megabytes(each.pid)["PSS"] for each in (server.process, *server.processes))
            print(f"\nPSS of the {len(decoders)} processes that decode: {decoding:.0f} MB; of all: {total:.0f} MB")


if __name__ == "__main__":
    run_command(main)
