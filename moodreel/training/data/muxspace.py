"""The faces of muxspace, with one annotator's label each: other photos and people than FER+."""

import re
import zlib
from pathlib import Path

import cv2
import numpy as np

from moodreel.emotions import SEVEN_TO_FIVE
from moodreel.training.data.ferplus import LabeledImages

FILE = "faces.npz"
LABEL_NAMES = {
    "neutral": "neutral",
    "happiness": "happy",
    "surprise": "surprise",
    "sadness": "sad",
    "anger": "anger",
    "disgust": "disgust",
    "fear": "fear",
}
"""Our names of its labels; contempt (9 images) is left out."""
SIDE = 144
"""Pixels a side that images are resized to, padded to a square with their edge."""


def read_muxspace(folder: Path, labels: tuple[str, ...], split: str) -> LabeledImages:
    """Read `faces.npz` (jpeg, offsets, labels, names).

    Args:
        folder: of the file.
        labels: `moodreel.emotions.FIVE` or `SEVEN`.
        split: "train" or "valid"; a fifth of the people is in the latter.
    """
    with np.load(folder / FILE) as arrays:
        jpeg, offsets = arrays["jpeg"], arrays["offsets"]
        published, names = (arrays[field].astype(str) for field in ("labels", "names"))
    rows = _rows_of(names, split)
    images = np.stack([_decode_square(jpeg[offsets[row] : offsets[row + 1]]) for row in rows])
    seven = [LABEL_NAMES.get(label) for label in published[rows]]
    truth = np.array([-1 if n is None else labels.index(n if n in labels else SEVEN_TO_FIVE[n]) for n in seven])
    targets = np.where(truth[:, None] >= 0, np.eye(len(labels), dtype=np.float32)[truth], 0)
    return LabeledImages(images=images, targets=targets.astype(np.float32), truth=truth)


def people_of(folder: Path, split: str) -> tuple[str, ...]:
    """Return the person in each image that `read_muxspace` reads, in its order."""
    with np.load(folder / FILE) as arrays:
        names = arrays["names"].astype(str)
    return tuple(person_of(name) for name in names[_rows_of(names, split)])


def person_of(name: str) -> str:
    """Return the person in a file's name: what stands before the number."""
    return re.sub(r"_?\d*(\.\w+)?$", "", name)


def _rows_of(names: np.ndarray, split: str) -> np.ndarray:
    held_out = np.array([zlib.crc32(person_of(name).encode()) % 5 == 0 for name in names])
    return np.flatnonzero(held_out == (split == "valid"))


def _decode_square(jpeg: np.ndarray) -> np.ndarray:
    """Decode an image to gray, uint8 (144, 144)."""
    gray = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE))
    height, width = gray.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = cv2.copyMakeBorder(
        gray, top, side - height - top, left, side - width - left, borderType=cv2.BORDER_REPLICATE
    )
    return cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
