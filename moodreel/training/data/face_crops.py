"""Squares around the faces of pictures: what networks of portraits read, and the trunk of audio-visual ones."""

from collections.abc import Sequence

import numpy as np

from moodreel.training.data.examples import Example
from moodreel.training.data.face_cache import rgb_crop
from moodreel.training.data.loading import DataContext, ExampleImages


class FaceCrops:
    """Squares around faces, in colour or grey: of pictures that are such already, they themselves."""

    def __init__(self, pictures: ExampleImages, landmarks: np.ndarray | None) -> None:
        self._pictures, self._landmarks = pictures, landmarks

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, row: int) -> np.ndarray:
        picture = self._pictures[row]
        return picture if self._landmarks is None else rgb_crop(picture, self._landmarks[row])


def load_face_crops(examples: Sequence[Example], means: DataContext) -> tuple[FaceCrops, np.ndarray]:
    """Squares around the faces of pictures, and bool (N,), where there is a face. FER2013's pictures, which come as
    arrays, are such squares: `moodreel.faces.features.cut` was laid out after them."""
    pictures = ExampleImages(examples)
    if all(isinstance(example.media, np.ndarray) for example in examples):
        return FaceCrops(pictures, None), np.ones(len(examples), bool)
    faces, landmarks = means.extract_faces(pictures, landmarks=True)
    return FaceCrops(pictures, landmarks), faces.found
