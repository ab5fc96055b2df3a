"""Pictures in a folder for each label, as people keep them: to measure on people like those that a service will see."""

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from moodreel.emotions import LABEL_SYNONYMS
from moodreel.errors import DataInvalid
from moodreel.pipelines.engine import DETECTION_SIDE
from moodreel.training.data.fer2013 import EXPECTED
from moodreel.training.data.image_folder import KINDS, describe, list_by_label

log = logging.getLogger(__name__)

ENDINGS = KINDS["pictures"]


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """N labelled pictures, decoded when asked for: a large set would not fit into memory.

    album[i] is picture i: uint8 (H, W, 3), red first, upright, at most `DETECTION_SIDE` pixels long as in serving.
    names: paths relative to the folder, with slashes.
    truth: int64 (N,), index of the label.
    """

    folder: Path
    names: tuple[str, ...]
    truth: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> np.ndarray:
        """Raises DataInvalid for a file that is no picture."""
        try:
            picture = cv2.imread(str(self.folder / self.names[row]), cv2.IMREAD_COLOR_RGB)
        except cv2.error:
            picture = None
        if picture is None:
            raise DataInvalid(f"{self.names[row]} cannot be read as a picture; repair it or take it out.")
        height, width = picture.shape[:2]
        scale = DETECTION_SIDE / max(height, width)
        if scale >= 1:
            return picture
        return cv2.resize(
            picture, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
        )


def read_image_folder(folder: Path, labels: tuple[str, ...]) -> ImageFolder:
    """List the pictures in the folders that are named like an emotion (`NAMES`, in any case), and in folders in those.
    What is left out is logged by name and number.

    labels: `moodreel.emotions.FIVE` or `SEVEN`.
    Raises DataInvalid where there are none.
    """
    listed, left_out = list_by_label(folder, ENDINGS, labels)
    if not listed:
        raise DataInvalid(
            f"{folder} holds nothing to measure on. {EXPECTED}; or a folder with a folder of pictures "
            f"({', '.join(sorted(ENDINGS))}) for each label, named {', '.join(LABEL_SYNONYMS)}. "
            f"Left out, by number of files: {describe(left_out)}."
        )
    if left_out:
        log.warning("Left out, by number of files: %s.", describe(left_out))
    truth = np.array([labels.index(label) for _, label in listed])
    return ImageFolder(folder=folder, names=tuple(name for name, _ in listed), truth=truth)


def read_groups(file: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read which pictures belong to which group: a csv file with the columns file (a picture's name in its `Album`) and
    group. A picture may be in several groups, or in none.

    Returns bool (N,) for each group.
    Raises DataInvalid for a file that is not so, or that names none of the pictures.
    """
    row_of = {name: row for row, name in enumerate(names)}
    groups: dict[str, np.ndarray] = {}
    unknown = 0
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            for line in csv.DictReader(lines):
                row = row_of.get(line["file"].replace("\\", "/"))
                if row is None:
                    unknown += 1
                elif line["group"]:
                    groups.setdefault(line["group"], np.zeros(len(names), bool))[row] = True
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError) as error:
        raise DataInvalid(
            f"{file} cannot be read; it needs to be a csv file with the columns file and group."
        ) from error
    if not groups:
        raise DataInvalid(f"{file} gives none of the pictures a group; its files are named like {names[0]}.")
    alone = len(names) - int(np.any(list(groups.values()), axis=0).sum())
    if unknown or alone:
        log.warning("%s: %d of its files are not here; %d pictures have no group.", file.name, unknown, alone)
    return dict(sorted(groups.items()))
