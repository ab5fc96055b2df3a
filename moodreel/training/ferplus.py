"""FER+ and FER2013 labels of the same pictures, as five-class targets."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.emotions import FIVE

VOTES: tuple[str | None, ...] = (
    "Neutral",  # neutral
    "Happy",  # happiness
    "Shock",  # surprise
    "Sad",  # sadness
    "Anger",  # anger
    "Anger",  # disgust
    "Shock",  # fear
    None,  # contempt
    None,  # unknown
    None,  # not a face
)
"""What the ten columns of FER+ votes count for. Contempt is none of the five, and too rare (most votes of 154 pictures)
for a wrong guess at where it belongs to be worth making; the last two are no expressions."""

FER2013 = ("Anger", "Anger", "Shock", "Happy", "Sad", "Shock", "Neutral")
"""What the seven labels of FER2013 count for: angry, disgust, fear, happy, sad, surprise, neutral."""


@dataclass(frozen=True, eq=False)
class Split:
    """N pictures and their labels.

    images: uint8 (N, 48, 48), grey.
    targets: float32 (N, 5), probabilities in the order of `moodreel.emotions.FIVE`; zeros where fewer than half of the
        votes are for any of the five.
    truth: int64 (N,), index into FIVE of the label that more than half of all votes are for; -1 where there is none.
    """

    images: np.ndarray
    targets: np.ndarray
    truth: np.ndarray


def read_split(folder: Path, split: str, *, fer2013: float = 0.0) -> Split:
    """Read `train` or `valid` of a folder with `train.npz` and so on (images, votes).

    fer2013: the share of the targets, 0 to 1, that the FER2013 label makes up (`train_fer2013.npz`).
    """
    with np.load(folder / f"{split}.npz") as arrays:
        images, votes = arrays["images"], arrays["votes"].astype(np.float32)
    counted = votes @ _one_hot(VOTES)
    usable = 2 * counted.sum(axis=1) >= votes.sum(axis=1)
    targets = np.where(usable[:, None], counted / np.maximum(counted.sum(axis=1, keepdims=True), 1), 0)
    if fer2013:
        with np.load(folder / f"{split}_fer2013.npz") as arrays:
            other = _one_hot(FER2013)[arrays["labels"]]
        targets = np.where(usable[:, None], (1 - fer2013) * targets + fer2013 * other, 0)
    return Split(images=images, targets=targets.astype(np.float32), truth=majority(votes))


def majority(votes: np.ndarray) -> np.ndarray:
    """Index into FIVE of the FER+ label with more than half of a picture's votes (N, 10), or -1."""
    top = votes.argmax(axis=1)
    settled = 2 * votes.max(axis=1) > votes.sum(axis=1)
    five = np.array([-1 if label is None else FIVE.index(label) for label in VOTES])
    return np.where(settled, five[top], -1)


def _one_hot(labels: tuple[str | None, ...]) -> np.ndarray:
    """(len(labels), 5), a row of zeros for a label that counts for nothing."""
    return np.array([[label == emotion for emotion in FIVE] for label in labels], dtype=np.float32)
