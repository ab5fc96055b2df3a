"""Fit what says which movements weigh: a linear model of blendshapes to what a network of seven labels answers.

1. Find the faces of FER+ and ask the network about each.
2. Say from the faces that people call neutral what is calm, and from all of them what is much.
3. Fit a softmax regression to the network's probabilities, rare answers counting more.
4. Measure on `valid` how often its first answer is the network's, and write the folder.
"""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from moodreel.emotions import SEVEN
from moodreel.faces.facial_actions import ACTIONS, FacialActionExplainer, mean_blendshapes
from moodreel.models.face_registry import CARD_FILE
from moodreel.models.predictor import FacePredictor
from moodreel.training.data.face_cache import FaceTable, extract_faces
from moodreel.training.data.ferplus import LabeledImages, read_split
from moodreel.training.evaluation.predict import single_frame
from moodreel.training.export.model_folder import DATA, LICENCE

FULL = 98
"""Percentile of all faces at which a movement has its full strength."""
RARE = 0.5
"""Answers count by their frequency to the power of minus this."""
DECAY = 1e-3
"""Weight of the weights' mean square, by label."""
_BATCH = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """What was fitted, and how well it agrees with the network on pictures that neither has learnt from.

    agreement: share, 0 to 1, of its first answers that are the network's. by_label: the same by what the network
    answered. pictures: how many. named: by label, how often each movement was among those named, most often first.
    """

    calm: np.ndarray
    full: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    agreement: float
    by_label: dict[str, float]
    pictures: int
    named: dict[str, list[tuple[str, float]]]


def fit_facial_actions(
    data: Path, landmarker: Path, cache: Path, predictor: FacePredictor, *, workers: int = 1
) -> Surrogate:
    """Fit to what `predictor`, of the labels `SEVEN`, says of FER+'s train split, and measure on its valid split."""
    split, faces, said = _ask(data, "train", landmarker, cache, predictor, workers)
    moved = mean_blendshapes(faces.blendshapes[faces.found])
    calm = np.median(moved[split.truth[faces.found] == SEVEN.index("neutral")], axis=0)
    full = np.maximum(np.percentile(moved, FULL, axis=0), calm + 1e-3)
    fresh = FacialActionExplainer(calm, full, np.zeros((len(ACTIONS), len(SEVEN))), np.zeros(len(SEVEN)))
    weights, bias = _regress(fresh.activations(faces.blendshapes[faces.found]), said)
    _, faces, said = _ask(data, "valid", landmarker, cache, predictor, workers)
    shown, answered = faces.blendshapes[faces.found], said.argmax(axis=1)
    fitted = FacialActionExplainer(calm, full, weights, bias)
    agreed = (fitted.activations(shown) @ weights + bias).argmax(axis=1) == answered
    of_label = [answered == column for column in range(len(SEVEN))]
    return Surrogate(
        calm=calm,
        full=full,
        weights=weights,
        bias=bias,
        agreement=float(agreed.mean()),
        by_label={label: float(agreed[rows].mean()) for label, rows in zip(SEVEN, of_label, strict=True) if rows.any()},
        pictures=len(shown),
        named={
            label: _named(fitted, shown[rows], said[rows], label)
            for label, rows in zip(SEVEN, of_label, strict=True)
            if rows.any()
        },
    )


def write_facial_actions(out: Path, surrogate: Surrogate, teacher: str) -> None:
    """Write the folder: model.json, which holds all numbers, and CARD.md."""
    command = "python -m moodreel.training movements --data PATH --out DIR"
    agreement = {"name": f"first answers that are those of {teacher}", "value": round(surrogate.agreement, 4)}
    card = {
        "name": out.name,
        "version": "1",
        "input": "52 blendshapes of a face (moodreel.faces.landmarker.BLENDSHAPES)",
        "output": "which movements go with an answer (moodreel.faces.facial_actions)",
        "data": DATA,
        "licence": LICENCE,
        "metrics": [{**agreement, "data": f"FER+ valid.npz, {surrogate.pictures} faces found", "command": command}],
        "bias": _rounded(SEVEN, surrogate.bias),
        "movements": {
            name: {
                "calm": round(float(surrogate.calm[row]), 5),
                "full": round(float(surrogate.full[row]), 5),
                "weights": _rounded(SEVEN, surrogate.weights[row]),
            }
            for row, name in enumerate(ACTIONS)
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (out / "CARD.md").write_text(_card(out.name, surrogate, teacher, command), encoding="utf-8")


def _ask(
    data: Path, name: str, landmarker: Path, cache: Path, predictor: FacePredictor, workers: int
) -> tuple[LabeledImages, FaceTable, np.ndarray]:
    """Give a split, its faces, and what the network says (N, 7) of those found."""
    split = read_split(data, name, labels=SEVEN)
    faces = extract_faces(split.images, landmarker, cache, seed=0, workers=workers)
    rows = np.flatnonzero(faces.found)
    said = []
    for begin in range(0, len(rows), _BATCH):
        tracks = [[single_frame(faces, row)] for row in rows[begin : begin + _BATCH]]
        said += [verdict.probabilities for verdict in predictor.predict(tracks, per_frame=False)]
        log.info("%s: asked about %d of %d faces", name, len(said), len(rows))
    return split, faces, np.stack(said)


def _regress(strengths: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit weights (M, 7) and bias (7,) to probabilities (N, 7)."""
    faces, targets = torch.from_numpy(strengths).double(), torch.from_numpy(said).double()
    often = targets.mean(dim=0).clamp_min(1e-6) ** -RARE
    counts = (targets @ often)[:, None]
    weights = torch.zeros(len(ACTIONS), len(SEVEN), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(SEVEN), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        wrong = -(counts * targets * (faces @ weights + bias).log_softmax(dim=1)).sum() / counts.sum()
        value = wrong + DECAY * weights.square().sum() / len(SEVEN)
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    # A logit means nothing but beside the others.
    level = weights.detach() - weights.detach().mean(dim=1, keepdim=True)
    return level.numpy(), bias.detach().numpy()


def _named(fitted: FacialActionExplainer, shown: np.ndarray, said: np.ndarray, label: str) -> list[tuple[str, float]]:
    counts = Counter(
        movement.name
        for blendshapes, probabilities in zip(shown, said, strict=True)
        for movement in fitted.explain(blendshapes, dict(zip(SEVEN, probabilities, strict=True)), label).actions
    )
    return [(name, count / len(shown)) for name, count in counts.most_common(4)]


def _rounded(labels: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {label: round(float(value), 4) for label, value in zip(labels, values, strict=True)}


def _card(name: str, surrogate: Surrogate, teacher: str, command: str) -> str:
    rows = "\n".join(
        f"| {label} | {share:.2f} | {', '.join(f'{word} ({often:.0%})' for word, often in surrogate.named[label])} |"
        for label, share in surrogate.by_label.items()
    )
    return f"""# {name}

Names the facial movements that weighed most in an answer, in plain words, from MediaPipe's blendshapes: a linear model
with {len(ACTIONS)} movements and seven labels, fitted to what `{teacher}` answers. All its numbers are in model.json.

```
{command}
```

It explains an answer from outside (a global surrogate). The networks read the picture and the landmarks, and this says
which movements go with such an answer; what happened inside them it does not know. Where it seldom agrees with the
network, what decided was not in the blendshapes, and an explanation says less.

FER+ `valid.npz`, {surrogate.pictures} faces found. Agreement: how often its own first answer is that of `{teacher}`, of
all {surrogate.agreement:.2f}.

| the network says | agreement | movements named most often (share of those faces) |
| --- | --- | --- |
{rows}

## How it was made
- A movement is the mean of the blendshapes of both sides. It counts from 0, the median of faces that FER+ calls
  neutral, to 1, the {FULL}th percentile of all faces.
- Softmax regression to the network's probabilities; answers count by their frequency to the power of -{RARE:g}, so that
  disgust and fear have weights of their own.
- An explanation takes each movement's strength times its weight for the answer, less its weight for the other labels,
  as likely as those were; of what is above 0 the three largest are named, as shares of all of it.

## Weak at
- Raised cheeks, wrinkled noses and puffed cheeks, which tell smiles and disgust in the Facial Action Coding System:
  MediaPipe's blendshapes for them stay at 0 whatever the face does, so no explanation can name them.
- Sadness and anger, which show more in the picture than in the blendshapes.
- The calm of the person: it counts from a calm face of many people, so that somebody whose brows lie low may be told
  that they were lowered.

Licence: {LICENCE}.
"""
