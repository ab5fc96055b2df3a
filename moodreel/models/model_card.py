"""`model.json`: what a model is, as data."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moodreel.emotions import EMOTIMESH_TRAINED_ORDER
from moodreel.errors import ModelInvalid

EMOTIMESH = "emotimesh"
"""The architecture of a checkpoint that names none: what people have from before there were cards."""

FACE, TEXT, AUDIO_VISUAL = "face", "text", "audio-visual"
KINDS = (FACE, TEXT, AUDIO_VISUAL)
MODALITIES = ("video", "audio")
"""What a model of the kind `AUDIO_VISUAL` may read."""


@dataclass(frozen=True)
class ModelCard:
    """A model.json.

    kind: what it reads, one of `KINDS`; each kind has a store of its own.
    architecture: a key of `moodreel.models.face_registry.ARCHITECTURES`; arguments: its keyword arguments.
    labels: what the network's outputs mean, in their order.
    temperature: what logits of a whole clip are divided by before softmax; moment_temperature: those of one moment.
    scales: what probabilities are multiplied by, label by label, before they add up to 1 again; 1 where a label is not
        named. A rule of thumb for networks that say one label too often: to know how often a model is right, fit its
        temperatures instead, and for how often labels come take `tau`, since a scale fits no other data than its own.
    thresholds: of a model that may say several labels at once, label by label: the calibrated probability from which on
        it says them. temperatures, offsets: what calibrates each label's own logit, which is divided by the first and
        then added to the second; 1 and 0 where a label is not named.
    modalities: of an audio-visual model, which of `MODALITIES` it reads: one that learnt from faces alone says
        ["video"], and is given no sound.
    commercial: false where the licence of the weights, or of what they learnt from, forbids commercial use.
    sha256: of the weights; empty for a checkpoint that came without one.
    input, normalisation, metrics (each with its command and data), data, licence: for people.
    """

    name: str
    architecture: str
    labels: tuple[str, ...]
    version: str = "unversioned"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    moment_temperature: float = 1.0
    scales: Mapping[str, float] = field(default_factory=dict)
    kind: str = FACE
    thresholds: Mapping[str, float] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    modalities: tuple[str, ...] = MODALITIES
    commercial: bool = True
    sha256: str = ""
    input: str = ""
    normalisation: str = ""
    metrics: tuple[Mapping[str, Any], ...] = ()
    data: str = ""
    licence: str = ""


def read_card(path: Path, **known: Any) -> ModelCard:
    """Read a model.json. Raises ModelInvalid.

    known: fields for what it does not say; name and architecture are else the folder's and the original one.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields = {"name": path.parent.name, "architecture": EMOTIMESH, **known} | fields
        fields["labels"] = tuple(fields["labels"])
        fields["metrics"] = tuple(fields.get("metrics", ()))
        fields["modalities"] = tuple(fields.get("modalities", MODALITIES))
        card = ModelCard(**{key: value for key, value in fields.items() if key in ModelCard.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelInvalid(
            f"The model.json of {path.parent.name!r} needs at least labels, as JSON; correct it."
        ) from error
    return validate_card(card)


def validate_card(card: ModelCard) -> ModelCard:
    """Return a card whose numbers and labels can be used. Raises ModelInvalid."""
    usable = all(map(_positive, (card.temperature, card.moment_temperature)))
    if not usable or not all(isinstance(v, str) for v in card.labels) or len(set(card.labels)) != len(card.labels):
        raise ModelInvalid(
            f"The model.json of {card.name!r} needs temperatures above 0 and labels that differ; correct it."
        )
    for name, usable_number in (
        ("scales", _positive),
        ("thresholds", _positive),
        ("temperatures", _positive),
        ("offsets", _finite),
    ):
        values = getattr(card, name)
        if (
            not isinstance(values, dict)
            or not set(values) <= set(card.labels)
            or not all(map(usable_number, values.values()))
        ):
            above = "" if name == "offsets" else " above 0"
            raise ModelInvalid(
                f"The model.json of {card.name!r} needs {name} that are numbers{above} for labels it has; correct it."
            )
    if not card.modalities or not set(card.modalities) <= set(MODALITIES):
        raise ModelInvalid(
            f"The model.json of {card.name!r} needs modalities that are {' or '.join(MODALITIES)}, or both; correct it."
        )
    if not isinstance(card.commercial, bool):
        raise ModelInvalid(f"The model.json of {card.name!r} needs true or false for commercial; correct it.")
    if card.kind not in KINDS:
        raise ModelInvalid(f"The model.json of {card.name!r} needs a kind of {' or '.join(KINDS)}; correct it.")
    return card


def read_kind(path: Path) -> str:
    """Tell the kind that a model.json says, without checking any more of it; what is broken is broken as a face's."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8")).get("kind", FACE)
    except (OSError, ValueError, AttributeError):
        return FACE
    return stated if stated in KINDS else FACE


def _positive(value: object) -> bool:
    return _finite(value) and value > 0  # type: ignore[operator]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def emotimesh_card(name: str) -> ModelCard:
    """What a checkpoint is taken for that comes without a model.json: EmotiMesh-Net as it was trained."""
    return ModelCard(
        name=name,
        architecture=EMOTIMESH,
        labels=EMOTIMESH_TRAINED_ORDER,
        input="x, y, z of MediaPipe's first 468 points, relative to the picture, at 15 moments spread over the clip",
        normalisation="none",
    )
