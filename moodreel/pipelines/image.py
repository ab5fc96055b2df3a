"""Pictures -> what every face in them showed: the one place that joins the stages for pictures.

bytes -> `pictures` -> `search` (every face, in two threads) -> `features` -> `models` (one batch for all faces of all
pictures) -> `quality` -> `Detection`. Pictures are decoded one after the other and only what models read of their faces
is kept: thirty-two of them take no more memory than the largest. A call waits for its turn as a clip does.
"""

import logging
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from moodreel.emotions import FIVE
from moodreel.errors import ImageCorrupt, ImageTooBig, MoodreelError, Overloaded, UnsupportedMedia
from moodreel.faces import annotate
from moodreel.faces.observation import FaceObservation, observe_face
from moodreel.faces.quality import FaceQuality, assess_quality
from moodreel.faces.tiled_detection import detect_tiled
from moodreel.media import image
from moodreel.media.image import ImageLimits
from moodreel.models.predictor import ModelInfo, Predictor
from moodreel.pipelines.video import VideoPipeline, by_label, elapsed_ms, in_pixels

logger = logging.getLogger(__name__)

MODEL = "face-expression"
"""Answers for pictures where no other is named and the default has only the five labels of clips."""

BATCH_SECONDS = 15.0
"""How long the pictures of a batch are looked at: less than other calls wait for their turn."""


@dataclass(frozen=True)
class DetectedFace:
    """One face; `box` is x, y, width, height in pixels of the upright picture as it was sent."""

    box: tuple[int, int, int, int]
    emotion: str
    confidence: float
    probabilities: dict[str, float]
    certain: bool
    """Whether the answer can be relied on: `quality` has no reason against it."""
    quality: FaceQuality


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What the faces of a picture showed, the largest first, and as the picture's own answer what that one did.

    Where there is no face, `emotion` and `confidence` are None and `all_emotions` is empty.
    """

    faces: tuple[DetectedFace, ...]
    width: int
    height: int
    model: ModelInfo
    timings: dict[str, float]
    """Milliseconds by stage; `model` is the whole batch's."""
    drawn: bytes | None = None
    """A JPEG with the faces marked, where one was asked for."""
    copy: bytes | None = None
    """A smaller JPEG without metadata, for the user's history, where one was asked for."""

    @property
    def emotion(self) -> str | None:
        return self.faces[0].emotion if self.faces else None

    @property
    def confidence(self) -> float | None:
        return self.faces[0].confidence if self.faces else None

    @property
    def certain(self) -> bool | None:
        return self.faces[0].certain if self.faces else None

    @property
    def all_emotions(self) -> dict[str, float]:
        return self.faces[0].probabilities if self.faces else {}


@dataclass(frozen=True, eq=False)
class ImageBatchResult:
    """An answer or an error for each picture, in its place."""

    results: tuple[ImageResult | MoodreelError, ...]
    model: ModelInfo
    timings: dict[str, float]


@dataclass(frozen=True)
class EmotionResult:
    """What a picture or a clip showed: of its largest face, over time where it has time.

    certain: whether the answer can be relied on; None where there is no face.
    frames: analysed frames of a clip; 1 for a picture. seconds: of a clip, None for a picture.
    copy: as in `Detection`; a clip has none.
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


@dataclass(frozen=True, eq=False)
class _Seen:
    """A picture's faces as models and `quality` need them; `picture` itself only where it will be drawn on."""

    width: int
    height: int
    faces: tuple[tuple[tuple[int, int, int, int], FaceObservation], ...]
    picture: image.DecodedImage | None
    copy: bytes | None
    timings: dict[str, float]


class ImagePipeline:
    """Reads pictures with an analyser's models, in its turns; one serves all threads of a process.

    batch_seconds: after so many no further picture of a batch is looked at.
    """

    def __init__(
        self, analyser: VideoPipeline, limits: ImageLimits | None = None, *, batch_seconds: float = BATCH_SECONDS
    ) -> None:
        self._analyser = analyser
        self._limits = limits or ImageLimits()
        self._batch_seconds = batch_seconds

    def predict(self, data: bytes, *, model: str | None = None, draw: bool = False, copy: bool = False) -> ImageResult:
        """Tell what each face of a picture showed.

        Args:
            data: the file.
            model: a model of the store; None for the default one, or `MODEL`.
            draw, copy: make `Detection.drawn`, `Detection.copy` too.

        Raises:
            MoodreelError: what `pictures.read` raises, `ModelNotFound`, `Overloaded`.
        """
        predictor = self._predictor(model)
        with self._analyser.slot():
            seen = self._see(data, portrait=predictor.requires_rgb_crop, draw=draw, copy=copy)
            [detection], milliseconds = _judge([seen], predictor)
            timings = {**seen.timings, "model": milliseconds}
            if seen.picture is None:
                return replace(detection, timings=timings)
            begun = clock.perf_counter()
            drawn = _draw(seen.picture, detection)
        return replace(detection, drawn=drawn, timings={**timings, "encode": elapsed_ms(begun)})

    def predict_batch(
        self, files: Sequence[bytes], *, model: str | None = None, copy: bool = False
    ) -> ImageBatchResult:
        """Do as `detect` for several pictures, with one batch for the model; one that fails spoils no other.

        Those that are not looked at in time have `Overloaded` in their place.

        Raises:
            MoodreelError: `ModelNotFound`, `Overloaded`.
        """
        predictor = self._predictor(model)
        with self._analyser.slot():
            looks = self._see_all(files, portrait=predictor.requires_rgb_crop, copy=copy)
            seen = [look for look in looks if isinstance(look, _Seen)]
            detections, milliseconds = _judge(seen, predictor)
        waiting = iter(detections)
        return ImageBatchResult(
            results=tuple(next(waiting) if isinstance(look, _Seen) else look for look in looks),
            model=predictor.info,
            timings={stage: sum(look.timings[stage] for look in seen) for stage in ("decode", "faces")}
            | {"model": milliseconds},
        )

    def predict_any(self, data: bytes, *, model: str | None = None, copy: bool = False) -> EmotionResult:
        """Tell what a picture or a clip showed; the first bytes say which of them it is.

        Raises:
            MoodreelError: what `detect` or `Analyser.analyse` raises. Only a clip needs a face.
        """
        if image.is_image(data):
            found = self.predict(data, model=model, copy=copy)
            return EmotionResult(
                found.emotion,
                found.confidence,
                found.all_emotions,
                found.certain,
                1,
                None,
                found.model,
                found.timings,
                found.copy,
            )
        try:
            clip = self._analyser.predict(data, model=self._predictor(model).info.name)
        except UnsupportedMedia as error:
            raise UnsupportedMedia(f"{error} A picture may be JPEG, PNG, WebP or HEIC.") from error
        return EmotionResult(
            clip.emotion,
            clip.confidence,
            clip.probabilities,
            clip.certain,
            clip.frames_analysed,
            clip.duration,
            clip.model,
            clip.timings,
        )

    def _predictor(self, model: str | None) -> Predictor:
        default = self._analyser.models.get()
        return self._analyser.models.get(model or (MODEL if default.info.labels == FIVE else default.info.name))

    def _see_all(self, files: Sequence[bytes], *, portrait: bool, copy: bool) -> "list[_Seen | MoodreelError]":
        looks: list[_Seen | MoodreelError] = []
        begun = clock.perf_counter()
        for data in files:
            if looks and elapsed_ms(begun) > 1000 * self._batch_seconds:
                looks.append(Overloaded("The pictures before took too long. Send this one again in a smaller batch."))
            else:
                looks.append(self._try_to_see(data, portrait=portrait, copy=copy))
        return looks

    def _try_to_see(self, data: bytes, *, portrait: bool, copy: bool) -> "_Seen | MoodreelError":
        try:
            return self._see(data, portrait=portrait, copy=copy)
        except (UnsupportedMedia, ImageCorrupt, ImageTooBig) as error:
            logger.info("one picture of several: %s (%r)", error, error.__cause__)
            return error

    def _see(self, data: bytes, *, portrait: bool, draw: bool = False, copy: bool = False) -> _Seen:
        begun = clock.perf_counter()
        picture = image.decode_image(data, self._limits)
        decoded = clock.perf_counter()
        threads = self._analyser.threads
        views = threads.map(
            lambda face: (
                in_pixels(face.box, picture.width, picture.height),
                observe_face(picture.rgb, face, with_rgb_crop=portrait),
            ),
            detect_tiled(self._analyser.landmarker, picture.rgb, map_fn=threads.map),
        )
        return _Seen(
            width=picture.width,
            height=picture.height,
            faces=tuple(views),
            picture=picture if draw else None,
            copy=image.encode_jpeg(picture.rgb) if copy else None,
            timings={"decode": (decoded - begun) * 1000, "faces": elapsed_ms(decoded)},
        )


def _judge(seen: Sequence[_Seen], predictor: Predictor) -> tuple[list[ImageResult], float]:
    """Read the faces of all pictures in one batch; give the answers and the milliseconds that took."""
    begun = clock.perf_counter()
    verdicts = iter(predictor.predict([[view.features] for look in seen for _, view in look.faces], per_frame=False))
    detections = [
        ImageResult(
            faces=tuple(
                _face(box, view, next(verdicts).probabilities, predictor.info.labels) for box, view in look.faces
            ),
            width=look.width,
            height=look.height,
            model=predictor.info,
            timings=look.timings,
            copy=look.copy,
        )
        for look in seen
    ]
    return detections, elapsed_ms(begun)


def _face(
    box: tuple[int, int, int, int], view: FaceObservation, probabilities: np.ndarray, labels: Sequence[str]
) -> DetectedFace:
    best = int(probabilities.argmax())
    confidence = float(probabilities[best])
    quality = assess_quality([view], [max(box[2:])], face_coverage=1.0, confidence=confidence)
    return DetectedFace(
        box=box,
        emotion=labels[best],
        confidence=confidence,
        probabilities=by_label(labels, probabilities),
        certain=quality.reason is None,
        quality=quality,
    )


def _draw(picture: image.DecodedImage, detection: ImageResult) -> bytes:
    scale = picture.rgb.shape[1] / picture.width
    marks = [
        annotate.Annotation(tuple(side * scale for side in face.box), face.emotion, face.confidence, face.certain)
        for face in detection.faces
    ]
    return annotate.annotate(picture.rgb, marks, icc_profile=picture.icc_profile)
