"""Read FER+ and FER2013: folders of NumPy arrays, or the CSV files as published."""

import csv
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.training.data.npz import read_arrays

logger = logging.getLogger(__name__)

USAGES = {"train": "Training", "valid": "PublicTest", "test": "PrivateTest"}
"""FER2013's names of the splits."""

VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "nf")
"""FER+'s ten columns of votes, in their order. Contempt counts for no label: it is too rare (most votes of 154 images)
to guess which of the seven is closest. The last two are not expressions."""

SIDE = 48
"""Pixels a side of FER2013's images."""

FILES_HINT = (
    "Name a folder of train.npz, train_fer2013.npz and valid.npz, a folder of FER2013's fer2013.csv and FER+'s "
    "fer2013new.csv, or FER2013's CSV file alone"
)
"""Last sentence of the error messages."""

_NO_VOTES = (
    "FER+'s votes are missing: FER2013's labels replace them. github.com/microsoft/FERPlus has them in "
    "fer2013new.csv; put it into the folder of %s and name that folder."
)


@dataclass(frozen=True, eq=False)
class Fer2013Split:
    """N images of one split.

    Attributes:
        images: uint8 (N, 48, 48), gray.
        votes: uint8 (N, 10), FER+'s, ordered as `VOTE_COLUMNS`; None where they are missing.
        labels: uint8 (N,), FER2013's, 0 to 6; None where they are missing.
    """

    images: np.ndarray
    votes: np.ndarray | None
    labels: np.ndarray | None


def is_fer2013(path: Path) -> bool:
    """Return whether `read_fer2013` can read a path: a file, or a folder of arrays or of FER2013's CSV file."""
    return path.is_file() or any((path / f"{split}.npz").exists() for split in USAGES) or bool(_csv_files(path)[0])


def read_fer2013(path: Path, split: str) -> Fer2013Split:
    """Read a split of a folder of arrays, a folder of CSV files, or a CSV file.

    Args:
        path: The folder or file.
        split: "train", "valid" or "test".

    Raises:
        DataInvalid: `path` is none of these, or a file is missing or is not as published.
    """
    if not path.exists():
        raise DataInvalid(f"There is no {path}. {FILES_HINT}.")
    if not is_fer2013(path):
        raise DataInvalid(f"{path} holds no pictures to train on. {FILES_HINT}.")
    if any((path / f"{split}.npz").exists() for split in USAGES):
        return _read_arrays(path, split)
    faces, votes = _csv_files(path)
    if len(faces) != 1 or len(votes) > 1:
        found = ", ".join(file.name for file in [*faces, *votes]) or "none"
        raise DataInvalid(
            f"{path} should hold one CSV file with the columns emotion, pixels and Usage, and at most one of FER+'s "
            f"votes; found: {found}. {FILES_HINT}."
        )
    return _read_csv(faces[0], votes[0] if votes else None, split)


def _read_arrays(folder: Path, split: str) -> Fer2013Split:
    ferplus, fer2013 = folder / f"{split}.npz", folder / f"{split}_fer2013.npz"
    if not ferplus.exists():
        raise DataInvalid(f"{folder} lacks {ferplus.name}. {FILES_HINT}.")
    images, votes = read_arrays(ferplus, "images", "votes")
    [labels] = read_arrays(fer2013, "labels") if fer2013.exists() else [None]
    if not len(images) == len(votes) == len(votes if labels is None else labels):
        raise DataInvalid(f"The arrays of {ferplus.name} and {fer2013.name} differ in length; create them again.")
    return Fer2013Split(images=images, votes=votes, labels=labels)


def _read_csv(faces: Path, votes: Path | None, split: str) -> Fer2013Split:
    images, labels, tallies, hashes = [], [], [], []
    later_splits = set(list(USAGES.values())[list(USAGES).index(split) + 1 :])
    later_hashes: set[int] = set()
    dropped = 0
    for number, row, vote in _joined_rows(faces, votes):
        if row["usage"] in later_splits:
            later_hashes.add(hash(row["pixels"]))
        if row["usage"] != USAGES[split]:
            continue
        if vote and not vote["image name"]:
            dropped += 1
            continue
        try:
            images.append(_parse_image(row["pixels"]))
            labels.append(_parse_number(row["emotion"], 6))
            tallies.append([_parse_number(vote[column], 10) for column in VOTE_COLUMNS] if vote else [])
        except ValueError as error:
            raise DataInvalid(f"Row {number} of {faces.name} or of its votes: {error}; download it again.") from error
        hashes.append(hash(row["pixels"]))
    # Some images of FER2013 are in several splits; no image to evaluate on may be one that was trained on.
    kept = np.array([each not in later_hashes for each in hashes], bool)
    if not kept.any():
        raise DataInvalid(f"{faces.name} has no pictures with the Usage {USAGES[split]}. {FILES_HINT}.")
    template = "%s: %d images of %s; left out: %d that FER+ dropped, %d that a later split has too."
    logger.info(template, faces.name, kept.sum(), split, dropped, (~kept).sum())
    if not votes:
        logger.warning(_NO_VOTES, faces.name)
    return Fer2013Split(
        images=np.stack(images)[kept],
        votes=np.array(tallies, np.uint8)[kept] if votes else None,
        labels=np.array(labels, np.uint8)[kept],
    )


def _joined_rows(faces: Path, votes: Path | None) -> Iterator[tuple[int, dict[str, str], dict[str, str]]]:
    """Yield the number of each row of FER2013, from 1, the row, and its FER+ votes, empty where there are none."""
    none: dict[str, str] = {}
    rows = zip_longest(_read_rows(faces), _read_rows(votes) if votes else (), fillvalue=none)
    for number, (row, vote) in enumerate(rows, start=1):
        if votes and row.get("usage") != vote.get("usage"):
            raise DataInvalid(
                f"Row {number} of {faces.name} does not have the same Usage as in {votes.name}: both files need all "
                "rows as published. Download them again."
            )
        yield number, row, vote


def _parse_image(text: str) -> np.ndarray:
    pixels = np.fromstring(text, dtype=np.int16, sep=" ")  # as uint8, 256 would become 0
    if pixels.size != SIDE * SIDE or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"it has {pixels.size} pixels, or one not from 0 to 255; an image has {SIDE * SIDE} pixels")
    return pixels.astype(np.uint8).reshape(SIDE, SIDE)


def _parse_number(text: str, maximum: int) -> int:
    if int(text) not in range(maximum + 1):
        raise ValueError(f"{text} is not from 0 to {maximum}")
    return int(text)


def _csv_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Find the files of FER2013's images and of FER+'s votes, by their columns."""
    files = [path] if path.is_file() else sorted(path.glob("*.csv"))
    columns = {file: _column_names(file) for file in files}
    faces = [file for file in files if columns[file] >= {"emotion", "pixels", "usage"}]
    return faces, [file for file in files if columns[file] >= {"usage", "image name", *VOTE_COLUMNS}]


def _column_names(file: Path) -> set[str]:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return {name.strip().strip('"').lower() for name in lines.readline(10_000).split(",")}


def _read_rows(file: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, with columns in lower case: copies of FER2013 differ in case and spaces."""
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
        names = [name.strip().lower() for name in next(csv.reader(lines))]
        yield from csv.DictReader(lines, fieldnames=names, restval="")
