"""CPU time that one analysed frame costs, by stage, beside finding the face, which is not ours.

    python -m bench.frame
    python -m bench.frame --model compact-emotimesh --rounds 5

CPU time, so that other work on the machine hardly shows, on one core: there MediaPipe's threads do not wait for each
other, which costs CPU time too. The frames are those of a made clip.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from bench.clips import phone_clip
from moodreel.faces.observation import observe_face
from moodreel.media.video import VideoReader
from moodreel.pipelines.engine import DETECTION_SIDE, Engine

ALLOWED = 12.0
"""Milliseconds of CPU that a frame may take, finding the face included."""
STORE = Path(__file__).resolve().parents[1] / "model_store"


def milliseconds(work: Callable[[], object], count: int) -> float:
    """CPU time of `work` by each of the `count` frames it is about."""
    begun = time.process_time()
    work()
    return (time.process_time() - begun) * 1000 / count


@contextmanager
def one_core() -> Iterator[None]:
    """Keep the threads that are started meanwhile, and this one, on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def measure(model: str | None, rounds: int) -> tuple[list[np.ndarray], dict[str, float]]:
    """Give the frames, and what each stage takes of a frame, in milliseconds."""
    engine = Engine.load(STORE)
    predictor = engine.models.get(model)
    reader = VideoReader(phone_clip(seconds=4.0))
    frames = [frame.rgb for frame in reader.frames(min_interval=0.2, max_side=DETECTION_SIDE)]
    faces = [engine.landmarker.detect(rgb)[0] for rgb in frames]
    track = [
        observe_face(rgb, face, with_rgb_crop=predictor.requires_rgb_crop).features
        for rgb, face in zip(frames, faces, strict=True)
    ]
    stages: dict[str, Callable[[], object]] = {
        "find the face": lambda: [engine.landmarker.detect(rgb) for rgb in frames],
        "describe it": lambda: [
            observe_face(rgb, face, with_rgb_crop=predictor.requires_rgb_crop)
            for rgb, face in zip(frames, faces, strict=True)
        ],
        f"read it, {predictor.info.name}": lambda: predictor.predict([track]),
    }
    for work in stages.values():
        work()
    least = {stage: min(milliseconds(work, len(frames)) for _ in range(rounds)) for stage, work in stages.items()}
    return frames, least


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bench.frame", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a name in the store; the default model when not given")
    parser.add_argument("--rounds", type=int, default=5, help="the least of so many counts (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with one_core():
        frames, taken = measure(options.model, options.rounds)
    floor, total = taken["find the face"], sum(taken.values())
    print(f"{len(frames)} frames of {frames[0].shape[1]}x{frames[0].shape[0]}, least of {options.rounds} rounds")
    print("| stage | CPU ms a frame | of finding the face |\n| --- | --- | --- |")
    for stage, spent in [*taken.items(), ("all", total)]:
        print(f"| {stage} | {spent:.2f} | {spent / floor:.2f} x |")
    print(f"Allowed: {ALLOWED:g} ms a frame; {'met' if total <= ALLOWED else 'MISSED'}.")


if __name__ == "__main__":
    main()
