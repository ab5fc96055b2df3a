"""Classify the emotion in a file that may be an image or a video."""

from moodreel.errors import UnsupportedMedia
from moodreel.media.image import IMAGE_FORMATS, is_image
from moodreel.pipelines.image import ImagePipeline, ImageResult
from moodreel.pipelines.video import VideoPipeline
from moodreel.pipelines.video_result import VideoResult


class ImageOrVideoPipeline:
    """Classify images and videos, distinguished by their first bytes, with the same model. Thread-safe."""

    def __init__(self, images: ImagePipeline, videos: VideoPipeline) -> None:
        self._images = images
        self._videos = videos

    def predict(
        self, data: bytes, *, model: str | None = None, fps: float | None = None, copy: bool = False
    ) -> ImageResult | VideoResult:
        """Classify the emotion in an image or a video.

        Args:
            data: The file.
            model: Name of a model in the store; None for the default one of images.
            fps: Frames a second of a video whose container has no timing.
            copy: Whether to make `ImageResult.copy`.

        Raises:
            MoodreelError: Whatever `ImagePipeline.predict` or `VideoPipeline.predict` raises. `NoFace` only for a
                video.
        """
        if is_image(data):
            return self._images.predict(data, model=model, copy=copy)
        try:
            return self._videos.predict(data, model=self._images.select_model(model).info.name, fps=fps)
        except UnsupportedMedia as error:
            raise UnsupportedMedia(f"{error} A picture may be {IMAGE_FORMATS}.") from error
