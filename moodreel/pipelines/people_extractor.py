"""Extract the people in a video: sample its frames, find the faces in them, and link the faces into tracks.

Landmarks take most of the time, and change little from frame to frame. Color crops are aligned by the eyes alone. For
these, only one frame of `LANDMARK_STEP`, and each frame with a new face, gets landmarks; pose and blendshapes are
interpolated in between.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from moodreel.faces.features import CropKind
from moodreel.faces.observation import FaceObservation, interpolate_features, observe_face
from moodreel.faces.person_check import PortraitSample, crop_portrait, is_person
from moodreel.faces.quality import MIN_FACE_COVERAGE, MIN_FACE_SIZE, is_clear
from moodreel.faces.tracker import Box, Tracker, join_tracks
from moodreel.media.video import Frame, VideoReader
from moodreel.pipelines.engine import DETECTION_SIDE, Engine
from moodreel.pipelines.geometry import PixelBox, to_letterboxed_box, turn_box
from moodreel.timing import stage

ANALYSIS_FPS = 3.5
"""Most frames a second to sample. Five give no better labels (docs/benchmarks.md)."""

SHORT_CLIP_FRAMES = 12
"""Least number of frames to sample. A video too short to give as many at `ANALYSIS_FPS` is sampled more densely: an
expression builds up in half a second, and the last frame often shows it best."""

LANDMARK_STEP = 4
"""For color crops, one frame of this many gets landmarks. With 4, 105 of 105 clips have the label that they have with
landmarks in each frame; with 5, 104."""


def landmark_step(crop_kind: CropKind) -> int:
    """Return the step from one frame with landmarks to the next: kinds of crop other than color need them in each."""
    return LANDMARK_STEP if crop_kind is CropKind.COLOR else 1


@dataclass(frozen=True, eq=False)
class ExtractedFrame:
    """The time of one sampled frame in seconds, a float32 (24, 24) gray copy to measure motion by, and its size."""

    time: float
    gray: np.ndarray
    size: tuple[int, int]


Track = dict[int, tuple[PixelBox, FaceObservation]]
"""One face through a video, by the index of the sampled frame."""


def total_area(track: Track) -> int:
    """Return the area of a face, summed over the frames: the main face of a video is the one with the largest."""
    return sum(box[2] * box[3] for box, _ in track.values())


@dataclass(frozen=True, eq=False)
class ExtractedVideo:
    """The sampled frames of a video, the tracks of the people in it, and milliseconds by stage."""

    frames: tuple[ExtractedFrame, ...]
    tracks: dict[int, Track]
    timings: dict[str, float]


@dataclass(frozen=True, eq=False)
class _FrameFace:
    """A face of one sampled frame, its box relative to it, and its portrait, see `crop_portrait`."""

    box: Box
    observation: FaceObservation
    portrait: np.ndarray


class PeopleExtractor:
    """Extract the people in videos. Thread-safe."""

    def __init__(self, engine: Engine, *, analysis_fps: float = ANALYSIS_FPS) -> None:
        """Create an extractor.

        Args:
            engine: The face landmarker and the threads of this process.
            analysis_fps: Most frames a second to sample. Short videos get more, see `SHORT_CLIP_FRAMES`.
        """
        self._engine = engine
        self._interval = 1.0 / analysis_fps

    def extract(
        self,
        reader: VideoReader,
        *,
        crop_kind: CropKind,
        times: Sequence[float] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> ExtractedVideo:
        """Extract the sampled frames and the tracks of people.

        A video that shows people only when it is turned by 180 degrees is analyzed turned.

        Args:
            reader: Of the video.
            crop_kind: Kind of `FaceFeatures.crop`.
            times: Of the frames to sample, see `VideoReader.frames_at`; None for one at each interval.
            progress: Called with the time in seconds of each sampled frame.

        Raises:
            MoodreelError: Whatever `VideoReader.frames` raises.
        """
        video = self._extract(reader, crop_kind, times, progress=progress)
        if video.tracks:
            return video
        with stage("people"):
            upside_down = self._is_upside_down(reader)
        if not upside_down:
            return video
        turned = self._extract(reader, crop_kind, times, upside_down=True)
        return replace(turned, timings={name: turned.timings[name] + video.timings[name] for name in video.timings})

    def _extract(
        self,
        reader: VideoReader,
        crop_kind: CropKind,
        times: Sequence[float] | None,
        *,
        upside_down: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> ExtractedVideo:
        if times is None:
            sampled = reader.frames(min_interval=self._interval, min_frames=SHORT_CLIP_FRAMES, max_side=DETECTION_SIDE)
        else:
            sampled = reader.frames_at(times, max_side=DETECTION_SIDE)
        detect = partial(self._detect, crop_kind=crop_kind, upside_down=upside_down)
        linker, step = _FaceLinker(detect), landmark_step(crop_kind)
        timings = self._engine.process_frames(
            sampled,
            lambda index, frame: (frame, _small_gray(frame), detect(frame, landmarks=index % step == 0)),
            lambda result: linker.add(*result),
            progress=progress,
        )
        with stage("people"):
            tracks = self._select_people(linker, (reader.width, reader.height))
        return ExtractedVideo(tuple(linker.frames), tracks, timings)

    def _is_upside_down(self, reader: VideoReader) -> bool:
        """Check that most of three frames show a person when they are turned by 180 degrees."""
        frames = reader.frames_at([reader.duration * share for share in (0.2, 0.5, 0.8)])
        people = [
            any(
                self._is_person([face.observation], [MIN_FACE_SIZE], [face.portrait])
                for face in self._detect(frame, crop_kind=CropKind.GRAY, upside_down=True)
            )
            for frame in frames
        ]
        return 2 * sum(people) > len(people)

    def _detect(
        self, frame: Frame, *, crop_kind: CropKind, upside_down: bool, landmarks: bool = True
    ) -> list[_FrameFace]:
        """Detect the faces of a frame, or of a copy of it that is turned by 180 degrees."""
        rgb = np.ascontiguousarray(frame.rgb[::-1, ::-1]) if upside_down else frame.rgb
        landmarker = self._engine.landmarker
        return [
            _FrameFace(
                turn_box(face.box, 2 if upside_down else 0),
                observe_face(rgb, face, crop_kind),
                crop_portrait(rgb, face),
            )
            for face in (landmarker.detect(rgb) if landmarks else landmarker.detect_quickly(rgb))
        ]

    def _select_people(self, linker: "_FaceLinker", size: tuple[int, int]) -> dict[int, Track]:
        """Return the tracks that are of people, without those that are too short."""
        people = join_tracks(
            {
                track_id: track
                for track_id, track in linker.complete_tracks(size).items()
                if self._is_person(
                    [observation for _, observation in track.values()],
                    [max(box[2:]) for box, _ in track.values()],
                    linker.portraits[track_id].portraits,
                )
            }
        )
        min_length = max(1.0, min(2.0, MIN_FACE_COVERAGE * len(linker.frames)))
        return {track_id: track for track_id, track in people.items() if len(track) >= min_length}

    def _is_person(
        self, observations: Sequence[FaceObservation], sizes: Sequence[float], portraits: Sequence[np.ndarray]
    ) -> bool:
        return is_person(self._engine.landmarker.detector, portraits, clear=is_clear(observations, sizes))


class _FaceLinker:
    """Link the faces of frames into tracks, frame by frame, and keep a sample of the portraits of each track."""

    def __init__(self, detect: Callable[[Frame], list[_FrameFace]]) -> None:
        """Start without frames; `detect` finds the faces of a frame with their landmarks."""
        self.frames: list[ExtractedFrame] = []
        self.portraits: dict[int, PortraitSample] = {}
        self._detect, self._tracker = detect, Tracker()
        self._tracks: dict[int, dict[int, tuple[Box, FaceObservation]]] = {}  # boxes are relative to the frames

    def add(self, frame: Frame, gray: np.ndarray, faces: list[_FrameFace]) -> None:
        """Add the next frame. If a face without landmarks would start a track, detect the faces with landmarks."""
        complete = all(face.observation.features.has_landmarks for face in faces)
        if not complete and not self._tracker.continues(frame.time, _tracked_boxes(faces, frame.size)):
            faces = self._detect(frame)
        track_ids = self._tracker.update(frame.time, _tracked_boxes(faces, frame.size))
        for track_id, face in zip(track_ids, faces, strict=True):
            self._tracks.setdefault(track_id, {})[len(self.frames)] = face.box, face.observation
            self.portraits.setdefault(track_id, PortraitSample()).add(face.portrait)
        self.frames.append(ExtractedFrame(frame.time, gray, frame.size))

    def complete_tracks(self, size: tuple[int, int]) -> dict[int, Track]:
        """Return the tracks once all frames are added; what faces without landmarks lack is interpolated.

        Args:
            size: Width and height of the video in pixels, known by now: of several it is the one shown longest.
        """
        tracks = {}
        for track_id, faces in self._tracks.items():
            frames = [self.frames[index] for index in faces]
            boxes = [
                to_letterboxed_box(box, frame.size, size)
                for frame, (box, _) in zip(frames, faces.values(), strict=True)
            ]
            observations = [observation for _, observation in faces.values()]
            estimated = [not observation.features.has_landmarks for observation in observations]
            complete = interpolate_features([frame.time for frame in frames], observations)
            tracks[track_id] = dict(
                zip(faces, zip(_fit_boxes(boxes, estimated, size), complete, strict=True), strict=True)
            )
        return tracks


def _tracked_boxes(faces: Sequence[_FrameFace], size: tuple[int, int]) -> list[Box]:
    """Convert boxes to units of the frame's longer side: a face keeps its size when a phone is turned."""
    width, height = (side / max(size) for side in size)
    return [(x * width, y * height, w * width, h * height) for x, y, w, h in (face.box for face in faces)]


def _fit_boxes(boxes: Sequence[PixelBox], estimated: Sequence[bool], size: tuple[int, int]) -> list[PixelBox]:
    """Shift the edges of boxes without landmarks by their median error, measured at neighboring boxes with landmarks.

    The detector estimates the edges for an average face, so those of one person are all off by the same few percent.

    Args:
        boxes: Of one person, in the order of time.
        estimated: Which of them are the detector's, without landmarks.
        size: Width and height of the video in pixels.
    """
    edges = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], dtype=np.float64)
    by_detector = np.array(estimated)
    sizes = np.maximum(edges[:, 2] - edges[:, 0], 1)[:, None]
    middle = np.flatnonzero(~by_detector[1:-1] & by_detector[:-2] & by_detector[2:]) + 1
    if len(middle):
        shift = np.median((edges[middle] - (edges[middle - 1] + edges[middle + 1]) / 2) / sizes[middle], axis=0)
        edges[by_detector] += shift * sizes[by_detector]
    edges = edges.clip(0, (*size, *size)).round()
    return [(left, top, right - left, bottom - top) for left, top, right, bottom in edges.astype(int).tolist()]


def _small_gray(frame: Frame) -> np.ndarray:
    # Every fourth pixel along each axis is enough: averaging all of them takes as long as processing three faces.
    small = cv2.resize(frame.rgb[::4, ::4], (24, 24), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
