"""Measure how faithful attribution maps are, by hiding parts of the face (deletion test).

    python -m bench.attention --data ferplus:PATH

In held-out faces that a model does not classify as neutral, this blurs the fifth with the highest attribution, the
fifth with the lowest, and a random fifth, and prints how much probability the answer loses by each. With a faithful map
the loss is far above chance for the highest fifth, and close to zero for the lowest.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from scipy.special import softmax

from bench.command import run_command
from moodreel.models.face_registry import face_model_registry
from moodreel.models.predictor import FacePredictor
from moodreel.training.cli.options import at_least
from moodreel.training.data.face_cache import crop_image
from moodreel.training.data.images import ImageSequence
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset
from moodreel.training.explain.attribution import attribute, predict_logits

STORE = Path("model_store")
HIDDEN_SHARE = 0.2
"""Share of a face that is hidden."""
BLUR_SIGMA = 1 / 6
"""Standard deviation of the blur, as a fraction of the crop's side."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.attention", description=__doc__)
    parser.add_argument("--data", required=True, help="data set of images, NAME:PATH")
    parser.add_argument("--models", nargs="+", default=["face-expression", "resemotenet", "vit"])
    parser.add_argument("--count", type=at_least(1), default=300, help="held-out images (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    args = parser.parse_args()
    data = open_dataset(args.data)
    rows = np.sort(np.random.default_rng(0).permutation(data.split().held_out)[: args.count])
    images = ImageSequence([data.examples[row] for row in rows])
    faces = DataContext(STORE, args.cache).extract_faces(images)
    for name in args.models:
        model = face_model_registry(STORE).get(name)
        found = np.flatnonzero(faces.found)
        measure(model, np.stack([crop_image(images[row], faces.landmarks[row], model.crop_kind) for row in found]))


def measure(model: FacePredictor, crops: np.ndarray) -> None:
    """Print the probability that a model's answers lose if parts of crops (N, S, S) or (N, S, S, 3) are hidden."""
    neutral = [label.lower() for label in model.info.card.labels].index("neutral")
    answers = _probabilities(model, crops).argmax(axis=1)
    crops, answers = crops[answers != neutral], answers[answers != neutral]
    attribution = attribute(model.network, crops, answers)
    random = np.random.default_rng(0).random(attribution.shape)
    before = _probabilities(model, crops)[np.arange(len(crops)), answers]
    losses = {}
    for part, order in (("highest", attribution), ("lowest", -attribution), ("random", random)):
        after = _probabilities(model, _hide(crops, order))[np.arange(len(crops)), answers]
        losses[part] = (before - after).mean()
    summary = ", ".join(f"{part} {value:+.3f}" for part, value in losses.items())
    print(f"{model.info.name}, {len(crops)} faces: probability lost by hiding a fifth: {summary}")


def _hide(crops: np.ndarray, order: np.ndarray) -> np.ndarray:
    flat = order.reshape(len(crops), -1)
    blurred = np.stack([cv2.GaussianBlur(crop, (0, 0), BLUR_SIGMA * len(crop)) for crop in crops])
    chosen = np.argsort(flat, axis=1)[:, -int(HIDDEN_SHARE * flat.shape[1]) :]
    hide = np.zeros(flat.shape, bool)
    np.put_along_axis(hide, chosen, True, axis=1)
    return np.where(hide.reshape(*order.shape, *[1] * (crops.ndim - 3)), blurred, crops)


def _probabilities(model: FacePredictor, crops: np.ndarray) -> np.ndarray:
    """Return uncalibrated probabilities (N, C), one crop at a time."""
    return softmax(predict_logits(model.network, crops), axis=1)


if __name__ == "__main__":
    run_command(main)
