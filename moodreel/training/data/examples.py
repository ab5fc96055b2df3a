"""The labeled examples of a data set: create and process them, find copies, and read tables about them."""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from moodreel.errors import DataInvalid, MoodreelError

Media = Path | np.ndarray | bytes
"""A file; an image as uint8 (H, W) gray or (H, W, 3) RGB; or an encoded image."""

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Example:
    """One labeled image, clip or recording.

    Attributes:
        label: A name in the data set's own label set.
        media: The labeled file or image.
        person: Any name of the person in it; None where the person is unknown.
        clip: Any name of the recording of which it is a part (a frame) or a version; None where it stands alone.
            Examples of one clip show one person, even if `person` is None.
        group: Group to report on separately, such as "female"; None where the set has none.
    """

    label: str
    media: Media
    person: str | None = None
    clip: str | None = None
    group: str | None = None

    @property
    def file(self) -> Path:
        """The path of the media.

        Raises:
            DataInvalid: The media is not a file, but an image in memory.
        """
        if not isinstance(self.media, Path):
            raise DataInvalid("Clips and recordings have to be files; this set holds arrays.")
        return self.media


def from_arrays(
    images: np.ndarray, truth: np.ndarray, labels: Sequence[str], people: Sequence[str | None] | None = None
) -> tuple[Example, ...]:
    """Create examples from an array of images; those without a label are left out.

    Args:
        images: (N, ...).
        truth: int64 (N,), label indices, -1 for none.
        labels: Names of the labels.
        people: Person of each image, where known.
    """
    rows = zip(images, truth.tolist(), people or [None] * len(truth), strict=True)
    return tuple(Example(labels[index], image, person) for image, index, person in rows if index >= 0)


def process_files(
    examples: Sequence[Example],
    process: Callable[[bytes], Result],
    description: str,
    *,
    skip: tuple[type[MoodreelError], ...] = (),
) -> Iterator[Result | None]:
    """Yield the result of `process` for the bytes of each example's file; None where it raises one of `skip`.

    Raises:
        DataInvalid: A file cannot be read or processed; the message names it.
    """
    for example in tqdm(examples, desc=description, mininterval=5):
        file = example.file
        try:
            yield process(file.read_bytes())
        except skip:
            yield None
        except (MoodreelError, OSError) as error:
            raise DataInvalid(f"{file} cannot be read: {error} Repair it, or remove it.") from error


def content_ids(examples: Sequence[Example]) -> list[str | None]:
    """Return a hash of the content of each example that has a copy in the set; None for the others.

    Only files whose size occurs more than once are read: hashing a set of 25 GB would take minutes.
    """
    sizes = [_size(example.media) for example in examples]
    repeated = {size for size, count in Counter(sizes).items() if count > 1}
    digests = [
        _digest(example.media) if size in repeated else None for example, size in zip(examples, sizes, strict=True)
    ]
    copies = {digest for digest, count in Counter(digests).items() if digest and count > 1}
    return [digest if digest in copies else None for digest in digests]


def describe_counts(counts: Counter[str]) -> str:
    """Format counts as text: "a: 1; b: 2", or "nothing"."""
    return "; ".join(f"{what}: {count}" for what, count in sorted(counts.items())) or "nothing"


def read_table(file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read columns of a CSV file; missing values, and missing optional columns, are "".

    Raises:
        DataInvalid: The file cannot be read, or lacks one of `columns`.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, restval="")
            if set(columns) <= set(reader.fieldnames or ()):
                return [{name: (row.get(name) or "").strip() for name in (*columns, *optional)} for row in reader]
    except OSError as error:
        raise DataInvalid(f"{file} cannot be read ({error.strerror}); name another file.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataInvalid(f"{file} cannot be read as a CSV file; save it again, in UTF-8.") from error
    raise DataInvalid(f"{file} needs to be a CSV file with commas, whose first line names {', '.join(columns)}.")


def _size(media: Media) -> int:
    if isinstance(media, np.ndarray):
        return media.nbytes
    return media.stat().st_size if isinstance(media, Path) else len(media)


def _digest(media: Media) -> str:
    if isinstance(media, Path):
        with media.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if isinstance(media, np.ndarray):
        return hashlib.sha256(f"{media.shape}".encode() + media.tobytes()).hexdigest()
    return hashlib.sha256(media).hexdigest()
