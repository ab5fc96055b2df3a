"""A model -> its answers for the examples of a set, whatever it reads and whatever they are."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from moodreel.errors import MoodreelError, NoFace
from moodreel.faces.facial_actions import FacialActionExplainer
from moodreel.faces.features import CROP_SIDE, RGB_CROP_SIDE, FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS, FaceLandmarker
from moodreel.models.face_registry import FaceModelRegistry
from moodreel.models.predictor import ModelInfo, Predictor
from moodreel.models.registry import weights_in
from moodreel.pipelines.video import VideoPipeline
from moodreel.training.data.examples import Example
from moodreel.training.data.loading import DataContext, ExampleImages, read_files, spread
from moodreel.training.data.registry import CLIPS, IMAGES
from moodreel.training.evaluation.evaluate import predict_rows, requires_landmarks
from moodreel.training.evaluation.metrics import Predictions


class EvaluatedModel(ABC):
    """A model that is compared.

    name: as the report says it, unlike all others'. path: its folder, or its weights file.
    media: what it can be measured on. unit: what `once` answers for.
    """

    media: tuple[str, ...]
    unit: str

    def __init__(self, name: str, path: Path, info: ModelInfo, network: nn.Module) -> None:
        self.name, self.path, self.info, self.network = name, path, info, network

    @property
    def weights(self) -> Path:
        return weights_in(self.path) if self.path.is_dir() else self.path

    @abstractmethod
    def predict(self, examples: Sequence[Example], media: str, means: DataContext) -> Predictions:
        """Answer for each example, in the order of `info.labels`. Raises DataInvalid for a file that is no good."""

    @abstractmethod
    def run_once(self) -> Any:
        """Answer for one face, or one window, that is made up: by that costs are measured."""


class EvaluatedFaceModel(EvaluatedModel):
    """A model that reads faces, in pictures or in clips."""

    media = (IMAGES, CLIPS)
    unit = "one face"

    def __init__(self, name: str, path: Path, predictor: Predictor) -> None:
        super().__init__(name, path, predictor.info, predictor.module)
        self.predictor = predictor

    def predict(self, examples: Sequence[Example], media: str, means: DataContext) -> Predictions:
        if media == CLIPS:
            return self._watch(examples, means)
        pictures = ExampleImages(examples)
        faces, landmarks = means.extract_faces(pictures, landmarks=requires_landmarks(self.predictor))
        rows = np.flatnonzero(faces.found)
        return spread(len(examples), rows, predict_rows(self.predictor, faces, rows, pictures, landmarks))

    def _watch(self, examples: Sequence[Example], means: DataContext) -> Predictions:
        store = FaceModelRegistry(self.path if self.path.is_dir() else self.path.parent)
        store.register(self.path)
        finder = FaceLandmarker(means.landmarker, use_fallbacks=True)
        analyser = VideoPipeline(finder, store, FacialActionExplainer.load(means.models / "movements"))

        def analyse(data: bytes) -> np.ndarray:
            return np.array([*analyser.predict(data).probabilities.values()])

        try:
            classes = len(self.info.labels)
            return read_files(examples, analyse, classes=classes, nobody=(NoFace,), what=self.name)
        finally:
            analyser.threads.shutdown()
            finder.close()

    def run_once(self) -> Any:
        return self.predictor.predict([[_made_up(portrait=self.predictor.requires_rgb_crop)]], per_frame=False)


def check_media(models: Sequence[EvaluatedModel], media: str) -> None:
    """Raise MoodreelError where one of the models cannot read what a set holds."""
    for subject in models:
        if media not in subject.media:
            raise MoodreelError(
                f"{subject.name} reads {' and '.join(subject.media)}, but the set holds {media}; leave one of them out."
            )


def _made_up(*, portrait: bool) -> FaceFeatures:
    draw = np.random.default_rng(0)
    return FaceFeatures(
        landmarks=draw.random((NUM_LANDMARKS, 3), np.float32),
        normalized_landmarks=draw.standard_normal((NUM_LANDMARKS, 3), np.float32),
        blendshapes=draw.random(len(BLENDSHAPES), np.float32),
        pose=np.zeros(3, np.float32),
        crop=draw.integers(0, 256, (CROP_SIDE, CROP_SIDE), np.uint8),
        rgb_crop=draw.integers(0, 256, (RGB_CROP_SIDE, RGB_CROP_SIDE, 3), np.uint8) if portrait else None,
    )
