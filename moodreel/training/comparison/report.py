"""From a comparison to what people read: the verdict first, then what bears it out."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.training.comparison import plots
from moodreel.training.comparison.document import (
    Answer,
    Block,
    Command,
    Document,
    Heading,
    Paragraph,
    Plot,
    Plots,
)
from moodreel.training.comparison.html import as_page
from moodreel.training.comparison.markdown import as_markdown
from moodreel.training.comparison.plots import as_png
from moodreel.training.comparison.results import Comparison
from moodreel.training.comparison.tables import (
    cost_table,
    figures_table,
    gap_table,
    group_table,
    pair_table,
    recall_table,
    test_table,
)
from moodreel.training.comparison.verdict import WORDS, loser, verdict, winner

PAGE, TEXT, NUMBERS = "report.html", "report.md", "comparison.json"
_MOST_PEOPLE = 12
"""Persons that a report lists of each model, the worst."""


def write_report(out: Path, comparison: Comparison, command: str, faces: Sequence[Plot] = ()) -> None:
    """Write `report.html`, `report.md` with its pictures, and `comparison.json` into a folder, over older ones."""
    document = make_document(comparison, command, faces)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for plot in document.plots:
            (out / f"{plot.name}.png").write_bytes(as_png(plot.figure))
        (out / TEXT).write_text(as_markdown(document), encoding="utf-8")
        (out / NUMBERS).write_text(as_json(comparison, command), encoding="utf-8")
        (out / PAGE).write_text(as_page(document), encoding="utf-8")
    except OSError as error:
        raise DataInvalid(f"The report cannot be written to {out}: {error.strerror}. Name another folder.") from error


def as_json(comparison: Comparison, command: str) -> str:
    """Everything in numbers; what does not exist, such as the odds of nothing, is null."""
    said = {
        "command": command,
        "verdict": verdict(comparison),
        "winner": winner(comparison),
        "loser": loser(comparison),
    }
    return json.dumps(_plain(said | _fields(comparison)), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def make_document(comparison: Comparison, command: str, faces: Sequence[Plot] = ()) -> Document:
    """Lay a report out."""
    mark = "LEAKS: " if comparison.leaks else ""
    blocks: list[Block] = [
        Answer(verdict(comparison)),
        *_how(comparison),
        Heading("Figures"),
        figures_table(comparison),
        Paragraph(
            "Balanced accuracy is the mean recall of the labels, macro-F1 the mean of their F1, ROC-AUC the mean of "
            "each label against the rest, ECE the expected calibration error over 15 bins. What no face was found in "
            "counts as wrong, but not for ECE."
        ),
        Plots((Plot("scores", "Accuracy, balanced accuracy and macro-F1 with intervals", plots.scores(comparison)),)),
        recall_table(comparison),
        *_compared(comparison),
        *_each(comparison),
        *_over_fitting(comparison),
        *_groups(comparison),
        Heading("Cost"),
        cost_table(comparison),
        Paragraph(_cost_words(comparison)),
        Plots((Plot("speed", "Accuracy against the time of one answer", plots.speed(comparison)),)),
    ]
    if faces:
        blocks += [Heading("Faces"), Paragraph(_FACES), Plots(tuple(faces))]
    blocks += [Heading("Made by"), Command(command)]
    return Document(f"{mark}{_names(comparison)} on {comparison.data}", blocks)


_FACES = (
    "Of each model, answers that it was surest of: in the first row right ones, in the second wrong ones, with the "
    "label that the data has and the one that was answered. Where a face is coloured, warm places spoke for the answer."
)


def _names(comparison: Comparison) -> str:
    *names, last = (result.name for result in comparison.results)
    if len(names) > 3:
        return f"{len(names) + 1} models"
    return f"{', '.join(names)} and {last}" if names else last


def _how(comparison: Comparison) -> list[Block]:
    plan = comparison.config
    drawn = "persons" if comparison.by_person else "examples, clips and copies of one file counting as one"
    measured = (
        f"{comparison.examples} {comparison.media} of {comparison.data}, in {len(comparison.labels)} labels: "
        f"{', '.join(comparison.labels)}. Who is better is judged by {WORDS[plan.decision_metric]}."
    )
    luck = (
        f"Intervals hold 95 % of {plan.resamples} resamples of the {comparison.units} {drawn} (percentile bootstrap, "
        f"seed {plan.seed}), the same ones for every model. A difference counts where its interval excludes zero and "
        "its p, corrected by Holm for all pairs, is below 0.05."
    )
    data = f"Licence of the data: {comparison.licence}." + (
        "" if comparison.commercial else " Weights that learnt from it are not for commercial use."
    )
    words = [f"Held out: {comparison.split_description}", measured, " ".join(comparison.notes), luck, data]
    return [Heading("How"), *(Paragraph(text) for text in words if text)]


def _compared(comparison: Comparison) -> list[Block]:
    if not comparison.pairs:
        return []
    alt = f"Differences in {WORDS[comparison.config.decision_metric]} with intervals"
    words = (
        "McNemar's test asks whether one of two models is right more often where they are not both right or both "
        "wrong. It takes examples for independent, which those of one person are not; the intervals do not. Cohen's g "
        "is 0.05 for a small, 0.15 for a medium and 0.25 for a large effect."
    )
    return [
        Heading("Differences"),
        pair_table(comparison),
        Plots((Plot("differences", alt, plots.differences(comparison)),)),
        test_table(comparison),
        Paragraph(words),
    ]


def _each(comparison: Comparison) -> list[Block]:
    results = list(enumerate(comparison.results, start=1))
    return [
        Heading("Calibration"),
        Plots(
            tuple(
                Plot(f"reliability-{number}", f"How often {result.name} is right by its confidence", figure)
                for number, result in results
                for figure in [plots.reliability(result)]
            )
        ),
        Heading("Confusion"),
        Paragraph("Numbers of examples; the darker a field, the larger its share of its row."),
        Plots(
            tuple(
                Plot(f"confusion-{number}", f"What {result.name} answers for each true label", figure)
                for number, result in results
                for figure in [plots.confusion(result, comparison.labels)]
            )
        ),
    ]


def _over_fitting(comparison: Comparison) -> list[Block]:
    blocks: list[Block] = [Heading("Over-fitting")]
    if any(result.gap for result in comparison.results):
        alt = "Accuracy on what was learnt from and on what was held out"
        blocks += [gap_table(comparison), Plots((Plot("over-fitting", alt, plots.over_fitting(comparison)),))]
    blocks += [Paragraph(f"{result.name}: {result.gap_reason}") for result in comparison.results if not result.gap]
    return blocks


def _groups(comparison: Comparison) -> list[Block]:
    blocks: list[Block] = []
    for number, result in enumerate(comparison.results, start=1):
        if result.groups:
            name, alt = f"groups-{number}", f"Accuracy of {result.name} by group, the worst first"
            blocks += [
                group_table(comparison, result, result.groups, "group"),
                Plots((Plot(name, alt, plots.groups(result, result.groups)),)),
            ]
        if result.people:
            blocks.append(group_table(comparison, result, result.people[:_MOST_PEOPLE], "person"))
    return [Heading("Groups, worst first"), *blocks] if blocks else []


def _cost_words(comparison: Comparison) -> str:
    cost = comparison.results[0].cost
    return (
        f"Milliseconds are of one answer on one thread of this machine ({cost.processor}), over {cost.repetitions} "
        "answers after some to warm up; decoding and finding the face come on top. FLOPs are of convolutions and "
        "matrix products, a multiply-add counting as two. Parameters are those that serve, normalisations folded away."
    )


def _fields(value: Any) -> dict[str, Any]:
    return asdict(value)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
