"""Name facial actions from blendshapes, and attribute a prediction to them with a linear surrogate model.

The activation of an action is 0 in a calm face, and 1 at what few faces reach. Its weight in a prediction comes from a
linear model that was fitted to the predictions of the networks (a surrogate model; Molnar, "Interpretable Machine
Learning", chapter "Global Surrogate"). The networks read pixels and landmarks as well, so the weights say which actions
go with such a prediction in this face, not what happened inside the network. `model_store/movements` holds the
parameters of the surrogate, and its card says how often it agrees with the networks.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.emotions import LABEL_SYNONYMS, SEVEN, SEVEN_TO_FIVE
from moodreel.errors import ModelInvalid
from moodreel.faces.landmarker import BLENDSHAPES

ACTIONS: Mapping[str, tuple[str, ...]] = {
    "brows lowered": ("browDownLeft", "browDownRight"),
    "inner brows raised": ("browInnerUp",),
    "outer brows raised": ("browOuterUpLeft", "browOuterUpRight"),
    "eyelids lowered": ("eyeBlinkLeft", "eyeBlinkRight"),
    "eyes narrowed": ("eyeSquintLeft", "eyeSquintRight"),
    "eyes wide open": ("eyeWideLeft", "eyeWideRight"),
    "eyes cast down": ("eyeLookDownLeft", "eyeLookDownRight"),
    "eyes turned up": ("eyeLookUpLeft", "eyeLookUpRight"),
    "jaw dropped": ("jawOpen",),
    "lip corners up": ("mouthSmileLeft", "mouthSmileRight"),
    "lip corners down": ("mouthFrownLeft", "mouthFrownRight"),
    "lip corners drawn in": ("mouthDimpleLeft", "mouthDimpleRight"),
    "lips stretched wide": ("mouthStretchLeft", "mouthStretchRight"),
    "lips pressed together": ("mouthPressLeft", "mouthPressRight"),
    "lips puckered": ("mouthPucker",),
    "lips funnelled": ("mouthFunnel",),
    "lips rolled in": ("mouthRollLower", "mouthRollUpper"),
    "upper lip raised": ("mouthUpperUpLeft", "mouthUpperUpRight"),
    "upper lip pushed up": ("mouthShrugUpper",),
    "lower lip pulled down": ("mouthLowerDownLeft", "mouthLowerDownRight"),
    "chin raised": ("mouthShrugLower",),
}
"""Facial actions in plain words, and the blendshapes of which each is the mean. Left out are gaze and jaw to one side,
which are not expressions; and raised or puffed cheeks, wrinkled nose and jaw pushed forward, whose blendshapes
MediaPipe's model hardly ever activates (below 0.015 in 99 of 100 faces of FER+)."""

MAX_ACTIONS = 3
"""Most actions in an explanation."""
MIN_ACTIVATION = 0.15
"""Activation below which a person would not see an action."""
MIN_WEIGHT = 0.05
"""Weight below which an action is left out of an explanation."""
_FILE = "model.json"
_COLUMNS = [[BLENDSHAPES.index(name) for name in names] for names in ACTIONS.values()]


@dataclass(frozen=True)
class FacialAction:
    """One action of a face.

    Attributes:
        name: Key of `ACTIONS`.
        activation: 0 as in a calm face, to 1 as in few faces.
    """

    name: str
    activation: float


@dataclass(frozen=True)
class ActionWeight(FacialAction):
    """One action and its weight in a prediction.

    Attributes:
        weight: Fraction, 0 to 1, of all evidence for the predicted label.
    """

    weight: float


@dataclass(frozen=True)
class Explanation:
    """The actions with the largest weights in a prediction.

    Attributes:
        actions: At most `MAX_ACTIONS`, the largest weight first; empty for a face at rest.
    """

    actions: tuple[ActionWeight, ...]

    @property
    def text(self) -> str:
        """Names of the actions, to be displayed."""
        return ", ".join(action.name for action in self.actions) or "no marked movement"


class FacialActionExplainer:
    """Compute the activation of facial actions, and their weights in a prediction."""

    def __init__(self, calm: np.ndarray, full: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
        """Make an explainer from the surrogate's parameters.

        Args:
            calm: float (A,), mean blendshapes at which the actions of `ACTIONS`, in their order, have activation 0.
            full: float (A,), mean blendshapes at which they have activation 1.
            weights: float (A, 7), what activation 1 adds to the logit of each label of `SEVEN`.
            bias: float (7,).
        """
        self._calm, self._full, self._weights, self._bias = calm, full, weights, bias

    @classmethod
    def load(cls, folder: Path) -> "FacialActionExplainer":
        """Load the parameters from the `model.json` in a folder.

        Raises:
            ModelInvalid: The file is missing or invalid.
        """
        try:
            card = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            rows = [card["movements"][name] for name in ACTIONS]
            calm, full = (np.array([float(row[key]) for row in rows]) for key in ("calm", "full"))
            weights = np.array([[float(row["weights"][label]) for label in SEVEN] for row in rows])
            bias = np.array([float(card["bias"][label]) for label in SEVEN])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelInvalid(
                f"The folder {folder.name!r} needs the model.json of the release, with the weights of all facial "
                "actions; restore it."
            ) from error
        if not (full > calm).all() or not np.isfinite(weights).all():
            raise ModelInvalid(f"The model.json of {folder.name!r} has impossible values; restore the release's.")
        return cls(calm, full, weights, bias)

    def activations(self, blendshapes: np.ndarray) -> np.ndarray:
        """Compute the activations (..., A), 0 to 1, in the order of `ACTIONS`, of blendshapes (..., 52), 0 to 1."""
        activations: np.ndarray = np.clip(
            (mean_blendshapes(blendshapes) - self._calm) / (self._full - self._calm), 0, 1
        )
        return activations

    def active_actions(self, blendshapes: np.ndarray) -> tuple[FacialAction, ...]:
        """Return the visible actions of one face, the strongest first.

        Args:
            blendshapes: float (52,), 0 to 1.
        """
        activations = self.activations(blendshapes)
        return tuple(
            FacialAction(name, float(activation))
            for activation, name in sorted(zip(activations, ACTIONS, strict=True), reverse=True)
            if activation >= MIN_ACTIVATION
        )

    def explain(
        self,
        blendshapes: np.ndarray,
        probabilities: Mapping[str, float],
        emotion: str,
        weights: Sequence[float] | np.ndarray | None = None,
    ) -> Explanation:
        """Find the actions with the largest weights for the predicted label against the others, by their probability.

        Args:
            blendshapes: (52,) of one face, or (T, 52) of one face over T frames.
            probabilities: The whole prediction, by label of any set.
            emotion: The predicted label.
            weights: (T,), weight of each frame in the prediction; equal if not given.
        """
        activations = np.average(np.atleast_2d(self.activations(blendshapes)), axis=0, weights=weights)
        logits = activations @ self._weights + self._bias
        predicted = self._label_index(emotion, logits)
        if predicted is None:
            return Explanation(())
        rivals = np.zeros(len(SEVEN))
        for label, probability in probabilities.items():
            index = self._label_index(label, logits)
            if label != emotion and index is not None:
                rivals[index] += probability
        rival_weights = self._weights @ (rivals / max(rivals.sum(), 1e-9))
        evidence = ((self._weights[:, predicted] - rival_weights) * activations).clip(min=0)
        shares = evidence / max(float(evidence.sum()), 1e-9)
        ranked = [row for row in np.argsort(-shares, kind="stable") if activations[row] >= MIN_ACTIVATION]
        names = list(ACTIONS)
        return Explanation(
            tuple(
                ActionWeight(names[row], float(activations[row]), float(shares[row]))
                for row in ranked[:MAX_ACTIONS]
                if shares[row] >= MIN_WEIGHT
            )
        )

    def _label_index(self, label: str, logits: np.ndarray) -> int | None:
        """Return the index in `SEVEN` of a label of any set; of several, as for Anger, the one with the best logit."""
        seven_label = LABEL_SYNONYMS.get(label.lower())
        five_label = SEVEN_TO_FIVE.get(seven_label, "") if seven_label else ""
        # The five labels are capitalized, and only they stand for several of the seven.
        indices = [
            index
            for index, name in enumerate(SEVEN)
            if (SEVEN_TO_FIVE[name] == five_label if label == five_label else name == seven_label)
        ]
        return max(indices, key=lambda index: logits[index]) if indices else None


def mean_blendshapes(blendshapes: np.ndarray) -> np.ndarray:
    """Compute the mean blendshape of each action (..., A) from blendshapes (..., 52)."""
    return np.stack([blendshapes[..., columns].mean(axis=-1) for columns in _COLUMNS], axis=-1)
