"""Measure how robust a model is to images that are worse than its training data.

    python -m bench.robustness --data PATH                        # PATH: a folder with the valid.npz of FER+
    python -m bench.robustness --data PATH --conditions blur,yaw  # some conditions only
    python -m bench.robustness --data PATH --pictures 4 --sheet sheet.png

Images of FER+ are rendered as frames of a phone camera (`bench.render`), made worse in one way at a time, and
classified as the service classifies a video of one frame: same landmarker, features and predictor. A face that is not
found counts as a wrong answer.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from bench import render
from bench.command import run_command
from bench.render import Effect, Scene
from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.observation import observe_face
from moodreel.faces.quality import assess_quality
from moodreel.models.face_registry import load_face_model
from moodreel.models.predictor import FacePredictor
from moodreel.pipelines.engine import Engine
from moodreel.training.cli.options import at_least
from moodreel.training.data.ferplus import read_split
from moodreel.training.evaluation.calibration import expected_calibration_error
from moodreel.training.evaluation.markdown import format_table
from tests.support.server import STORE

SEED = 0


@dataclass(frozen=True)
class Condition:
    """One way to make an image worse, and its strength."""

    name: str
    effect: Effect
    strength: float
    template: str

    @property
    def title(self) -> str:
        return self.template.format(self.strength)


def _family(name: str, effect: Effect, template: str, *strengths: float) -> list[Condition]:
    return [Condition(name, effect, strength, template) for strength in strengths]


CONDITIONS: tuple[Condition, ...] = (
    *_family("none", render.plain, f"{render.FACE} px face, sharp, in color", 0),
    *_family("blur", render.blurred, "Gaussian, σ {:g} % of the face's width", 2, 4, 8),
    *_family("motion", render.shaken, "along {:g} % of the face's width", 5, 10, 20),
    *_family("dark", render.darkened, "{:g} stops, sensor noise", 2, 4, 6),
    *_family("bright", render.overexposed, "{:g} stops too much, clipped", 1, 2, 3),
    *_family("noise", render.noisy, "σ {:g} of 255", 8, 16, 32),
    *_family("jpeg", render.as_jpeg, "quality {:g}", 70, 30, 10),
    *_family("h264", render.as_h264, "CRF {:g}", 23, 35, 45),
    *_family("size", render.sized, f"face {{:g}} px of {render.WIDTH} × {render.HEIGHT}", 300, 128, 96, 64, 48, 32, 24),
    *_family("yaw", render.yawed, "turned to {:+g}°", -60, -45, -30, -15, 15, 30, 45, 60),
    *_family("pitch", render.pitched, "raised by {:+g}°", -30, -15, 15, 30),
    *_family("roll", render.rolled, "±{:g}°", 15, 30, 45, 90),
    *_family("mouth", render.masked, "mask, {:.0%} of its full size", 0.5, 1),
    *_family("eyes", render.with_glasses, "dark glasses, {:.0%} opaque", 0.6, 0.9),
    *_family("colour", render.recolored, "cast {:+g} (none has +1, gray 0)", -1, 0, 2),
    *_family("side-light", render.lit_from_side, "{:g} stops across the face", 2, 4),
    *_family("backlight", render.lit_from_behind, "{:g} stops darker than the background", 2, 4),
)


@dataclass(frozen=True, eq=False)
class Sample:
    """N images, uint8 (N, 48, 48) grayscale, and their labels, int64 (N,)."""

    images: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True, eq=False)
class ConditionResult:
    """The predictions of a model for N images in one condition.

    Attributes:
        truth: int (N,), index of the label.
        found: bool (N,), whether a face was found.
        certain: bool (N,), whether the service would call the answer certain; False without a face.
        probabilities: float32 (M, C), of the M images with a face.
    """

    truth: np.ndarray
    found: np.ndarray
    certain: np.ndarray
    probabilities: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether each answer is correct, bool (N,); False without a face."""
        right = np.zeros(len(self.truth), bool)
        right[self.found] = self.probabilities.argmax(axis=1) == self.truth[self.found]
        return right


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.0f} %"


def _calibration_error(result: ConditionResult) -> str:
    truth = result.truth[result.found]
    return f"{expected_calibration_error(result.probabilities, truth):.2f}" if len(truth) else "–"


def _recall(result: ConditionResult) -> float:
    return float(np.mean([result.correct[result.truth == label].mean() for label in np.unique(result.truth)]))


COLUMNS: dict[str, Callable[[ConditionResult], str]] = {
    "face found": lambda result: _percent(_mean(result.found)),
    "accuracy": lambda result: _percent(_mean(result.correct)),
    "accuracy, found": lambda result: _percent(_mean(result.correct[result.found])),
    "mean recall": lambda result: _percent(_recall(result)),
    "calibration error": _calibration_error,
    "mean confidence": lambda result: _percent(_mean(result.probabilities.max(axis=1, initial=0))),
    "certain": lambda result: _percent(_mean(result.certain)),
    "accuracy, certain": lambda result: _percent(_mean(result.correct[result.certain])),
}
"""The columns of the table, by heading."""


def sample(data: Path, labels: tuple[str, ...], count: int) -> Sample:
    """Draw a stratified sample of the images of FER+'s `valid` with a majority over half, the same every time.

    Each class has its share of the split, but at least a thirtieth of the sample, or all of its images: accuracy and
    calibration then estimate those of the whole split, and rare classes are included.
    """
    split = read_split(data, "valid", labels=labels)
    rng = np.random.default_rng(SEED)
    shares = np.bincount(split.truth[split.truth >= 0], minlength=len(labels)) / (split.truth >= 0).sum()
    rows = []
    for label, share in enumerate(shares):
        own = rng.permutation(np.flatnonzero(split.truth == label))
        rows.append(own[: max(round(share * count), count // 30, 1)])
    chosen = np.concatenate(rows)
    return Sample(split.images[chosen], split.truth[chosen])


def frames(scenes: Sequence[Scene], condition: Condition) -> Iterator[np.ndarray]:
    """Render every scene in a condition: uint8 (640, 480, 3) RGB. The random seed of a scene is fixed."""
    for row, scene in enumerate(scenes):
        yield condition.effect(scene, condition.strength, np.random.default_rng((SEED, row)))


def measure(
    scenes: Sequence[Scene],
    truth: np.ndarray,
    condition: Condition,
    landmarker: FaceLandmarker,
    predictor: FacePredictor,
    progress: Callable[[], object] = lambda: None,
) -> ConditionResult:
    """Classify every scene in a condition, as `VideoPipeline` classifies a video of one frame: by the largest face.

    Args:
        scenes: N scenes.
        truth: int (N,), index of the label in the predictor's labels.
        condition: The condition.
        landmarker: Detects the face.
        predictor: The model.
        progress: Called after each frame.
    """
    found = np.zeros(len(scenes), bool)
    observations, sizes = [], []
    for row, frame in enumerate(frames(scenes, condition)):
        if faces := landmarker.detect(frame):
            found[row] = True
            observations.append(observe_face(frame, faces[0], crop_kind=predictor.crop_kind))
            sizes.append(max(faces[0].box[2] * frame.shape[1], faces[0].box[3] * frame.shape[0]))
        progress()
    predictions = predictor.predict([[observation.features] for observation in observations], per_frame=False)
    certain = found.copy()
    certain[found] = [
        assess_quality(
            [observation],
            [size],
            face_coverage=1,
            confidence=float(prediction.probabilities.max()),
            certain_from=predictor.certain_from,
        ).reason
        is None
        for observation, size, prediction in zip(observations, sizes, predictions, strict=True)
    ]
    probabilities = np.array([prediction.probabilities for prediction in predictions])
    return ConditionResult(truth, found, certain, probabilities.reshape(-1, len(predictor.info.labels)))


def table(results: dict[Condition, ConditionResult]) -> str:
    """Format results as a Markdown table, one row for each condition."""
    rows = [
        (condition.name, condition.title, *(column(result) for column in COLUMNS.values()))
        for condition, result in results.items()
    ]
    return format_table(("condition", "strength", *COLUMNS), rows, left=2)


def insert_into_card(card: str, report: str) -> str:
    """Insert a report into a model card as its section on robustness, or replace that section."""
    card = re.sub(r"## Robustness\n.*?(?=^## )", "", card, flags=re.DOTALL | re.MULTILINE)
    before, training, after = card.partition("## Training\n")
    if not training:
        raise DataInvalid("A card has a section 'Training', and this one has none.")
    return f"{before}## Robustness\n{report}\n\n{training}{after}"


def sheet(scenes: Sequence[Scene], conditions: Sequence[Condition]) -> np.ndarray:
    """Arrange renderings in a sheet, uint8 (H, W, 3) RGB: a column for each condition, a row for each scene."""
    size = render.WIDTH // 3, render.HEIGHT // 3
    columns = []
    for condition in conditions:
        label = np.full((24, size[0], 3), 255, np.uint8)
        text = f"{condition.name} {condition.strength:g}"
        cv2.putText(label, text, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames(scenes, condition)]
        columns.append(np.concatenate([label, *small]))
    return np.concatenate(columns, axis=1)


def main(arguments: Sequence[str] | None = None) -> None:
    names = list(dict.fromkeys(condition.name for condition in CONDITIONS))
    parser = argparse.ArgumentParser("python -m bench.robustness", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the valid.npz of FER+")
    parser.add_argument("--model", help="name of a model in the store, or a model folder (default: the store's own)")
    parser.add_argument(
        "--pictures", type=at_least(1), default=300, help="approximate number of images (default: %(default)s)"
    )
    parser.add_argument("--conditions", help=f"some of {', '.join(names)}, comma-separated (default: all)")
    parser.add_argument("--card", type=Path, metavar="CARD.md", help="insert the table into a model card too")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="write a sheet of the renderings instead of the table"
    )
    options = parser.parse_args(arguments)
    wanted = options.conditions.split(",") if options.conditions else names
    if unknown := set(wanted) - set(names):
        parser.error(f"no condition {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.card:
        insert_into_card(options.card.read_text(encoding="utf-8"), "")  # fails now, not after the measurement
    conditions = [condition for condition in CONDITIONS if condition.name in wanted]

    torch.set_num_threads(1)
    engine = Engine.load(STORE, use_gpu="0")
    named = options.model or engine.models.default
    predictor = load_face_model(Path(named)) if Path(named).is_dir() else engine.models.get(named)
    labels = predictor.info.labels
    if labels not in (FIVE, SEVEN):
        parser.error(f"{predictor.info.name} answers {', '.join(labels)}, which FER+ does not have")
    test_set = sample(options.data, labels, options.pictures)
    scenes = [render.make_scene(image, engine.landmarker) for image in test_set.images]
    if options.sheet:
        cv2.imwrite(str(options.sheet), sheet(scenes, conditions)[..., ::-1])
        return
    with tqdm(total=len(scenes) * len(conditions), unit="frame") as bar:
        results = {}
        for condition in conditions:
            bar.set_description(condition.name)
            results[condition] = measure(scenes, test_set.truth, condition, engine.landmarker, predictor, bar.update)
    print(report := _report(results, predictor, labels, test_set, options))
    if options.card:
        options.card.write_text(insert_into_card(options.card.read_text(encoding="utf-8"), report), encoding="utf-8")


def _report(
    results: dict[Condition, ConditionResult],
    predictor: FacePredictor,
    labels: tuple[str, ...],
    test_set: Sample,
    options: argparse.Namespace,
) -> str:
    counts = np.bincount(test_set.truth, minlength=len(labels))
    each = ", ".join(f"{count} {label}" for label, count in zip(labels, counts, strict=True))
    command = f"python -m bench.robustness --data PATH --model {predictor.info.name} --pictures {options.pictures}"
    command += f" --conditions {options.conditions}" if options.conditions else ""
    return (
        f"`{command}`: {predictor.info.name} {predictor.info.version} on {len(test_set.truth)} images of FER+'s "
        f"`valid.npz` with a majority over half ({each}; stratified by class), shown as a phone's frame of "
        f"{render.WIDTH} × {render.HEIGHT} and degraded in one way at a time. "
        f"A face that is not found counts as a wrong answer; calibration error and confidence are of the faces found. "
        f"One standard error of an accuracy is at most "
        f"{50 / len(test_set.truth) ** 0.5:.1f} points.\n\n{table(results)}"
    )


if __name__ == "__main__":
    run_command(main)
