"""Define the results of `VideoPipeline`."""

from dataclasses import dataclass

from moodreel.faces.facial_actions import Explanation
from moodreel.faces.quality import FaceQuality
from moodreel.media.video import ClipGeometry
from moodreel.models.predictor import ModelInfo
from moodreel.pipelines.boomerang import BoomerangClip
from moodreel.pipelines.geometry import PixelBox


@dataclass(frozen=True)
class TimelinePoint:
    """The emotion of one face in one sampled frame.

    Attributes:
        time: seconds since the first frame.
        emotion: the most likely label.
        probabilities: probability of each label, adding up to 1.
        weight: share of this frame in the face's answer over the whole video, 0 to 1. They add up to 1 for each face.
        box: x, y, width, height in pixels of the upright video.
        track: id of the face.
    """

    time: float
    emotion: str
    probabilities: dict[str, float]
    weight: float
    box: PixelBox
    track: int


@dataclass(frozen=True)
class VideoResult:
    """The emotion of the main face of a video: the one that is largest over time. Every face is in the timeline.

    Attributes:
        emotion: the most likely label.
        confidence: its probability.
        probabilities: probability of each label, adding up to 1.
        peak: time in seconds at which the face showed the emotion best.
        face_coverage: share of the sampled frames in which the face was found, 0 to 1.
        certain: whether the answer is reliable: `quality` gives no reason against it.
        quality: how well the video shows the face.
        frames_analysed: number of sampled frames.
        duration: seconds.
        width: pixels of the upright video.
        height: pixels of the upright video.
        timeline: one point for each face and sampled frame, in the order of time.
        track: track of the main face in the timeline.
        model: the model that answered.
        timings: milliseconds by stage. `faces` runs in parallel with `decode`, so the two overlap.
        explanation: the facial actions that weighed most, if they were requested.
        boomerang: the loop of the best moment, if it was requested.
    """

    emotion: str
    confidence: float
    probabilities: dict[str, float]
    peak: float
    face_coverage: float
    certain: bool
    quality: FaceQuality
    frames_analysed: int
    duration: float
    width: int
    height: int
    timeline: tuple[TimelinePoint, ...]
    track: int
    model: ModelInfo
    timings: dict[str, float]
    explanation: Explanation | None = None
    boomerang: BoomerangClip | None = None

    @property
    def all_emotions(self) -> dict[str, float]:
        """The probabilities, by the name that they have in `ImageResult`."""
        return self.probabilities


@dataclass(frozen=True, eq=False)
class ThumbnailResult:
    """A boomerang of the best moment of a video.

    Attributes:
        boomerang: the encoded loop and its poster.
        emotion: as in `VideoResult`; None without a face, as are the next five.
        confidence: as in `VideoResult`.
        probabilities: as in `VideoResult`.
        certain: as in `VideoResult`.
        quality: as in `VideoResult`.
        track: as in `VideoResult`.
        clip_duration: seconds of the video.
        frames_analysed: number of sampled frames.
        model: the model that answered.
        timings: milliseconds by stage.
    """

    boomerang: BoomerangClip
    emotion: str | None
    confidence: float | None
    probabilities: dict[str, float] | None
    certain: bool | None
    quality: FaceQuality | None
    track: int | None
    clip_duration: float
    frames_analysed: int
    model: ModelInfo
    timings: dict[str, float]


@dataclass(frozen=True)
class VideoAnalysis:
    """The best moment of a video, and the result for its main face.

    Attributes:
        prediction: for the main face; None without one.
        peak: the best moment in seconds: that of the prediction, or the one with most motion.
        frames_analysed: number of sampled frames.
        peak_size: width and height of the frame at the peak; those of the video unless the phone was turned.
        geometry: duration and size of the video.
        model: the model that answered.
        timings: milliseconds by stage.
    """

    prediction: VideoResult | None
    peak: float
    peak_size: tuple[int, int]
    frames_analysed: int
    geometry: ClipGeometry
    model: ModelInfo
    timings: dict[str, float]

    def with_loop(self, boomerang: BoomerangClip) -> ThumbnailResult:
        """Return the analysis as the result of a thumbnail."""
        found = self.prediction
        return ThumbnailResult(
            boomerang=boomerang,
            emotion=found.emotion if found else None,
            confidence=found.confidence if found else None,
            probabilities=found.probabilities if found else None,
            certain=found.certain if found else None,
            quality=found.quality if found else None,
            track=found.track if found else None,
            clip_duration=self.geometry.duration,
            frames_analysed=self.frames_analysed,
            model=self.model,
            timings=self.timings,
        )
