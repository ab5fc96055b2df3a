"""Color faces from the web with seven labels, as one array of JPEG files."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from moodreel.emotions import SEVEN
from moodreel.errors import DataInvalid
from moodreel.training.data.examples import Example

FILE = "train.npz"


def read_webfaces(path: Path) -> tuple[Example, ...]:
    """Read a folder's `train.npz`, or another file of its layout.

    The arrays are `jpeg`, uint8, all files one after the other; `offsets`, int64 (N+1,), image i is
    `jpeg[offsets[i]:offsets[i + 1]]`; `labels` (N,), of the seven; and `sources` (N,), the collection of each, which
    becomes the example's group. The images stay encoded. No person is known.

    Raises:
        DataInvalid: the file is missing or has another layout.
    """
    file = path / FILE if path.is_dir() else path
    try:
        with np.load(file) as arrays:
            jpeg, offsets = arrays["jpeg"].tobytes(), arrays["offsets"].tolist()
            labels, sources = arrays["labels"].tolist(), arrays["sources"].tolist()
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataInvalid(
            f"{file} cannot be read: {error}. It needs the arrays jpeg, offsets, labels and sources."
        ) from error
    if unknown := sorted(set(labels) - set(SEVEN)):
        raise DataInvalid(f"{file} has labels other than {', '.join(SEVEN)}: {', '.join(unknown)}.")
    if not len(labels) == len(sources) == len(offsets) - 1:
        raise DataInvalid(f"The arrays of {file} are not of one length; fetch it anew.")
    return tuple(
        Example(label, jpeg[start:end], group=source)
        for label, start, end, source in zip(labels, offsets[:-1], offsets[1:], sources, strict=True)
    )
