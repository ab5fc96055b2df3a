"""Count the pictures in which a face is detected, and those in which it is taken for a person's.

    python -m bench.false_faces animals things    # pictures without people: the last columns should be 0
    python -m bench.false_faces portraits         # pictures of people: none should be lost

Every picture in a folder and below it is read as `/api/detect` reads it. docs/benchmarks.md tells what was measured.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.command import run_command
from moodreel.errors import MoodreelError
from moodreel.faces.tiled_detection import detect_tiled
from moodreel.media.image import ImageLimits, decode_image
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.image import ImagePipeline
from moodreel.training.evaluation.markdown import format_table
from tests.support.server import STORE

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


def measure(pipeline: ImagePipeline, engine: Engine, paths: Sequence[Path]) -> tuple[list[Path], list[Path], int]:
    """Return the pictures with a detected face, those with a person, and how many could not be read."""
    detected, people, unreadable = [], [], 0
    for path in paths:
        data = path.read_bytes()
        try:
            faces = pipeline.predict(data).faces
        except MoodreelError:
            unreadable += 1
            continue
        if faces:
            people.append(path)
        if detect_tiled(engine.landmarker, decode_image(data, ImageLimits()).rgb):
            detected.append(path)
    return detected, people, unreadable


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bench.false_faces", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="print the pictures whose face is taken for a person's")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    engine = Engine.load(STORE, use_gpu="0")
    pipeline = ImagePipeline(engine)
    rows, shown = [], []
    for folder in options.folders:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        if not paths:
            parser.error(f"no pictures in {folder}")
        detected, people, unreadable = measure(pipeline, engine, paths)
        rows.append((folder.name, *(str(number) for number in (len(paths) - unreadable, len(detected), len(people)))))
        shown += people
    print(format_table(("folder", "pictures", "with a detected face", "with a person"), rows))
    if options.list:
        print(*shown, sep="\n")
    engine.close()


if __name__ == "__main__":
    run_command(main)
