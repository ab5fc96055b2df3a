"""Classify the emotion of the face in a video, and make its thumbnail.

Stages: `media.video` decodes the video once and samples frames by time; `people_extractor` finds faces while the next
frames are decoded, and links them into tracks; `models` classifies all tracks in one batch; `faces.quality` assesses
whether the answer is reliable. A thumbnail takes the same stages and then `boomerang`. The frames of a short video
are cached small for it; those of a long one would take hundreds of megabytes, so it decodes them again. The numbers of
an analysis, never pixels, may be cached (`analysis_cache`): a thumbnail then decodes its own moment only.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from moodreel.errors import NoFace
from moodreel.faces.facial_actions import Explanation
from moodreel.faces.features import CropKind, FaceFeatures
from moodreel.faces.observation import FaceObservation
from moodreel.faces.quality import FaceQuality, assess_quality
from moodreel.media.isolated import open_video
from moodreel.media.video import VideoReader
from moodreel.media.video_decoder import VideoLimits
from moodreel.models.predictor import FacePredictor, TrackPrediction, label_probabilities
from moodreel.pipelines.analysis_cache import AnalysisCache, analysis_key, dump_analysis, load_analysis
from moodreel.pipelines.boomerang import BoomerangClip, LoopOptions, make_boomerang
from moodreel.pipelines.engine import NO_FACE_IN_VIDEO, Engine
from moodreel.pipelines.geometry import from_letterboxed_box
from moodreel.pipelines.keyframe import score_keyframes
from moodreel.pipelines.people_extractor import (
    ANALYSIS_FPS,
    ExtractedFrame,
    ExtractedVideo,
    PeopleExtractor,
    Track,
    total_area,
)
from moodreel.pipelines.video_result import ThumbnailResult, TimelinePoint, VideoAnalysis, VideoResult
from moodreel.timing import stage

_NOT_RUN = {"decode": 0.0, "faces": 0.0, "model": 0.0}
"""Milliseconds by stage of an analysis from the cache."""
_SAME_PROPORTIONS = 0.02
"""Relative difference of proportions below which no borders are needed. Whole pixels alone make a small one."""


class VideoPipeline:
    """Classify videos and make their thumbnails. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        *,
        limits: VideoLimits | None = None,
        analysis_fps: float = ANALYSIS_FPS,
        cache: AnalysisCache | None = None,
    ) -> None:
        """Create a pipeline.

        Args:
            engine: The models, threads and slots of this process.
            limits: What one video may cost.
            analysis_fps: See `PeopleExtractor`.
            cache: Stores the numbers of analyses, so that no file is analyzed twice; None for no cache. All pipelines
                that share it need the same limits, `analysis_fps` and prior.
        """
        self._engine = engine
        self._cache = cache
        self._limits = limits or VideoLimits()
        self._people = PeopleExtractor(engine, analysis_fps=analysis_fps)

    def predict(
        self,
        data: bytes,
        *,
        model: str | None = None,
        fps: float | None = None,
        explain: bool = False,
        loop: LoopOptions | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> VideoResult:
        """Classify the emotion of the main face in a video.

        Args:
            data: The video file.
            model: Name of a model in the store; None for the default.
            fps: Frames a second of a video whose container has no timing.
            explain: Whether to compute `VideoResult.explanation`.
            loop: How to make `VideoResult.boomerang` from the same analysis; None to make none.
            progress: Called with the time in seconds of each sampled frame.

        Raises:
            MoodreelError: Whatever `VideoReader.frames` raises, `NoFace`, `ModelNotFound`, `Overloaded`.
        """
        predictor = self._engine.models.get(model)
        analysis, boomerang = self._run(data, predictor, loop, fps=fps, needs_face=True, progress=progress)
        result = analysis.prediction
        if result is None:
            raise NoFace(NO_FACE_IN_VIDEO)
        return replace(
            result,
            peak=boomerang.peak if boomerang else result.peak,
            timings=analysis.timings,
            explanation=result.explanation if explain else None,
            boomerang=boomerang,
        )

    def thumbnail(
        self,
        data: bytes,
        loop: LoopOptions = LoopOptions(),  # noqa: B008 - it cannot be changed
        *,
        model: str | None = None,
        fps: float | None = None,
    ) -> ThumbnailResult:
        """Make a boomerang of the moment that shows the emotion best; without a face, of the one with most motion.

        Args:
            data: The video file.
            loop: How to make it.
            model: See `predict`.
            fps: See `predict`.

        Raises:
            MoodreelError: As `predict`, but never `NoFace`.
        """
        analysis, boomerang = self._run(data, self._engine.models.get(model), loop, fps=fps)
        assert boomerang is not None  # it was requested, whatever the video shows
        return analysis.with_loop(boomerang)

    def main_track(self, data: bytes) -> list[FaceFeatures | None]:
        """Extract the features of the main face of a video, with gray crops.

        Args:
            data: The video file.

        Returns:
            One item for each sampled frame, None where the face was not found.

        Raises:
            MoodreelError: As `predict`.
        """
        with self._engine.slot():
            with open_video(data, self._limits) as reader:
                video = self._people.extract(reader, crop_kind=CropKind.GRAY)
            observations = _by_frame(video.tracks[_main_track(video.tracks)], len(video.frames))
            return [observation.features if observation else None for observation in observations]

    def _run(
        self,
        data: bytes,
        predictor: FacePredictor,
        loop: LoopOptions | None,
        *,
        fps: float | None,
        needs_face: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> tuple[VideoAnalysis, BoomerangClip | None]:
        """Analyze a video, or take its analysis from the cache, and make the loop of its best moment.

        With `needs_face`, no loop is made of a video without a face.
        """
        timings: dict[str, float] = dict(_NOT_RUN)
        with stage("cache", timings):
            key = analysis_key(data, predictor.info, fps) if self._cache else ""
            text = self._cache.get(key) if self._cache else None
        analysis = load_analysis(text, predictor.info, timings) if text else None
        if analysis and (loop is None or (needs_face and analysis.prediction is None)):
            return analysis, None
        # The frames that an analysis decodes are cached for the loop.
        cache_side = loop.size if loop and not analysis and loop.aspect == "original" else None
        geometry = analysis.geometry if analysis else None
        with (
            self._engine.slot(),
            open_video(data, self._limits, fps=fps, cache_side=cache_side, geometry=geometry) as reader,
        ):
            if not analysis:
                analysis = self._analyze(reader, predictor, progress)
                if self._cache:
                    self._cache.put(key, dump_analysis(analysis))
            if loop is None or (needs_face and analysis.prediction is None):
                return analysis, None
            timings = dict(analysis.timings)
            with stage("encode", timings):
                boomerang = _make_loop(reader, analysis, loop)
            return replace(analysis, timings=timings), boomerang

    def _analyze(
        self, reader: VideoReader, predictor: FacePredictor, progress: Callable[[float], None] | None
    ) -> VideoAnalysis:
        """Read a video to its end, classify the faces in it and find the best moment."""
        video = self._people.extract(reader, crop_kind=predictor.crop_kind, progress=progress)
        result = self._classify(reader, video, predictor) if video.tracks else None
        peak = result.peak if result else _peak_motion_time(video.frames)
        size = min(video.frames, key=lambda frame: abs(frame.time - peak)).size
        return VideoAnalysis(
            prediction=result,
            peak=peak,
            peak_size=size,
            frames_analysed=len(video.frames),
            geometry=reader.geometry,
            model=predictor.info,
            timings=result.timings if result else video.timings,
        )

    def _classify(self, reader: VideoReader, video: ExtractedVideo, predictor: FacePredictor) -> VideoResult:
        """Classify every face in one batch. There is at least one; the result is that of the main one."""
        timings, count, labels = dict(video.timings), len(video.frames), predictor.info.labels
        with stage("model", timings):
            predictions = _predict_tracks(video.tracks, count, predictor)
        main = _main_track(video.tracks)
        prediction, observations = predictions[main], _by_frame(video.tracks[main], count)
        best = int(prediction.probabilities.argmax())
        probabilities = label_probabilities(labels, prediction.probabilities)
        confidence = probabilities[labels[best]]
        quality = _assess_track(video.tracks[main], count, confidence, predictor.certain_from)
        return VideoResult(
            emotion=labels[best],
            confidence=confidence,
            probabilities=probabilities,
            peak=video.frames[int(score_keyframes(observations, prediction.per_frame[:, best]).argmax())].time,
            face_coverage=quality.face_coverage,
            certain=quality.reason is None,
            quality=quality,
            frames_analysed=count,
            duration=reader.duration,
            width=reader.width,
            height=reader.height,
            timeline=tuple(_timeline(video, predictions, labels)),
            track=main,
            model=predictor.info,
            timings=timings,
            explanation=self._explain(observations, prediction, probabilities, labels[best]),
        )

    def _explain(
        self,
        observations: Sequence[FaceObservation | None],
        prediction: TrackPrediction,
        probabilities: dict[str, float],
        emotion: str,
    ) -> Explanation:
        found = [index for index, observation in enumerate(observations) if observation]
        blendshapes = np.stack([observation.features.blendshapes for observation in observations if observation])
        return self._engine.facial_actions.explain(blendshapes, probabilities, emotion, prediction.weights[found])


def _make_loop(reader: VideoReader, analysis: VideoAnalysis, loop: LoopOptions) -> BoomerangClip:
    found = analysis.prediction
    video, shown = (analysis.geometry.width, analysis.geometry.height), analysis.peak_size
    # A phone that was turned: the moment as it was recorded, without the borders that it has in the whole video. A
    # smaller picture of a slower network has none.
    if loop.moment == "whole" or math.isclose(shown[0] / shown[1], video[0] / video[1], rel_tol=_SAME_PROPORTIONS):
        shown = video
    timeline = [point for point in found.timeline if point.track == found.track] if found else []
    faces = [(point.time, from_letterboxed_box(point.box, video, shown)) for point in timeline]
    return make_boomerang(reader, analysis.peak, loop, size=shown, faces=faces)


def _main_track(tracks: dict[int, Track]) -> int:
    """Return the track id of the face that is largest over time. Raises NoFace."""
    if not tracks:
        raise NoFace(NO_FACE_IN_VIDEO)
    return max(tracks, key=lambda track_id: total_area(tracks[track_id]))


def _by_frame(track: Track, frame_count: int) -> list[FaceObservation | None]:
    return [track[index][1] if index in track else None for index in range(frame_count)]


def _predict_tracks(tracks: dict[int, Track], frame_count: int, predictor: FacePredictor) -> dict[int, TrackPrediction]:
    features = [
        [observation.features if observation else None for observation in _by_frame(track, frame_count)]
        for track in tracks.values()
    ]
    return dict(zip(tracks, predictor.predict(features), strict=True))


def _assess_track(track: Track, frame_count: int, confidence: float, certain_from: float) -> FaceQuality:
    return assess_quality(
        [observation for _, observation in track.values()],
        [max(box[2:]) for box, _ in track.values()],
        face_coverage=len(track) / frame_count,
        confidence=confidence,
        certain_from=certain_from,
    )


def _timeline(
    video: ExtractedVideo, predictions: dict[int, TrackPrediction], labels: Sequence[str]
) -> Iterator[TimelinePoint]:
    for index, frame in enumerate(video.frames):
        for track_id, track in video.tracks.items():
            if index in track:
                probabilities = predictions[track_id].per_frame[index]
                yield TimelinePoint(
                    time=frame.time,
                    emotion=labels[int(probabilities.argmax())],
                    probabilities=label_probabilities(labels, probabilities),
                    weight=float(predictions[track_id].weights[index]),
                    box=track[index][0],
                    track=track_id,
                )


def _peak_motion_time(frames: Sequence[ExtractedFrame]) -> float:
    """Return the time in seconds around which there is most motion."""
    if len(frames) < 2:
        return frames[0].time
    changes = [float(np.abs(a.gray - b.gray).mean()) for a, b in itertools.pairwise(frames)]
    if len(changes) > 2:  # a hard cut changes one frame; the median of three removes it
        changes = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(changes, 1), 3), axis=1).tolist()
    smoothed = np.convolve(np.pad(changes, 1), [0.5, 1.0, 0.5], mode="valid")
    return frames[int(smoothed.argmax()) + 1].time
