"""What every reader gives: one example a row, with whatever decides on which side of a split it may be."""

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.errors import DataInvalid


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled picture, clip or recording.

    label: a name in the set's own label set.
    media: its file; or the picture itself, uint8 (H, W) grey or (H, W, 3), red first, where a set comes as arrays.
    person: who is seen or heard, by whatever name the set has for them; None where it does not say.
    clip: what it is a part or another version of, such as the clip of a frame; None where it stands alone. Examples of
        one clip are of one person, known or not.
    group: a group of people to report on by itself, such as "female"; None where the set has none.
    """

    label: str
    media: Path | np.ndarray
    person: str | None = None
    clip: str | None = None
    group: str | None = None


def from_arrays(
    images: np.ndarray, truth: np.ndarray, labels: Sequence[str], people: Sequence[str | None] | None = None
) -> tuple[Example, ...]:
    """Give pictures that come as arrays (`ferplus.Split`, `muxspace`) as examples; those without a label are left out.

    images: (N, …). truth: int64 (N,), index of the label, -1 for none. people: of each picture, where it is known.
    """
    who = people or [None] * len(truth)
    rows = zip(images, truth.tolist(), who, strict=True)
    return tuple(Example(labels[index], image, person) for image, index, person in rows if index >= 0)


def content_ids(examples: Sequence[Example]) -> list[str | None]:
    """Give what tells copies apart from others: equal for examples of the same bytes, None for what has no copy.

    Only files of a size that several have are read: a set of 25 GB would take minutes otherwise.
    Raises DataInvalid for a file that cannot be read.
    """
    try:
        sizes = [_size(example.media) for example in examples]
        several = {size for size, count in Counter(sizes).items() if count > 1}
        digests = [
            _digest(example.media) if size in several else None for example, size in zip(examples, sizes, strict=True)
        ]
    except OSError as error:
        raise DataInvalid(f"{error.filename} cannot be read; look at its permissions, or take it out.") from error
    copies = {digest for digest, count in Counter(digests).items() if digest and count > 1}
    return [digest if digest in copies else None for digest in digests]


def read_table(file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read these columns of a csv file that people keep beside their data; optional ones are "" where it lacks them.

    Raises DataInvalid where it lacks another.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, restval="")
            if set(columns) <= set(reader.fieldnames or ()):
                return [{name: (row.get(name) or "").strip() for name in (*columns, *optional)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataInvalid(f"{file} cannot be read as a csv file; save it anew, in UTF-8.") from error
    raise DataInvalid(f"{file} needs to be a csv file with the columns {', '.join(columns)}.")


def _size(media: Path | np.ndarray) -> int:
    return media.nbytes if isinstance(media, np.ndarray) else media.stat().st_size


def _digest(media: Path | np.ndarray) -> str:
    if isinstance(media, np.ndarray):
        return hashlib.sha256(f"{media.shape}".encode() + media.tobytes()).hexdigest()
    with media.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
