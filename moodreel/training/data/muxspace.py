"""Read muxspace: faces with one annotator's label each, of other photos and people than those of FER+."""

import re
import zlib
from pathlib import Path

import cv2
import numpy as np

from moodreel.training.data.ferplus import LabeledImages
from moodreel.training.data.label_mapping import mapping_matrix
from moodreel.training.data.npz import read_packed_images

FILE = "faces.npz"
SIDE = 144
"""Side in pixels to which images are resized, after they are padded to a square by repeating their edge."""


def read_muxspace(folder: Path, labels: tuple[str, ...], split: str) -> LabeledImages:
    """Read `faces.npz` (jpeg, offsets, labels, names).

    Args:
        folder: Folder of the file.
        labels: `moodreel.emotions.FIVE` or `SEVEN`.
        split: "train", or "valid" for a fifth of the people.

    Raises:
        DataInvalid: The file is missing or has another layout.
    """
    files, published, names = read_packed_images(folder / FILE, "names")
    people = [person_of(name) for name in names]
    rows = [row for row, person in enumerate(people) if _held_out(person) == (split == "valid")]
    # Contempt (9 images) maps to no label.
    targets = mapping_matrix([published[row] for row in rows], labels).astype(np.float32)
    return LabeledImages(
        images=np.stack([_decode_square(files[row]) for row in rows]),
        targets=targets,
        truth=np.where(targets.any(axis=1), targets.argmax(axis=1), -1),
        people=tuple(people[row] for row in rows),
    )


def person_of(name: str) -> str:
    """Return the person in a file's name: the part before the number."""
    return re.sub(r"_?\d*(\.\w+)?$", "", name)


def _held_out(person: str) -> bool:
    return zlib.crc32(person.encode()) % 5 == 0


def _decode_square(jpeg: bytes) -> np.ndarray:
    """Decode an image to gray, uint8 (144, 144)."""
    gray = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE))
    height, width = gray.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    border = top, side - height - top, left, side - width - left
    square = cv2.copyMakeBorder(gray, *border, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
