"""Models that read faces and voices, as `compare` takes them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moodreel import audio, errors, windows
from moodreel.errors import NoFace
from moodreel.excerpts import ExcerptReader
from moodreel.faces import FaceFinder
from moodreel.logmel import BANDS, HOP
from moodreel.models.audiovisual import Excerpts
from moodreel.models.multimodal import AudioVisualPredictor, load_audiovisual
from moodreel.models.resnet import SIDE
from moodreel.training.compare.figures import Answers
from moodreel.training.compare.reading import Means, read_files
from moodreel.training.compare.subjects import Subject
from moodreel.training.data.examples import Example
from moodreel.training.data.sets import CLIPS, RECORDINGS


class AudioVisualSubject(Subject):
    """A model that reads faces and voices, in clips or in recordings. A clip's answer is the mean of its windows'."""

    media = (CLIPS, RECORDINGS)
    unit = "one window of three seconds"

    def __init__(self, name: str, path: Path, predictor: AudioVisualPredictor) -> None:
        super().__init__(name, path, predictor.info, predictor.network)
        self.predictor = predictor

    def answer(self, examples: Sequence[Example], media: str, means: Means) -> Answers:
        finder = FaceFinder(means.landmarker, again=True)
        reader = ExcerptReader(finder)

        def read(data: bytes) -> np.ndarray:
            return np.mean([probabilities for probabilities, _ in self.predictor.predict(reader.read(data))], axis=0)

        try:
            nobody = (NoFace, errors.NoFaceNoSound)  # type: ignore[attr-defined]
            return read_files(examples, read, classes=len(self.info.labels), nobody=nobody, what=self.name)
        finally:
            finder.close()

    def once(self) -> Any:
        return self.predictor.predict(_made_up())


def open_audiovisual(name_of: Callable[[str], str], path: Path) -> AudioVisualSubject:
    predictor = load_audiovisual(path)
    return AudioVisualSubject(name_of(predictor.info.name), path, predictor)


def _made_up() -> Excerpts:
    draw = torch.Generator().manual_seed(0)
    steps = 1 + round(windows.SECONDS * audio.RATE) // HOP
    return Excerpts(
        faces=torch.randint(0, 256, (1, windows.FRAMES, SIDE, SIDE, 3), dtype=torch.uint8, generator=draw),
        seen=torch.ones(1, windows.FRAMES, dtype=torch.bool),
        mels=torch.randn(1, BANDS, steps, generator=draw),
        heard=torch.ones(1, dtype=torch.bool),
    )
