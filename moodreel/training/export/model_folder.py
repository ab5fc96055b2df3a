"""Write a model's folder: weights, model.json and a card for people, every figure from the run itself."""

import json
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from moodreel.emotions import FIVE
from moodreel.models.checkpoint import file_sha256
from moodreel.models.face_registry import CARD_FILE, WEIGHTS_FILE, load_face_model
from moodreel.models.predictor import FacePredictor
from moodreel.models.quantization import to_float16, to_float32
from moodreel.training.augmentation.pseudo_sequences import VISEMES, SequenceKind
from moodreel.training.evaluation.evaluate import FaceEvaluation
from moodreel.training.evaluation.metrics import ClassificationMetrics
from moodreel.training.evaluation.pseudo_sequences import SequenceMetrics
from moodreel.training.recipes.compact_emotimesh import Recipe, Trained

DATA = (
    "FER+ (Barsoum et al., ICMI 2016; labels MIT) on FER2013 pictures (Goodfellow et al., 2013; rights unstated), "
    "train split without copies of test and validation pictures"
)
LICENCE = "MIT, as moodreel; the training pictures are not part of it"


def save_model(out: Path, net: nn.Module, fields: dict, *, half: bool = False) -> FacePredictor:
    """Write weights.safetensors and a model.json without metrics, and load the model from there.

    fields: of model.json, but for name, version, data, licence and sha256.
    half: keep the weights in half precision: half the size, and nothing that shows in the answers.
    """
    write_folder(out, (to_float16 if half else to_float32)(net.state_dict()), fields, data=DATA, licence=LICENCE)
    return load_face_model(out)


def write_folder(out: Path, state: dict[str, torch.Tensor], fields: dict, *, data: str, licence: str) -> None:
    """Write weights.safetensors and a model.json without metrics."""
    out.mkdir(parents=True, exist_ok=True)
    # Weights that somebody has mapped into memory must not change under them.
    made = out / f"{WEIGHTS_FILE}.new"
    safetensors.torch.save_file(state, made)
    # safetensors writes for the owner alone; a service seldom runs as the one who trained.
    made.chmod(0o644)
    made.replace(out / WEIGHTS_FILE)
    recipe = {"recipe": fields.pop("recipe")}
    stated = {"data": data, "licence": licence, "sha256": file_sha256(out / WEIGHTS_FILE)}
    write_json(out, {"name": out.name, "version": "1", **fields, **stated, **recipe})


def write_model(out: Path, trained: Trained, recipe: Recipe) -> FacePredictor:
    """Write a compact EmotiMesh-Net, and load it from there."""
    fields = {
        "architecture": "compact-emotimesh",
        "arguments": {
            "classes": len(FIVE),
            "width": recipe.width,
            "embedding": recipe.embedding,
            "hidden": recipe.hidden,
            "dropout": recipe.dropout,
        },
        "labels": list(FIVE),
        "input": "of each moment 478 landmarks laid over MediaPipe's canonical face, in centimetres, and 52 "
        "blendshapes (faces.features.extract_features); any number of moments from 1, trained on up to 64 at about 5 a "
        "second; moments without a face are masked",
        "normalisation": "mean and standard deviation of the training faces, buffers of the network",
        "temperature": round(trained.temperature, 4),
        "moment_temperature": round(trained.moment_temperature, 4),
        "recipe": asdict(recipe),
    }
    return save_model(out, trained.net, fields)


def write_card(
    out: Path,
    report: FaceEvaluation,
    trained: Trained,
    recipe: Recipe,
    command: str,
    other: FaceEvaluation | None = None,
) -> None:
    """Add the figures to model.json and write CARD.md. other: of muxspace, where it was at hand; model.json alone."""
    card = add_metrics(out, sets(report, other))
    (out / "CARD.md").write_text(
        _card(card, report, trained, recipe, command, evaluation_of(out.name)), encoding="utf-8"
    )


def evaluation_of(name: str) -> str:
    return f"python -m moodreel.training evaluate {name} --data PATH"


def sets(report: FaceEvaluation, other: FaceEvaluation | None) -> dict[str, FaceEvaluation]:
    """Reports by the name of what was measured on."""
    return {"FER+ valid.npz, majority over half": report} | ({"muxspace": other} if other else {})


def add_metrics(out: Path, reports: dict[str, FaceEvaluation]) -> dict:
    """Add the figures of a model on some sets, by their names, to its model.json; return all of that."""
    card = json.loads((out / CARD_FILE).read_text(encoding="utf-8"))
    command = evaluation_of(out.name)
    card["metrics"] = []
    for data, report in reports.items():
        card["metrics"] += _metrics(report.metrics, report.sequences, data, command)
        card["metrics"] += _metrics(report.five, None, data, command) if report.five else []
    write_json(out, card)
    return card


def _metrics(metrics: ClassificationMetrics, sequences: SequenceMetrics | None, data: str, command: str) -> list[dict]:
    figures = {
        "accuracy, a face not found counting as wrong": metrics.accuracy,
        "accuracy on faces found": metrics.accuracy_found,
        "mean recall, a face not found counting as wrong": metrics.balanced_accuracy,
        "expected calibration error, pictures": metrics.ece,
        "expected calibration error, pseudo-sequences": sequences.ece if sequences else None,
        "faces found": metrics.found,
    }
    source = f"{data}, {len(metrics.labels)} classes, {metrics.examples} pictures"
    entries: list[dict] = [
        {"name": name, "value": round(value, 4), "data": source, "command": command}
        for name, value in figures.items()
        if value is not None
    ]
    for kind, accuracy in (sequences.by_kind if sequences else {}).items():
        values = {"value": round(accuracy.model, 4), "mean_of_moments": round(accuracy.frame_mean, 4)}
        entries.append({"name": f"pseudo-sequences, {kind}", **values, "data": f"made from {data}", "command": command})
    return entries


def recall_and_confusion(metrics: ClassificationMetrics) -> str:
    """Two tables, as Markdown."""
    recall = "\n".join(f"| {label} | {share:.3f} |" for label, share in metrics.recall.items())
    confusion = "\n".join(
        f"| **{label}** | " + " | ".join(str(n) for n in row) + " |"
        for label, row in zip(metrics.labels, metrics.confusion[:, :-1], strict=True)
    )
    return f"""| label | recall |
| --- | --- |
{recall}

Rows are true, columns are answered; pictures with a found face.

| | {" | ".join(metrics.labels)} |
| --- | {" | ".join("---" for _ in metrics.labels)} |
{confusion}"""


MEANINGS = {
    SequenceKind.STILL: "one moment",
    SequenceKind.STEADY: "the same face throughout",
    SequenceKind.BURST: "calm but for an expression in 12 to 70 % of the clip, half of them talking before and after",
    SequenceKind.TALK: "a calm face that talks, half of them with a lapse of at most 6 %, and, where the model "
    "reads the appearance, half with the mouth held open at times; right is Neutral",
    SequenceKind.EXPRESSIVE_TALK: "an expression that stays while the mouth talks",
    SequenceKind.ONSET: "calm, then an expression that is at its height when the clip ends",
}


def kinds_table(sequences: SequenceMetrics) -> str:
    """The pseudo-sequences, as Markdown."""
    kinds = "\n".join(
        f"| {kind.name.lower()} | {MEANINGS[kind]} | {sequences.by_kind[kind.name.lower()].model:.3f} "
        f"| {sequences.by_kind[kind.name.lower()].frame_mean:.3f} |"
        for kind in SequenceKind
    )
    return f"""| kind | what happens | this model | mean of moments |
| --- | --- | --- | --- |
{kinds}"""


def write_json(out: Path, card: dict) -> None:
    (out / CARD_FILE).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _card(card: dict, report: FaceEvaluation, trained: Trained, recipe: Recipe, command: str, evaluation: str) -> str:
    metrics, sequences = report.metrics, report.sequences
    assert sequences is not None
    count = sum(p.numel() for p in trained.net.parameters())
    return f"""# {card["name"]}

What a face shows over a clip, as one of {", ".join(FIVE)}. An encoder reads each moment's landmarks
and blendshapes, a GRU weighs the moments against each other. {count:,} parameters. It says what the face showed, not
what somebody felt; it makes no diagnosis and identifies nobody.

```
{command}
{evaluation}
```
The first trained it (`train.log` beside this card is its log), the second gives the figures.

## Figures
FER+ `valid.npz`, pictures of which one label has more than half of the votes: {metrics.examples}.

| | |
| --- | --- |
| accuracy, pictures without a found face counted as wrong | **{metrics.accuracy:.3f}** |
| accuracy, pictures with a found face | {metrics.accuracy_found:.3f} |
| mean recall, pictures without a found face counted as wrong | {metrics.balanced_accuracy:.3f} |
| expected calibration error, 15 bins | {metrics.ece:.3f} |
| the same on the pseudo-sequences below | {sequences.ece:.3f} |
| faces found, valid / train | {metrics.found:.3f} / {trained.found:.3f} |

{recall_and_confusion(metrics)}

Pseudo-sequences made from the same pictures: share right, beside what the mean of the moments would give.

{kinds_table(sequences)}

## How it was made
- {DATA}.
- Disgust counts as Anger and fear as Shock. Contempt, unknown and "not a face" are left out: pictures of which they
  hold more than half of the votes are not trained on, and of other pictures their votes are dropped. Targets are the
  votes, not the winner.
- FER2013's own label makes up {recipe.fer2013:.0%} of each target: it calls anger and fear what FER+ calls neutral.
- Each picture was read as it is, mirrored, and turned, shrunk, blurred and lit differently. Faces are blended
  (mixup up to {recipe.mix:.0%}).
- Logit adjustment with τ = {recipe.tau:g} (Menon et al., 2021) takes part of the training prior away: rarer labels
  are found more often, at some cost to accuracy where Neutral and Happy are common.
- The temperatures ({card["temperature"]:.3f} for clips, {card["moment_temperature"]:.3f} for moments) were fitted
  on {recipe.held_out:.0%} of the training pictures, held out from all else, and on sequences made from them.
- The GRU was trained on pseudo-sequences: a linear model of how landmarks follow blendshapes takes a still to calm
  and back, makes it talk, blink, look about and turn; moments are dropped at random.

## Weak at
- Sad and Anger when mild: both are taken for Neutral and for each other. Landmarks hold little of it.
- Pain and crying with the lips drawn wide: taken for Happy at single moments. Landmarks see the mouth, not the tears.
- A mouth held open for a second or more with the brows lifted is taken for Shock, in somebody who talks too.
- Real sequences: it saw none in training. Speech was imitated by {len(VISEMES)} mouth shapes in an uneven rhythm.
- Confidence is calibrated on web pictures like those it was trained on, less so on other faces.
- Faces that turn far away, are covered or are small: the landmarks are guesses there. None of it was measured.
- Skin tone, age, glasses and beards were not measured, since no labels of them were at hand. Measure on people like
  yours with `evaluate` before relying on it.

Licence: {LICENCE}.
"""
