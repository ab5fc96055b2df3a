"""Videos -> pictures to label by hand: frames, or the faces in them, as JPEG, and a manifest of where each is from."""

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

log = logging.getLogger(__name__)

MANIFEST = "manifest.csv"
LIMITS = VideoLimits(
    seconds=4 * 3600, frames=4 * 3600 * 120, total_pixels=4 * 3600 * 60 * 3840 * 2160, timeout_seconds=24 * 3600
)
"""Of one's own videos: a long film."""
MOST_BYTES = 2 * 2**30
"""Of one video, which is read from memory."""
SIDES = 16, 2048
LOOK_SIDE = 1280
"""Pixels: longest side of the frames that faces are sought in and cut from."""
_QUALITY = 95
"""Of JPEG: what is learnt from should not learn its blocks."""


@dataclass(frozen=True)
class ManifestRow:
    """A line of the manifest.

    file: relative to its folder. video: as it was named. time: seconds from the video's start.
    track: a face's number in its video, the same from picture to picture while it is followed. It is lost, and has
        another from then on, where pictures are more than 1.5 s apart.
    x, y, width, height: of the face, in pixels of the upright video. These and track are empty for a whole frame.
    label: empty, for those who label by hand.
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
    """How many pictures were written, and what was wrong with the videos that could not be read to their end."""

    pictures: int
    failed: tuple[str, ...]


def extract(
    videos: Sequence[Path], out: Path, *, every: float, size: int, landmarker: Path | None = None
) -> ExtractResult:
    """Write a picture of each video every so many seconds, or of each face in it, and `manifest.csv`.

    A video that cannot be read, or not to its end, is passed over; what it gave before stays, and is in the manifest.

    Args:
        out: a folder that is not there yet, or is empty: nothing is overwritten.
        size: pixels of a frame's longest side, which is never enlarged; of a face's square, which is.
        landmarker: the face landmarker's bundle, for faces; None for frames.

    Raises:
        DataInvalid: a video is missing, the folder is not empty, or the numbers make no sense. Nothing is written.
    """
    _check(videos, out, every, size)
    out.mkdir(parents=True, exist_ok=True)
    finder = FaceLandmarker(landmarker, use_fallbacks=True) if landmarker else None
    failed, written = [], 0
    with (out / MANIFEST).open("x", buffering=1, newline="", encoding="utf-8") as file:  # a line is there at once
        manifest = csv.writer(file)
        manifest.writerow([field.name for field in fields(ManifestRow)])
        for stem, video in zip(_stems(videos), videos, strict=True):
            take = _faces(finder, size) if finder else _whole
            try:
                for row, picture in _pictures(video, stem, every, LOOK_SIDE if finder else size, take):
                    _write(out / row.file, picture)
                    manifest.writerow(astuple(row))
                    written += 1
            except (MoodreelError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                failed.append(f"{video}: {reason}")
                log.warning("%s", failed[-1])
    if finder:
        finder.close()
    return ExtractResult(written, tuple(failed))


def parse_duration(text: str) -> float:
    """Read a length of time: 1s, 500ms, 0.5 or 2min. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|)", text.strip())
    if match is None or not float(match[1]):
        raise ValueError(f"{text!r} is no length of time; write it as 1s, 500ms or 2min")
    return float(match[1]) * {"ms": 0.001, "s": 1, "min": 60, "": 1}[match[2]]


Place = tuple[int | str, int | str, int | str, int | str, int | str]
"""Track, x, y, width and height, as in `Row`."""
Cut = Callable[[Frame, VideoReader], Iterator[tuple[np.ndarray, Place | None]]]
"""A frame to pictures, each with its place, where it is a face."""


def _whole(frame: Frame, reader: VideoReader) -> Iterator[tuple[np.ndarray, Place | None]]:
    yield frame.rgb, None


def _faces(finder: FaceLandmarker, size: int) -> Cut:
    tracker = Tracker()

    def take(frame: Frame, reader: VideoReader) -> Iterator[tuple[np.ndarray, Place | None]]:
        faces = finder.detect(frame.rgb)
        height, width = frame.rgb.shape[:2]
        scale = max(reader.width, reader.height) / max(width, height)
        boxes = [tuple(np.multiply(face.box, (width, height, width, height)) * scale) for face in faces]
        for face, box, track in zip(faces, boxes, tracker.update(frame.time, boxes), strict=True):
            x, y, across, down = (round(side) for side in box)
            yield crop_square(frame.rgb, face.landmarks, size), (track, x, y, across, down)

    return take


def _pictures(video: Path, stem: str, every: float, side: int, take: Cut) -> Iterator[tuple[ManifestRow, np.ndarray]]:
    if video.stat().st_size > MOST_BYTES:
        raise DataInvalid(f"it has more than {MOST_BYTES / 2**30:g} GB; cut it into shorter ones.")
    reader = VideoReader(video.read_bytes(), LIMITS)
    with tqdm(desc=video.name, unit=" frames", disable=None, leave=False) as bar:
        for frame in reader.frames(min_interval=every, max_side=side):
            bar.set_postfix_str(f"{frame.time:.1f} s")
            bar.update()
            for number, (picture, place) in enumerate(take(frame, reader)):
                name = f"{stem}-{round(frame.time * 1000):08}" + (f"-{number}" if place else "") + ".jpg"
                yield ManifestRow(name, str(video), round(frame.time, 3), *(place or ("", "", "", "", ""))), picture


def _check(videos: Sequence[Path], out: Path, every: float, size: int) -> None:
    if missing := [str(video) for video in videos if not video.is_file()]:
        raise DataInvalid(f"There is no video {', '.join(missing)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataInvalid(f"{out} is not empty, and nothing is overwritten: name another folder, or empty it.")
    if not SIDES[0] <= size <= SIDES[1]:
        raise DataInvalid(f"A size of {size} pixels is not from {SIDES[0]} to {SIDES[1]}.")
    if not every > 0:
        raise DataInvalid(f"A picture every {every:g} seconds is none; take more than 0.")


def _stems(videos: Sequence[Path]) -> list[str]:
    """Give every video a name of its own for its pictures, of letters that any system and csv file takes."""
    return [f"{number:03}-{re.sub(r'[^A-Za-z0-9]+', '-', video.stem)[:40]}" for number, video in enumerate(videos)]


def _write(path: Path, rgb: np.ndarray) -> None:
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    with path.open("xb") as file:
        file.write(jpeg.tobytes())
