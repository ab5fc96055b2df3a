"""Pictures in a folder for each label, as people keep them: to measure on people like those that a service will see."""

import csv
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from moodreel.analysis import ANALYSIS_SIDE
from moodreel.emotions import NAMES, SEVEN_TO_FIVE
from moodreel.errors import DataInvalid
from moodreel.training.sources import EXPECTED

log = logging.getLogger(__name__)

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True, eq=False)
class Album:
    """N labelled pictures, decoded when asked for: a large set would not fit into memory.

    album[i] is picture i: uint8 (H, W, 3), red first, upright, at most `ANALYSIS_SIDE` pixels long as in serving.
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
        scale = ANALYSIS_SIDE / max(height, width)
        if scale >= 1:
            return picture
        return cv2.resize(
            picture, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
        )


def read_album(folder: Path, labels: tuple[str, ...]) -> Album:
    """List the pictures in the folders that are named like an emotion (`NAMES`, in any case), and in folders in those.
    What is left out is logged by name and number.

    labels: `moodreel.emotions.FIVE` or `SEVEN`.
    Raises DataInvalid where there are none.
    """
    names, truth = [], []
    left_out: Counter[str] = Counter()
    for own in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        label = NAMES.get(own.name.strip().lower())
        for path in sorted(path for path in own.rglob("*") if path.is_file() and not path.name.startswith(".")):
            if label is None:
                left_out[own.name] += 1
            elif path.suffix.lower() not in ENDINGS:
                left_out[f"{own.name}, {path.suffix or 'no ending'}"] += 1
            else:
                names.append(path.relative_to(folder).as_posix())
                truth.append(labels.index(label if label in labels else SEVEN_TO_FIVE[label]))
    listed = "; ".join(f"{what}: {count}" for what, count in left_out.items())
    if not names:
        raise DataInvalid(
            f"{folder} holds nothing to measure on. {EXPECTED}; or a folder with a folder of pictures "
            f"({', '.join(sorted(ENDINGS))}) for each label, named {', '.join(NAMES)}. "
            f"Left out, by number of files: {listed or 'nothing'}."
        )
    if left_out:
        log.warning("Left out, by number of files: %s.", listed)
    return Album(folder=folder, names=tuple(names), truth=np.array(truth))


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
