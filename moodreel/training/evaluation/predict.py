"""Predict from cached faces."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moodreel.faces.features import CropKind, FaceFeatures
from moodreel.models.predictor import FacePredictor
from moodreel.training.data.face_cache import FaceTable, crop_image
from moodreel.training.data.images import Images
from moodreel.training.data.label_mapping import mapping_matrix
from moodreel.training.evaluation.metrics import Predictions

_BATCH = 256
"""Images at a time: bounds the memory of crops."""


def predict_rows(predictor: FacePredictor, faces: FaceTable, rows: np.ndarray, images: Images) -> np.ndarray:
    """Predict the expressions in images in which a face was found.

    Args:
        predictor: The model.
        faces: The faces of all N images.
        rows: int64 (M,), the images to predict for.
        images: All N images, which crops are cut from unless they are gray: only gray ones are cached.

    Returns:
        Calibrated probabilities, float32 (M, C).
    """
    probabilities = [np.zeros((0, len(predictor.info.labels)), np.float32)]
    for start in range(0, len(rows), _BATCH):
        tracks = []
        for row in rows[start : start + _BATCH]:
            face = single_frame(faces, row)
            if predictor.crop_kind is not CropKind.GRAY:
                face = replace(face, crop=crop_image(images[row], face.landmarks, predictor.crop_kind))
            tracks.append([face])
        predicted = predictor.predict(tracks, per_frame=False)
        probabilities.append(np.stack([prediction.probabilities for prediction in predicted]))
    return np.concatenate(probabilities)


def single_frame(faces: FaceTable, row: int | np.integer) -> FaceFeatures:
    """Return the face of one image in the predictor's format, with the gray crop."""
    return FaceFeatures(
        landmarks=faces.landmarks[row],
        normalized_landmarks=faces.normalized_landmarks[row],
        blendshapes=faces.blendshapes[row],
        pose=faces.pose[row],
        crop=faces.crops[row],
    )


def scatter(count: int, rows: np.ndarray, probabilities: np.ndarray) -> Predictions:
    """Place the probabilities (M, C) of some rows (M,) among `count` examples; the others are not found."""
    classes = probabilities.shape[1]
    scattered = np.full((count, classes), 1 / classes)
    scattered[rows] = probabilities
    found = np.zeros(count, bool)
    found[rows] = True
    return Predictions(scattered, found)


def to_labels(predictions: Predictions, own_labels: Sequence[str], labels: Sequence[str]) -> Predictions:
    """Convert predictions to other labels, summing the probabilities of all own labels that map to the same one."""
    probabilities = predictions.probabilities.astype(float) @ mapping_matrix(own_labels, labels)
    # Where nothing was found all labels are equally likely, however many of the model's labels map to each.
    probabilities[~predictions.found] = 1 / len(labels)
    return replace(predictions, probabilities=probabilities)
