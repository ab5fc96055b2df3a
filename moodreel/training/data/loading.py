"""The media of examples: pictures by their rows, faces found in them once, clips and recordings file by file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from moodreel.errors import DataInvalid, MoodreelError
from moodreel.training.data.album import ImageFolder
from moodreel.training.data.examples import Example
from moodreel.training.data.face_cache import FaceTable, extract_faces, extract_landmarks
from moodreel.training.evaluation.metrics import Predictions


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


def read_files(
    examples: Sequence[Example],
    read: Callable[[bytes], np.ndarray],
    *,
    classes: int,
    nobody: tuple[type[MoodreelError], ...],
    what: str,
) -> Predictions:
    """Answer for each example's file by probabilities (C,).

    nobody: the errors of a file in which there is nothing to answer from: it counts as not found.
    Raises DataInvalid for one that cannot be read.
    """
    rows, answers = [], []
    for row, example in enumerate(tqdm(examples, desc=what, mininterval=5)):
        if not isinstance(example.media, Path):
            raise DataInvalid("Clips and recordings have to be files; this set holds arrays.")
        try:
            answers.append(read(example.media.read_bytes()))
            rows.append(row)
        except nobody:
            continue
        except (MoodreelError, OSError) as error:
            raise DataInvalid(f"{example.media} cannot be measured on: {error} Mend it, or take it out.") from error
    return spread(len(examples), np.array(rows, int), np.array(answers).reshape(-1, classes))


def spread(count: int, rows: np.ndarray, probabilities: np.ndarray) -> Predictions:
    """Put the answers for some rows among all, whose others were not found."""
    classes = probabilities.shape[1]
    everything = np.full((count, classes), 1 / classes)
    everything[rows] = probabilities
    found = np.zeros(count, bool)
    found[rows] = True
    return Predictions(everything, found)
