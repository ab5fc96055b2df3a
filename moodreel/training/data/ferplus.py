"""FER+ votes and FER2013 labels of the same images, as soft targets of seven or five classes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.emotions import FIVE
from moodreel.errors import DataInvalid
from moodreel.training.data.fer2013 import FILES_HINT, VOTE_COLUMNS, read_fer2013
from moodreel.training.data.label_mapping import mapping_matrix
from moodreel.training.data.npz import read_arrays

FER2013_LABELS = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Names of FER2013's labels, 0 to 6."""

COPIES = "valid_copies.npz"
"""File next to `valid.npz`: which of its images show the same photograph as one of the training images."""

_LABEL_VOTES = 10 * mapping_matrix(FER2013_LABELS, VOTE_COLUMNS)
"""Votes (7, 10), all ten for one label, that replace missing votes of an image with that FER2013 label."""


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """N images and their labels.

    Attributes:
        images: uint8 (N, S, S), gray.
        targets: float32 (N, C), probabilities in the order of the requested labels; zeros where fewer than half of the
            votes are for these labels.
        truth: int64 (N,), see `majority_label`.
        people: Person in each image; empty where unknown.
    """

    images: np.ndarray
    targets: np.ndarray
    truth: np.ndarray
    people: tuple[str, ...] = ()


def read_split(path: Path, split: str, *, labels: tuple[str, ...] = FIVE, fer2013_weight: float = 0.0) -> LabeledImages:
    """Read a split, by `read_fer2013`, and map its votes and labels to `labels`.

    Args:
        path: A folder of arrays or CSV files, or a CSV file.
        split: "train", "valid" or "test".
        labels: `moodreel.emotions.FIVE` or `SEVEN`.
        fer2013_weight: Weight of the FER2013 label in the targets, 0 to 1. Without FER+ votes it always has all of it.

    Raises:
        DataInvalid: There is nothing to read, or the labels that are needed are missing.
    """
    rows = read_fer2013(path, split)
    votes = (_LABEL_VOTES[rows.labels] if rows.votes is None else rows.votes).astype(np.float32)
    counted = votes @ mapping_matrix(VOTE_COLUMNS, labels).astype(np.float32)
    usable = 2 * counted.sum(axis=1) >= votes.sum(axis=1)
    targets = np.where(usable[:, None], counted / np.maximum(counted.sum(axis=1, keepdims=True), 1), 0)
    if fer2013_weight:
        if rows.labels is None:
            raise DataInvalid(f"{path} lacks {split}_fer2013.npz, FER2013's label of each picture. {FILES_HINT}.")
        other = mapping_matrix(FER2013_LABELS, labels).astype(np.float32)[rows.labels]
        targets = np.where(usable[:, None], (1 - fer2013_weight) * targets + fer2013_weight * other, 0)
    return LabeledImages(images=rows.images, targets=targets.astype(np.float32), truth=majority_label(votes, labels))


def read_copies(path: Path, count: int) -> np.ndarray | None:
    """Read which of the `count` valid images are copies of training images, bool (count,), as `COPIES` says.

    Returns:
        None if there is no such file.

    Raises:
        DataInvalid: The file cannot be read, or belongs to other images.
    """
    file = path / COPIES
    if not file.is_file():
        return None
    [copies] = read_arrays(file, "copy")
    if copies.shape != (count,) or copies.dtype != bool:
        raise DataInvalid(f"The array of {file} is not bool ({count},), one for each image of valid; create it again.")
    return copies


def majority_label(votes: np.ndarray, labels: tuple[str, ...] = FIVE) -> np.ndarray:
    """Return the label index of the column with over half of each image's FER+ votes (N, 10), int64 (N,).

    It is -1 where no column has over half of them, or that column has no label.
    """
    top = votes.argmax(axis=1)
    has_majority = 2 * votes.max(axis=1) > votes.sum(axis=1)
    counts_for = mapping_matrix(VOTE_COLUMNS, labels)
    index = np.where(counts_for.any(axis=1), counts_for.argmax(axis=1), -1)
    return np.where(has_majority, index[top], -1)
