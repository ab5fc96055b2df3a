"""The folder of a network that a study made: weights, model.json, and a card for people, every figure from the run."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import nn

from moodreel.models.registry import CARD_FILE, find_weights
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.registry import OWNER_LICENSE
from moodreel.training.evaluation.metrics import ClassificationMetrics
from moodreel.training.experiment.adapter import ArchitectureAdapter
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.export.model_folder import write_json

if TYPE_CHECKING:
    from moodreel.training.experiment.runner import RunRequest, RunResult

OURS = "MIT, as moodreel; the training data are not part of it"
NON_COMMERCIAL = "non-commercial, for research: trained on {name}, {licence}"


def write_fitted(
    order: "RunRequest",
    study: TrainConfig,
    data: Dataset,
    maker: ArchitectureAdapter,
    network: nn.Module,
    temperature: float,
) -> None:
    """Write weights and model.json, from which the model can be loaded and measured."""
    fields = {
        "architecture": order.architecture,
        "arguments": {"classes": len(data.labels)} | maker.arguments(order.arguments),
        "labels": list(data.labels),
        "input": maker.input_description,
        "normalisation": maker.normalization,
        "temperature": round(temperature, 4),
        "moment_temperature": round(temperature, 4),
        **maker.card_fields(data),
        "recipe": asdict(study),
    }
    licence = OWNER_LICENSE if data.license == OWNER_LICENSE else OURS
    if not data.commercial:
        licence = NON_COMMERCIAL.format(name=data.name, licence=data.license)
        fields["commercial"] = False
    maker.write(order.out, network, fields, study.weights, data=f"{data.name} ({data.license})", licence=licence)


def write_fitted_card(
    order: "RunRequest", study: TrainConfig, outcome: "RunResult", maker: ArchitectureAdapter
) -> None:
    """Add the figures to model.json, and write CARD.md."""
    fields = json.loads((order.out / CARD_FILE).read_text(encoding="utf-8"))
    source = f"{outcome.data.name}, {outcome.held_out.examples} {outcome.data.media} held out. {outcome.parted.reason}"
    fields["metrics"] = [
        {"name": name, "value": round(value, 4), "data": source, "command": order.command}
        for name, value in _named(outcome.held_out)
    ]
    write_json(order.out, fields)
    (order.out / "CARD.md").write_text(_card(order, study, outcome, maker, fields), encoding="utf-8")


def _named(figures: ClassificationMetrics) -> list[tuple[str, float]]:
    named = {
        "accuracy": figures.accuracy,
        "balanced accuracy (UAR)": figures.balanced_accuracy,
        "macro-F1": figures.macro_f1,
        "ROC-AUC, one against the rest": figures.roc_auc,
        "expected calibration error, 15 bins": figures.ece,
        "something to answer from found": figures.found,
    }
    return [(name, value) for name, value in named.items() if value is not None]


def _card(
    order: "RunRequest", study: TrainConfig, outcome: "RunResult", maker: ArchitectureAdapter, fields: dict[str, Any]
) -> str:
    data, held_out = outcome.data, outcome.held_out
    parameters = sum(parameter.numel() for parameter in outcome.network.parameters())
    size = find_weights(order.out).stat().st_size / 1e6
    absent = [label for label in data.labels if label not in {example.label for example in data.examples}]
    never = (
        f"\nNothing in the data is called {' or '.join(absent)}, so that it is hardly ever answered.\n"
        if absent
        else ""
    )
    leak = f"\n**{outcome.parted.reason}**\n" if outcome.parted.leaks else ""
    warning = "" if data.commercial else f"\n**Not for commercial use.** {fields['licence']}.\n"
    gap = outcome.learnt.accuracy - held_out.accuracy
    recall = "\n".join(
        f"| {label} | {share:.3f} |" for label, share in sorted(held_out.recall.items(), key=lambda r: r[1])
    )
    of = "the fold with the highest" if outcome.folds else "a sample of what it learnt from"
    network = f"{order.architecture}: {', '.join(data.labels)}. {parameters:,} parameters, {size:.1f} MB as "
    return f"""# {fields["name"]}

{_filled(f"{network}{study.weights}. It reads {fields['input']}.")}
It says what was shown, not what somebody felt; it makes no diagnosis and identifies nobody.
{_filled(never)}{_filled(warning)}{_filled(leak)}
```
{order.command}
```
trained it and gives the figures; `metrics.csv` and `train.log` beside this card tell how it went.

## How well it does
{_filled(outcome.parted.reason)}

{data.name}: {held_out.examples} {data.media} measured on.

| | held out | learnt from |
| --- | --- | --- |
{_side_by_side(held_out, outcome.learnt)}

Over-fitting gap: {gap:+.3f} of accuracy, learnt from less held out ("learnt from" is {of}).
{_folds(outcome)}{_variants(outcome)}
Labels, the worst first:

| label | recall |
| --- | --- |
{recall}

Rows are true, columns are answered:

{_confusion(data.labels, held_out)}

## How it was made
{_making(study, outcome, fields)}

{_filled(f"Licence: {fields['licence']}.")}
"""


def _filled(text: str, **options: str) -> str:
    """A paragraph in lines that are easy to read; blank lines around it stay."""
    before, after = (len(text) - len(stripped) for stripped in (text.lstrip("\n"), text.rstrip("\n")))
    lines = textwrap.fill(text.strip("\n"), 118, break_long_words=False, break_on_hyphens=False, **options)  # type: ignore[arg-type]
    return "\n" * before + lines + "\n" * after if text else ""


def _making(study: TrainConfig, outcome: "RunResult", fields: dict[str, Any]) -> str:
    """How it was made, as a list, of what was made use of alone."""
    epochs = "1 epoch" if study.epochs == 1 else f"{study.epochs} epochs"
    steps = [
        f"{'at most ' if study.patience else ''}{epochs}"
        + (f", the trunk frozen in the first {study.frozen}" if study.frozen else ""),
        f"AdamW at {study.rate:g}, {study.schedule}",
        f"batches of {study.batch}" + (f" times {study.accumulate}" if study.accumulate > 1 else ""),
    ]
    also = [
        (study.patience, f"the weights of the best judgement, none better in {study.patience} being the end"),
        (study.smoothing, f"label smoothing {study.smoothing:g}"),
        (study.mixup and study.mixed, f"mixup {study.mixup:g} in {study.mixed:.0%} of the batches"),
        (study.average, f"weights averaged ({study.average:g})"),
        (study.rarity, f"rare labels shown more often (to the power of {study.rarity:g})"),
        (study.class_weights, "rare labels weighing more"),
    ]
    fitted_on = "the folds' own answers" if outcome.folds else "what was kept apart to judge by"
    items = [
        f"Data: {fields['data']}.",
        "; ".join([*steps, *(said for used, said in also if used)]) + ".",
        f"Temperature {fields['temperature']:g}, fitted on {fitted_on}.",
        f"Seed {study.seed}. The whole recipe is in model.json.",
    ]
    return "\n".join(_filled(f"- {item}", subsequent_indent="  ") for item in items)


def _side_by_side(held_out: ClassificationMetrics, learnt: ClassificationMetrics) -> str:
    seen = dict(_named(learnt))
    rows = [f"| {name} | {value:.3f} | {seen[name]:.3f} |" for name, value in _named(held_out) if name in seen]
    return "\n".join(rows)


def _folds(outcome: "RunResult") -> str:
    if not outcome.folds:
        return ""
    shares = [fold.figures.balanced_accuracy for fold in outcome.folds]
    mean, deviation = _mean(shares), _deviation(shares)
    rows = "\n".join(
        f"| {number} | {', '.join(fold.held_out_people)} | {fold.figures.balanced_accuracy:.3f} "
        f"| {fold.figures.accuracy:.3f} |"
        for number, fold in enumerate(outcome.folds, start=1)
    )
    return f"""
| fold | held out | UAR | accuracy |
| --- | --- | --- | --- |
{rows}

UAR {mean:.3f} ± {deviation:.3f} over the folds. The weights here were trained on everything afterwards, by the same
recipe; nobody is left to measure them on.
"""


def _variants(outcome: "RunResult") -> str:
    if not outcome.variants:
        return ""
    everything = {"both": outcome.held_out, **outcome.variants}
    rows = "\n".join(
        f"| {left} | {figures.balanced_accuracy:.3f} | {figures.accuracy:.3f} | {figures.ece or 0:.3f} |"
        for left, figures in everything.items()
    )
    return f"""
The same network with something missing:

| answered from | UAR | accuracy | calibration error |
| --- | --- | --- | --- |
{rows}
"""


def _confusion(labels: Sequence[str], figures: ClassificationMetrics) -> str:
    nothing = figures.confusion[:, -1].any()
    columns = [*labels, "nothing found"] if nothing else list(labels)
    rows = [
        f"| **{label}** | " + " | ".join(str(count) for count in row[: len(columns)]) + " |"
        for label, row in zip(labels, figures.confusion.tolist(), strict=True)
    ]
    return "\n".join([f"| | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|", *rows])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    mean = _mean(values)
    return (sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)) ** 0.5
