"""Open any data set by `NAME:PATH`."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from moodreel.emotions import EIGHT, EIGHT_TO_SEVEN, EKMAN, FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.training.data import goemotions, muxspace, webfaces
from moodreel.training.data.afew_va import read_afew_va
from moodreel.training.data.dataset import AUDIO, CLIPS, IMAGES, TEXT, Dataset
from moodreel.training.data.examples import Example, from_arrays
from moodreel.training.data.ferplus import read_split
from moodreel.training.data.image_folder import read_folders
from moodreel.training.data.ravdess import read_ravdess
from moodreel.training.data.splits import Split

logger = logging.getLogger(__name__)

PEOPLE = "people.csv"
"""Beside the labels' folders: the columns file, person and optionally group (`image_folder.read_folders`)."""
CORRECTIONS = "corrections.csv"
"""Beside AFEW-VA's clips: the columns file and label (`afew_va.read_afew_va`)."""
OWNER_LICENSE = "its owner's; state it in model.json"
"""License of somebody's own folders, and of weights trained on them."""


def open_dataset(spec: str) -> Dataset:
    """Open a data set by `NAME:PATH`; a PATH alone is one of FER+ or FER2013.

    Raises:
        DataInvalid: there is no such name (the message lists them) or no such path, or the set cannot be read.
    """
    name, colon, path = spec.partition(":")
    if not colon:
        name, path = "ferplus", spec
    if name in _OLD_NAMES:
        logger.warning("%s: is deprecated and goes with the next release; write %s:.", name, _OLD_NAMES[name])
        name = _OLD_NAMES[name]
    if name not in DATASETS:
        raise DataInvalid(f"There is no set {name!r}; name one of {', '.join(DATASETS)}, as in {IMAGES}:PATH.")
    if not Path(path).exists():
        raise DataInvalid(f"There is no {path}; name the folder of {name} after the colon.")
    return DATASETS[name](Path(path))


def _open_ferplus(path: Path) -> Dataset:
    parts = [read_split(path, name, labels=SEVEN) for name in ("train", "valid")]
    # Train on whatever has votes for a label; measure on majorities.
    kept = [parts[0].targets.sum(axis=1) > 0, parts[1].truth >= 0]
    targets = np.concatenate([part.targets[rows] for part, rows in zip(parts, kept, strict=True)])
    images = [image for part, rows in zip(parts, kept, strict=True) for image in part.images[rows]]
    labels = [SEVEN[index] for index in targets.argmax(axis=1)]
    return Dataset(
        name="FER+",
        media=IMAGES,
        labels=SEVEN,
        examples=tuple(Example(label, image) for label, image in zip(labels, images, strict=True)),
        targets=targets,
        has_majority=np.concatenate([part.truth[rows] >= 0 for part, rows in zip(parts, kept, strict=True)]),
        published_split=_published_split(
            int(kept[0].sum()),
            len(labels),
            "FER+'s own split: train for training, valid held out (a majority over half). It knows no persons; some "
            "may be on both sides.",
        ),
        license="labels MIT; rights to the pictures (FER2013) unstated",
    )


def _open_ferplus_in_eight(path: Path) -> Dataset:
    """FER+ by the names of the audio-visual labels, of which none of its faces is called calm."""
    data = _open_ferplus(path)
    names = {seven: eight for eight, seven in EIGHT_TO_SEVEN.items() if eight != "calm"}
    assert data.targets is not None
    targets = np.zeros((len(data.examples), len(EIGHT)), np.float32)
    targets[:, [EIGHT.index(names[label]) for label in data.labels]] = data.targets
    examples = tuple(replace(example, label=names[example.label]) for example in data.examples)
    return replace(data, labels=EIGHT, examples=examples, targets=targets)


def _open_muxspace(path: Path) -> Dataset:
    if not (path / muxspace.FILE).is_file():
        raise DataInvalid(f"There is no {muxspace.FILE} in {path}; name muxspace's folder.")
    examples: list[Example] = []
    train = 0
    for name in ("train", "valid"):
        train = len(examples)
        part = muxspace.read_muxspace(path, SEVEN, name)
        examples += from_arrays(part.images, part.truth, SEVEN, muxspace.people_of(path, name))
    return Dataset(
        name="muxspace",
        media=IMAGES,
        labels=SEVEN,
        examples=tuple(examples),
        published_split=_published_split(
            train, len(examples), "Split by person: a fifth of muxspace's people held out."
        ),
        license="repository Apache-2.0; rights to the pictures unclear",
    )


def _open_webfaces(path: Path) -> Dataset:
    return Dataset(
        name="webfaces",
        media=IMAGES,
        labels=SEVEN,
        examples=webfaces.read_webfaces(path),
        license="rights to the pictures unstated",
    )


def _open_afew_va(path: Path) -> Dataset:
    corrections = path / CORRECTIONS
    frames = read_afew_va(path, corrections=corrections if corrections.is_file() else None)
    return Dataset(
        name="AFEW-VA",
        media=IMAGES,
        labels=FIVE,
        examples=frames.examples,
        license="research, non-commercial, as AFEW-VA's authors state",
        commercial=False,
    )


def _open_goemotions(path: Path) -> Dataset:
    parts = [goemotions.read_texts(path, split) for split in ("train", "dev")]
    targets = np.concatenate([part.classes for part in parts])
    texts = [text for part in parts for text in part.texts]
    labels = [EKMAN[index] for index in targets.argmax(axis=1)]
    return Dataset(
        name="GoEmotions",
        media=TEXT,
        labels=EKMAN,
        examples=tuple(Example(label, text) for label, text in zip(labels, texts, strict=True)),
        targets=targets,
        published_split=_published_split(
            len(parts[0].texts),
            len(texts),
            "GoEmotions' own split: train for training, dev held out. It knows no authors.",
        ),
        license="Apache-2.0",
    )


def _ravdess(modality: str) -> Callable[[Path], Dataset]:
    def open_ravdess(path: Path) -> Dataset:
        return Dataset(
            name=f"RAVDESS, {modality}",
            media=AUDIO if modality == "audio" else CLIPS,
            labels=EIGHT,
            examples=read_ravdess(path, modality),
            license="CC BY-NC-SA 4.0 (Livingstone & Russo 2018): research, non-commercial",
            commercial=False,
        )

    return open_ravdess


def _folders(media: str) -> Callable[[Path], Dataset]:
    def open_folders(path: Path) -> Dataset:
        people = path / PEOPLE
        examples = read_folders(path, media, people=people if people.is_file() else None)
        labels = tuple(sorted({example.label for example in examples}))
        return Dataset(path.resolve().name, media, labels, examples, OWNER_LICENSE)

    return open_folders


def _published_split(train: int, count: int, reason: str) -> Split:
    """Return a split of `count` rows, of which the first `train` are trained on."""
    return Split(train=np.arange(train), held_out=np.arange(train, count), leaks=False, reason=reason)


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "ferplus": _open_ferplus,
    "ferplus-eight": _open_ferplus_in_eight,
    "muxspace": _open_muxspace,
    "webfaces": _open_webfaces,
    "afew-va": _open_afew_va,
    "ravdess": _ravdess("audio-video"),
    "ravdess-audio": _ravdess("audio"),
    "goemotions": _open_goemotions,
    IMAGES: _folders(IMAGES),
    CLIPS: _folders(CLIPS),
    AUDIO: _folders(AUDIO),
}
"""Published data sets by name; or a folder of images, clips or recordings for each label."""
_OLD_NAMES = {"pictures": IMAGES, "recordings": AUDIO}
