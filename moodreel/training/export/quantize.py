"""Write a model's folder with weights of another data type, and measure the effect on its predictions."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moodreel.models.checkpoint import file_sha256, read_weights
from moodreel.models.huggingface import image
from moodreel.models.quantization import PRECISIONS, SCALE_SUFFIX, dequantize
from moodreel.models.registry import CARD_FILE, find_weights
from moodreel.training.export.model_card import render
from moodreel.training.export.model_folder import save_weights, write_json

_OTHER_FILES = (image.CONFIG_FILE, image.PREPROCESSOR_FILE, "tokenizer.json")
"""Files that a model needs besides its weights and its model.json."""


@dataclass(frozen=True)
class QuantizedMetrics:
    """Metrics of a model with weights of one data type; mean_recall is over the labels that occur in the data."""

    precision: str
    bytes: int
    accuracy: float
    mean_recall: float


@dataclass(frozen=True)
class QuantizationReport:
    """The effect of another data type, on the same examples.

    Attributes:
        data: A description of the examples.
        examples: Number of examples.
        before: Metrics of the source.
        after: Metrics of the new folder.
        changed: Number of examples whose predicted label changes.
        max_change: The largest change of a probability.
        mean_change: The mean change of a probability.
    """

    data: str
    examples: int
    before: QuantizedMetrics
    after: QuantizedMetrics
    changed: int
    max_change: float
    mean_change: float

    def __str__(self) -> str:
        before, after = self.before, self.after
        return (
            f"{before.precision} to {after.precision}, {self.examples} {self.data}: accuracy {before.accuracy:.4f} "
            f"to {after.accuracy:.4f}, mean recall {before.mean_recall:.4f} to {after.mean_recall:.4f}; {self.changed} "
            f"predictions differ; a probability changes by {self.mean_change:.5f} on average, {self.max_change:.4f} at "
            f"most; {before.bytes / 1e6:.2f} to {after.bytes / 1e6:.2f} MB"
        )


def report_change(
    source: Path, out: Path, before: np.ndarray, after: np.ndarray, truth: np.ndarray, *, data: str, option: str
) -> QuantizationReport:
    """Compare a converted model with its source, and report the change in its model.json and CARD.md.

    Args:
        source: The model's folder.
        out: The folder that `convert_weights` made of it.
        before: float (N, C), the source's calibrated probabilities for N examples.
        after: float (N, C), those of the converted model.
        truth: int (N,), the labels of the examples.
        data: A description of the examples.
        option: The value of --data, without this machine's path.
    """
    report = QuantizationReport(
        data=data,
        examples=len(truth),
        before=_measure(before, truth, find_weights(source)),
        after=_measure(after, truth, find_weights(out)),
        changed=int((before.argmax(axis=1) != after.argmax(axis=1)).sum()),
        max_change=float(np.abs(before - after).max()),
        mean_change=float(np.abs(before - after).mean()),
    )
    _write_report(source, out, report, option)
    return report


def convert_weights(source: Path, out: Path, weights: str) -> None:
    """Write a model's folder with weights of a data type in `PRECISIONS`, and the source's model.json.

    Raises:
        ModelInvalid: The weights of the source cannot be read.
    """
    file = find_weights(source)
    # To float32 first, since the source may be in half precision.
    full = {name: t.float() if t.is_floating_point() else t for name, t in dequantize(read_weights(file)).items()}
    state = PRECISIONS[weights](full)
    out.mkdir(parents=True, exist_ok=True)
    target = out / file.with_suffix(".safetensors").name
    save_weights(target, state, {"format": "pt"})
    for name in _OTHER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    card = _card_of(source)
    write_json(out, {**card, "name": out.resolve().name, "sha256": file_sha256(target)})


def precision_of(file: Path) -> str:
    """Return the data type, one of `PRECISIONS`, of most of the weights in a file."""
    weights = read_weights(file)
    if any(
        name.endswith(SCALE_SUFFIX) and weights.get(name.removesuffix(SCALE_SUFFIX), torch.empty(0)).dtype == torch.int8
        for name in weights
    ):
        return "int8"
    sizes: dict[torch.dtype, int] = {}
    for tensor in weights.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    return str(max(sizes, key=lambda dtype: sizes[dtype])).removeprefix("torch.")


def _measure(probabilities: np.ndarray, truth: np.ndarray, weights: Path) -> QuantizedMetrics:
    correct = probabilities.argmax(axis=1) == truth
    recall = [correct[truth == label].mean() for label in np.unique(truth)]
    size = weights.stat().st_size
    return QuantizedMetrics(precision_of(weights), size, float(correct.mean()), float(np.mean(recall)))


def _card_of(folder: Path) -> dict[str, Any]:
    file = folder / CARD_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _write_report(source: Path, out: Path, report: QuantizationReport, option: str) -> None:
    """Add the report to model.json and CARD.md. The source's metrics are kept, marked with their data type."""
    card = _card_of(out)
    weights = report.after.precision
    command = f"python -m moodreel.training export {source.name} --out DIR --weights {weights} --data {option}"
    stated = {"data": f"{report.examples} {report.data}", "weights": weights, "command": command}
    pairs = {
        "accuracy": (report.before.accuracy, report.after.accuracy),
        "mean recall": (report.before.mean_recall, report.after.mean_recall),
        "bytes of the weights": (report.before.bytes, report.after.bytes),
    }
    card["metrics"] = [
        *({**metric, "weights": metric.get("weights", report.before.precision)} for metric in card.get("metrics", ())),
        *(
            {
                "name": f"{name}, {weights}",
                "value": round(after, 4),
                "before": round(before, 4),
                **stated,
            }
            for name, (before, after) in pairs.items()
        ),
        {"name": "largest change of a probability", "value": round(report.max_change, 5), **stated},
        {"name": "mean change of a probability", "value": round(report.mean_change, 6), **stated},
    ]
    write_json(out, card)
    written = source / "CARD.md"
    text = written.read_text(encoding="utf-8") if written.is_file() else f"# {source.name}\n"
    section = render("quantized.md.j2", report=report, source=source.name, command=command)
    (out / "CARD.md").write_text(f"{text.rstrip()}\n\n{section}", encoding="utf-8")
