"""Measure a model on pictures and on pseudo-sequences made from them, by the predictor that serves."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import DataInvalid, MoodreelError
from moodreel.faces.features import CROP_SIDE, FaceFeatures
from moodreel.faces.landmarker import BLENDSHAPES, NUM_LANDMARKS
from moodreel.models.model_card import ORIGINAL
from moodreel.models.networks.two_stream import TwoStreamNet
from moodreel.models.predictor import Predictor
from moodreel.training.augmentation.pseudo_sequences import (
    PseudoSequenceGenerator,
    SequenceBatch,
    SequenceKind,
    fit_deformation,
    speech_offsets,
)
from moodreel.training.data import muxspace
from moodreel.training.data.album import read_groups, read_image_folder
from moodreel.training.data.face_cache import FaceTable, ImageSequence, extract_faces, extract_landmarks, rgb_crop
from moodreel.training.data.fer2013 import is_fer2013
from moodreel.training.data.ferplus import one_hot, read_split
from moodreel.training.recipes.moodreel_five import join, look

log = logging.getLogger(__name__)

SEQUENCES = 400
"""Pseudo-sequences of each kind."""
_AT_ONCE = 256
"""Pictures that are read at a time: bounds the memory of portraits."""


@dataclass(frozen=True, eq=False)
class Report:
    """Shares are 0 to 1.

    labels: of the model. pictures: how many with a majority over half. found: share of them with a face found.
    accuracy, mean_recall: a picture without a found face counts as wrong. accuracy_found: of those with one.
    ece: expected calibration error over 15 bins of equal width (Guo et al. 2017), pictures with a face.
    recall: by label. confusion: int (C, C), rows true, columns answered, pictures with a face.
    ece_sequences: the same of the pseudo-sequences, all kinds together; only of a model that joins moments.
    by_kind: for each kind of pseudo-sequence, the share right, and the share that the mean of its moments gets right.
    five: of a seven-label model, the same pictures with its probabilities added up to five labels.
    groups: the same of the pictures of each group of people, without sequences.
    """

    labels: tuple[str, ...]
    pictures: int
    found: float
    accuracy: float
    accuracy_found: float
    mean_recall: float
    ece: float
    recall: dict[str, float]
    confusion: np.ndarray
    ece_sequences: float = float("nan")
    by_kind: dict[str, tuple[float, float]] = field(default_factory=dict)
    five: "Report | None" = None
    groups: dict[str, "Report"] = field(default_factory=dict)


@dataclass(frozen=True)
class CalibrationBin:
    """Answers of about the same confidence: its mean, the share of them that is right, and their share of all."""

    confidence: float
    accuracy: float
    fraction: float


def evaluate(
    predictor: Predictor,
    data: Path,
    landmarker: Path,
    cache: Path,
    *,
    split: str = "valid",
    groups: Path | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Report:
    """Measure a model of five or seven labels on the pictures of a split that have a majority over half.

    data: FER+ or FER2013 as `read_split` reads them; or the folder of muxspace (`faces.npz`), or one with a folder of
        pictures for each label (`moodreel.training.data.album`), which have no splits.
    groups: csv file of the groups that the pictures of such folders belong to.
    Raises MoodreelError for a model with other labels, and DataInvalid where `data` holds none of these, or no face.
    """
    labels = predictor.info.labels
    if labels not in (FIVE, SEVEN):
        raise MoodreelError("Only models of five or seven labels can be evaluated; choose another.")
    images, all_truth, members = _read(data, labels, split, groups)
    if requires_landmarks(predictor):
        faces, landmarks = extract_landmarks(images, landmarker, cache, seed=seed, workers=workers)
    else:
        faces, landmarks = extract_faces(images, landmarker, cache, seed=seed, workers=workers), None
    judged = all_truth >= 0
    truth, found = all_truth[judged], faces.found[judged]
    if not found.any():
        raise DataInvalid(f"No face was found in any of the {len(truth)} labelled pictures of {data}; look at some.")
    members = {name: rows[judged] for name, rows in members.items()}
    probabilities = predict_rows(predictor, faces, np.flatnonzero(judged & faces.found), images, landmarks)
    report = measure(probabilities, truth, found, labels, members)
    if labels == SEVEN:
        merge = one_hot(SEVEN, FIVE)
        five = measure(probabilities @ merge, merge.argmax(axis=1)[truth], found, FIVE, members)
        return replace(report, five=five)
    if requires_landmarks(predictor):
        log.warning("No pseudo-sequences: they have no pictures, which this model reads.")
        return report
    neutral = truth[found] == FIVE.index("Neutral")
    if neutral.all() or not neutral.any():
        log.warning("No pseudo-sequences: they need both calm faces and others.")
        return report
    return replace(report, **_sequences(predictor, faces, all_truth, seed))


def _read(
    data: Path, labels: tuple[str, ...], split: str, groups: Path | None
) -> tuple[ImageSequence, np.ndarray, dict[str, np.ndarray]]:
    """Pictures, the index of each one's label (N,), -1 where there is none, and bool (N,) for each group."""
    if data.is_dir() and not is_fer2013(data) and not (data / muxspace.FILE).exists():
        album = read_image_folder(data, labels)
        return album, album.truth, read_groups(groups, album.names) if groups else {}
    if groups:
        raise DataInvalid("Groups are of pictures that are files in a folder for each label; name such a folder.")
    other = (data / muxspace.FILE).exists()
    pictures = muxspace.read_muxspace(data, labels, "valid") if other else read_split(data, split, labels=labels)
    return pictures.images, pictures.truth, {}


def measure(
    probabilities: np.ndarray,
    truth: np.ndarray,
    found: np.ndarray,
    labels: tuple[str, ...],
    members: dict[str, np.ndarray],
) -> Report:
    """Report on probabilities (M, C) for the M of N pictures (truth (N,)) with a face found (N,), and the same for the
    members (N,) of each group."""
    answered = probabilities.argmax(axis=1)
    right = np.zeros(len(truth), bool)
    right[found] = answered == truth[found]
    recall = {label: float(right[truth == i].mean()) for i, label in enumerate(labels) if (truth == i).any()}
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth[found], answered), 1)
    return Report(
        labels=labels,
        pictures=len(truth),
        found=float(found.mean()),
        accuracy=float(right.mean()),
        accuracy_found=float(right[found].mean()) if found.any() else float("nan"),
        mean_recall=float(np.mean(list(recall.values()))),
        ece=expected_calibration_error(probabilities, truth[found]) if found.any() else float("nan"),
        recall=recall,
        confusion=confusion,
        groups={
            name: measure(probabilities[rows[found]], truth[rows], found[rows], labels, {})
            for name, rows in members.items()
        },
    )


def _sequences(predictor: Predictor, faces: FaceTable, truth: np.ndarray, seed: int) -> dict[str, Any]:
    """The fields of a `Report` that are of pseudo-sequences."""
    targets = np.zeros((len(truth), len(FIVE)), np.float32)
    targets[truth >= 0, truth[truth >= 0]] = 1
    net = predictor.module
    appearance = speech = None
    if isinstance(net, TwoStreamNet):
        appearance = look(net, faces.crops)
        calm = faces.found & (truth == FIVE.index("Neutral"))
        speech = speech_offsets(faces.blendshapes[calm], appearance[calm])
    studio = PseudoSequenceGenerator(faces, targets, fit_deformation(faces), appearance, speech=speech)
    by_kind, joined, expected = {}, [], []
    for kind in SequenceKind:
        clips = studio.generate(SEQUENCES, np.random.default_rng((seed, int(kind))), kind=kind)
        whole, mean = (
            _by_opinions(predictor, net, clips) if isinstance(net, TwoStreamNet) else _by_features(predictor, clips)
        )
        joined.append(whole)
        expected.append(clips.targets.argmax(axis=1))
        by_kind[kind.name.lower()] = (_share(whole, expected[-1]), _share(mean, expected[-1]))
    error = expected_calibration_error(np.concatenate(joined), np.concatenate(expected))
    return {"ece_sequences": error, "by_kind": by_kind}


def _by_features(predictor: Predictor, clips: SequenceBatch) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (B, 5) of sequences as wholes, and the mean of their moments'."""
    verdicts = predictor.predict(to_tracks(clips))
    whole = np.stack([verdict.probabilities for verdict in verdicts])
    return whole, np.stack([np.nanmean(verdict.per_frame, axis=0) for verdict in verdicts])


def _by_opinions(predictor: Predictor, net: TwoStreamNet, clips: SequenceBatch) -> tuple[np.ndarray, np.ndarray]:
    """The same for a joint network: the sequences have opinions of appearance, but no crops."""
    card = predictor.info.card
    with torch.inference_mode():
        logits, moments = join(net, clips)
    whole = (logits / card.temperature).softmax(dim=-1).numpy()
    each = (moments / card.moment_temperature).softmax(dim=-1).numpy()
    return whole, np.stack([own[seen].mean(axis=0) for own, seen in zip(each, clips.seen, strict=True)])


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of probabilities (N, C) against labels (N,)."""
    return binned_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth, bins)


def binned_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of confidences (N,) for answers that were right or not (N,)."""
    return float(
        sum(abs(each.confidence - each.accuracy) * each.fraction for each in reliability_bins(confidence, right, bins))
    )


def reliability_bins(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> list[CalibrationBin]:
    """How often answers of each confidence (N,) were right (N,), in bins of equal width; empty ones are left out."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        CalibrationBin(
            float(confidence[which == b].mean()), float(right[which == b].mean()), float((which == b).mean())
        )
        for b in sorted(set(which.tolist()))
    ]


def requires_landmarks(predictor: Predictor) -> bool:
    """Whether a model reads raw landmarks, or portraits, which are made by them: `judge` has to be given them."""
    return predictor.requires_rgb_crop or predictor.info.architecture == ORIGINAL


def predict_rows(
    predictor: Predictor, faces: FaceTable, rows: np.ndarray, images: ImageSequence, landmarks: np.ndarray | None = None
) -> np.ndarray:
    """Calibrated probabilities (len(rows), C) of pictures with a found face, by their rows in `faces` and `images`.

    landmarks: of all pictures, as `find_landmarks` gives them, for a model that needs them.
    """
    judged = [np.zeros((0, len(predictor.info.labels)), np.float32)]
    for begun in range(0, len(rows), _AT_ONCE):
        shown = [single_frame(faces, row) for row in rows[begun : begun + _AT_ONCE]]
        if landmarks is not None:
            shown = [
                replace(
                    face,
                    landmarks=landmarks[row],
                    rgb_crop=rgb_crop(images[row], landmarks[row]) if predictor.requires_rgb_crop else None,
                )
                for face, row in zip(shown, rows[begun : begun + _AT_ONCE], strict=True)
            ]
        verdicts = predictor.predict([[face] for face in shown], per_frame=False)
        judged.append(np.stack([verdict.probabilities for verdict in verdicts]))
    return np.concatenate(judged)


def single_frame(faces: FaceTable, row: int | np.integer) -> FaceFeatures:
    """One picture's face as the predictor takes it, but without the raw landmarks."""
    return FaceFeatures(
        landmarks=np.full((NUM_LANDMARKS, 3), np.nan, np.float32),
        normalized_landmarks=faces.normalized_landmarks[row],
        blendshapes=faces.blendshapes[row],
        pose=faces.pose[row],
        crop=faces.crops[row],
    )


def to_tracks(sequences: SequenceBatch) -> list[list[FaceFeatures | None]]:
    """Pseudo-sequences as the predictor takes them."""
    unknown = np.full((NUM_LANDMARKS, 3), np.nan, np.float32)
    return [
        [
            FaceFeatures(
                landmarks=unknown,
                normalized_landmarks=face[: -len(BLENDSHAPES)].reshape(NUM_LANDMARKS, 3),
                blendshapes=face[-len(BLENDSHAPES) :],
                pose=np.zeros(3, np.float32),
                crop=np.zeros((CROP_SIDE, CROP_SIDE), np.uint8),
            )
            if visible
            else None
            for face, visible in zip(clip[:length], seen[:length], strict=True)
        ]
        for clip, seen, length in zip(sequences.faces, sequences.seen, sequences.lengths, strict=True)
    ]


def _share(probabilities: np.ndarray, truth: np.ndarray) -> float:
    return float((probabilities.argmax(axis=1) == truth).mean())
