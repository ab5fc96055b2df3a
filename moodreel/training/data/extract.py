"""Extract images to label by hand from videos: frames, or the faces in them, as JPEG, with a manifest."""

import csv
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from moodreel.errors import DataInvalid, MoodreelError
from moodreel.faces.features import crop_square
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.tracker import Tracker
from moodreel.media.video import Frame, VideoReader
from moodreel.media.video_decoder import VideoLimits

logger = logging.getLogger(__name__)

MANIFEST = "manifest.csv"
COLUMNS = ("file", "video", "time", "track", "x", "y", "width", "height", "label")
"""Columns of the manifest: the image's name; the video's path as given; seconds from its start; the number of the face
in its video, which stays the same while the face is tracked (a gap of more than 1.5 s ends a track); the face's box in
pixels of the upright video; and the label, empty, to be filled in by hand. A whole frame has neither track nor box."""
LIMITS = VideoLimits(
    seconds=4 * 3600, frames=4 * 3600 * 120, total_pixels=4 * 3600 * 60 * 3840 * 2160, timeout_seconds=24 * 3600
)
"""For the user's own videos: enough for a long film."""
MAX_BYTES = 2 * 2**30
"""Size limit of one video, which is read into memory."""
MIN_SIDE, MAX_SIDE = 16, 2048
"""Range of the size of the images, in pixels."""
DETECTION_SIDE = 1280
"""Pixels: longest side of the frames that faces are detected in and cropped from."""
_JPEG_QUALITY = 95
"""High enough that a network cannot learn block artifacts."""

Crop = tuple[np.ndarray, Sequence[int]]
"""An image, and the track, x, y, width and height of a face; an empty sequence for a whole frame."""
Cropper = Callable[[Frame, VideoReader], Iterator[Crop]]
"""Yields the images to extract from a frame."""


@dataclass(frozen=True)
class ExtractResult:
    """Number of images written, and an error message for each video that could not be read to its end."""

    images: int
    failed: tuple[str, ...]


def extract(
    videos: Sequence[Path], out: Path, *, interval: float, size: int, landmarker: Path | None = None
) -> ExtractResult:
    """Write a frame of each video every `interval` seconds, or each face in it, and `manifest.csv`.

    If a video cannot be read to its end, the images extracted until then are kept, and the next video follows.

    Args:
        videos: Files.
        out: A folder that does not exist, or is empty: nothing is overwritten.
        interval: Seconds between images.
        size: Longest side of a frame in pixels, which is never enlarged; or side of a face's square, which may be.
        landmarker: Model file of the face landmarker, to extract faces; None for whole frames.

    Raises:
        DataInvalid: A video is missing, the folder is not empty, or a number is out of range. Nothing is written.
    """
    _check_arguments(videos, out, interval, size)
    out.mkdir(parents=True, exist_ok=True)
    detector = FaceLandmarker(landmarker, use_fallbacks=True) if landmarker else None
    failed, written = [], 0
    # Flushed line by line; a name that is not UTF-8 is escaped.
    with (out / MANIFEST).open("x", buffering=1, newline="", encoding="utf-8", errors="backslashreplace") as file:
        manifest = csv.writer(file)
        manifest.writerow(COLUMNS)
        for number, video in enumerate(videos):
            crop = _face_cropper(detector, size) if detector else _whole_frame
            # Unique, and only characters that any file system allows.
            prefix = f"{number:03}-{re.sub(r'[^A-Za-z0-9]+', '-', video.stem)[:40]}"
            try:
                for name, time, image, face in _images(video, interval, DETECTION_SIDE if detector else size, crop):
                    _write_jpeg(out / f"{prefix}-{name}", image)
                    manifest.writerow([f"{prefix}-{name}", video, time, *(face or ("",) * 5), ""])
                    written += 1
            except (MoodreelError, OSError) as error:
                failed.append(f"{video}: {error.strerror if isinstance(error, OSError) else error}")
                logger.warning("%s", failed[-1])
    if detector:
        detector.close()
    return ExtractResult(written, tuple(failed))


def _whole_frame(frame: Frame, reader: VideoReader) -> Iterator[Crop]:
    yield frame.rgb, ()


def _face_cropper(detector: FaceLandmarker, size: int) -> Cropper:
    tracker = Tracker()

    def crop(frame: Frame, reader: VideoReader) -> Iterator[Crop]:
        faces = detector.detect(frame.rgb)
        height, width = frame.rgb.shape[:2]
        scale = max(reader.width, reader.height) / max(width, height)
        boxes = [tuple(np.multiply(face.box, (width, height, width, height)) * scale) for face in faces]
        for face, box, track in zip(faces, boxes, tracker.update(frame.time, boxes), strict=True):
            yield crop_square(frame.rgb, face.landmarks, size), (track, *map(round, box))

    return crop


def _images(
    video: Path, interval: float, side: int, crop: Cropper
) -> Iterator[tuple[str, float, np.ndarray, Sequence[int]]]:
    """Yield each image's name without the prefix of its video, its time in seconds, and its `Crop`."""
    if video.stat().st_size > MAX_BYTES:
        raise DataInvalid(f"it has more than {MAX_BYTES / 2**30:g} GB; cut it into shorter videos.")
    reader = VideoReader(video.read_bytes(), LIMITS)
    with tqdm(desc=video.name, unit=" frames", disable=None, leave=False) as bar:
        for frame in reader.frames(min_interval=interval, max_side=side):
            bar.set_postfix_str(f"{frame.time:.1f} s")
            bar.update()
            for number, (image, face) in enumerate(crop(frame, reader)):
                name = f"{round(frame.time * 1000):08}" + (f"-{number}" if face else "") + ".jpg"
                yield name, round(frame.time, 3), image, face


def _check_arguments(videos: Sequence[Path], out: Path, interval: float, size: int) -> None:
    if missing := [str(video) for video in videos if not video.is_file()]:
        raise DataInvalid(f"There is no video {', '.join(missing)}; check the path.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataInvalid(f"{out} is not empty, and nothing is overwritten: name another folder, or empty it.")
    if not MIN_SIDE <= size <= MAX_SIDE:
        raise DataInvalid(f"A size of {size} pixels is not from {MIN_SIDE} to {MAX_SIDE}.")
    if not interval > 0:
        raise DataInvalid(f"An image every {interval:g} seconds is not possible; take more than 0.")


def _write_jpeg(path: Path, rgb: np.ndarray) -> None:
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    with path.open("xb") as file:
        file.write(jpeg.tobytes())
