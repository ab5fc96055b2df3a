"""Measure what it costs to decode clips in another process: the CPU time of both, and the memory of the other.

    python -m bench.decoder_process --rounds 30

A clip of 6 s at 1280 × 720 is read as `/predict` and as `/thumbnail` read it, in this process and in another, in turn.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from bench.clips import phone_clip
from bench.command import run_command
from bench.serve import cpu_ms
from moodreel.media import isolated
from moodreel.media.video import VideoReader
from moodreel.media.video_decoder import VideoLimits
from moodreel.pipelines.engine import DETECTION_SIDE
from moodreel.pipelines.people_extractor import ANALYSIS_FPS, SHORT_CLIP_FRAMES
from moodreel.training.cli.options import at_least

CALLS = 5
"""Calls between two measurements of the CPU time, which Linux counts in steps of 10 ms."""


@contextmanager
def here(data: bytes, limits: VideoLimits) -> Iterator[VideoReader]:
    """Open a clip in this process."""
    yield VideoReader(data, limits)


def read(reader: VideoReader, *, loop: bool) -> None:
    for _ in reader.frames(min_interval=1 / ANALYSIS_FPS, min_frames=SHORT_CLIP_FRAMES, max_side=DETECTION_SIDE):
        pass
    if loop:
        list(reader.loop_frames(start=1.0, stop=2.5, min_interval=1 / 30, max_side=480))


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.decoder_process", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=at_least(1), default=30, help="default: %(default)s")
    options = parser.parse_args()
    isolated.start_template()
    data, limits, costs = phone_clip(), VideoLimits(), defaultdict[tuple[bool, str], list[float]](list)
    for number in range(options.rounds + 1):
        for loop in (False, True):
            for name, open_video in (("here", here), ("in another process", isolated.open_video)):
                processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
                before = cpu_ms(processes)
                for _ in range(CALLS):
                    with open_video(data, limits) as reader:
                        read(reader, loop=loop)
                if number:  # the first round starts the process
                    costs[loop, name].append((cpu_ms(processes) - before) / CALLS)
    for (loop, name), values in costs.items():
        what = "frames and loop" if loop else "frames"
        print(f"{what} {name}: {statistics.median(values):.0f} ms of CPU (median of {len(values)})")
    template, decoder = psutil.Process().children(recursive=True)
    for name, process in (("template", template), ("decoder process", decoder)):
        print(f"USS of the {name}: {process.memory_full_info().uss / 2**20:.0f} MB")


if __name__ == "__main__":
    run_command(main)
