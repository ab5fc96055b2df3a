"""A model by its name -> its answers for the examples of a set, whatever it reads and whatever they are."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from moodreel.analysis import Analyser
from moodreel.errors import ModelNotFound, MoodreelError, NoFace
from moodreel.faces import BLENDSHAPES, LANDMARKS, FaceFinder
from moodreel.features import CROP, PORTRAIT, Features
from moodreel.models.card import FACE, KINDS, kind_of
from moodreel.models.predictor import ModelInfo, Predictor
from moodreel.models.shelf import CARD, weights_in
from moodreel.models.store import ModelStore, load
from moodreel.movements import Movements
from moodreel.training.compare.figures import Answers
from moodreel.training.compare.reading import Means, Media, read_files, spread
from moodreel.training.data.examples import Example
from moodreel.training.data.sets import CLIPS, PICTURES
from moodreel.training.evaluate import judge, needs_landmarks

AUDIO_VISUAL = "audio-visual"
_LONGEST_NAME = 60


class Subject(ABC):
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
    def answer(self, examples: Sequence[Example], media: str, means: Means) -> Answers:
        """Answer for each example, in the order of `info.labels`. Raises DataInvalid for a file that is no good."""

    @abstractmethod
    def once(self) -> Any:
        """Answer for one face, or one window, that is made up: by that costs are measured."""


class FaceSubject(Subject):
    """A model that reads faces, in pictures or in clips."""

    media = (PICTURES, CLIPS)
    unit = "one face"

    def __init__(self, name: str, path: Path, predictor: Predictor) -> None:
        super().__init__(name, path, predictor.info, predictor.module)
        self.predictor = predictor

    def answer(self, examples: Sequence[Example], media: str, means: Means) -> Answers:
        if media == CLIPS:
            return self._watch(examples, means)
        pictures = Media(examples)
        faces, landmarks = means.find(pictures, landmarks=needs_landmarks(self.predictor))
        rows = np.flatnonzero(faces.found)
        return spread(len(examples), rows, judge(self.predictor, faces, rows, pictures, landmarks))

    def _watch(self, examples: Sequence[Example], means: Means) -> Answers:
        store = ModelStore(self.path if self.path.is_dir() else self.path.parent)
        store.register(self.path)
        finder = FaceFinder(means.landmarker, again=True)
        analyser = Analyser(finder, store, Movements.load(means.store / "movements"))

        def analyse(data: bytes) -> np.ndarray:
            return np.array([*analyser.analyse(data).probabilities.values()])

        try:
            classes = len(self.info.labels)
            return read_files(examples, analyse, classes=classes, nobody=(NoFace,), what=self.name)
        finally:
            analyser.threads.shutdown()
            finder.close()

    def once(self) -> Any:
        return self.predictor.predict([[_made_up(portrait=self.predictor.portrait)]], moments=False)


def open_subjects(models: Sequence[str], store: Path) -> list[Subject]:
    """Load models, each by a name in the store, its folder or its weights file.

    Of several that have one name all but the first get a number.
    Raises MoodreelError for one that is not there, not as it should be, or reads texts.
    """
    subjects: list[Subject] = []
    for model in models:
        path = Path(model) if Path(model).exists() else store / model
        if not model.strip() or not path.exists():
            raise ModelNotFound(
                f"There is no model {model!r}. Name one of {', '.join(_names(store)) or 'none'}; or a model's folder, "
                "or its weights file."
            )
        subjects.append(_open(path, {subject.name for subject in subjects}))
    return subjects


def check_media(subjects: Sequence[Subject], media: str) -> None:
    """Raise MoodreelError where one of the models cannot read what a set holds."""
    for subject in subjects:
        if media not in subject.media:
            raise MoodreelError(
                f"{subject.name} reads {' and '.join(subject.media)}, but the set holds {media}; leave one of them out."
            )


def _open(path: Path, taken: set[str]) -> Subject:
    card = (path if path.is_dir() else path.parent) / CARD
    kind = kind_of(card) if card.is_file() else FACE
    if kind == FACE:
        predictor = load(path)
        return FaceSubject(_unlike(predictor.info.name, taken), path, predictor)
    if kind == AUDIO_VISUAL:
        from moodreel.training.compare.audiovisual import open_audiovisual

        return open_audiovisual(lambda name: _unlike(name, taken), path)
    raise MoodreelError(
        f"{path.name} reads {kind}s. What can be compared are models that read faces, or faces and voices; for others "
        "there is `python -m moodreel.training evaluate`."
    )


def _names(store: Path) -> list[str]:
    cards = [path for path in store.glob(f"*/{CARD}") if any(path.parent.glob("*.safetensors"))]
    return sorted(path.parent.name for path in cards if kind_of(path) in {FACE, AUDIO_VISUAL} & set(KINDS))


def _unlike(name: str, taken: set[str]) -> str:
    """Give a name that can be printed and is nobody else's."""
    plain = "".join(sign for sign in name if sign.isprintable())[:_LONGEST_NAME].strip() or "unnamed"
    unlike, number = plain, 2
    while unlike in taken:
        unlike, number = f"{plain} ({number})", number + 1
    return unlike


def _made_up(*, portrait: bool) -> Features:
    draw = np.random.default_rng(0)
    return Features(
        landmarks=draw.random((LANDMARKS, 3), np.float32),
        shape=draw.standard_normal((LANDMARKS, 3), np.float32),
        blendshapes=draw.random(len(BLENDSHAPES), np.float32),
        pose=np.zeros(3, np.float32),
        crop=draw.integers(0, 256, (CROP, CROP), np.uint8),
        portrait=draw.integers(0, 256, (PORTRAIT, PORTRAIT, 3), np.uint8) if portrait else None,
    )
