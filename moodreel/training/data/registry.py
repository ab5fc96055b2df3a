"""Any of the sets by one word, `NAME:PATH`, with whatever decides how it may be split and what its weights may do."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from moodreel.emotions import EIGHT, EIGHT_TO_SEVEN, FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.training.data.afew_va import read_afew_va
from moodreel.training.data.examples import Example
from moodreel.training.data.ferplus import read_split
from moodreel.training.data.image_folder import read_folders
from moodreel.training.data.muxspace import FILE, people_of, read_muxspace
from moodreel.training.data.ravdess import read_ravdess
from moodreel.training.data.splits import Split, split

PEOPLE = "people.csv"
"""Beside the folders of the labels: the columns file, person and, if wished, group (`folders.read_folders`)."""
CORRECTIONS = "corrections.csv"
"""Beside AFEW-VA's clips: the columns file and label (`afew_va.read_afew_va`)."""
OWNER_LICENSE = "its owner's; state it in model.json"
"""The licence of what somebody has put in folders, and of weights that learnt from that: theirs to say."""
IMAGES, CLIPS, AUDIO = "pictures", "clips", "recordings"


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled examples of one kind.

    name: as reports say it. media: `PICTURES`, `CLIPS` (with or without sound) or `RECORDINGS` (sound alone).
    labels: those that its examples have, in the set's own order.
    targets: float32 (N, C), how far each example is each label, where people voted; None where each has one label.
    settled: bool (N,), of which a majority of the votes was over half; None where nobody voted.
    own: the split that it was published with; None where it has none.
    faces: pictures that the recordings are put together with by emotion (`paired`); None for any other set.
    licence: of what is in it. commercial: whether weights that learnt from it may be used for money.
    """

    name: str
    media: str
    labels: tuple[str, ...]
    examples: tuple[Example, ...]
    license: str
    commercial: bool = True
    targets: np.ndarray | None = None
    has_majority: np.ndarray | None = None
    published_split: Split | None = None
    faces: "Dataset | None" = None

    @property
    def held_out(self) -> np.ndarray | None:
        """Rows of the part that the set itself holds out; None where it has none."""
        return None if self.published_split is None else self.published_split.held_out

    @property
    def truth(self) -> np.ndarray:
        """int64 (N,), the index of each example's label."""
        return np.array([self.labels.index(example.label) for example in self.examples], np.int64)

    def split(self, share: float = 0.2, *, by: str = "", seed: int = 0) -> Split:
        """Give the set's own split, where it has one and nothing else is asked for; or hold out a share, as
        `splits.split` does. by: "person", "random" (which leaks), or "" for the best that there is."""
        if self.published_split is not None and not by:
            return self.published_split
        return split(self.examples, share, by=by or "person", seed=seed)


def open_dataset(spec: str) -> Dataset:
    """Open a set by `NAME:PATH`; a mere PATH is one of FER+ or FER2013. Raises DataInvalid that lists the names."""
    name, colon, path = spec.partition(":")
    if not colon:
        name, path = "ferplus", spec
    if name not in DATASETS:
        raise DataInvalid(f"There is no set {name!r}; name one of {', '.join(DATASETS)}, as in pictures:PATH.")
    if not Path(path).exists():
        raise DataInvalid(f"There is no {path}; name the folder of {name} after the colon.")
    return DATASETS[name](Path(path))


def pair_with_faces(recordings: Dataset, faces: Dataset) -> Dataset:
    """Put each recording together with faces of the same emotion (synthetic pairing): nobody in it was both seen and
    heard, so that it says how two modalities are joined, and not how faces and voices go together.

    Raises DataInvalid where these are not recordings and faces with a part held out, or a label has no face.
    """
    if recordings.media != AUDIO or faces.media != IMAGES or faces.published_split is None:
        raise DataInvalid("Recordings are paired with pictures of faces that have a held-out part of their own.")
    shown = {EIGHT_TO_SEVEN.get(label, label) for label in recordings.labels}
    if missing := sorted(shown - set(faces.labels)):
        raise DataInvalid(f"{faces.name} has no faces for {', '.join(missing)}; take another set of faces.")
    return replace(
        recordings,
        name=f"synthetic pairing of {recordings.name} with faces of {faces.name}",
        license=f"{recordings.license}; {faces.license}",
        commercial=recordings.commercial and faces.commercial,
        faces=faces,
    )


def _in_eight(read: Callable[[Path], Dataset]) -> Callable[[Path], Dataset]:
    """The same faces by the names of the audio-visual labels; none of them is called calm."""

    def renamed(path: Path) -> Dataset:
        data = read(path)
        names = {seven: eight for eight, seven in EIGHT_TO_SEVEN.items() if eight != "calm"}
        examples = tuple(replace(example, label=names[example.label]) for example in data.examples)
        targets = None
        if data.targets is not None:
            targets = np.zeros((len(examples), len(EIGHT)), np.float32)
            targets[:, [EIGHT.index(names[label]) for label in data.labels]] = data.targets
        return replace(data, labels=EIGHT, examples=examples, targets=targets)

    return renamed


def _ferplus(path: Path) -> Dataset:
    parts = [read_split(path, name, labels=SEVEN) for name in ("train", "valid")]
    # Learnt from: whatever has votes for a label; measured on: a majority.
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
        published_split=_published(
            int(kept[0].sum()),
            len(labels),
            "FER+'s own split: train learnt from, valid held out (a majority over half). It knows no persons; some may "
            "be on both sides.",
        ),
        license="labels MIT; rights to the pictures (FER2013) unstated",
    )


def _muxspace(path: Path) -> Dataset:
    if not (path / FILE).is_file():
        raise DataInvalid(f"There is no {FILE} in {path}; name muxspace's folder.")
    examples: list[Example] = []
    counts = []
    for name in ("train", "valid"):
        part, people = read_muxspace(path, SEVEN, name), people_of(path, name)
        rows = np.flatnonzero(part.truth >= 0)
        examples += [Example(SEVEN[part.truth[row]], part.images[row], people[row]) for row in rows]
        counts.append(len(rows))
    return Dataset(
        name="muxspace",
        media=IMAGES,
        labels=SEVEN,
        examples=tuple(examples),
        published_split=_published(counts[0], sum(counts), "Split by person: a fifth of muxspace's people held out."),
        license="repository Apache-2.0; rights to the pictures unclear",
    )


def _afew_va(path: Path) -> Dataset:
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


def _ravdess(modality: str) -> Callable[[Path], Dataset]:
    def read(path: Path) -> Dataset:
        return Dataset(
            name=f"RAVDESS, {modality}",
            media=AUDIO if modality == "audio" else CLIPS,
            labels=EIGHT,
            examples=read_ravdess(path, modality),
            license="CC BY-NC-SA 4.0 (Livingstone & Russo 2018): research, non-commercial",
            commercial=False,
        )

    return read


def _folders(kind: str) -> Callable[[Path], Dataset]:
    def read(path: Path) -> Dataset:
        people = path / PEOPLE
        examples = read_folders(path, kind, people=people if people.is_file() else None)
        return Dataset(
            name=path.resolve().name,
            media=kind,
            labels=tuple(sorted({example.label for example in examples})),
            examples=examples,
            license=OWNER_LICENSE,
        )

    return read


def _published(learnt: int, count: int, why: str) -> Split:
    return Split(train=np.arange(learnt), held_out=np.arange(learnt, count), leaks=False, reason=why)


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "ferplus": _ferplus,
    "ferplus-eight": _in_eight(_ferplus),
    "muxspace": _muxspace,
    "afew-va": _afew_va,
    "ravdess": _ravdess("audio-video"),
    "ravdess-audio": _ravdess("audio"),
    IMAGES: _folders(IMAGES),
    CLIPS: _folders(CLIPS),
    AUDIO: _folders(AUDIO),
}
"""Sets by name, each read from a path: FER+ or FER2013, muxspace, AFEW-VA, RAVDESS; or a folder of pictures, clips or
recordings for each label."""
