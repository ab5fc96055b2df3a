"""Make models with synthetic predictions, a data set for them, and their comparison."""

from pathlib import Path

import numpy as np
from torch import nn

from moodreel.models.model_card import ModelCard
from moodreel.models.predictor import ModelInfo
from moodreel.training.comparison.compare import compare
from moodreel.training.comparison.results import ComparisonConfig
from moodreel.training.comparison.split import evaluation_split
from moodreel.training.data.dataset import IMAGES, Dataset
from moodreel.training.data.examples import Example
from moodreel.training.data.loading import DataContext
from moodreel.training.evaluation.face_model import EvaluatedModel
from moodreel.training.evaluation.metrics import Predictions

LABELS = ("calm", "glad", "cross")
CONFIG = ComparisonConfig(resamples=400, gap_samples=40)


class TabularModel(EvaluatedModel):
    """Predict the true label of a fraction of the examples, drawn by a seed and the number in the example's image.

    Args:
        share: Fraction of the examples that are predicted correctly.
        lost: Fraction of the examples in which no face is found.
    """

    media = (IMAGES,)
    unit = "one face"

    def __init__(self, folder: Path, name="table", share=0.8, seed=0, labels=LABELS, data="", lost=0.0):
        path = folder / f"{seed}.safetensors"
        path.write_bytes(b"weights")
        card = ModelCard(name=name, architecture="table", labels=labels, data=data)
        super().__init__(name, path, ModelInfo(name, "1", "0" * 64, "table", labels, card), nn.Linear(3, 4))
        self._share, self._seed, self._lost = share, seed, lost

    def predict(self, examples, media, means):
        classes = len(self.info.labels)
        probabilities, found = np.zeros((len(examples), classes)), np.ones(len(examples), bool)
        for row, example in enumerate(examples):
            draw = np.random.default_rng((self._seed, int(example.media[0, 0])))
            truth = self.info.labels.index(example.label)
            right, found[row] = draw.random() < self._share, draw.random() >= self._lost
            predicted = truth if right else (truth + 1) % classes
            probabilities[row] = (1 - (sure := draw.uniform(0.5, 0.95))) / (classes - 1)
            probabilities[row, predicted] = sure
        probabilities[~found] = 1 / classes
        return Predictions(probabilities, found)

    def run_once(self):
        return self.network.weight.sum()


def make_dataset(count=240, labels=LABELS, people=0, groups=(), own=None, name="made"):
    """Make a data set of images filled with their index; the examples of the persons alternate."""
    examples = tuple(
        Example(
            label=labels[row % len(labels)],
            media=np.full((4, 4), row, np.int64),
            person=f"person {row % people}" if people else None,
            group=groups[row % people % len(groups)] if groups else None,
        )
        for row in range(count)
    )
    return Dataset(name, IMAGES, labels, examples, license="ours", published_split=own)


def run_comparison(subjects, data, plan=CONFIG, **options):
    sides = evaluation_split(data, [subject.info.card for subject in subjects])
    return compare(subjects, data, sides, DataContext(Path(), Path()), plan, **options)[0]
