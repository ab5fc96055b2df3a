"""The words behind a face: what moved in it, and which movements weighed most in an answer.

Blendshapes to plain words. How strong a movement is counts from a calm face (0) to what few faces reach (1). How much
it weighed comes from a linear model that was fitted to what the networks answer (a surrogate model; Molnar,
"Interpretable Machine Learning", chapter "Global Surrogate"): the networks read the picture and the landmarks as well,
so this says which movements go with such an answer in this face, not what happened inside them. `model_store/movements`
holds its numbers, and its card how often it agrees.
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
"""Plain words for blendshapes, of which the mean counts. What is not here: looks and jaws to one side, which are no
expression, and cheeks raised or puffed, noses wrinkled and jaws pushed forward, which MediaPipe's model has names for
and gives next to nothing for, whatever the face does (99 of 100 FER+ faces are below 0.015)."""

MAX_ACTIONS = 3
"""Movements that an explanation names at most."""
MIN_ACTIVATION = 0.15
"""A movement that is weaker is not one that a person would see."""
MIN_WEIGHT = 0.05
"""A movement with less of an explanation is not worth its words."""
_FILE = "model.json"
_COLUMNS = [[BLENDSHAPES.index(name) for name in names] for names in ACTIONS.values()]


@dataclass(frozen=True)
class FacialAction:
    """name: a key of `MOVEMENTS`. strength: 0 as in a calm face, 1 as in few."""

    name: str
    activation: float


@dataclass(frozen=True)
class ActionWeight(FacialAction):
    """weight: its share, 0 to 1, of all that spoke for the answered emotion."""

    weight: float


@dataclass(frozen=True)
class Explanation:
    """The movements that weighed most in an answer, at most `MOST`, the heaviest first; none for a face at rest."""

    actions: tuple[ActionWeight, ...]

    @property
    def text(self) -> str:
        """The same in words."""
        return ", ".join(movement.name for movement in self.actions) or "no marked movement"


class FacialActionExplainer:
    """Says what moved in faces, and what weighed.

    calm, full: float (M,), mean blendshapes at which the movements of `MOVEMENTS`, in their order, have strength 0, 1.
    weights: float (M, 7), what a movement of strength 1 adds to the logit of each label of `SEVEN`. bias: float (7,).
    """

    def __init__(self, calm: np.ndarray, full: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
        self._calm, self._full, self._weights, self._bias = calm, full, weights, bias

    @classmethod
    def load(cls, folder: Path) -> "FacialActionExplainer":
        """Read the numbers of a `model.json`. Raises ModelInvalid."""
        try:
            card = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            rows = [card["movements"][name] for name in ACTIONS]
            calm, full = (np.array([float(row[key]) for row in rows]) for key in ("calm", "full"))
            weights = np.array([[float(row["weights"][label]) for label in SEVEN] for row in rows])
            bias = np.array([float(card["bias"][label]) for label in SEVEN])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelInvalid(
                f"The folder {folder.name!r} needs the model.json of the release, which says what movements weigh; "
                "restore it."
            ) from error
        if not (full > calm).all() or not np.isfinite(weights).all():
            raise ModelInvalid(f"The model.json of {folder.name!r} has numbers that cannot be; restore the release's.")
        return cls(calm, full, weights, bias)

    def activations(self, blendshapes: np.ndarray) -> np.ndarray:
        """Blendshapes (..., 52), 0 to 1, to strengths (..., M), 0 to 1, in the order of `MOVEMENTS`."""
        return np.clip((mean_blendshapes(blendshapes) - self._calm) / (self._full - self._calm), 0, 1)

    def active_actions(self, blendshapes: np.ndarray) -> tuple[FacialAction, ...]:
        """Name what moved in one face, the strongest first. blendshapes: (52,), 0 to 1."""
        strengths = self.activations(blendshapes)
        return tuple(
            FacialAction(name, float(strength))
            for strength, name in sorted(zip(strengths, ACTIONS, strict=True), reverse=True)
            if strength >= MIN_ACTIVATION
        )

    def explain(
        self,
        blendshapes: np.ndarray,
        probabilities: Mapping[str, float],
        emotion: str,
        weights: Sequence[float] | np.ndarray | None = None,
    ) -> Explanation:
        """Name the movements that weighed most for an answer against the others, as likely as those were.

        Args:
            blendshapes: (52,) of one face, or (T, 52) of one through T moments.
            probabilities: the whole answer, by label of any set.
            emotion: the label in it that was answered.
            weights: (T,), how far each moment decided; all alike when not given.
        """
        moments = np.atleast_2d(self.activations(blendshapes))
        strengths = np.average(moments, axis=0, weights=weights)
        logits = strengths @ self._weights + self._bias
        answered = self._column(emotion, logits)
        if answered is None:
            return Explanation(())
        rivals = np.zeros(len(SEVEN))
        for label, probability in probabilities.items():
            column = self._column(label, logits)
            if label != emotion and column is not None:
                rivals[column] += probability
        against = self._weights @ (rivals / max(rivals.sum(), 1e-9))
        spoke = ((self._weights[:, answered] - against) * strengths).clip(min=0)
        shares = spoke / max(float(spoke.sum()), 1e-9)
        heaviest = [row for row in np.argsort(-shares, kind="stable") if strengths[row] >= MIN_ACTIVATION]
        names = list(ACTIONS)
        return Explanation(
            tuple(
                ActionWeight(names[row], float(strengths[row]), float(shares[row]))
                for row in heaviest[:MAX_ACTIONS]
                if shares[row] >= MIN_WEIGHT
            )
        )

    def _column(self, label: str, logits: np.ndarray) -> int | None:
        """Which of the seven a label stands for: of several, as of Anger, the one that this face fits best."""
        known = LABEL_SYNONYMS.get(label.lower())
        five = SEVEN_TO_FIVE.get(known, "") if known else ""
        # The five are written with a capital, and only they stand for several.
        meant = [seven for seven in SEVEN if (SEVEN_TO_FIVE[seven] == five if label == five else seven == known)]
        columns = [SEVEN.index(seven) for seven in meant]
        return max(columns, key=lambda column: logits[column]) if columns else None


def mean_blendshapes(blendshapes: np.ndarray) -> np.ndarray:
    """Blendshapes (..., 52) to the mean of those of each movement (..., M)."""
    return np.stack([blendshapes[..., columns].mean(axis=-1) for columns in _COLUMNS], axis=-1)
