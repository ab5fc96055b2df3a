"""The media of examples: pictures by their rows, faces found in them once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.training.data.album import ImageFolder
from moodreel.training.data.examples import Example
from moodreel.training.data.face_cache import FaceTable, extract_faces, extract_landmarks


@dataclass(frozen=True)
class DataContext:
    """What it takes to read examples. store: the folder of models. cache: for faces found. workers: of the finder."""

    models: Path
    cache: Path
    seed: int = 0
    workers: int = 1

    @property
    def landmarker(self) -> Path:
        return self.models / "face_landmarker" / "face_landmarker.task"

    def extract_faces(
        self, pictures: "ExampleImages", *, landmarks: bool = False
    ) -> tuple[FaceTable, np.ndarray | None]:
        """Find the face of each picture, or take it from the cache; and its landmarks, where they are asked for."""
        if landmarks:
            return extract_landmarks(pictures, self.landmarker, self.cache, seed=self.seed, workers=self.workers)
        return extract_faces(pictures, self.landmarker, self.cache, seed=self.seed, workers=self.workers), None


class ExampleImages:
    """The pictures of examples, arrays or files, by their rows: files are decoded when they are asked for."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._media = [example.media for example in examples]
        names = tuple(str(media) if isinstance(media, Path) else "" for media in self._media)
        self._album = ImageFolder(Path(), names, np.zeros(len(names), int))

    def __len__(self) -> int:
        return len(self._media)

    def __getitem__(self, row: int) -> np.ndarray:
        media = self._media[row]
        return self._album[row] if isinstance(media, Path) else media
