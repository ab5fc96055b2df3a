"""Measure the CPU time of one video frame by stage, compared to face landmarks in each frame.

    python -m bench.frame
    python -m bench.frame --model compact-emotimesh --rounds 5

CPU time hardly depends on what else the machine does. It is measured on one core, where MediaPipe's threads do not wait
for each other, which costs CPU time too. The frames are synthetic.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from bench.clips import phone_clip
from bench.command import run_command
from moodreel.faces.detector import FaceDetection
from moodreel.faces.landmarker import Face
from moodreel.faces.observation import observe_face
from moodreel.media.video import VideoReader
from moodreel.pipelines.engine import DETECTION_SIDE, Engine
from moodreel.pipelines.people_extractor import ANALYSIS_FPS, landmark_step
from moodreel.training.cli.options import at_least
from moodreel.training.evaluation.markdown import format_table
from tests.support.server import STORE

MAX_CPU_MS = 12.0
"""Milliseconds of CPU that a frame may take, face detection included."""
LANDMARKS = "for comparison: landmarks in each frame"


def cpu_ms(work: Callable[[], object], count: int) -> float:
    """Return the CPU time of `work`, which handles `count` frames, for each frame."""
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1000 / count


@contextmanager
def one_core() -> Iterator[None]:
    """Pin this thread, and those started meanwhile, to one core."""
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(affinity)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, affinity)


def measure(model: str | None, rounds: int) -> tuple[list[np.ndarray], dict[str, float]]:
    """Return the frames, and the milliseconds of each stage for one frame."""
    engine = Engine.load(STORE)
    predictor = engine.models.get(model)
    reader = VideoReader(phone_clip(seconds=4.0))
    frames = [frame.rgb for frame in reader.frames(min_interval=1 / ANALYSIS_FPS, max_side=DETECTION_SIDE)]
    step = landmark_step(predictor.crop_kind)

    def detect(index: int) -> Face | FaceDetection:
        find = engine.landmarker.detect_quickly if index % step else engine.landmarker.detect
        return find(frames[index])[0]

    faces = [detect(index) for index in range(len(frames))]
    track = [
        observe_face(rgb, face, crop_kind=predictor.crop_kind).features for rgb, face in zip(frames, faces, strict=True)
    ]
    stages: dict[str, Callable[[], object]] = {
        LANDMARKS: lambda: [engine.landmarker.detect(rgb) for rgb in frames],
        "detect the face": lambda: [detect(index) for index in range(len(frames))],
        "extract features": lambda: [
            observe_face(rgb, face, crop_kind=predictor.crop_kind) for rgb, face in zip(frames, faces, strict=True)
        ],
        f"predict, {predictor.info.name}": lambda: predictor.predict([track]),
    }
    for work in stages.values():
        work()
    fastest = {stage: min(cpu_ms(work, len(frames)) for _ in range(rounds)) for stage, work in stages.items()}
    return frames, fastest


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bench.frame", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name of a model in the store (default: the store's own)")
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, help="repetitions, of which the fastest counts (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with one_core():
        frames, stages_ms = measure(options.model, options.rounds)
    landmarks_ms = stages_ms[LANDMARKS]
    total = sum(stages_ms.values()) - landmarks_ms
    print(f"{len(frames)} frames of {frames[0].shape[1]}x{frames[0].shape[0]}, fastest of {options.rounds} rounds")
    rows = [
        (stage, f"{stage_ms:.2f}", f"{stage_ms / landmarks_ms:.2f} x")
        for stage, stage_ms in [*stages_ms.items(), ("all", total)]
    ]
    print(format_table(("stage", "CPU ms a frame", "of landmarks"), rows))
    print(f"Target: at most {MAX_CPU_MS:g} ms a frame; {'met' if total <= MAX_CPU_MS else 'MISSED'}.")


if __name__ == "__main__":
    run_command(main)
