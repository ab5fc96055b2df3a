"""Write the folders of the models that read the face itself: the face-expression network, and the joint one."""

from dataclasses import asdict
from pathlib import Path

from moodreel.emotions import FIVE, SEVEN
from moodreel.models.face_registry import WEIGHTS_FILE
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.models.predictor import FacePredictor
from moodreel.training.evaluation.evaluate import FaceEvaluation
from moodreel.training.evaluation.metrics import ClassificationMetrics
from moodreel.training.export.model_folder import (
    DATA,
    LICENCE,
    add_metrics,
    evaluation_of,
    kinds_table,
    recall_and_confusion,
    save_model,
    sets,
)
from moodreel.training.recipes.configs import AppearanceRecipe
from moodreel.training.recipes.face_expression import TrainedAppearance
from moodreel.training.recipes.moodreel_five import JointRecipe, TrainedJoint

CROPS = "a grey crop of 48 pixels a side, eyes level and 20 pixels apart (moodreel.faces.features.align)"
NOT_MEASURED = """\
- Skin tone, age, glasses and beards were not measured, since no labels of them were at hand. Measure on people like
  yours, `python -m moodreel.training evaluate NAME --data FOLDER --groups groups.csv`, before relying on it: FACES and
  RAF-DB have ages, RADIATE, the Chicago Face Database and RAF-DB race; for skin tone and glasses group pictures
  yourself. The README says more.
- Confidence is calibrated on web pictures like those it was trained on, less so on other faces."""


def write_appearance(out: Path, trained: TrainedAppearance, recipe: AppearanceRecipe) -> FacePredictor:
    """Write a network that reads crops, and load it from there."""
    fields = {
        "architecture": recipe.architecture,
        "arguments": {
            "classes": len(SEVEN),
            **recipe.arguments(),
            "temperatures": [round(value, 4) for value in trained.net.temperatures],
        },
        "labels": list(SEVEN),
        "input": f"of each moment {CROPS}; a clip's answer is the mean of its moments",
        "normalisation": "mean 0 and deviation 1 of each crop, in the network",
        "temperature": round(trained.temperature, 4),
        "moment_temperature": round(trained.temperature, 4),
        # The teacher's folder is this run's; its name is enough.
        "recipe": asdict(recipe) | {"teacher": Path(recipe.teacher).name},
    }
    return save_model(out, trained.net, fields, half=True)


def write_appearance_card(
    out: Path,
    report: FaceEvaluation,
    trained: TrainedAppearance,
    recipe: AppearanceRecipe,
    command: str,
    other: FaceEvaluation | None = None,
) -> None:
    """Add the figures to model.json and write CARD.md. other: of muxspace, where it was at hand."""
    card = add_metrics(out, sets(report, other))
    assert report.five is not None
    count = sum(p.numel() for p in trained.net.parameters())
    temperatures = ", ".join(f"{value:.3f}" for value in trained.net.temperatures[:2])
    (out / "CARD.md").write_text(
        f"""# {card["name"]}

What one face shows, as one of {", ".join(SEVEN)}.
{recipe.what.format(**asdict(recipe))} on an aligned grey crop;
{count:,} parameters, {_megabytes(out)} MB in half precision. It says what the face showed, not what somebody felt; it
makes no diagnosis and identifies nobody.

```
{command}
{evaluation_of(out.name)}
```
The first trained it (`train.log` beside this card is its log), the second gives the figures; for muxspace PATH is its
folder.

## Whom it gets right
FER+ `valid.npz`, pictures of which one label has more than half of the votes, in seven classes:

{recall_and_confusion(report.metrics)}

In five, disgust counting as Anger and fear as Shock:

{recall_and_confusion(report.five)}

## Figures
Seven classes:

{_figures(report, other)}

Five:

{_figures_table(report.five, other.five if other else None)}

While it learnt, pictures held out, one look at each:

{_curve(trained)}

## How it was made
- {DATA}{_also(other, "four fifths of the people of muxspace (one labeller a picture, noisy)")}.
- The crop is placed by the eyes alone; pictures of FER+ without a found face are learnt from as they are.
- A head for each convention of labelling: the votes of FER+; FER2013's label of the same pictures, which finds anger,
  fear and sadness in much that FER+ calls neutral; muxspace's label. The answer holds {recipe.ferplus:.0%},
  {recipe.fer2013:.0%} and {recipe.muxspace:.0%} of them.
- {_taught(recipe)}
- Rare labels are shown more often ({recipe.rarity:g}: pictures / label's number to that power), and logit adjustment
  with τ = {recipe.tau:g} (Menon et al., 2021) takes part of the prior that is left away, after training; `shares` and
  `tau` in model.json can be changed without training.
- Crops were mirrored, misaligned, narrowed, lit otherwise from hardly to burnt out, shrunk to 14 to 40 pixels, blurred,
  compressed, made noisy, and covered over eyes or mouth; in {recipe.mix:.0%} of the batches they were blended by pairs
  (mixup). Label smoothing {recipe.smoothing:g}; weights averaged over the last steps; {recipe.steps} steps of
  {recipe.faces} pictures of FER+ (and {recipe.others} of muxspace), then {recipe.polish_steps} in which most crops were
  only misaligned.
- Up to {MultiHeadFaceNet.mirror_below} faces are read mirrored too.
- Temperatures ({temperatures} of the heads, {card["temperature"]:.3f} of the answer) were fitted on
  {recipe.held_out:.0%} of the training pictures, held out from all else.

## Weak at
{_copies(recipe)}{_missed(report.metrics)}- Disgust and fear: few pictures, and the conventions do not agree on them.
- Mild sadness: taken for neutral and the other way round. People disagree on it as well.
- Its confidence in a clip: calibrated on single pictures, and a mean over moments is another thing.
- A clip of somebody who talks: single moments with an open mouth look like surprise or a smile. It does not know time.
{NOT_MEASURED}

Licence: {LICENCE}.
""",
        encoding="utf-8",
    )


def _taught(recipe: AppearanceRecipe) -> str:
    if recipe.teacher:
        return f"""\
`{Path(recipe.teacher).name}`, shown the crop as it is and mirrored, makes up {recipe.distilled:.0%} of the targets of
  FER+, and says what the first two would call the faces of muxspace, where it is at hand (distillation, Hinton et al.
  2015): a network learns sooner from that than from labels alone. It has held out the same pictures."""
    return """\
Where muxspace is at hand, what the first two would say of its faces is learnt from the network itself, its weights
  averaged over the steps and shown the crop as it is (mean teacher, Tarvainen and Valpola 2017): faces of another place
  and size, without the labels of another convention."""


def _copies(recipe: AppearanceRecipe) -> str:
    if not recipe.teacher:
        return ""
    name = Path(recipe.teacher).name
    return f"- What `{name}` is weak at: it learnt from it. Where the two agree they are no two opinions.\n"


def _missed(metrics: ClassificationMetrics) -> str:
    """Name the labels that are missed more often than not."""
    missed = ", ".join(label for label, share in metrics.recall.items() if share < 0.5)
    return f"- Found in less than half of the pictures of FER+ that show it: {missed}.\n" if missed else ""


def write_joint(out: Path, trained: TrainedJoint, recipe: JointRecipe) -> FacePredictor:
    """Write a joint network, and load it from there."""
    fields = {
        "architecture": "joint",
        "arguments": {"classes": len(FIVE), **trained.arguments},
        "labels": list(FIVE),
        "input": f"of each moment {CROPS}, 478 landmarks laid over MediaPipe's canonical face, in centimetres, and 52 "
        f"blendshapes (extract_features); any number of moments from 1, trained on up to {recipe.longest} at "
        "about 5 a second; moments without a face are masked",
        "normalisation": "that of the two networks joined, within them",
        "temperature": round(trained.temperature, 4),
        "moment_temperature": round(trained.temperature, 4),
        # The folders are this run's; the names of the models are enough.
        "recipe": asdict(recipe) | {part: Path(getattr(recipe, part)).name for part in ("appearance", "landmarks")},
    }
    return save_model(out, trained.net, fields, half=True)


def write_joint_card(
    out: Path,
    report: FaceEvaluation,
    trained: TrainedJoint,
    recipe: JointRecipe,
    command: str,
    other: FaceEvaluation | None = None,
) -> None:
    """Add the figures to model.json and write CARD.md. other: of muxspace, where it was at hand."""
    card = add_metrics(out, sets(report, other))
    assert report.sequences is not None
    onset = report.sequences.by_kind["onset"]
    count = sum(p.numel() for p in trained.net.parameters())
    appearance, landmarks = trained.net.trust.tolist()
    parts = [card["recipe"][part] for part in ("appearance", "landmarks")]
    (out / "CARD.md").write_text(
        f"""# {card["name"]}

What a face shows over a clip, as one of {", ".join(FIVE)}. Of each moment `{parts[0]}` reads the
picture of the face and `{parts[1]}` its landmarks and blendshapes; a GRU weighs the moments against each
other. {count:,} parameters, {_megabytes(out)} MB in half precision. It says what the face showed, not what somebody
felt; it makes no diagnosis and identifies nobody.

```
{command}
{evaluation_of(out.name)}
```
The first trained it (`train.log` beside this card is its log), the second gives the figures; for muxspace PATH is its
folder.

## Whom it gets right
FER+ `valid.npz`, pictures of which one label has more than half of the votes:

{recall_and_confusion(report.metrics)}

## Figures
{_figures(report, other)}

Pseudo-sequences made from FER+ `valid.npz`: share right, beside what the mean of the moments would give.

{kinds_table(report.sequences)}
{_kinds_elsewhere(other)}
## How it was made
- {DATA}{_also(other, "the calm of four fifths of the people of muxspace")}.
- Both networks were trained before and stay as they are; their cards say how.
- A moment's answer is the product of both opinions, to the power of {appearance:.2f} (appearance) and {landmarks:.2f}
  (landmarks): fitted on {recipe.held_out:.0%} of the training pictures, which both networks have held out.
- The GRU ({recipe.hidden} each way, {recipe.time_steps} steps) was trained on pseudo-sequences: landmarks follow a
  linear model from calm to expression, in speech, blinks and turns; what the appearance network says goes from the calm
  still to the expressive one. A mouth that speaks is that of a calm person's picture, caught speaking, and leads the
  appearance as far astray as that person's did; a calm mouth held open leads it as far as a surprised face does.
  Appearance was asked about disturbed crops.
- Why this one answers by default, and not the network of a picture alone, which is as right on stills: over clips that
  go from calm to an expression the mean of the moments is right in {onset.frame_mean:.0%} and this one in
  {onset.model:.0%}, and this one knows speech.
- FER2013's own label makes up {recipe.fer2013:.0%} of each target; logit adjustment with τ = {recipe.tau:g}.
- The temperature ({card["temperature"]:.3f}; that of more than one moment is {trained.net.temperature:.3f} times as
  high) was fitted on pictures held out, and on sequences made from them.

## Weak at
- Mild sadness and mild anger: taken for Neutral, and Neutral for Sad.
- Real sequences: it saw none in training.
- Surprise that shows in the mouth alone: taken for speech, as it was taught.
- Faces turned by 45° and more, lying on their side or looking down, and covered mouths; a cover is not noticed, so the
  answer may be called certain. `python -m bench.robustness --card CARD.md` measures this and puts the table here.
{NOT_MEASURED}

Licence: {LICENCE}.
""",
        encoding="utf-8",
    )


def _also(other: FaceEvaluation | None, what: str) -> str:
    """What was learnt from besides, where muxspace was at hand; the rest of it is what `other` measured."""
    return f";\n  and {what}; the others are only measured on" if other else ""


def _kinds_elsewhere(other: FaceEvaluation | None) -> str:
    if not (other and other.sequences):
        return ""
    return f"""
The same made from muxspace's people held out, of whom one labeller's word is all there is:

{kinds_table(other.sequences)}
"""


def _curve(trained: TrainedAppearance) -> str:
    lines = [
        f"| {point.phase} | {point.step} | "
        + " | ".join(f"{share:.3f}" for share in (*point.five, *point.seven))
        + " |"
        for point in trained.curve
    ]
    head = "| phase | step | accuracy, five classes | mean recall, five | accuracy, seven | mean recall, seven |"
    return "\n".join([head, "| --- |" + " --- |" * 5, *lines])


def _figures(report: FaceEvaluation, other: FaceEvaluation | None) -> str:
    table = _figures_table(report.metrics, other.metrics if other else None)
    if report.sequences is None:
        return table
    errors = [f"{each.sequences.ece:.3f}" if each.sequences else "" for each in (report, *([other] if other else []))]
    return f"{table}\n| calibration error on pseudo-sequences | {' | '.join(errors)} |"


def _figures_table(metrics: ClassificationMetrics, other: ClassificationMetrics | None) -> str:
    rows = [
        ("pictures", "examples", "d"),
        ("accuracy, pictures without a found face counted as wrong", "accuracy", ".3f"),
        ("accuracy, pictures with a found face", "accuracy_found", ".3f"),
        ("mean recall, pictures without a found face counted as wrong", "balanced_accuracy", ".3f"),
        ("expected calibration error, 15 bins", "ece", ".3f"),
        ("faces found", "found", ".3f"),
    ]
    both = [metrics] + ([other] if other else [])
    names = "FER+ `valid.npz`, majority over half | muxspace" if other else "FER+ `valid.npz`, majority over half"
    lines = [
        f"| {label} | " + " | ".join(format(getattr(m, name), kind) for m in both) + " |" for label, name, kind in rows
    ]
    return "\n".join([f"| | {names} |", "| --- |" + " --- |" * len(both), *lines])


def _megabytes(out: Path) -> str:
    return f"{(out / WEIGHTS_FILE).stat().st_size / 1e6:.1f}"
