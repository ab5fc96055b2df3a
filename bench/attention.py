"""How far maps of where a model looked are about its answer: what is lost when the hottest part of a face is hidden.

`python -m bench.attention --data ferplus:PATH` hides, in held-out faces that a model calls anything but neutral, the
fifth that its map has hottest, the fifth that it has coldest, and a fifth at random, by a blur that leaves no features,
and tells how much each takes from the probability of the answer. A map that is about the answer takes much more than
chance when it is hot, and hardly anything when it is cold.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from moodreel.models.face_registry import face_model_registry
from moodreel.models.predictor import FacePredictor
from moodreel.training.data.images import ImageSequence
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset
from moodreel.training.explain.attribution import attribute, predict_logits

STORE = Path("model_store")
SHARE, BLUR = 0.2, 8.0
"""Of a face that is hidden; deviation of the blur, in pixels of 48."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.attention", description=__doc__)
    parser.add_argument("--data", required=True, help="NAME:PATH of a set of pictures")
    parser.add_argument("--models", nargs="+", default=["face-expression", "resemotenet", "vit"])
    parser.add_argument("--count", type=int, default=300, help="held-out pictures (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    args = parser.parse_args()
    data = open_dataset(args.data)
    rows = np.sort(np.random.default_rng(0).permutation(data.split().held_out)[: args.count])
    faces, _ = DataContext(STORE, args.cache).extract_faces(ImageSequence([data.examples[row] for row in rows]))
    for name in args.models:
        measure(face_model_registry(STORE).get(name), faces.crops[faces.found])


def measure(model: FacePredictor, crops: np.ndarray) -> None:
    """Print what hiding parts of crops (N, 48, 48) takes from a model's answers."""
    neutral = model.info.card.labels.index("neutral")
    answers = _probabilities(model, crops).argmax(axis=1)
    crops, answers = crops[answers != neutral], answers[answers != neutral]
    heat = attribute(model.network, crops, answers)
    chance = np.random.default_rng(0).random(heat.shape)
    before = _probabilities(model, crops)[np.arange(len(crops)), answers]
    lost = {}
    for part, order in (("hottest", heat), ("coldest", -heat), ("random", chance)):
        after = _probabilities(model, _hidden(crops, order))[np.arange(len(crops)), answers]
        lost[part] = (before - after).mean()
    told = ", ".join(f"{part} {value:+.3f}" for part, value in lost.items())
    print(f"{model.info.name}, {len(crops)} faces: probability lost by hiding a fifth: {told}")


def _hidden(crops: np.ndarray, order: np.ndarray) -> np.ndarray:
    count = int(SHARE * crops[0].size)
    blurred = np.stack([cv2.GaussianBlur(crop, (0, 0), BLUR) for crop in crops])
    chosen = np.argsort(order.reshape(len(crops), -1), axis=1)[:, -count:]
    hide = np.zeros((len(crops), crops[0].size), bool)
    np.put_along_axis(hide, chosen, True, axis=1)
    return np.where(hide.reshape(crops.shape), blurred, crops)


def _probabilities(model: FacePredictor, crops: np.ndarray) -> np.ndarray:
    """The network's own, uncalibrated, each face as it is."""
    logits = predict_logits(model.network, crops)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    main()
