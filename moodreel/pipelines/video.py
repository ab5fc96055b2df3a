"""A clip -> what the face showed, and its cover: the one place that joins the stages.

bytes -> `video` (one decode, sampled by time) -> `faces` (found while the next frames decode) -> `tracks` ->
`features` -> `models` (one batch for all faces) -> `quality` -> `Analysis`. A cover takes the same way and then
`boomerang`, which finds a short clip's frames kept, small; those of a long one would take hundreds of megabytes, so it
decodes them again.
"""

import itertools
import time as clock
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import cv2
import numpy as np

from moodreel.errors import NoFace, Overloaded
from moodreel.faces.facial_actions import Explanation, FacialActionExplainer
from moodreel.faces.features import FaceFeatures
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.observation import FaceObservation, observe_face
from moodreel.faces.quality import FaceQuality, assess_quality
from moodreel.faces.tracker import Box, Tracker
from moodreel.media.video import Frame, VideoReader
from moodreel.media.video_decoder import VideoLimits
from moodreel.models.face_registry import FaceModelRegistry
from moodreel.models.predictor import ModelInfo, Predictor, TrackPrediction, resolve_device
from moodreel.pipelines import boomerang
from moodreel.pipelines.boomerang import BoomerangClip
from moodreel.pipelines.keyframe import score_keyframes

ANALYSIS_SIDE = 640
"""Pixels: longest side of the frames in which faces are sought. Larger ones cost little to search, much to convert."""
SHORT_CLIP_FRAMES = 12
"""Frames of a clip that is too short to give so many at the sample rate: an expression comes up in half a second, and
its last frame is often its strongest."""
_AHEAD = 8
"""Frames that may wait for the face finder before decoding pauses: bounds memory, hides the decoder's unevenness."""


@dataclass(frozen=True)
class TimelinePoint:
    """One face at one time of the clip; `box` is x, y, width, height in pixels of the upright video."""

    time: float
    emotion: str
    probabilities: dict[str, float]
    weight: float
    """How far this moment decided what that face showed over the clip: 0 to 1, over all its moments 1."""
    box: tuple[int, int, int, int]
    track: int


@dataclass(frozen=True)
class VideoResult:
    """What the face that is largest over time showed; every face is in the timeline."""

    emotion: str
    confidence: float
    probabilities: dict[str, float]
    peak: float
    """Seconds: when the answered emotion showed best."""
    face_coverage: float
    """Share of the analysed frames in which the answered face was found, 0..1."""
    certain: bool
    """Whether the answer can be relied on: `quality` has no reason against it."""
    quality: FaceQuality
    frames_analysed: int
    duration: float
    width: int
    height: int
    timeline: tuple[TimelinePoint, ...]
    track: int
    """The answered face's number in the timeline."""
    model: ModelInfo
    timings: dict[str, float]
    """Milliseconds by stage; `faces` runs beside `decode`, so they overlap."""
    explanation: Explanation | None = None
    """The movements of the face that weighed most, where they were asked for."""


@dataclass(frozen=True, eq=False)
class ThumbnailResult:
    """A boomerang of the clip's best moment; what the face showed is None where the clip shows none."""

    loop: BoomerangClip
    emotion: str | None
    confidence: float | None
    probabilities: dict[str, float] | None
    certain: bool | None
    clip_duration: float
    frames_analysed: int
    model: ModelInfo
    timings: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Sighting:
    """What one sampled frame holds: its faces, and a tiny grey copy to measure motion by."""

    time: float
    faces: tuple[tuple[Box, FaceObservation], ...]
    grey: np.ndarray  # (24, 24) float32
    milliseconds: float


class VideoPipeline:
    """The stages with everything they need loaded once; one serves all threads of a process.

    Args:
        slots: analyses that may run at once; more would only make each other slower.
        wait_seconds: how long a further caller waits for a slot before `Overloaded`.
        sample_rate: frames a second that are analysed; more of a clip shorter than `SHORT_CLIP_FRAMES` of them.
    """

    def __init__(
        self,
        finder: FaceLandmarker,
        store: FaceModelRegistry,
        movements: FacialActionExplainer,
        *,
        limits: VideoLimits | None = None,
        sample_rate: float = 5.0,
        slots: int = 1,
        wait_seconds: float = 20.0,
    ) -> None:
        self.landmarker = finder
        self.models = store
        self.movements = movements
        self._limits = limits or VideoLimits()
        self._every = 1.0 / sample_rate
        self._slots = BoundedSemaphore(slots)
        self._wait_seconds = wait_seconds
        self.threads = ThreadPoolExecutor(2 * slots, thread_name_prefix="faces")

    @classmethod
    def load(
        cls,
        store_root: Path,
        *,
        model_path: Path | None = None,
        model_fallback: bool = False,
        use_gpu: str = "auto",
        **options: Any,
    ) -> "VideoPipeline":
        """Load the face finder, the default model of a store, and what names movements.

        Args:
            store_root: the folder of models.
            model_path: a checkpoint or model folder from elsewhere that answers by default.
            model_fallback: stay with the store's own default when `model_path` is no good, instead of raising.
            use_gpu: "auto", "0" or "1".
            options: those of `Analyser`.

        Raises:
            ModelInvalid: a model, the face landmarker or the movements' numbers are not what they should be.
        """
        store = FaceModelRegistry(store_root, device=resolve_device(use_gpu))
        store.set_default_from_path(model_path, setting="MODEL_PATH", fallback=model_fallback)
        movements = FacialActionExplainer.load(store_root / "movements")
        finder = FaceLandmarker(store_root / "face_landmarker" / "face_landmarker.task", use_fallbacks=True)
        return cls(finder, store, movements, **options)

    def predict(
        self,
        data: bytes,
        *,
        model: str | None = None,
        fps: float | None = None,
        explain: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> VideoResult:
        """Tell what the face in a clip showed.

        Args:
            data: the video file.
            model: a model of the store; None for the default.
            fps: frames a second, where the container has no timing.
            explain: whether to work out `Analysis.explanation`.
            progress: called with the time in the clip, in seconds, of every frame that is analysed.

        Raises:
            MoodreelError: any of `errors`: what `VideoReader.frames` raises, `NoFace`, `ModelNotFound`, `Overloaded`.
        """
        predictor = self.models.get(model)
        with self.slot():
            reader = VideoReader(data, self._limits, fps=fps)
            sightings, timings = self._watch(reader, portrait=predictor.requires_rgb_crop, progress=progress)
            return _judge(reader, sightings, predictor, timings, self.movements if explain else None)

    def thumbnail(
        self,
        data: bytes,
        *,
        duration: float = 3.0,
        size: int = 480,
        output: str = "mp4",
        moment: str = "expressive",
        model: str | None = None,
        fps: float | None = None,
    ) -> ThumbnailResult:
        """Make the boomerang of the moment that showed the emotion best; of the liveliest where there is no face.

        Args:
            duration, size, output: see `boomerang.make`.
            moment: one of `boomerang.MOMENTS`.
            data, model, fps: see `analyse`.

        Raises:
            MoodreelError: as `analyse`, but never `NoFace`.
        """
        predictor = self.models.get(model)
        with self.slot():
            reader = VideoReader(data, self._limits, fps=fps, cache_side=size)
            sightings, timings = self._watch(reader, portrait=predictor.requires_rgb_crop)
            analysis: VideoResult | None = None
            try:
                analysis = _judge(reader, sightings, predictor, timings)
                peak, timings = analysis.peak, analysis.timings
            except NoFace:
                peak = _liveliest(sightings)
            begun = clock.perf_counter()
            loop = boomerang.make_boomerang(
                reader, peak, duration=duration, size=size, output=output, whole=moment == "whole"
            )
            timings = {**timings, "encode": elapsed_ms(begun)}
        return ThumbnailResult(
            loop=loop,
            emotion=analysis.emotion if analysis else None,
            confidence=analysis.confidence if analysis else None,
            probabilities=analysis.probabilities if analysis else None,
            certain=analysis.certain if analysis else None,
            clip_duration=reader.duration,
            frames_analysed=len(sightings),
            model=predictor.info,
            timings=timings,
        )

    def main_track(self, data: bytes, *, portrait: bool = False) -> list[FaceFeatures | None]:
        """The face that an analysis answers for, as models read it: one for each moment, None where it is not seen.

        portrait: whether to make `Features.portrait` too. Raises what `analyse` does.
        """
        with self.slot():
            reader = VideoReader(data, self._limits)
            sightings, _ = self._watch(reader, portrait=portrait)
            tracks = _follow(sightings, reader.width, reader.height)
            seen = tracks[_main(tracks)]
            return [seen[moment][1].features if moment in seen else None for moment in range(len(sightings))]

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a turn to use the cores. Raises Overloaded when it takes too long."""
        if not self._slots.acquire(timeout=self._wait_seconds):
            raise Overloaded("Too much is being analysed right now. Try again in a few seconds.")
        try:
            yield
        finally:
            self._slots.release()

    def _watch(
        self, reader: VideoReader, *, portrait: bool, progress: Callable[[float], None] | None = None
    ) -> tuple[list[_Sighting], dict[str, float]]:
        """Decode once; look for faces in other threads while the next frames are decoded."""
        sightings: list[_Sighting] = []
        waiting: deque[Future[_Sighting]] = deque()
        decode = 0.0
        frames = reader.frames(min_interval=self._every, min_frames=SHORT_CLIP_FRAMES, max_side=ANALYSIS_SIDE)
        try:
            while True:
                begun = clock.perf_counter()
                frame = next(frames, None)
                decode += elapsed_ms(begun)
                if frame is None:
                    break
                if progress is not None:
                    progress(frame.time)
                waiting.append(self.threads.submit(self._look, frame, portrait))
                if len(waiting) > _AHEAD:
                    sightings.append(waiting.popleft().result())
            sightings.extend(future.result() for future in waiting)
        finally:
            frames.close()
            for future in waiting:
                future.cancel()
        return sightings, {"decode": decode, "faces": sum(sighting.milliseconds for sighting in sightings)}

    def _look(self, frame: Frame, portrait: bool) -> _Sighting:
        begun = clock.perf_counter()
        faces = tuple(
            (face.box, observe_face(frame.rgb, face, with_rgb_crop=portrait))
            for face in self.landmarker.detect(frame.rgb)
        )
        grey = cv2.cvtColor(cv2.resize(frame.rgb, (24, 24), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        return _Sighting(frame.time, faces, grey.astype(np.float32), elapsed_ms(begun))


def _judge(
    reader: VideoReader,
    sightings: Sequence[_Sighting],
    predictor: Predictor,
    timings: dict[str, float],
    movements: FacialActionExplainer | None = None,
) -> VideoResult:
    """Follow each face through the clip, read all of them in one batch, answer for the one largest over time."""
    begun = clock.perf_counter()
    tracks = _follow(sightings, reader.width, reader.height)
    main = _main(tracks)
    views = {
        track: [seen[moment][1] if moment in seen else None for moment in range(len(sightings))]
        for track, seen in tracks.items()
    }
    read = predictor.predict([[view.features if view else None for view in track] for track in views.values()])
    verdicts = dict(zip(views, read, strict=True))
    labels, verdict = predictor.info.labels, verdicts[main]
    best = int(verdict.probabilities.argmax())
    confidence, face_coverage = float(verdict.probabilities[best]), len(tracks[main]) / len(sightings)
    quality = assess_quality(
        [view for _, view in tracks[main].values()],
        [max(box[2:]) for box, _ in tracks[main].values()],
        face_coverage=face_coverage,
        confidence=confidence,
    )
    probabilities = by_label(labels, verdict.probabilities)
    return VideoResult(
        emotion=labels[best],
        confidence=confidence,
        probabilities=probabilities,
        peak=sightings[int(score_keyframes(views[main], verdict.per_frame[:, best]).argmax())].time,
        face_coverage=face_coverage,
        certain=quality.reason is None,
        quality=quality,
        frames_analysed=len(sightings),
        duration=reader.duration,
        width=reader.width,
        height=reader.height,
        timeline=tuple(_timeline(sightings, tracks, verdicts, labels)),
        track=main,
        model=predictor.info,
        timings={**timings, "model": elapsed_ms(begun)},
        explanation=_explain(movements, views[main], verdict, probabilities, labels[best]) if movements else None,
    )


def _explain(
    movements: FacialActionExplainer,
    views: Sequence[FaceObservation | None],
    verdict: TrackPrediction,
    probabilities: dict[str, float],
    emotion: str,
) -> Explanation:
    seen = [moment for moment, view in enumerate(views) if view is not None]
    blendshapes = np.stack([view.features.blendshapes for view in views if view is not None])
    return movements.explain(blendshapes, probabilities, emotion, verdict.weights[seen])


_Seen = dict[int, tuple[tuple[int, int, int, int], FaceObservation]]
"""A track: the face's box in pixels and how it was seen, by the index of the sampled frame."""


def _follow(sightings: Sequence[_Sighting], width: int, height: int) -> dict[int, _Seen]:
    tracker = Tracker()
    tracks: dict[int, _Seen] = {}
    for moment, sighting in enumerate(sightings):
        boxes = [in_pixels(box, width, height) for box, _ in sighting.faces]
        for number, box, (_, view) in zip(tracker.update(sighting.time, boxes), boxes, sighting.faces, strict=True):
            tracks.setdefault(number, {})[moment] = (box, view)
    return tracks


def _main(tracks: dict[int, _Seen]) -> int:
    """Choose the track of the face that is largest over time. Raises NoFace."""
    if not tracks:
        raise NoFace("No face was found in the clip. Hold the camera at arm's length, facing you, in good light.")
    return max(tracks, key=lambda track: sum(box[2] * box[3] for box, _ in tracks[track].values()))


def _timeline(
    sightings: Sequence[_Sighting],
    tracks: dict[int, _Seen],
    verdicts: dict[int, TrackPrediction],
    labels: Sequence[str],
) -> Iterator[TimelinePoint]:
    for moment, sighting in enumerate(sightings):
        for track, seen in tracks.items():
            if moment in seen:
                probabilities = verdicts[track].per_frame[moment]
                yield TimelinePoint(
                    time=sighting.time,
                    emotion=labels[int(probabilities.argmax())],
                    probabilities=by_label(labels, probabilities),
                    weight=float(verdicts[track].weights[moment]),
                    box=seen[moment][0],
                    track=track,
                )


def _liveliest(sightings: Sequence[_Sighting]) -> float:
    """Choose the moment around which the picture changes most."""
    if len(sightings) < 2:
        return sightings[0].time
    change = [float(np.abs(a.grey - b.grey).mean()) for a, b in itertools.pairwise(sightings)]
    around = np.convolve(np.pad(change, 1), [0.5, 1.0, 0.5], mode="valid")
    return sightings[int(around.argmax()) + 1].time


def by_label(labels: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    """Name the probabilities (C,) of a model."""
    return {label: float(value) for label, value in zip(labels, probabilities, strict=True)}


def in_pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Turn a box relative to a picture into one in its pixels."""
    x, y, w, h = box
    return round(x * width), round(y * height), round(w * width), round(h * height)


def elapsed_ms(begun: float) -> float:
    """Give milliseconds since a `perf_counter` reading."""
    return (clock.perf_counter() - begun) * 1000
