"""Find the faces in images, or take them from a data set, and attribute a model's predictions to their regions."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from moodreel.errors import DataInvalid
from moodreel.faces.features import CropKind, FaceFeatures, extract_features
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.tiled_detection import detect_tiled
from moodreel.media import image
from moodreel.models.audiovisual_registry import AudioVisualPredictor
from moodreel.models.predictor import FacePredictor
from moodreel.training.data.dataset import IMAGES
from moodreel.training.data.face_cache import crop_image
from moodreel.training.data.images import FILE_LIMITS, ImageSequence
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset
from moodreel.training.evaluation.audiovisual_model import face_windows
from moodreel.training.evaluation.predict import single_frame
from moodreel.training.explain.attribution import attribute
from moodreel.training.explain.render import AttributionMap

logger = logging.getLogger(__name__)

VisualPredictor = FacePredictor | AudioVisualPredictor


@dataclass(frozen=True, eq=False)
class FaceToExplain:
    """A face to explain.

    Attributes:
        name: Name of the file for its map, without the suffix.
        features: Features of the face, with the crop that the model reads.
        truth: Its label in the data set; None if unknown.
    """

    name: str
    features: FaceFeatures
    truth: str | None = None


def crop_kind(predictor: VisualPredictor) -> CropKind:
    """Return the kind of crop that a model reads."""
    return predictor.crop_kind if isinstance(predictor, FacePredictor) else CropKind.SQUARE


def find_faces(files: Sequence[Path], landmarker_path: Path, kind: CropKind) -> list[FaceToExplain]:
    """Find every face in image files, the largest of each file first. Images without a face are logged.

    Raises:
        OSError: A file cannot be read.
        MoodreelError: A file is not an image.
    """
    if not files:
        return []
    landmarker = FaceLandmarker(landmarker_path, use_fallbacks=True)
    faces: list[FaceToExplain] = []
    for file in files:
        rgb = image.decode_image(file.read_bytes(), FILE_LIMITS).rgb
        found = detect_tiled(landmarker, rgb)
        if not found:
            logger.warning("No face was found in %s.", file)
        faces += [
            FaceToExplain(f"{file.stem}-{number}", extract_features(rgb, face, kind))
            for number, face in enumerate(found, start=1)
        ]
    landmarker.close()
    return faces


def faces_of_dataset(spec: str, context: DataContext, kind: CropKind, *, count: int) -> list[FaceToExplain]:
    """Take the faces of at most `count` held-out images of a data set. Raises DataInvalid for one without images."""
    data = open_dataset(spec)
    if data.media != IMAGES:
        raise DataInvalid(f"{data.name} has {data.media}, not images; name a data set of images.")
    rows = np.sort(np.random.default_rng(context.seed).permutation(data.split().held_out)[:count])
    examples = [data.examples[row] for row in rows]
    images = ImageSequence(examples)
    faces = context.extract_faces(images)
    explained = []
    for number in np.flatnonzero(faces.found).tolist():
        crop = crop_image(images[number], faces.landmarks[number], kind)
        features, name = replace(single_frame(faces, number), crop=crop), data.name.lower().replace(" ", "-")
        explained.append(FaceToExplain(f"{name}-{rows[number]}", features, examples[number].label))
    return explained


def attribute_faces(
    predictor: VisualPredictor, faces: Sequence[FaceToExplain], *, label: str | None = None
) -> list[AttributionMap]:
    """Attribute the predicted label of each face, or `label`, to regions. Raises DataInvalid for an unknown label."""
    labels = predictor.info.labels
    if label is not None and label not in labels:
        raise DataInvalid(f"{predictor.info.name} has no label {label!r}; it has {', '.join(labels)}.")
    images = np.stack([face.features.crop for face in faces])
    probabilities = _predict(predictor, faces, images)
    predicted = probabilities.argmax(axis=1) if label is None else np.full(len(faces), labels.index(label))
    outputs = [predictor.info.card.labels.index(labels[index]) for index in predicted]
    heat_maps = attribute(predictor.network, images, outputs)
    return [
        AttributionMap(image, heat, labels[index], float(row[index]), face.truth)
        for image, heat, index, row, face in zip(images, heat_maps, predicted, probabilities, faces, strict=True)
    ]


def _predict(predictor: VisualPredictor, faces: Sequence[FaceToExplain], images: np.ndarray) -> np.ndarray:
    """Return calibrated probabilities (N, C) in the order of the model's labels."""
    if isinstance(predictor, FacePredictor):
        predictions = predictor.predict([[face.features] for face in faces], per_frame=False)
        return np.stack([prediction.probabilities for prediction in predictions])
    return np.stack([row for row, _ in predictor.predict(face_windows(torch.from_numpy(images)[:, None]))])
