"""Load the faces and the audio of examples, with the models, the cache and the threads of a run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.faces.facial_actions import FacialActionExplainer
from moodreel.faces.features import CropKind
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.media import audio
from moodreel.media.audio import AudioClip
from moodreel.models.face_registry import face_model_registry
from moodreel.models.predictor import FacePredictor
from moodreel.models.registry import ModelRegistry
from moodreel.pipelines.engine import Engine
from moodreel.training.data.examples import Example, process_files
from moodreel.training.data.face_cache import (
    FaceTable,
    ImageAugmentation,
    crop_image,
    extract_faces,
    identity,
)
from moodreel.training.data.images import Images, ImageSequence


@dataclass(frozen=True)
class DataContext:
    """The models, the cache and the threads for loading examples.

    Attributes:
        models: The model store's folder.
        cache: Folder for extracted features.
        seed: Seed of the augmentation before face detection.
        workers: Threads that find faces.
    """

    models: Path
    cache: Path
    seed: int = 0
    workers: int = 1

    @property
    def landmarker(self) -> Path:
        """The model file of the face landmarker."""
        return self.models / "face_landmarker" / "face_landmarker.task"

    def extract_faces(self, images: Images, augmentation: ImageAugmentation = identity) -> FaceTable:
        """Extract the face of each image, after an augmentation; cached."""
        return extract_faces(images, self.landmarker, self.cache, augmentation, seed=self.seed, workers=self.workers)

    @contextmanager
    def engine(
        self, registry: ModelRegistry[FacePredictor] | None = None, *, use_fallbacks: bool = False
    ) -> Iterator[Engine]:
        """Open the engine that serves clips, with the models of the store or of a registry."""
        landmarker = FaceLandmarker(self.landmarker, use_fallbacks=use_fallbacks)
        explainer = FacialActionExplainer.load(self.models / "movements")
        engine = Engine(landmarker, registry or face_model_registry(self.models), explainer)
        try:
            yield engine
        finally:
            engine.close()


def load_face_crops(examples: Sequence[Example], context: DataContext) -> tuple[ImageSequence, np.ndarray]:
    """Return squares around the faces of images, RGB or gray, and which images show a face, bool (N,).

    Images that are arrays are such squares already: those of FER2013, whose framing `features.crop_square` follows.
    """
    if all(isinstance(example.media, np.ndarray) for example in examples):
        return ImageSequence(examples), np.ones(len(examples), bool)
    faces = context.extract_faces(ImageSequence(examples))
    return (
        ImageSequence(examples, lambda image, row: crop_image(image, faces.landmarks[row], CropKind.SQUARE)),
        faces.found,
    )


def load_audio(examples: Sequence[Example]) -> Iterator[AudioClip]:
    """Decode the audio of each example.

    Raises:
        DataInvalid: A file cannot be read or is silent; the message names it.
    """
    clips = process_files(examples, audio.decode_audio, "audio")
    for example, clip in zip(examples, clips, strict=True):
        if clip is None:
            raise DataInvalid(f"{example.file.name} is silent; remove it.")
        yield clip
