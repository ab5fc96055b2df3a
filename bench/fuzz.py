"""Post damaged clips of every container to the service; count its answers, and watch its workers and their memory.

    python -m bench.fuzz                  # 20,000 clips
    python -m bench.fuzz --clips 3000 --seed 1

Each clip goes to one of `/predict`, `/thumbnail` and `/api/predict/multimodal`, in turn. It ends with status 1 if an
answer is 5xx, a worker is lost, a call takes longer than its deadline, or memory grows after the first thousand clips.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.command import run_command
from moodreel.training.cli.options import at_least
from tests.support.mutated_clips import mutated_clips
from tests.support.server import REAL_APP, Server

PATHS = ("/predict", "/thumbnail", "/api/predict/multimodal")
DEADLINE = 30.0
"""Seconds: `MAX_WALL_SECONDS`."""
MAX_GROWTH = 64.0
"""MB by which the RSS of a worker may differ between the thousandth clip and the last: one analysis, more or less."""


def megabytes(server: Server) -> float:
    """Return the largest RSS of a worker, or of a process that decodes for it."""
    return max(process.memory_info().rss for process in server.processes) / 2**20


def fuzz(server: Server, clips: int, seed: int) -> bool:
    """Post the clips and print what happened; return whether the service withstood them."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    slowest: dict[str, float] = defaultdict(float)
    workers = {worker.pid for worker in server.workers}
    memory = {}
    for index, (name, data) in enumerate(mutated_clips(clips, seed), 1):
        start = time.perf_counter()
        response = server.call("POST", PATHS[index % len(PATHS)], files={"file": ("clip", data)})
        slowest[name] = max(slowest[name], time.perf_counter() - start)
        answers[name][str(response.status_code)] += 1
        if response.status_code >= 500:
            print(f"clip {index} of seed {seed} ({name}): {response.status_code} {response.text}", flush=True)
        if index in (1, 100, clips) or index % 1000 == 0:
            memory[index] = megabytes(server)
    print("| clip | 200 | 4xx | 5xx | slowest, s |\n| --- | --- | --- | --- | --- |")
    for name, count in answers.items():
        row = [sum(count[status] for status in count if status[0] == first) for first in "245"]
        print(f"| {name} | {' | '.join(map(str, row))} | {slowest[name]:.2f} |")
    print(f"\n{clips} clips; RSS of the worker in MB by clips: { ({at: round(mb) for at, mb in memory.items()}) }")
    lost = workers - {worker.pid for worker in server.workers}
    failed = sum(count[status] for count in answers.values() for status in count if status[0] == "5")
    growth = memory[clips] - memory[min(1000, clips)]
    print(f"5xx: {failed}; workers lost: {len(lost)}; slowest: {max(slowest.values()):.2f} s; growth: {growth:.0f} MB")
    return not failed and not lost and max(slowest.values()) < DEADLINE and growth < MAX_GROWTH


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=at_least(1), default=20_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    options = parser.parse_args()
    settings = {"LOG_LEVEL": "ERROR", "WEB_CONCURRENCY": 1, "ANALYSIS_CACHE_SECONDS": 0, "MAX_WAIT_SECONDS": 300}
    with TemporaryDirectory() as folder, Server(Path(folder), REAL_APP, **settings) as server:
        sys.exit(0 if fuzz(server, options.clips, options.seed) else 1)


if __name__ == "__main__":
    run_command(main)
