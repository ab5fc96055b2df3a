"""The folder of a network that a study made: weights, model.json, and a card for people, every figure from the run."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from torch import nn

from moodreel.models.shelf import CARD, weights_in
from moodreel.training.compare.figures import Figures
from moodreel.training.data.sets import DataSet
from moodreel.training.export import write_json
from moodreel.training.fit.maker import Maker
from moodreel.training.fit.study import Study

if TYPE_CHECKING:
    from moodreel.training.fit.conduct import Order, Outcome

OURS = "MIT, as moodreel; the training data are not part of it"
NON_COMMERCIAL = "non-commercial, for research: trained on {name}, {licence}"


def write_fitted(
    order: "Order", study: Study, data: DataSet, maker: Maker, network: nn.Module, temperature: float
) -> None:
    """Write weights and model.json, from which the model can be loaded and measured."""
    fields = {
        "architecture": order.architecture,
        "arguments": {"classes": len(data.labels)} | maker.arguments(order.arguments),
        "labels": list(data.labels),
        "input": maker.reads,
        "normalisation": maker.normalisation,
        "temperature": round(temperature, 4),
        "moment_temperature": round(temperature, 4),
        **maker.fields(data),
        "recipe": asdict(study),
    }
    licence = OURS if data.commercial else NON_COMMERCIAL.format(name=data.name, licence=data.licence)
    if not data.commercial:
        fields["commercial"] = False
    maker.write(order.out, network, fields, study.weights, data=f"{data.name} ({data.licence})", licence=licence)


def write_fitted_card(order: "Order", study: Study, outcome: "Outcome", maker: Maker) -> None:
    """Add the figures to model.json, and write CARD.md."""
    fields = json.loads((order.out / CARD).read_text(encoding="utf-8"))
    source = f"{outcome.data.name}, {outcome.held_out.examples} {outcome.data.media} held out. {outcome.parted.why}"
    fields["metrics"] = [
        {"name": name, "value": round(value, 4), "data": source, "command": order.command}
        for name, value in _named(outcome.held_out)
    ]
    write_json(order.out, fields)
    (order.out / "CARD.md").write_text(_card(order, study, outcome, maker, fields), encoding="utf-8")


def _named(figures: Figures) -> list[tuple[str, float]]:
    named = {
        "accuracy": figures.accuracy,
        "balanced accuracy (UAR)": figures.balanced_accuracy,
        "macro-F1": figures.macro_f1,
        "ROC-AUC, one against the rest": figures.roc_auc,
        "expected calibration error, 15 bins": figures.ece,
        "something to answer from found": figures.found,
    }
    return [(name, value) for name, value in named.items() if value is not None]


def _card(order: "Order", study: Study, outcome: "Outcome", maker: Maker, fields: dict) -> str:
    data, held_out = outcome.data, outcome.held_out
    parameters = sum(parameter.numel() for parameter in outcome.network.parameters())
    size = weights_in(order.out).stat().st_size / 1e6
    absent = [label for label in data.labels if label not in {example.label for example in data.examples}]
    never = (
        f"\nNothing in the data is called {' or '.join(absent)}, so that it is hardly ever answered.\n"
        if absent
        else ""
    )
    leak = f"\n**{outcome.parted.why}**\n" if outcome.parted.leaks else ""
    warning = "" if data.commercial else f"\n**Not for commercial use.** {fields['licence']}.\n"
    gap = outcome.learnt.accuracy - held_out.accuracy
    recall = "\n".join(
        f"| {label} | {share:.3f} |" for label, share in sorted(held_out.recall.items(), key=lambda r: r[1])
    )
    more = ", and weighing more" if study.class_weights else ""
    times = f" times {study.accumulate}" if study.accumulate > 1 else ""
    mixup = f"mixup {study.mixup:g} in {study.mixed:.0%} of them" if study.mixup else "no mixup"
    frozen = f", the trunk frozen in the first {study.frozen}" if study.frozen else ""
    fitted_on = "the folds' own answers" if outcome.folds else "what was held out of training"
    of = "the fold with the highest" if outcome.folds else "a sample of what it learnt from"
    return f"""# {fields["name"]}

{order.architecture}: {", ".join(data.labels)}. {parameters:,} parameters, {size:.1f} MB as {study.weights}. It reads
{fields["input"]}.
It says what was shown, not what somebody felt; it makes no diagnosis and identifies nobody.
{never}{warning}{leak}
```
{order.command}
```
trained it and gives the figures; `metrics.csv` and `train.log` beside this card tell how it went.

## How well it does
{outcome.parted.why}

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
- Data: {fields["data"]}.
- {study.epochs} epochs{frozen}; AdamW at {study.rate:g}, {study.schedule}; batches of {study.batch}{times};
  {mixup}; label smoothing {study.smoothing:g}; weights averaged ({study.average:g}); rare labels shown more often
  (to the power of {study.rarity:g}){more}.
- Temperature {fields["temperature"]:g}, fitted on {fitted_on}.
- Seed {study.seed}. The whole recipe is in model.json.

Licence: {fields["licence"]}.
"""


def _side_by_side(held_out: Figures, learnt: Figures) -> str:
    seen = dict(_named(learnt))
    rows = [f"| {name} | {value:.3f} | {seen[name]:.3f} |" for name, value in _named(held_out) if name in seen]
    return "\n".join(rows)


def _folds(outcome: "Outcome") -> str:
    if not outcome.folds:
        return ""
    shares = [fold.figures.balanced_accuracy for fold in outcome.folds]
    mean, deviation = _mean(shares), _deviation(shares)
    rows = "\n".join(
        f"| {number} | {', '.join(fold.people)} | {fold.figures.balanced_accuracy:.3f} | {fold.figures.accuracy:.3f} |"
        for number, fold in enumerate(outcome.folds, start=1)
    )
    return f"""
| fold | held out | UAR | accuracy |
| --- | --- | --- | --- |
{rows}

UAR {mean:.3f} ± {deviation:.3f} over the folds. The weights here were trained on everything afterwards, by the same
recipe; nobody is left to measure them on.
"""


def _variants(outcome: "Outcome") -> str:
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


def _confusion(labels: Sequence[str], figures: Figures) -> str:
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
