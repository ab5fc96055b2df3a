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
        time: Seconds since the first frame.
        emotion: The most likely label.
        probabilities: Probability of each label, adding up to 1.
        weight: Share of this frame in the face's answer over the whole video, 0 to 1. They add up to 1 for each face.
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
        emotion: The most likely label.
        confidence: Its probability.
        probabilities: Probability of each label, adding up to 1.
        peak: Time in seconds at which the face showed the emotion best.
        face_coverage: Share of the sampled frames in which the face was found, 0 to 1.
        certain: Whether the answer is reliable: `quality` gives no reason against it.
        quality: How well the video shows the face.
        frames_analysed: Number of sampled frames.
        duration: Seconds.
        width: Pixels of the upright video.
        height: Pixels of the upright video.
        timeline: One point for each face and sampled frame, in the order of time.
        track: Track of the main face in the timeline.
        model: The model that answered.
        timings: Milliseconds by stage. `faces` runs in parallel with `decode`, so the two overlap.
        explanation: The facial actions that weighed most, if they were requested.
        boomerang: The loop of the best moment, if it was requested.
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
        boomerang: The encoded loop and its poster.
        emotion: As in `VideoResult`; None without a face, as are the next five.
        confidence: As in `VideoResult`.
        probabilities: As in `VideoResult`.
        certain: As in `VideoResult`.
        quality: As in `VideoResult`.
        track: As in `VideoResult`.
        clip_duration: Seconds of the video.
        frames_analysed: Number of sampled frames.
        model: The model that answered.
        timings: Milliseconds by stage.
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
        prediction: For the main face; None without one.
        peak: The best moment in seconds: that of the prediction, or the one with most motion.
        frames_analysed: Number of sampled frames.
        peak_size: Width and height of the frame at the peak; those of the video unless the phone was turned.
        geometry: Duration and size of the video.
        model: The model that answered.
        timings: Milliseconds by stage.
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
