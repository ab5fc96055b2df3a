"""Classify the emotion of every face in an image.

Stages: `media.image` decodes it; `faces.tiled_detection` finds the faces, small ones too, in the worker threads;
`faces.person_check` drops those of animals and things; `models` classifies all faces of all images of a call in one
batch; `faces.quality` assesses whether an answer can be relied on. An image that shows people only when it is turned by
90 or 180 degrees is analyzed turned. The images of a batch are decoded one after the other, and only the features of
their faces are kept: a batch takes no more memory than its largest image.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from moodreel.emotions import FIVE
from moodreel.errors import ImageCorrupt, ImageTooBig, MoodreelError, Overloaded, UnsupportedMedia
from moodreel.faces import annotate
from moodreel.faces.features import CropKind
from moodreel.faces.landmarker import Face
from moodreel.faces.observation import FaceObservation, observe_face
from moodreel.faces.person_check import crop_portrait, is_person
from moodreel.faces.quality import FaceQuality, assess_quality, is_clear
from moodreel.faces.tiled_detection import detect_tiled
from moodreel.media import image
from moodreel.media.image import DecodedImage, ImageLimits
from moodreel.media.scaling import fit_within
from moodreel.models.predictor import FacePredictor, ModelInfo, label_probabilities
from moodreel.pipelines.engine import DETECTION_SIDE, Engine
from moodreel.pipelines.geometry import PixelBox, to_pixel_box, turn_box
from moodreel.timing import stage

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "face-expression"
"""The default model of images, if the default of the store has only the five labels of videos."""
BATCH_SECONDS = 15.0
"""Time after which no further image of a batch is started. Less than other callers wait for a slot."""

QUARTER_TURNS = 0, 2, 1, 3
"""Quarter turns, counter-clockwise, at which an image is searched, in this order, until a person is upright."""
MAX_UPRIGHT_ROLL = 45.0
"""Roll in degrees, to either side, up to which a face is upright. Landmarks of lying faces are less accurate."""


@dataclass(frozen=True)
class DetectedFace:
    """The emotion of one face.

    Attributes:
        box: x, y, width, height in pixels of the upright image as it was sent.
        emotion: The most likely label.
        confidence: Its probability.
        probabilities: Probability of each label, adding up to 1.
        certain: Whether the answer can be relied on: `quality` gives no reason against it.
        quality: How well the image shows the face.
    """

    box: PixelBox
    emotion: str
    confidence: float
    probabilities: dict[str, float]
    certain: bool
    quality: FaceQuality


@dataclass(frozen=True, eq=False)
class ImageResult:
    """The emotions of the faces in an image. That of the image is the emotion of its largest face.

    Attributes:
        faces: Every face, the largest first.
        width: Pixels of the upright image as it was sent.
        height: Pixels of the upright image as it was sent.
        model: The model that answered.
        timings: Milliseconds by stage. `model` is that of the whole batch.
        drawn: JPEG with the faces marked, if requested.
        copy: Smaller JPEG without metadata, for storage, if requested.
    """

    faces: tuple[DetectedFace, ...]
    width: int
    height: int
    model: ModelInfo
    timings: dict[str, float]
    drawn: bytes | None = None
    copy: bytes | None = None

    @property
    def emotion(self) -> str | None:
        """The emotion of the largest face; None without a face."""
        return self.faces[0].emotion if self.faces else None

    @property
    def confidence(self) -> float | None:
        """The confidence of the largest face; None without a face."""
        return self.faces[0].confidence if self.faces else None

    @property
    def certain(self) -> bool | None:
        """Whether the result for the largest face can be relied on; None without a face."""
        return self.faces[0].certain if self.faces else None

    @property
    def all_emotions(self) -> dict[str, float]:
        """The probabilities of the largest face; empty without a face."""
        return self.faces[0].probabilities if self.faces else {}


@dataclass(frozen=True, eq=False)
class ImageBatchResult:
    """The results of a batch.

    Attributes:
        results: A result or an error for each image, in the order of the files.
        model: The model that answered.
        timings: Milliseconds by stage, over all images.
    """

    results: tuple[ImageResult | MoodreelError, ...]
    model: ModelInfo
    timings: dict[str, float]


_Person = tuple[PixelBox, FaceObservation]


@dataclass(frozen=True, eq=False)
class _ExtractedImage:
    """The faces of one image before classification. `decoded` is kept only to be drawn on."""

    width: int
    height: int
    faces: tuple[_Person, ...]
    decoded: DecodedImage | None
    copy: bytes | None
    timings: dict[str, float]


class ImagePipeline:
    """Classify the faces in images. Thread-safe."""

    def __init__(self, engine: Engine, limits: ImageLimits | None = None) -> None:
        """Create a pipeline.

        Args:
            engine: The models, threads and slots of this process.
            limits: What one image may cost.
        """
        self._engine = engine
        self._limits = limits or ImageLimits()

    def predict(self, data: bytes, *, model: str | None = None, draw: bool = False, copy: bool = False) -> ImageResult:
        """Classify the emotion of each face in an image.

        Args:
            data: The image file.
            model: Name of a model in the store; None for the default one of images.
            draw: Whether to make `ImageResult.drawn`.
            copy: Whether to make `ImageResult.copy`.

        Raises:
            MoodreelError: Whatever `decode_image` raises, `ModelNotFound`, `Overloaded`.
        """
        predictor = self.select_model(model)
        with self._engine.slot():
            extracted = self._extract(data, crop_kind=predictor.crop_kind, draw=draw, copy=copy)
            timings = dict(extracted.timings)
            with stage("model", timings):
                [result] = _classify([extracted], predictor)
            if extracted.decoded is None:
                return replace(result, timings=timings)
            with stage("encode", timings):
                drawn = _draw(extracted.decoded, result)
        return replace(result, drawn=drawn, timings=timings)

    def predict_batch(
        self, files: Sequence[bytes], *, model: str | None = None, copy: bool = False
    ) -> ImageBatchResult:
        """Classify several images with one batch of the model.

        An image that fails has its error in its place, and `Overloaded` if there was no time left for it.

        Args:
            files: The image files.
            model: See `predict`.
            copy: See `predict`.

        Raises:
            MoodreelError: `ModelNotFound`, `Overloaded`.
        """
        predictor = self.select_model(model)
        with self._engine.slot():
            items = self._extract_all(files, crop_kind=predictor.crop_kind, copy=copy)
            extracted = [item for item in items if isinstance(item, _ExtractedImage)]
            timings = {name: sum(item.timings[name] for item in extracted) for name in ("decode", "faces")}
            with stage("model", timings):
                results = _classify(extracted, predictor)
        remaining = iter(results)
        return ImageBatchResult(
            results=tuple(next(remaining) if isinstance(item, _ExtractedImage) else item for item in items),
            model=predictor.info,
            timings=timings,
        )

    def select_model(self, model: str | None) -> FacePredictor:
        """Return the named model, or the default one of images for None. Raises ModelNotFound."""
        default = self._engine.models.get()
        return self._engine.models.get(model or (DEFAULT_MODEL if default.info.labels == FIVE else default.info.name))

    def _extract_all(
        self, files: Sequence[bytes], *, crop_kind: CropKind, copy: bool
    ) -> list[_ExtractedImage | MoodreelError]:
        items: list[_ExtractedImage | MoodreelError] = []
        start = time.perf_counter()
        for data in files:
            if items and time.perf_counter() - start > BATCH_SECONDS:
                items.append(
                    Overloaded("The pictures before this one took too long. Send it again in a smaller batch.")
                )
            else:
                items.append(self._extract_or_error(data, crop_kind=crop_kind, copy=copy))
        return items

    def _extract_or_error(self, data: bytes, *, crop_kind: CropKind, copy: bool) -> _ExtractedImage | MoodreelError:
        try:
            return self._extract(data, crop_kind=crop_kind, copy=copy)
        except (UnsupportedMedia, ImageCorrupt, ImageTooBig) as error:
            logger.info("an image of a batch was refused: %s (%r)", error, error.__cause__)
            return error

    def _extract(self, data: bytes, *, crop_kind: CropKind, draw: bool = False, copy: bool = False) -> _ExtractedImage:
        timings: dict[str, float] = {}
        with stage("decode", timings):
            decoded = image.decode_image(data, self._limits)
        with stage("faces", timings):
            faces = self._find_people(decoded, crop_kind)
            stored = image.encode_copy(decoded.rgb) if copy else None
        return _ExtractedImage(
            width=decoded.width,
            height=decoded.height,
            faces=faces,
            decoded=decoded if draw else None,
            copy=stored,
            timings=timings,
        )

    def _find_people(self, decoded: DecodedImage, crop_kind: CropKind) -> tuple[_Person, ...]:
        """Find the people in an image. If none is upright, search it turned as well, if a small copy shows one then."""
        lying: tuple[_Person, ...] = ()
        for turns in QUARTER_TURNS:
            if turns and not self._shows_person(decoded, turns):
                continue
            rgb = np.ascontiguousarray(np.rot90(decoded.rgb, turns))
            observe = partial(self._observe_person, rgb, decoded, turns, crop_kind)
            pool_map = self._engine.executor.map
            found = pool_map(observe, detect_tiled(self._engine.landmarker, rgb, map_fn=pool_map))
            people = tuple(person for person in found if person)
            if any(abs(observation.features.pose[2]) <= MAX_UPRIGHT_ROLL for _, observation in people):
                return people
            lying = lying or people
        return lying

    def _shows_person(self, decoded: DecodedImage, turns: int) -> bool:
        """Check whether a small copy of the image, turned, shows a person: the search costs several times as much."""
        size = fit_within(decoded.rgb.shape[1::-1], DETECTION_SIDE)
        small = cv2.resize(decoded.rgb, size, interpolation=cv2.INTER_AREA)
        rgb = np.ascontiguousarray(np.rot90(small, turns))
        observe = partial(self._observe_person, rgb, decoded, turns, CropKind.GRAY)
        return any(map(observe, self._engine.landmarker.detect(rgb)))

    def _observe_person(
        self, rgb: np.ndarray, decoded: DecodedImage, turns: int, crop_kind: CropKind, face: Face
    ) -> _Person | None:
        """Observe a face of a turned image. Returns its box in the original and the observation; None for no person."""
        box = to_pixel_box(turn_box(face.box, turns), decoded.width, decoded.height)
        observation = observe_face(rgb, face, crop_kind)
        # Turned images do not get the lower threshold for poor faces: three more searches would find more false faces.
        clear = turns != 0 or is_clear([observation], [max(box[2:])])
        person = is_person(self._engine.landmarker.detector, [crop_portrait(rgb, face)], clear=clear)
        return (box, observation) if person else None


def _classify(images: Sequence[_ExtractedImage], predictor: FacePredictor) -> list[ImageResult]:
    """Classify the faces of all images in one batch."""
    features = [[observation.features] for item in images for _, observation in item.faces]
    predictions = iter(predictor.predict(features, per_frame=False))
    return [
        ImageResult(
            faces=tuple(
                _to_face(box, observation, next(predictions).probabilities, predictor)
                for box, observation in item.faces
            ),
            width=item.width,
            height=item.height,
            model=predictor.info,
            timings=item.timings,
            copy=item.copy,
        )
        for item in images
    ]


def _to_face(
    box: PixelBox, observation: FaceObservation, probabilities: np.ndarray, predictor: FacePredictor
) -> DetectedFace:
    labels, best = predictor.info.labels, int(probabilities.argmax())
    confidence = float(probabilities[best])
    quality = assess_quality(
        [observation],
        [max(box[2:])],
        face_coverage=1.0,
        confidence=confidence,
        certain_from=predictor.certain_from,
    )
    return DetectedFace(
        box=box,
        emotion=labels[best],
        confidence=confidence,
        probabilities=label_probabilities(labels, probabilities),
        certain=quality.reason is None,
        quality=quality,
    )


def _draw(decoded: DecodedImage, result: ImageResult) -> bytes:
    scale = decoded.rgb.shape[1] / decoded.width
    annotations = [
        annotate.Annotation(tuple(side * scale for side in face.box), face.emotion, face.confidence, face.certain)
        for face in result.faces
    ]
    return annotate.annotate(decoded.rgb, annotations, icc_profile=decoded.icc_profile)
