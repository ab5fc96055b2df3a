"""Open any data set of images, clips or recordings by `NAME:PATH`."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from moodreel.emotions import EIGHT, EIGHT_TO_SEVEN, FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.training.data import muxspace
from moodreel.training.data.afew_va import read_afew_va
from moodreel.training.data.clips import TABLE, read_clip_table, read_talkers
from moodreel.training.data.dataset import AUDIO, CLIPS, IMAGES, Dataset
from moodreel.training.data.examples import Example, from_arrays
from moodreel.training.data.ferplus import read_copies, read_split
from moodreel.training.data.image_folder import read_folders
from moodreel.training.data.npz import read_packed_images
from moodreel.training.data.ravdess import read_ravdess
from moodreel.training.data.splits import Split

logger = logging.getLogger(__name__)

PEOPLE = "people.csv"
"""Table next to the labels' folders, with the columns file, person and optionally group (`read_folders`)."""
OWNER_LICENSE = "its owner's; state it in model.json"
"""License of a user's own folders, and of weights trained on them."""


def split_spec(spec: str) -> tuple[str, str]:
    """Split `NAME:PATH` into its two parts; a PATH alone is one of FER+ or FER2013."""
    name, colon, path = spec.partition(":")
    return (name, path) if colon else ("ferplus", spec)


def open_dataset(spec: str) -> Dataset:
    """Open a data set by `NAME:PATH`, see `split_spec`.

    Raises:
        DataInvalid: There is no such name (the message lists them) or no such path, or the set cannot be read.
    """
    name, path = split_spec(spec)
    if name in _OLD_NAMES:
        logger.warning("%s: is deprecated and will be removed; use %s:.", name, _OLD_NAMES[name])
        name = _OLD_NAMES[name]
    if name not in DATASETS:
        raise DataInvalid(
            f"There is no set {name!r} of images, clips or recordings; name one of {', '.join(DATASETS)}, as in "
            f"{IMAGES}:PATH."
        )
    if not Path(path).exists():
        raise DataInvalid(f"There is no {path}; name the folder of {name} after the colon.")
    return DATASETS[name](Path(path))


def _open_ferplus(path: Path) -> Dataset:
    train, valid = (read_split(path, name, labels=SEVEN) for name in ("train", "valid"))
    # Train on all images with targets; evaluate on images with a majority.
    kept = [(train, train.targets.sum(axis=1) > 0), (valid, valid.truth >= 0)]
    examples, split = _join(
        [from_arrays(part.images[rows], part.targets[rows].argmax(axis=1), SEVEN) for part, rows in kept],
        "FER+'s own split: train for training, valid held out (a majority over half). Persons are unknown; some may be "
        "on both sides.",
    )
    copies = read_copies(path, len(valid.truth))
    return Dataset(
        name="FER+",
        media=IMAGES,
        labels=SEVEN,
        examples=examples,
        targets=np.concatenate([part.targets[rows] for part, rows in kept]),
        has_majority=np.concatenate([part.truth[rows] >= 0 for part, rows in kept]),
        published_split=split,
        copies=None if copies is None else np.concatenate([np.zeros(len(split.train), bool), copies[valid.truth >= 0]]),
        license="labels MIT; rights to the pictures (FER2013) unstated",
    )


def _open_ferplus_in_eight(path: Path) -> Dataset:
    """Open FER+ with the eight labels of audio-visual models; none of its faces has the label calm."""
    data = _open_ferplus(path)
    names = {seven: eight for eight, seven in EIGHT_TO_SEVEN.items() if eight != "calm"}
    assert data.targets is not None
    targets = np.zeros((len(data.examples), len(EIGHT)), np.float32)
    targets[:, [EIGHT.index(names[label]) for label in data.labels]] = data.targets
    examples = tuple(replace(example, label=names[example.label]) for example in data.examples)
    return replace(data, labels=EIGHT, examples=examples, targets=targets)


def _open_muxspace(path: Path) -> Dataset:
    parts = [muxspace.read_muxspace(path, SEVEN, name) for name in ("train", "valid")]
    examples, split = _join(
        [from_arrays(part.images, part.truth, SEVEN, part.people) for part in parts],
        "Split by person: a fifth of muxspace's people held out.",
    )
    license = "repository Apache-2.0; rights to the pictures unclear"
    return Dataset("muxspace", IMAGES, SEVEN, examples, license, published_split=split)


def _open_webfaces(path: Path) -> Dataset:
    """Open encoded color images of faces from the web; the group of each is its source."""
    file = path / "train.npz" if path.is_dir() else path
    files, labels, sources = read_packed_images(file, "sources")
    if unknown := sorted(set(labels) - set(SEVEN)):
        raise DataInvalid(f"{file} has labels other than {', '.join(SEVEN)}: {', '.join(unknown)}.")
    rows = zip(labels, files, sources, strict=True)
    return Dataset(
        name="webfaces",
        media=IMAGES,
        labels=SEVEN,
        examples=tuple(Example(label, jpeg, group=source) for label, jpeg, source in rows),
        license="rights to the pictures unstated",
    )


def _open_afew_va(path: Path) -> Dataset:
    return Dataset(
        name="AFEW-VA",
        media=IMAGES,
        labels=FIVE,
        examples=read_afew_va(path),
        license="research, non-commercial, as AFEW-VA's authors state",
        commercial=False,
    )


def _open_ravdess(modality: str, path: Path) -> Dataset:
    return Dataset(
        name=f"RAVDESS, {modality}",
        media=AUDIO if modality == "audio" else CLIPS,
        labels=EIGHT,
        examples=read_ravdess(path, modality),
        license="CC BY-NC-SA 4.0 (Livingstone & Russo 2018): research, non-commercial",
        commercial=False,
    )


def _open_folders(media: str, path: Path) -> Dataset:
    people = path / PEOPLE
    return _own_set(path, media, read_folders(path, media, people=people if people.is_file() else None))


def _open_clips(path: Path) -> Dataset:
    return _own_set(path, CLIPS, read_clip_table(path)) if (path / TABLE).is_file() else _open_folders(CLIPS, path)


def _open_talkers(path: Path) -> Dataset:
    return _own_set(path, CLIPS, read_talkers(path))


def _own_set(path: Path, media: str, examples: tuple[Example, ...]) -> Dataset:
    """Return a user's own set, with the name of its folder."""
    labels = tuple(sorted({example.label for example in examples}))
    return Dataset(path.resolve().name, media, labels, examples, OWNER_LICENSE)


def _join(parts: Sequence[Sequence[Example]], reason: str) -> tuple[tuple[Example, ...], Split]:
    """Join the examples of a train part and a held-out part, and return their split too."""
    examples = tuple(chain.from_iterable(parts))
    rows = np.arange(len(examples))
    return examples, Split(rows[: len(parts[0])], rows[len(parts[0]) :], leaks=False, reason=reason)


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "ferplus": _open_ferplus,
    "ferplus-eight": _open_ferplus_in_eight,
    "muxspace": _open_muxspace,
    "webfaces": _open_webfaces,
    "afew-va": _open_afew_va,
    "ravdess": partial(_open_ravdess, "audio-video"),
    "ravdess-audio": partial(_open_ravdess, "audio"),
    IMAGES: partial(_open_folders, IMAGES),
    CLIPS: _open_clips,
    "talkers": _open_talkers,
    AUDIO: partial(_open_folders, AUDIO),
}
"""Functions that open published data sets, and sets of a user: a folder of images, clips or recordings for each label,
a table of clips, or clips of calm talkers."""
_OLD_NAMES = {"pictures": IMAGES, "recordings": AUDIO}
