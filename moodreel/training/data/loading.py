"""Where models, caches and workers are found while data sets are read, and the faces of their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.training.data.examples import Example
from moodreel.training.data.face_cache import FaceTable, extract_faces, extract_landmarks, rgb_crop
from moodreel.training.data.images import Images, ImageSequence


@dataclass(frozen=True)
class DataContext:
    """What it takes to read examples.

    Attributes:
        models: the model store's folder.
        cache: folder for extracted features.
        seed: of random augmentation before faces are found.
        workers: threads that find faces.
    """

    models: Path
    cache: Path
    seed: int = 0
    workers: int = 1

    @property
    def landmarker(self) -> Path:
        """The face landmarker's bundle."""
        return self.models / "face_landmarker" / "face_landmarker.task"

    def extract_faces(self, images: Images, *, landmarks: bool = False) -> tuple[FaceTable, np.ndarray | None]:
        """Extract the face of each image, and its landmarks, float32 (N, 478, 3), where they are asked for; cached."""
        if landmarks:
            return extract_landmarks(images, self.landmarker, self.cache, seed=self.seed, workers=self.workers)
        return extract_faces(images, self.landmarker, self.cache, seed=self.seed, workers=self.workers), None


def load_face_crops(examples: Sequence[Example], context: DataContext) -> tuple[ImageSequence, np.ndarray]:
    """Return squares around the faces of images, RGB or gray, and where there is a face, bool (N,).

    Images that come as arrays are such squares already: those of FER2013, after which `features.crop_square` was laid
    out.
    """
    if all(isinstance(example.media, np.ndarray) for example in examples):
        return ImageSequence(examples), np.ones(len(examples), bool)
    faces, landmarks = context.extract_faces(ImageSequence(examples), landmarks=True)
    assert landmarks is not None
    return ImageSequence(examples, lambda image, row: rgb_crop(image, landmarks[row])), faces.found
