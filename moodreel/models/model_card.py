"""Read model cards: the `model.json` that describes a model as data."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moodreel.emotions import EMOTIMESH_TRAINED_ORDER
from moodreel.errors import ModelInvalid

EMOTIMESH = "emotimesh"
"""Architecture of a checkpoint without a model.json: those are older than model cards."""

FACE, TEXT, AUDIO_VISUAL = "face", "text", "audio-visual"
KINDS = (FACE, TEXT, AUDIO_VISUAL)
MODALITIES = ("video", "audio")
"""Modalities that a model of the kind `AUDIO_VISUAL` may read."""

DIARY, BALANCED = "diary", "balanced"
PRIORS = (DIARY, BALANCED)
"""How often people show each emotion: as in video diaries, mostly calm and happy; or all equally often."""


JsonObject = dict[str, Any]
"""A JSON object, such as a model.json or a config.json. Its values are validated where they are read."""
Arguments = Mapping[str, Any]
"""Keyword arguments of a network, as in a model card; each network has its own."""


@dataclass(frozen=True)
class Prior:
    """The calibration of a face model under one prior, as logit adjustment (Menon et al. 2021, arXiv:2007.07314).

    The logits are (network's logits + offsets) / temperature. Offsets are the log-ratio of this prior to the one that
    the network has learned. A prior is about clips: pictures, and clips of one frame, are always predicted under
    `balanced`, with `certain_from` of the prior that was chosen.

    Attributes:
        offsets: Added to each label's logit, of a clip and of each of its frames; 0 for labels not named.
        temperature: Divides the logits of a clip of several frames; above 0.
        moment_temperature: Divides the logits of a single frame or picture; above 0.
        certain_from: Confidence from which a prediction counts as certain, 0 to 1.
    """

    offsets: Mapping[str, float]
    temperature: float
    moment_temperature: float
    certain_from: float


@dataclass(frozen=True)
class ModelCard:
    """What is read of a model.json; every attribute is a key of it. Other keys are documentation.

    Attributes:
        name: Unique name of the model, by which callers choose it; by default that of its folder.
        architecture: Key of the ARCHITECTURES of the registry of its kind.
        labels: Labels of the network's outputs, in their order.
        version: Version of the weights, for documentation.
        arguments: Keyword arguments of the architecture.
        temperature: Divides the logits of a whole clip, text or window before softmax; above 0.
        moment_temperature: Divides the logits of a single frame before softmax; above 0.
        scales: Factor of each label's probability before they are normalized again; above 0, 1 for labels not named.
            This is a heuristic for networks that answer one label too often. To calibrate confidence fit `temperature`
            instead, and for a training prior set the argument `tau`: scales fit the data they were chosen on alone.
        kind: What the model reads, one of `KINDS`; each kind has its own registry.
        thresholds: Of a multi-label model: calibrated probability from which each label is reported; above 0.
        temperatures: Of a multi-label model: divides each label's logit; above 0, 1 for labels not named.
        offsets: Of a multi-label model: added to each label's logit after that; 0 for labels not named.
        priors: Of a face model: its calibration under each of `PRIORS`, which replaces `temperature` and
            `moment_temperature`. Without it the model has one calibration, whatever the prior.
        modalities: Of an audio-visual model: which of `MODALITIES` it reads. A model trained on faces alone has
            ["video"] and is given no sound.
        modality_temperatures: Of an audio-visual model that reads both: divides the logits of a window that has only
            this modality, instead of `temperature`; above 0, `temperature` for modalities not named.
        commercial: False if the license of the weights or of their training data forbids commercial use.
        sha256: Of the weights file, in hexadecimal; empty to skip the check.
        metrics: Measured results, each with its command and data set, for documentation.
        data: Training data, for documentation.
        licence: License of the weights, for documentation.
    """

    name: str
    architecture: str
    labels: tuple[str, ...]
    version: str = "unversioned"
    arguments: Arguments = field(default_factory=dict)
    temperature: float = 1.0
    moment_temperature: float = 1.0
    scales: Mapping[str, float] = field(default_factory=dict)
    kind: str = FACE
    thresholds: Mapping[str, float] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    priors: Mapping[str, Prior] = field(default_factory=dict)
    modalities: tuple[str, ...] = MODALITIES
    modality_temperatures: Mapping[str, float] = field(default_factory=dict)
    commercial: bool = True
    sha256: str = ""
    metrics: tuple[Mapping[str, object], ...] = ()
    data: str = ""
    licence: str = ""


def read_card(path: Path, **defaults: object) -> ModelCard:
    """Read and validate a model.json. Unknown keys are ignored.

    Args:
        path: The file.
        defaults: Fields for keys that it lacks; if labels are among them, there need not be a file. Without them the
            name is the folder's, and the architecture is EmotiMesh-Net.

    Raises:
        ModelInvalid: The file is missing, is not JSON, or has values that cannot be used.
    """
    try:
        is_needed = path.is_file() or "labels" not in defaults
        fields = json.loads(path.read_text(encoding="utf-8")) if is_needed else {}
        fields = {"name": path.parent.name, "architecture": EMOTIMESH, **defaults} | fields
        fields["labels"] = tuple(fields["labels"])
        fields["metrics"] = tuple(fields.get("metrics", ()))
        fields["modalities"] = tuple(fields.get("modalities", MODALITIES))
        fields["priors"] = _read_priors(fields.get("priors", {}))
        card = ModelCard(**{key: value for key, value in fields.items() if key in ModelCard.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelInvalid(
            f"The model.json of {path.parent.name!r} needs at least labels, as JSON; correct it."
        ) from error
    if problem := _problem(card):
        raise ModelInvalid(f"The model.json of {card.name!r} needs {problem}; correct it.")
    return card


def _read_priors(values: object) -> object:
    """Return the calibrations of a JSON object, None for a missing number. `_problem` rejects anything else."""
    if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
        return values
    names = Prior.__dataclass_fields__
    return {prior: Prior(**{name: value.get(name) for name in names}) for prior, value in values.items()}


def _problem(card: ModelCard) -> str | None:
    """Return what a card needs; None if its values can be used."""
    usable = all(map(_is_positive, (card.temperature, card.moment_temperature)))
    if not usable or not all(isinstance(v, str) for v in card.labels) or len(set(card.labels)) != len(card.labels):
        return "temperatures above 0 and labels that differ"
    for name in ("scales", "thresholds", "temperatures"):
        if not _is_number_by_name(card.labels, getattr(card, name), _is_positive):
            return f"{name} that are numbers above 0 for labels it has"
    if not _is_number_by_name(MODALITIES, card.modality_temperatures, _is_positive):
        return f"modality_temperatures that are numbers above 0 for {' or '.join(MODALITIES)}"
    if not _is_number_by_name(card.labels, card.offsets, _is_finite):
        return "offsets that are numbers for labels it has"
    if card.priors != {} and not _are_priors(card):
        return (
            f"priors for {' and '.join(PRIORS)}, each with offsets that are numbers for labels it has, temperature and "
            "moment_temperature above 0, and certain_from from 0 to 1"
        )
    if not card.modalities or not set(card.modalities) <= set(MODALITIES):
        return f"modalities that are {' or '.join(MODALITIES)}, or both"
    if not isinstance(card.commercial, bool):
        return "true or false for commercial"
    return None if card.kind in KINDS else f"a kind of {' or '.join(KINDS)}"


def _is_number_by_name(names: Iterable[str], values: object, is_usable: Callable[[object], bool]) -> bool:
    return isinstance(values, dict) and set(values) <= set(names) and all(map(is_usable, values.values()))


def _are_priors(card: ModelCard) -> bool:
    return (
        isinstance(card.priors, dict)
        and set(card.priors) == set(PRIORS)
        and all(
            isinstance(prior, Prior)
            and _is_number_by_name(card.labels, prior.offsets, _is_finite)
            and _is_positive(prior.temperature)
            and _is_positive(prior.moment_temperature)
            and _is_finite(prior.certain_from)
            and 0 <= prior.certain_from <= 1
            for prior in card.priors.values()
        )
    )


def _is_positive(value: object) -> bool:
    return _is_finite(value) and value > 0  # type: ignore[operator]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_kind(path: Path) -> str:
    """Return the kind of a model.json without validating the rest; `FACE` if there is none or it cannot be read.

    The registry of face models then reports what is wrong with it.
    """
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("kind", FACE)
    except (OSError, ValueError, AttributeError):
        return FACE
    return str(kind) if kind in KINDS else FACE


def emotimesh_card(name: str) -> ModelCard:
    """Return the card for a checkpoint without a model.json: EmotiMesh-Net as it was trained."""
    return ModelCard(name=name, architecture=EMOTIMESH, labels=EMOTIMESH_TRAINED_ORDER)
