"""Arrays of npz files: named ones, and images as JPEG files one after the other."""

from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from moodreel.errors import DataInvalid


def read_arrays(file: Path, *names: str) -> list[np.ndarray]:
    """Read named arrays of an npz file.

    Raises:
        DataInvalid: the file cannot be read or lacks one of them.
    """
    try:
        with np.load(file) as arrays:
            read = [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataInvalid(f"{file} cannot be read: {error}. It needs the arrays {', '.join(names)}.") from error
    return read


def read_packed_images(file: Path, names: str) -> tuple[list[bytes], list[str], list[str]]:
    """Read the N encoded images of a file, their labels and another name of each.

    The arrays are `jpeg`, uint8, all files one after the other; `offsets`, int64 (N+1,), image i is
    `jpeg[offsets[i]:offsets[i + 1]]`; `labels` (N,); and `names` (N,), such as "sources".

    Raises:
        DataInvalid: the file is missing or has another layout.
    """
    jpeg, offsets, labels, others = read_arrays(file, "jpeg", "offsets", "labels", names)
    if not len(labels) == len(others) == len(offsets) - 1:
        raise DataInvalid(f"The arrays of {file} are not of one length; download it again.")
    data = jpeg.tobytes()
    return [data[start:end] for start, end in pairwise(offsets.tolist())], labels.tolist(), others.tolist()
