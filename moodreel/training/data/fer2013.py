"""FER+ and FER2013 as they come to hand: folders of arrays, or the csv files as they were published."""

import csv
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from moodreel.errors import DataInvalid

log = logging.getLogger(__name__)

USAGES = {"train": "Training", "valid": "PublicTest", "test": "PrivateTest"}
"""What FER2013 calls each split."""

VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "nf")
"""FER+'s ten columns of votes, in their order."""

SIDE = 48
"""Pixels a side of FER2013's pictures."""

EXPECTED = (
    "Name a folder of train.npz, train_fer2013.npz and valid.npz, a folder of FER2013's fer2013.csv and FER+'s "
    "fer2013new.csv, or FER2013's csv file alone"
)


@dataclass(frozen=True, eq=False)
class Fer2013Split:
    """N pictures of one split.

    images: uint8 (N, 48, 48), grey.
    votes: uint8 (N, 10), ordered as `COLUMNS`; None where FER+ is not at hand.
    labels: uint8 (N,), FER2013's, 0 to 6; None where FER2013's are not.
    """

    images: np.ndarray
    votes: np.ndarray | None
    labels: np.ndarray | None


def is_fer2013(path: Path) -> bool:
    """Whether `read_rows` takes it for its own: any file, or a folder of arrays or of FER2013's csv file."""
    return path.is_file() or any((path / f"{split}.npz").exists() for split in USAGES) or bool(_csv_files(path)[0])


def read_fer2013(path: Path, split: str) -> Fer2013Split:
    """Read `train`, `valid` or `test` of a folder of arrays, a folder of csv files, or a csv file.

    Raises DataInvalid for anything else, and for a file that is missing or does not hold what it should.
    """
    if not path.exists():
        raise DataInvalid(f"There is no {path}. {EXPECTED}.")
    if not is_fer2013(path):
        raise DataInvalid(f"{path} holds no pictures to train on. {EXPECTED}.")
    if any((path / f"{split}.npz").exists() for split in USAGES):
        return _read_arrays(path, split)
    faces, votes = _csv_files(path)
    if len(faces) != 1 or len(votes) > 1:
        found = ", ".join(file.name for file in [*faces, *votes]) or "none"
        raise DataInvalid(
            f"{path} should hold one csv file with the columns emotion, pixels and Usage, and at most one of FER+'s "
            f"votes; found: {found}. {EXPECTED}."
        )
    return _read_csv(faces[0], votes[0] if votes else None, split)


def _read_arrays(folder: Path, split: str) -> Fer2013Split:
    pictures, other = folder / f"{split}.npz", folder / f"{split}_fer2013.npz"
    if not pictures.exists():
        raise DataInvalid(f"{folder} lacks {pictures.name}. {EXPECTED}.")
    labels = None
    try:
        with np.load(pictures) as arrays:
            images, votes = arrays["images"], arrays["votes"]
        if other.exists():
            with np.load(other) as arrays:
                labels = arrays["labels"]
    except (KeyError, ValueError, OSError, BadZipFile) as error:
        raise DataInvalid(
            f"{pictures.name} needs the arrays images and votes, {other.name} the array labels: {error}."
        ) from error
    if not len(images) == len(votes) == len(votes if labels is None else labels):
        raise DataInvalid(f"The arrays of {pictures.name} and {other.name} are not of one length; make them anew.")
    return Fer2013Split(images=images, votes=votes, labels=labels)


def _read_csv(faces: Path, votes: Path | None, split: str) -> Fer2013Split:
    images, labels, tallies, shown = [], [], [], []
    later = set(list(USAGES.values())[list(USAGES).index(split) + 1 :])
    shown_later: set[int] = set()
    thrown_out = 0
    for number, row, vote in _joined(faces, votes):
        if row["usage"] in later:
            shown_later.add(hash(row["pixels"]))
        if row["usage"] != USAGES[split]:
            continue
        if vote and not vote["image name"]:
            thrown_out += 1
            continue
        try:
            images.append(_picture(row["pixels"]))
            labels.append(_number(row["emotion"], 6))
            tallies.append([_number(vote[column], 10) for column in VOTE_COLUMNS] if vote else [])
        except ValueError as error:
            raise DataInvalid(f"Row {number} of {faces.name} or of its votes: {error}; fetch the file anew.") from error
        shown.append(hash(row["pixels"]))
    # FER2013 shows some pictures in several splits; none that is measured on may have been learnt.
    kept = np.array([pixels not in shown_later for pixels in shown], bool)
    if not kept.any():
        raise DataInvalid(f"{faces.name} has no pictures with the Usage {USAGES[split]}. {EXPECTED}.")
    log.info(
        "%s: %d pictures of %s; left out: %d that FER+ threw out, %d that a later split shows too.",
        faces.name,
        kept.sum(),
        split,
        thrown_out,
        (~kept).sum(),
    )
    if not votes:
        log.warning(
            "FER+'s votes are missing: FER2013's labels stand in for them. github.com/microsoft/FERPlus has them in "
            "fer2013new.csv; put it beside %s and name their folder.",
            faces.name,
        )
    return Fer2013Split(
        images=np.stack(images)[kept],
        votes=np.array(tallies, np.uint8)[kept] if votes else None,
        labels=np.array(labels, np.uint8)[kept],
    )


def _joined(faces: Path, votes: Path | None) -> Iterator[tuple[int, dict[str, str], dict[str, str]]]:
    """Number, from 1, of each row of FER2013, the row, and that of FER+'s votes, empty without them."""
    counted = list(_table(votes)) if votes else []
    number = 0
    for number, row in enumerate(_table(faces), start=1):
        vote = counted[number - 1] if number <= len(counted) else {}
        if votes and vote.get("usage") != row["usage"]:
            raise DataInvalid(_OUT_OF_STEP.format(number, faces.name, votes.name))
        yield number, row, vote
    if votes and number < len(counted):
        raise DataInvalid(_OUT_OF_STEP.format(number + 1, votes.name, faces.name))


_OUT_OF_STEP = "Row {} of {} has no row of the same Usage in {}: both need all rows as published. Fetch them anew."


def _picture(text: str) -> np.ndarray:
    pixels = np.fromstring(text, dtype=np.int16, sep=" ")  # as uint8 it would take 256 for 0
    if pixels.size != SIDE * SIDE or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"{pixels.size} pixels, or not from 0 to 255; it has {SIDE * SIDE}")
    return pixels.astype(np.uint8).reshape(SIDE, SIDE)


def _number(text: str, most: int) -> int:
    if int(text) not in range(most + 1):
        raise ValueError(f"{text} is not from 0 to {most}")
    return int(text)


def _csv_files(path: Path) -> tuple[list[Path], list[Path]]:
    """The files of FER2013's pictures and of FER+'s votes, told by their columns; of a file, it alone."""
    files = [path] if path.is_file() else sorted(path.glob("*.csv"))
    columns = {file: _columns(file) for file in files}
    faces = [file for file in files if columns[file] >= {"emotion", "pixels", "usage"}]
    return faces, [file for file in files if columns[file] >= {"usage", "image name", *VOTE_COLUMNS}]


def _columns(file: Path) -> set[str]:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return {name.strip().strip('"').lower() for name in lines.readline(10_000).split(",")}


def _table(file: Path) -> Iterator[dict[str, str]]:
    """Rows of a csv file by column, in lower case: copies of FER2013 differ in that and in spaces."""
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
        names = [name.strip().lower() for name in next(csv.reader(lines))]
        yield from csv.DictReader(lines, fieldnames=names, restval="")
