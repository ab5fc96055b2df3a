"""Extract images to label by hand from videos: frames, or the faces in them, as JPEG, with a manifest."""

import csv
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
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
LIMITS = VideoLimits(
    seconds=4 * 3600, frames=4 * 3600 * 120, total_pixels=4 * 3600 * 60 * 3840 * 2160, timeout_seconds=24 * 3600
)
"""Of one's own videos: a long film."""
MAX_BYTES = 2 * 2**30
"""Of one video, which is read into memory."""
MIN_SIDE, MAX_SIDE = 16, 2048
DETECTION_SIDE = 1280
"""Pixels: longest side of the frames that faces are detected in and cropped from."""
_JPEG_QUALITY = 95
"""So high that a network cannot learn its blocks."""


@dataclass(frozen=True)
class ManifestRow:
    """One line of the manifest.

    Attributes:
        file: name of the image, in the manifest's folder.
        video: as it was named.
        time: seconds from the video's start.
        track: number of the face in its video, the same while it is tracked. It changes where images are more than
            1.5 s apart. Empty for a whole frame.
        x: left edge of the face, in pixels of the upright video; empty for a whole frame, as the next three.
        y: top edge.
        width: of the face.
        height: of the face.
        label: empty, to be filled in by hand.
    """

    file: str
    video: str
    time: float
    track: int | str = ""
    x: int | str = ""
    y: int | str = ""
    width: int | str = ""
    height: int | str = ""
    label: str = ""


@dataclass(frozen=True)
class ExtractResult:
    """Number of images written, and what was wrong with the videos that could not be read to their end."""

    images: int
    failed: tuple[str, ...]


def extract(
    videos: Sequence[Path], out: Path, *, interval: float, size: int, landmarker: Path | None = None
) -> ExtractResult:
    """Write an image of each video every `interval` seconds, or of each face in it, and `manifest.csv`.

    A video that cannot be read, or not to its end, is skipped; the images it gave before stay, with their lines.

    Args:
        videos: files.
        out: a folder that does not exist, or is empty: nothing is overwritten.
        interval: seconds between images.
        size: pixels of a frame's longest side, which is never enlarged; or of a face's square, which is.
        landmarker: bundle of the face landmarker, for faces; None for frames.

    Raises:
        DataInvalid: a video is missing, the folder is not empty, or a number is out of range. Nothing is written.
    """
    _check(videos, out, interval, size)
    out.mkdir(parents=True, exist_ok=True)
    detector = FaceLandmarker(landmarker, use_fallbacks=True) if landmarker else None
    failed, written = [], 0
    with (out / MANIFEST).open("x", buffering=1, newline="", encoding="utf-8") as file:  # flushed line by line
        manifest = csv.writer(file)
        manifest.writerow([field.name for field in fields(ManifestRow)])
        for prefix, video in zip(_prefixes(videos), videos, strict=True):
            crop = _face_cropper(detector, size) if detector else _whole_frame
            try:
                for row, image in _images(video, prefix, interval, DETECTION_SIDE if detector else size, crop):
                    _write_jpeg(out / row.file, image)
                    manifest.writerow(astuple(row))
                    written += 1
            except (MoodreelError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                failed.append(f"{video}: {reason}")
                logger.warning("%s", failed[-1])
    if detector:
        detector.close()
    return ExtractResult(written, tuple(failed))


def parse_duration(text: str) -> float:
    """Parse a duration, such as 1s, 500ms, 0.5 or 2min, to seconds.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|)", text.strip())
    if match is None or not float(match[1]):
        raise ValueError(f"{text!r} is no length of time; write it as 1s, 500ms or 2min")
    return float(match[1]) * {"ms": 0.001, "s": 1, "min": 60, "": 1}[match[2]]


FaceBox = tuple[int | str, int | str, int | str, int | str, int | str]
"""Track, x, y, width and height, as in `ManifestRow`."""
Cropper = Callable[[Frame, VideoReader], Iterator[tuple[np.ndarray, FaceBox | None]]]
"""Gives the images of a frame, each with its box where it is a face."""


def _whole_frame(frame: Frame, reader: VideoReader) -> Iterator[tuple[np.ndarray, FaceBox | None]]:
    yield frame.rgb, None


def _face_cropper(detector: FaceLandmarker, size: int) -> Cropper:
    tracker = Tracker()

    def crop(frame: Frame, reader: VideoReader) -> Iterator[tuple[np.ndarray, FaceBox | None]]:
        faces = detector.detect(frame.rgb)
        height, width = frame.rgb.shape[:2]
        scale = max(reader.width, reader.height) / max(width, height)
        boxes = [tuple(np.multiply(face.box, (width, height, width, height)) * scale) for face in faces]
        for face, box, track in zip(faces, boxes, tracker.update(frame.time, boxes), strict=True):
            x, y, face_width, face_height = (round(value) for value in box)
            yield crop_square(frame.rgb, face.landmarks, size), (track, x, y, face_width, face_height)

    return crop


def _images(
    video: Path, prefix: str, interval: float, side: int, crop: Cropper
) -> Iterator[tuple[ManifestRow, np.ndarray]]:
    if video.stat().st_size > MAX_BYTES:
        raise DataInvalid(f"it has more than {MAX_BYTES / 2**30:g} GB; cut it into shorter ones.")
    reader = VideoReader(video.read_bytes(), LIMITS)
    with tqdm(desc=video.name, unit=" frames", disable=None, leave=False) as bar:
        for frame in reader.frames(min_interval=interval, max_side=side):
            bar.set_postfix_str(f"{frame.time:.1f} s")
            bar.update()
            for number, (image, box) in enumerate(crop(frame, reader)):
                name = f"{prefix}-{round(frame.time * 1000):08}" + (f"-{number}" if box else "") + ".jpg"
                yield ManifestRow(name, str(video), round(frame.time, 3), *(box or ("", "", "", "", ""))), image


def _check(videos: Sequence[Path], out: Path, interval: float, size: int) -> None:
    if missing := [str(video) for video in videos if not video.is_file()]:
        raise DataInvalid(f"There is no video {', '.join(missing)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataInvalid(f"{out} is not empty, and nothing is overwritten: name another folder, or empty it.")
    if not MIN_SIDE <= size <= MAX_SIDE:
        raise DataInvalid(f"A size of {size} pixels is not from {MIN_SIDE} to {MAX_SIDE}.")
    if not interval > 0:
        raise DataInvalid(f"An image every {interval:g} seconds is not possible; take more than 0.")


def _prefixes(videos: Sequence[Path]) -> list[str]:
    """Return a unique prefix for the images of each video, of characters that any file system takes."""
    return [f"{number:03}-{re.sub(r'[^A-Za-z0-9]+', '-', video.stem)[:40]}" for number, video in enumerate(videos)]


def _write_jpeg(path: Path, rgb: np.ndarray) -> None:
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    with path.open("xb") as file:
        file.write(jpeg.tobytes())
