"""Read npz files: named arrays, and encoded images that are concatenated in one array."""

from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from moodreel.errors import DataInvalid


def read_arrays(file: Path, *names: str) -> list[np.ndarray]:
    """Read named arrays of an npz file.

    Raises:
        DataInvalid: The file cannot be read or lacks one of them.
    """
    try:
        with np.load(file) as arrays:
            read = [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataInvalid(f"{file} cannot be read: {error}. It needs the arrays {', '.join(names)}.") from error
    return read


def read_packed_images(file: Path, attribute: str) -> tuple[list[bytes], list[str], list[str]]:
    """Read the N encoded images of a file, their labels and a further attribute.

    The arrays are `jpeg`, uint8, all images concatenated; `offsets`, int64 (N+1,), where image i is
    `jpeg[offsets[i]:offsets[i + 1]]`; `labels`, strings (N,); and `attribute`, strings (N,), such as "sources".

    Raises:
        DataInvalid: The file is missing or has another layout.
    """
    jpeg, offsets, labels, values = read_arrays(file, "jpeg", "offsets", "labels", attribute)
    if not len(labels) == len(values) == len(offsets) - 1:
        raise DataInvalid(f"The arrays of {file} differ in length; download it again.")
    data = jpeg.tobytes()
    return [data[start:end] for start, end in pairwise(offsets.tolist())], labels.tolist(), values.tolist()
