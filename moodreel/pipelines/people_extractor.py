"""Extract the people in a video: sample its frames, find the faces in them, and link the faces into tracks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from moodreel.faces.features import CropKind
from moodreel.faces.observation import FaceObservation, observe_face
from moodreel.faces.portrait import crop_portrait, is_person
from moodreel.faces.quality import MIN_FACE_COVERAGE, MIN_FACE_SIZE, is_clear
from moodreel.faces.tracker import Box, Tracker, join_tracks
from moodreel.media.video import Frame, VideoReader
from moodreel.pipelines.engine import DETECTION_SIDE, Engine
from moodreel.pipelines.geometry import PixelBox, to_pixel_box

SHORT_CLIP_FRAMES = 12
"""Least number of frames to sample. A video too short to give as many at the sample rate is sampled more densely: an
expression builds up in half a second, and the last frame often shows it best."""


@dataclass(frozen=True, eq=False)
class ExtractedFace:
    """A face of one sampled frame, its box relative to it, and its portrait, see `crop_portrait`."""

    box: Box
    observation: FaceObservation
    portrait: np.ndarray


@dataclass(frozen=True, eq=False)
class ExtractedFrame:
    """The faces of one sampled frame, and a float32 (24, 24) gray copy to measure motion by."""

    time: float
    faces: tuple[ExtractedFace, ...]
    gray: np.ndarray


Track = dict[int, tuple[PixelBox, ExtractedFace]]
"""One face through a video, by the index of the sampled frame."""


@dataclass(frozen=True, eq=False)
class ExtractedVideo:
    """The sampled frames of a video, the tracks of the people in it, and milliseconds by stage."""

    frames: tuple[ExtractedFrame, ...]
    tracks: dict[int, Track]
    timings: dict[str, float]


class PeopleExtractor:
    """Extract the people in videos. Thread-safe."""

    def __init__(self, engine: Engine, *, interval: float) -> None:
        """Create an extractor.

        Args:
            engine: the face landmarker and the threads of this process.
            interval: seconds between sampled frames. Short videos are sampled more densely, see `SHORT_CLIP_FRAMES`.
        """
        self._engine = engine
        self._interval = interval

    def extract(
        self, reader: VideoReader, *, crop_kind: CropKind, progress: Callable[[float], None] | None = None
    ) -> ExtractedVideo:
        """Extract the sampled frames and the tracks of people.

        A video that shows people only when it is turned by 180 degrees is read so.

        Args:
            reader: of the video.
            crop_kind: kind of `FaceFeatures.crop`.
            progress: called with the time in seconds of each sampled frame.

        Raises:
            MoodreelError: whatever `VideoReader.frames` raises.
        """
        frames, timings = self._sample(reader, crop_kind=crop_kind, progress=progress)
        tracks = self._track_people(frames, reader)
        if not tracks and self._is_upside_down(reader):
            turned, more = self._sample(reader, crop_kind=crop_kind, upside_down=True)
            frames, timings = turned, {stage: timings[stage] + more[stage] for stage in timings}
            tracks = self._track_people(frames, reader)
        return ExtractedVideo(tuple(frames), tracks, timings)

    def _sample(
        self,
        reader: VideoReader,
        *,
        crop_kind: CropKind,
        upside_down: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> tuple[list[ExtractedFrame], dict[str, float]]:
        sampled = reader.frames(min_interval=self._interval, min_frames=SHORT_CLIP_FRAMES, max_side=DETECTION_SIDE)
        extract = self._extract_turned_frame if upside_down else self._extract_frame
        return self._engine.process_frames(sampled, lambda frame: extract(frame, crop_kind), progress=progress)

    def _is_upside_down(self, reader: VideoReader) -> bool:
        """Check that most of three frames show a person when they are turned by 180 degrees."""
        times = [reader.duration * share for share in (0.2, 0.5, 0.8)]
        frames = [self._extract_turned_frame(frame, CropKind.GRAY) for frame in reader.frames_at(times)]
        people = [
            any(self._is_person({0: ((0, 0, 0, MIN_FACE_SIZE), face)}) for face in frame.faces) for frame in frames
        ]
        return 2 * sum(people) > len(people)

    def _extract_turned_frame(self, frame: Frame, crop_kind: CropKind) -> ExtractedFrame:
        """Extract a frame turned by 180 degrees. The boxes are those in the frame as it is."""
        extracted = self._extract_frame(replace(frame, rgb=np.ascontiguousarray(frame.rgb[::-1, ::-1])), crop_kind)
        return replace(extracted, faces=tuple(_turn_box(face) for face in extracted.faces))

    def _extract_frame(self, frame: Frame, crop_kind: CropKind) -> ExtractedFrame:
        faces = tuple(
            ExtractedFace(
                face.box,
                observe_face(frame.rgb, face, crop_kind),
                crop_portrait(frame.rgb, face),
            )
            for face in self._engine.landmarker.detect(frame.rgb)
        )
        gray = cv2.cvtColor(cv2.resize(frame.rgb, (24, 24), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        return ExtractedFrame(frame.time, faces, gray.astype(np.float32))

    def _track_people(self, frames: Sequence[ExtractedFrame], reader: VideoReader) -> dict[int, Track]:
        """Track faces, and keep the tracks of people who are in more than one stray frame."""
        tracks = _track_faces(frames, reader.width, reader.height)
        people = join_tracks({number: track for number, track in tracks.items() if self._is_person(track)})
        enough = max(1.0, min(2.0, MIN_FACE_COVERAGE * len(frames)))
        return {number: track for number, track in people.items() if len(track) >= enough}

    def _is_person(self, track: Track) -> bool:
        observations, sizes = (
            [face.observation for _, face in track.values()],
            [max(box[2:]) for box, _ in track.values()],
        )
        portraits = [face.portrait for _, face in track.values()]
        return is_person(self._engine.landmarker, portraits, clear=is_clear(observations, sizes))


def _turn_box(face: ExtractedFace) -> ExtractedFace:
    x, y, width, height = face.box
    return replace(face, box=(1 - x - width, 1 - y - height, width, height))


def _track_faces(frames: Sequence[ExtractedFrame], width: int, height: int) -> dict[int, Track]:
    tracker = Tracker()
    tracks: dict[int, Track] = {}
    for index, frame in enumerate(frames):
        boxes = [to_pixel_box(face.box, width, height) for face in frame.faces]
        numbers = tracker.update(frame.time, boxes)
        for number, box, face in zip(numbers, boxes, frame.faces, strict=True):
            tracks.setdefault(number, {})[index] = (box, face)
    return tracks
