"""Classify the emotion in a file that may be an image or a video."""

from dataclasses import dataclass

from moodreel.errors import UnsupportedMedia
from moodreel.media.image import IMAGE_FORMATS, is_image
from moodreel.models.predictor import ModelInfo
from moodreel.pipelines.image import ImagePipeline
from moodreel.pipelines.video import VideoPipeline


@dataclass(frozen=True)
class ImageOrVideoResult:
    """The emotion of the largest face in an image, or of the main face in a video.

    Attributes:
        emotion: the most likely label; None without a face, as are the next three.
        confidence: its probability.
        all_emotions: probability of each label; empty without a face.
        certain: whether the answer can be relied on.
        frames: number of sampled frames; 1 for an image.
        seconds: duration of a video; None for an image.
        model: the model that answered.
        timings: milliseconds by stage.
        copy: as in `ImageResult`; None for a video.
    """

    emotion: str | None
    confidence: float | None
    all_emotions: dict[str, float]
    certain: bool | None
    frames: int
    seconds: float | None
    model: ModelInfo
    timings: dict[str, float]
    copy: bytes | None = None


class ImageOrVideoPipeline:
    """Classify images and videos, distinguished by their first bytes, with the same model. Thread-safe."""

    def __init__(self, images: ImagePipeline, videos: VideoPipeline) -> None:
        self._images = images
        self._videos = videos

    def predict(
        self, data: bytes, *, model: str | None = None, fps: float | None = None, copy: bool = False
    ) -> ImageOrVideoResult:
        """Classify the emotion in an image or a video.

        Args:
            data: the file.
            model: name of a model in the store; None for the default one of images.
            fps: frames a second of a video whose container has no timing.
            copy: whether to make `ImageOrVideoResult.copy`.

        Raises:
            MoodreelError: whatever `ImagePipeline.predict` or `VideoPipeline.predict` raises. `NoFace` only for a
                video.
        """
        if is_image(data):
            image = self._images.predict(data, model=model, copy=copy)
            return ImageOrVideoResult(
                emotion=image.emotion,
                confidence=image.confidence,
                all_emotions=image.all_emotions,
                certain=image.certain,
                frames=1,
                seconds=None,
                model=image.model,
                timings=image.timings,
                copy=image.copy,
            )
        try:
            video = self._videos.predict(data, model=self._images.select_model(model).info.name, fps=fps)
        except UnsupportedMedia as error:
            raise UnsupportedMedia(f"{error} A picture may be {IMAGE_FORMATS}.") from error
        return ImageOrVideoResult(
            emotion=video.emotion,
            confidence=video.confidence,
            all_emotions=video.probabilities,
            certain=video.certain,
            frames=video.frames_analysed,
            seconds=video.duration,
            model=video.model,
            timings=video.timings,
        )
