"""Images of examples, decoded only when they are read: a large set would not fit into memory."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from moodreel.errors import DataInvalid, ImageCorrupt, ImageTooBig, UnsupportedMedia
from moodreel.media.image import ImageLimits, decode_image
from moodreel.pipelines.engine import DETECTION_SIDE
from moodreel.training.data.examples import Example

FILE_LIMITS = ImageLimits(bytes=2**31, pixels=200_000_000)
"""Limits of images that are files of the user's own; those of the service are for strangers."""
Transform = Callable[[np.ndarray, int], np.ndarray]


class ImageSequence:
    """The images of N examples: files, encoded bytes or arrays.

    Item i is uint8 (H, W, 3) RGB, upright, with a longer side of at most `DETECTION_SIDE` pixels as in serving; an
    example that is an array is returned unchanged. The transform follows.
    """

    def __init__(self, examples: Sequence[Example], transform: Transform | None = None) -> None:
        """Take the media of examples; nothing is read yet.

        Args:
            examples: The examples, all of images.
            transform: Is applied to each image, with its index.
        """
        self._media = [example.media for example in examples]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._media)

    def __getitem__(self, row: int) -> np.ndarray:
        """Decode one image.

        Raises:
            DataInvalid: It is not an image; the message names the file.
        """
        media = self._media[row]
        image = media if isinstance(media, np.ndarray) else _decode(media)
        return image if self._transform is None else self._transform(image, row)


Images = np.ndarray | ImageSequence
"""N images: uint8 (N, H, W) gray, or a sequence of them in color."""


def _decode(media: Path | bytes) -> np.ndarray:
    name = media if isinstance(media, Path) else "An example of the set"
    try:
        data = media.read_bytes() if isinstance(media, Path) else media
        return decode_image(data, FILE_LIMITS, max_side=DETECTION_SIDE).rgb
    except UnsupportedMedia:  # serving does not read BMP and TIFF, which data sets have
        image = _decode_with_opencv(data)
    except (ImageCorrupt, ImageTooBig, OSError):
        image = None
    if image is None:
        raise DataInvalid(f"{name} cannot be read as a picture; repair it or remove it.")
    return image


def _decode_with_opencv(data: bytes) -> np.ndarray | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    if image is None:
        return None
    height, width = image.shape[:2]
    scale = DETECTION_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
