"""Extract the people in a video: sample its frames, find the faces in them, and link the faces into tracks.

Landmarks take most of the time, and change little from frame to frame. Color crops are aligned by the eyes alone. For
these, only one frame of `LANDMARK_STEP`, and each frame with a new face, gets landmarks; pose and blendshapes are
interpolated in between.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from moodreel.faces.features import CropKind
from moodreel.faces.observation import FaceObservation, interpolate_features, observe_face
from moodreel.faces.portrait import PortraitSample, crop_portrait, is_person
from moodreel.faces.quality import MIN_FACE_COVERAGE, MIN_FACE_SIZE, is_clear
from moodreel.faces.tracker import Box, Tracker, join_tracks
from moodreel.media.video import Frame, VideoReader
from moodreel.pipelines.engine import DETECTION_SIDE, Engine
from moodreel.pipelines.geometry import PixelBox, to_letterboxed_box, to_pixel_box, turn_box
from moodreel.timing import stage

SAMPLE_RATE = 3.5
"""Most frames a second to sample. Five give no better labels (docs/benchmarks.md)."""

SHORT_CLIP_FRAMES = 12
"""Least number of frames to sample. A video too short to give as many at the sample rate is sampled more densely: an
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
class _DetectedFace:
    """A face of one sampled frame, its box relative to it, and its portrait, see `crop_portrait`."""

    box: Box
    observation: FaceObservation
    portrait: np.ndarray


class PeopleExtractor:
    """Extract the people in videos. Thread-safe."""

    def __init__(self, engine: Engine, *, sample_rate: float = SAMPLE_RATE) -> None:
        """Create an extractor.

        Args:
            engine: the face landmarker and the threads of this process.
            sample_rate: most frames a second to sample. Short videos get more, see `SHORT_CLIP_FRAMES`.
        """
        self._engine = engine
        self._interval = 1.0 / sample_rate

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
            reader: of the video.
            crop_kind: kind of `FaceFeatures.crop`.
            times: of the frames to sample, see `VideoReader.frames_at`; None for one at each interval.
            progress: called with the time in seconds of each sampled frame.

        Raises:
            MoodreelError: whatever `VideoReader.frames` raises.
        """
        linker, timings = self._link_faces(reader, crop_kind, times, progress=progress)
        with stage("people"):
            tracks = self._select_people(linker)
            upside_down = not tracks and self._is_upside_down(reader)
        if upside_down:
            linker, more = self._link_faces(reader, crop_kind, times, upside_down=True)
            timings = {name: timings[name] + more[name] for name in timings}
            with stage("people"):
                tracks = self._select_people(linker)
        return ExtractedVideo(tuple(linker.frames), tracks, timings)

    def _link_faces(
        self,
        reader: VideoReader,
        crop_kind: CropKind,
        times: Sequence[float] | None,
        *,
        upside_down: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> tuple["_FaceLinker", dict[str, float]]:
        if times is None:
            sampled = reader.frames(min_interval=self._interval, min_frames=SHORT_CLIP_FRAMES, max_side=DETECTION_SIDE)
        else:
            sampled = reader.frames_at(times, max_side=DETECTION_SIDE)
        detect = self._detect_turned if upside_down else self._detect
        linker = _FaceLinker(reader, lambda frame: detect(frame, crop_kind))
        step = landmark_step(crop_kind)
        timings = self._engine.process_frames(
            sampled,
            lambda index, frame: (frame, _small_gray(frame), detect(frame, crop_kind, landmarks=index % step == 0)),
            lambda result: linker.add(*result),
            progress=progress,
        )
        linker.complete_tracks()
        return linker, timings

    def _is_upside_down(self, reader: VideoReader) -> bool:
        """Check that most of three frames show a person when they are turned by 180 degrees."""
        times = [reader.duration * share for share in (0.2, 0.5, 0.8)]
        frames = [self._detect_turned(frame, CropKind.GRAY) for frame in reader.frames_at(times)]
        people = [
            any(self._is_person([face.observation], [MIN_FACE_SIZE], [face.portrait]) for face in faces)
            for faces in frames
        ]
        return 2 * sum(people) > len(people)

    def _detect_turned(self, frame: Frame, crop_kind: CropKind, *, landmarks: bool = True) -> list[_DetectedFace]:
        """Detect the faces of a frame turned by 180 degrees. The boxes are those in the frame as it is."""
        turned = replace(frame, rgb=np.ascontiguousarray(frame.rgb[::-1, ::-1]))
        faces = self._detect(turned, crop_kind, landmarks=landmarks)
        return [replace(face, box=turn_box(face.box, 2)) for face in faces]

    def _detect(self, frame: Frame, crop_kind: CropKind, *, landmarks: bool = True) -> list[_DetectedFace]:
        landmarker = self._engine.landmarker
        return [
            _DetectedFace(face.box, observe_face(frame.rgb, face, crop_kind), crop_portrait(frame.rgb, face))
            for face in (landmarker.detect(frame.rgb) if landmarks else landmarker.detect_quickly(frame.rgb))
        ]

    def _select_people(self, linker: "_FaceLinker") -> dict[int, Track]:
        """Return the tracks that are of people, without those that are too short."""
        people = join_tracks(
            {
                track_id: track
                for track_id, track in linker.tracks.items()
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

    def __init__(self, reader: VideoReader, detect: Callable[[Frame], list[_DetectedFace]]) -> None:
        """Start without frames; `detect` finds the faces of a frame with their landmarks."""
        self.frames: list[ExtractedFrame] = []
        self.tracks: dict[int, Track] = {}
        self.portraits: dict[int, PortraitSample] = {}
        self._reader, self._detect, self._tracker = reader, detect, Tracker()
        self._side = 0
        self._relative: list[dict[int, Box]] = []  # boxes of each frame, relative to it, by track

    def add(self, frame: Frame, gray: np.ndarray, faces: list[_DetectedFace]) -> None:
        """Add the next frame. If a face without landmarks would start a track, detect the faces with landmarks."""
        self._side = self._side or max(frame.size)
        boxes = self._scale_boxes(faces, frame.size)
        complete = all(face.observation.features.has_landmarks for face in faces)
        if not complete and not self._tracker.continues(frame.time, boxes):
            faces = self._detect(frame)
            boxes = self._scale_boxes(faces, frame.size)
        track_ids = self._tracker.update(frame.time, boxes)
        for track_id, box, face in zip(track_ids, boxes, faces, strict=True):
            self.tracks.setdefault(track_id, {})[len(self.frames)] = (box, face.observation)
            self.portraits.setdefault(track_id, PortraitSample()).add(face.portrait)
        self._relative.append({track_id: face.box for track_id, face in zip(track_ids, faces, strict=True)})
        self.frames.append(ExtractedFrame(frame.time, gray, frame.size))

    def complete_tracks(self) -> None:
        """Once all frames are added, convert the boxes, and interpolate what faces without landmarks lack."""
        self._convert_boxes()
        for track in self.tracks.values():
            times = [self.frames[index].time for index in track]
            observations = interpolate_features(times, [observation for _, observation in track.values()])
            boxes = _fit_boxes(track, self._reader.width, self._reader.height)
            track.update(zip(track, zip(boxes, observations, strict=True), strict=True))

    def _scale_boxes(self, faces: Sequence[_DetectedFace], size: tuple[int, int]) -> list[PixelBox]:
        # Frames of several sizes are tracked at one length of the longer side, so that the size of a face stays the
        # same when a phone is turned or a network gets faster.
        scale = self._side / max(size)
        return [to_pixel_box(face.box, round(scale * size[0]), round(scale * size[1])) for face in faces]

    def _convert_boxes(self) -> None:
        """Convert the boxes to pixels of the video, once its size is known: of several it is the one shown longest."""
        canvas = self._reader.width, self._reader.height
        if all(frame.size == canvas for frame in self.frames):
            return
        for track_id, track in self.tracks.items():
            for index, (_, observation) in track.items():
                box = to_letterboxed_box(self._relative[index][track_id], self.frames[index].size, canvas)
                track[index] = box, observation


def _fit_boxes(track: Track, width: int, height: int) -> list[PixelBox]:
    """Shift the edges of boxes without landmarks by their median error, measured at neighboring boxes with landmarks.

    The detector estimates the edges for an average face, so those of one person are all off by the same few percent.

    Args:
        track: of one person, before or after interpolation.
        width: pixels of the upright video.
        height: pixels of the upright video.
    """
    estimated = np.array([not observation.features.has_landmarks for _, observation in track.values()])
    edges = np.array([(x, y, x + w, y + h) for (x, y, w, h), _ in track.values()], dtype=np.float64)
    sizes = np.maximum(edges[:, 2] - edges[:, 0], 1)[:, None]
    middle = np.flatnonzero(~estimated[1:-1] & estimated[:-2] & estimated[2:]) + 1
    if len(middle):
        shift = np.median((edges[middle] - (edges[middle - 1] + edges[middle + 1]) / 2) / sizes[middle], axis=0)
        edges[estimated] += shift * sizes[estimated]
    edges = edges.clip(0, (width, height, width, height)).round()
    return [(left, top, right - left, bottom - top) for left, top, right, bottom in edges.astype(int).tolist()]


def _small_gray(frame: Frame) -> np.ndarray:
    # Every fourth pixel along each axis is enough: averaging all of them takes as long as processing three faces.
    small = cv2.resize(frame.rgb[::4, ::4], (24, 24), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
