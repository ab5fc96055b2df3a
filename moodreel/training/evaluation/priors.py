"""Fit the calibration of a face model under each prior, on several labeled sets, and measure it.

Three parts are fitted, one after the other, on uncalibrated log-probabilities of the network:

1. An offset for Neutral (logit adjustment, Menon et al. 2021). For `balanced` it maximizes the mean five-class recall
   on the sets of images; differences up to `TOLERANCE` are chance, so of the offsets this close to the best, the one
   nearest to 0 is taken. For `diary`, which is for clips alone, it maximizes the criterion
   (`moodreel.training.evaluation.criterion`); with few clips several offsets give the same predictions, so the middle
   one of the best is taken.
2. A temperature for images, which are always predicted under `balanced`, and for each prior one for clips, by the
   negative log-likelihood. Each set has the same weight.
3. The confidence from which a prediction is certain (`calibration.fit_certain_from`), on all sets with the same weight.

A prediction is correct if it is the true label. On a set that lacks some of a model's seven labels, it is correct if
both map to the same one of the five labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import torch

from moodreel.emotions import FIVE
from moodreel.errors import DataInvalid, MoodreelError
from moodreel.faces.quality import MIN_CONFIDENCE
from moodreel.models.model_card import BALANCED, DIARY, PRIORS, ModelCard, Prior
from moodreel.models.predictor import FacePredictor, calibrate
from moodreel.training.data.clips import TALKER_LABEL
from moodreel.training.data.dataset import CLIPS, IMAGES, Dataset
from moodreel.training.data.label_mapping import map_label, mapping_matrix
from moodreel.training.data.loading import DataContext
from moodreel.training.evaluation.calibration import binned_calibration_error, fit_certain_from, fit_temperature
from moodreel.training.evaluation.criterion import (
    SetEvaluation,
    SetPredictions,
    compute_criterion,
    evaluate_set,
    format_number,
    predict_sets,
)
from moodreel.training.evaluation.face_model import EvaluatedFaceModel
from moodreel.training.evaluation.markdown import format_table
from moodreel.training.evaluation.metrics import Predictions

OFFSETS = tuple(number / 10 for number in range(-40, 11))
"""Candidates for the offset of Neutral."""
TOLERANCE = 0.01
"""Differences of mean recall up to this are chance."""
PRECISION = 0.85
"""Required fraction of correct predictions among the certain ones."""
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Predictions of a model without calibration on one set.

    Attributes:
        predictions: In the model's own labels.
        labels: The C labels of the model.
        right: bool (N, C), which of these labels are correct for each example.
        by_offset: The evaluation with each of `OFFSETS`.
    """

    predictions: SetPredictions
    labels: tuple[str, ...]
    right: np.ndarray
    by_offset: tuple[SetEvaluation, ...]

    @property
    def kind(self) -> str:
        """One of `criterion.KINDS`."""
        return self.predictions.kind

    @property
    def found(self) -> np.ndarray:
        """Whether a face was found, bool (N,)."""
        return self.predictions.predictions.found


@dataclass(frozen=True, eq=False)
class PriorMetrics:
    """Metrics of a model under one prior on one set.

    Attributes:
        evaluation: Metrics in five labels.
        confidence: float (N,), confidence of the predictions for the faces found.
        correct: bool (N,), whether these predictions are correct.
        prior: The calibration of the set.
    """

    evaluation: SetEvaluation
    confidence: np.ndarray
    correct: np.ndarray
    prior: Prior

    @property
    def ece(self) -> float:
        """Expected calibration error of the faces found."""
        return binned_calibration_error(self.confidence, self.correct)

    @property
    def certain(self) -> float:
        """Fraction of the faces found whose prediction is certain."""
        return float((self.confidence >= self.prior.certain_from).mean())

    @property
    def precision(self) -> float | None:
        """Fraction of correct predictions among the certain ones; None if none is certain."""
        correct = self.correct[self.confidence >= self.prior.certain_from]
        return float(correct.mean()) if len(correct) else None


def card_priors(card: ModelCard) -> Mapping[str, Prior]:
    """Return a card's calibration under each of `PRIORS`; the same for all of a card without priors."""
    return card.priors or dict.fromkeys(PRIORS, Prior({}, card.temperature, card.temperature, MIN_CONFIDENCE))


def predict_uncalibrated(
    model: EvaluatedFaceModel, sets: Sequence[Dataset], context: DataContext, *, device: str = "cpu"
) -> list[CalibrationSet]:
    """Predict without calibration for several sets; clips of low trust are left out.

    Raises:
        MoodreelError: The model has scales; or see `criterion.predict_sets`.
        DataInvalid: No face is found in a set; or see `criterion.predict_sets`.
    """
    card = model.info.card
    if card.scales:
        raise MoodreelError(f"The model.json of {model.name!r} has scales; remove them, since offsets replace them.")
    plain = replace(card, temperature=1.0, moment_temperature=1.0, priors={})
    predictor = FacePredictor(model.predictor.network, plain, sha256=model.info.sha256, device=device)
    parts = predict_sets(EvaluatedFaceModel(model.name, model.path, predictor), sets, context)
    return [make_calibration_set(part, predictor.info.labels) for part in parts if part.counts]


def make_calibration_set(part: SetPredictions, labels: tuple[str, ...]) -> CalibrationSet:
    """Prepare uncalibrated predictions for a fit. Raises DataInvalid if no face was found."""
    if not part.predictions.found.any():
        raise DataInvalid(f"No face was found in {part.name}; check its files.")
    by_offset = (_adjust(part, labels, _neutral_prior(labels, offset)) for offset in OFFSETS)
    evaluations = tuple(evaluate_set(adjusted, labels) for adjusted in by_offset)
    return CalibrationSet(part, labels, _right_labels(part.labels, labels), evaluations)


def _right_labels(truth: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return which of a model's labels are correct for each example, bool (N, C)."""
    exact = mapping_matrix(truth, labels) > 0
    if exact.any(axis=0).all():
        return exact
    same_of_five: np.ndarray = mapping_matrix(truth, FIVE) @ mapping_matrix(labels, FIVE).T > 0
    return same_of_five


def can_fit(sets: Sequence[CalibrationSet]) -> bool:
    """Tell whether priors can be fitted on sets: images are needed, and clips or talkers."""
    kinds = {each.kind for each in sets}
    return IMAGES in kinds and len(kinds) > 1


def fit_priors(sets: Sequence[CalibrationSet]) -> dict[str, Prior]:
    """Fit the calibration under each of `PRIORS`. Raises DataInvalid unless `can_fit`."""
    if not can_fit(sets):
        raise DataInvalid("Priors are fitted on images, and on clips or talkers; give --data for both.")
    offsets = _fit_offsets(sets)
    images = [each for each in sets if each.kind == IMAGES]
    image_temperature = _fit_temperature(images, _neutral_prior(sets[0].labels, offsets[BALANCED]))
    priors = {
        name: _fit_clips(sets, _neutral_prior(sets[0].labels, offset), image_temperature)
        for name, offset in offsets.items()
    }
    return {name: replace(priors[name], certain_from=_fit_certain_from(sets, priors, name)) for name in PRIORS}


def leave_one_out(sets: Sequence[CalibrationSet]) -> dict[str, list[PriorMetrics]]:
    """Measure each set, by prior, under priors fitted on all other sets, where these suffice for a fit."""
    results: dict[str, list[PriorMetrics]] = {name: [] for name in PRIORS}
    for each in sets:
        others = [other for other in sets if other is not each]
        if can_fit(others):
            priors = fit_priors(others)
            for name in PRIORS:
                results[name].append(measure_prior(each, choose_prior(priors, name, each.kind)))
    return results


def choose_prior(priors: Mapping[str, Prior], name: str, kind: str) -> Prior:
    """Return the calibration of a set of a kind under a prior; for images it is always `balanced`."""
    return replace(priors[BALANCED], certain_from=priors[name].certain_from) if kind == IMAGES else priors[name]


def measure_prior(each: CalibrationSet, prior: Prior) -> PriorMetrics:
    """Measure a calibration on one set."""
    adjusted = _adjust(each.predictions, each.labels, prior)
    return PriorMetrics(evaluate_set(adjusted, each.labels), *_confidence(each, prior), prior)


def summarize_priors(
    name: str, before: Mapping[str, Prior], sets: Sequence[CalibrationSet], priors: Mapping[str, Prior]
) -> str:
    """Describe a model before and after a fit, and with each set left out of the fit, in Markdown tables.

    Args:
        name: Name of the model.
        before: Its calibration before the fit under each of `PRIORS`, of which `diary` is shown.
        sets: The sets that the priors were fitted on.
        priors: The fitted calibration under each of `PRIORS`.
    """
    lines = [
        f"Pictures and clips of other data sets, `{name}`. An answer is certain from the confidence `certain from`, "
        f"chosen so that at least {100 * PRECISION:.0f} % of the certain answers are right (lower end of the one-sided "
        "95 % Wilson interval over all sets, each of the same weight). ECE and certain answers are of the faces found.",
        "",
        "The sections above were measured before this fit. `evaluate` measures with it: if it changed the offset or "
        "the temperature, accuracy, recall and calibration error differ from those above.",
        "",
        "Before:",
        "",
        _table([measure_prior(each, choose_prior(before, DIARY, each.kind)) for each in sets]),
        "",
        "Effect of the offset of Neutral on the mean recall of pictures and the accuracy of clips:",
        "",
        _offset_table(sets),
    ]
    left_out = leave_one_out(sets)
    for prior in priors:
        fitted = [measure_prior(each, choose_prior(priors, prior, each.kind)) for each in sets]
        lines += ["", f"Prior `{prior}`, measured on the sets that it was fitted on:", "", _table(fitted)]
        if left_out[prior]:
            lines += ["", f"Prior `{prior}`, each set measured with the prior fitted on all others:", ""]
            lines.append(_table(left_out[prior]))
    return "\n".join(lines)


def _neutral_prior(labels: Sequence[str], offset: float) -> Prior:
    """Return a prior with an offset for Neutral, without temperatures."""
    neutral = next((label for label in labels if map_label(label, FIVE) == TALKER_LABEL), None)
    return Prior({neutral: offset} if neutral else {}, 1.0, 1.0, 0.0)


def _adjust(part: SetPredictions, labels: Sequence[str], prior: Prior) -> SetPredictions:
    """Apply a calibration to uncalibrated predictions."""
    temperature = prior.moment_temperature if part.kind == IMAGES else prior.temperature
    probabilities = calibrate(_logits(part, labels, prior), temperature, None)
    return replace(part, predictions=Predictions(probabilities.astype(float), part.predictions.found))


def _logits(part: SetPredictions, labels: Sequence[str], prior: Prior) -> torch.Tensor:
    """Return logits with a prior's offsets, before the temperature, float32 (N, C)."""
    log_probabilities = np.log(np.maximum(part.predictions.probabilities, _TINY))
    return torch.from_numpy(log_probabilities + [prior.offsets.get(label, 0.0) for label in labels]).float()


def _fit_offsets(sets: Sequence[CalibrationSet]) -> dict[str, float]:
    """Fit the offset of Neutral under each of `PRIORS`."""
    recalls = [compute_criterion([each.by_offset[at] for each in sets]).parts[IMAGES] for at in range(len(OFFSETS))]
    near = [offset for offset, recall in zip(OFFSETS, recalls, strict=True) if recall >= max(recalls) - TOLERANCE]
    balanced = min(near, key=abs)
    balanced_at = OFFSETS.index(balanced)
    values = [
        compute_criterion([each.by_offset[balanced_at if each.kind == IMAGES else at] for each in sets]).value or 0.0
        for at in range(len(OFFSETS))
    ]
    best = [offset for offset, value in zip(OFFSETS, values, strict=True) if value == max(values)]
    return {DIARY: best[len(best) // 2], BALANCED: balanced}


def _fit_clips(sets: Sequence[CalibrationSet], prior: Prior, image_temperature: float) -> Prior:
    """Fit the temperature of clips for a prior with offsets; without labeled clips it is that of images."""
    clips = [each for each in sets if each.kind != IMAGES]
    # Talkers alone have one label, whose likelihood only rises with the confidence.
    has_labels = any(each.kind == CLIPS for each in clips)
    temperature = _fit_temperature(clips, prior) if has_labels else image_temperature
    return replace(prior, temperature=temperature, moment_temperature=image_temperature)


def _fit_certain_from(sets: Sequence[CalibrationSet], priors: Mapping[str, Prior], name: str) -> float:
    predictions = (_confidence(each, choose_prior(priors, name, each.kind)) for each in sets)
    confidence, correct = map(np.concatenate, zip(*predictions, strict=True))
    return fit_certain_from(confidence, correct, _weights(sets), PRECISION)


def _fit_temperature(sets: Sequence[CalibrationSet], prior: Prior) -> float:
    logits = torch.cat([_logits(each.predictions, each.labels, prior)[each.found] for each in sets])
    right = torch.from_numpy(np.concatenate([each.right[each.found] for each in sets]))
    return round(fit_temperature(logits, right, torch.from_numpy(_weights(sets)).float()), 4)


def _weights(sets: Sequence[CalibrationSet]) -> np.ndarray:
    """Return weights of the faces found, float64, with the same sum for each set."""
    return np.concatenate([np.full(each.found.sum(), 1 / each.found.sum()) for each in sets])


def _confidence(each: CalibrationSet, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of each face found, and whether its prediction is correct."""
    probabilities = _adjust(each.predictions, each.labels, prior).predictions.probabilities[each.found]
    best = probabilities.argmax(axis=1)
    return probabilities.max(axis=1), each.right[each.found][np.arange(len(best)), best]


def _table(results: Sequence[PriorMetrics]) -> str:
    shares = ("accuracy", "mean recall", "ECE", "certain", "right of certain")
    head = ("set", "kind", "examples", *shares, "offset", "temperature", "certain from")
    certain = [result.certain for result in results]
    means = (
        fmean(result.evaluation.metrics.accuracy for result in results),
        fmean(result.evaluation.metrics.balanced_accuracy for result in results),
        fmean(result.ece for result in results),
        fmean(certain),
        fmean([result.precision or 0.0 for result in results], weights=certain) if any(certain) else None,
    )
    means_row = ("all, each of the same weight", "", "", *map(format_number, means), "", "", "")
    table = format_table(head, [*map(_row, results), means_row], left=2)
    return f"{table}\n\nECE of all these predictions together, each set of the same weight: {_joint_ece(results):.4f}."


def _joint_ece(results: Sequence[PriorMetrics]) -> float:
    weights = [np.full(len(each.correct), 1 / len(each.correct)) for each in results]
    confidence, correct = ([getattr(each, name) for each in results] for name in ("confidence", "correct"))
    return binned_calibration_error(*map(np.concatenate, (confidence, correct, weights)))


def _offset_table(sets: Sequence[CalibrationSet]) -> str:
    head = ("offset", *(each.predictions.name for each in sets), "mean of pictures", "criterion")
    rows = []
    for at, offset in enumerate(OFFSETS):
        if offset % 0.5 == 0:
            evaluations = [each.by_offset[at] for each in sets]
            criterion = compute_criterion(evaluations)
            values = (*(evaluation.score for evaluation in evaluations), criterion.parts[IMAGES], criterion.value)
            rows.append((f"{offset:g}", *map(format_number, values)))
    return format_table(head, rows)


def _row(result: PriorMetrics) -> tuple[str, ...]:
    metrics, prior = result.evaluation.metrics, result.prior
    shares = (metrics.accuracy, metrics.balanced_accuracy, result.ece, result.certain, result.precision)
    temperature = prior.moment_temperature if result.evaluation.kind == IMAGES else prior.temperature
    numbers = (sum(prior.offsets.values()), temperature, prior.certain_from)
    names = (result.evaluation.name, result.evaluation.kind, str(metrics.examples))
    return *names, *map(format_number, shares), *(f"{number:g}" for number in numbers)
