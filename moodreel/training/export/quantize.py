"""A model's folder written again in another precision, and what that costs on data that it did not learn from."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from moodreel.errors import DataInvalid, ModelInvalid
from moodreel.models.checkpoint import file_sha256, read_weights
from moodreel.models.huggingface import image
from moodreel.models.quantization import PRECISIONS, SCALE_SUFFIX, dequantize
from moodreel.models.registry import CARD_FILE, find_weights
from moodreel.training.export.model_folder import write_json

Answers = Callable[[Path], np.ndarray]
"""What a model's folder says of some examples: calibrated probabilities (N, C), in the order of its labels."""
_BESIDE = (image.CONFIG_FILE, image.PREPROCESSOR_FILE, "tokenizer.json")
"""Files that a model needs beside its weights and its model.json."""


@dataclass(frozen=True)
class QuantizedMetrics:
    """A model on N examples. accuracy, mean_recall: 0 to 1, the second over labels that the data has."""

    precision: str
    bytes: int
    accuracy: float
    mean_recall: float


@dataclass(frozen=True)
class QuantizationReport:
    """What another precision changes on the same examples.

    data: what they are, in words. differ: how many get another answer.
    largest, mean: change of any of their probabilities, 0 to 1.
    """

    data: str
    examples: int
    before: QuantizedMetrics
    after: QuantizedMetrics
    differ: int
    largest: float
    mean: float

    def __str__(self) -> str:
        then, now = self.before, self.after
        return (
            f"{then.precision} to {now.precision}, {self.examples} of {self.data}: accuracy {then.accuracy:.4f} to "
            f"{now.accuracy:.4f}, mean recall {then.mean_recall:.4f} to {now.mean_recall:.4f}; {self.differ} answers "
            f"differ; a probability changes by {self.mean:.5f} on average, {self.largest:.4f} at most; "
            f"{then.bytes / 1e6:.2f} to {now.bytes / 1e6:.2f} MB"
        )


def quantize_model(
    source: Path, out: Path, weights: str, answers: Answers, truth: Sequence[int] | np.ndarray, *, data: str
) -> QuantizationReport:
    """Write a model's folder in another precision, measure both, and put the loss into model.json and CARD.md.

    out: a new or empty folder; its name is the model's. weights: a name in `PRECISIONS`.
    truth: int (N,), of each example that `answers` is about, the number of its label.
    data: what they are, in words.
    Raises ModelInvalid or DataInvalid.
    """
    if weights not in PRECISIONS:
        raise DataInvalid(f"--weights is one of {', '.join(PRECISIONS)}, not {weights!r}.")
    if not source.is_dir():
        raise ModelInvalid(f"{source.name!r} is no folder; name the folder of a model, with a model.json in it.")
    if out.exists() and any(out.iterdir()):
        raise DataInvalid(f"{out} holds files already; name a new or empty folder.")
    told = answers(source)
    file = find_weights(source)
    write_precision(source, out, weights)
    tells = answers(out)
    loss = QuantizationReport(
        data=data,
        examples=len(truth),
        before=_measure(told, np.asarray(truth), precision_of(file), file.stat().st_size),
        after=_measure(tells, np.asarray(truth), weights, find_weights(out).stat().st_size),
        differ=int((told.argmax(axis=1) != tells.argmax(axis=1)).sum()),
        largest=float(np.abs(told - tells).max()),
        mean=float(np.abs(told - tells).mean()),
    )
    _write_report(source, out, loss)
    return loss


def write_precision(source: Path, out: Path, weights: str) -> None:
    """Write a model's folder, its card without metrics of its own, with weights in another precision."""
    file = find_weights(source)
    # In full first: what is stored in half already is to come out in what is asked for.
    full = {name: t.float() if t.is_floating_point() else t for name, t in dequantize(read_weights(file)).items()}
    state = PRECISIONS[weights](full)
    out.mkdir(parents=True, exist_ok=True)
    target = out / file.with_suffix(".safetensors").name
    safetensors.torch.save_file(state, target, metadata={"format": "pt"})
    # safetensors writes for the owner alone; a service seldom runs as the one who trained.
    target.chmod(0o644)
    for name in _BESIDE:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    card = _card_of(source)
    write_json(out, {**card, "name": out.resolve().name, "sha256": file_sha256(target)})


def precision_of(file: Path) -> str:
    """Tell in which of `PRECISIONS` most of a weights file is stored."""
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


def _measure(probabilities: np.ndarray, truth: np.ndarray, precision: str, size: int) -> QuantizedMetrics:
    right = probabilities.argmax(axis=1) == truth
    recall = [right[truth == label].mean() for label in np.unique(truth)]
    return QuantizedMetrics(precision, size, float(right.mean()), float(np.mean(recall)))


def _card_of(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / CARD_FILE).read_text(encoding="utf-8")) if (folder / CARD_FILE).is_file() else {}
    except ValueError as error:
        raise ModelInvalid(f"The {CARD_FILE} of {folder.name!r} is no JSON that can be read; restore it.") from error


def _write_report(source: Path, out: Path, loss: QuantizationReport) -> None:
    """Put the loss where people look. The metrics that the source came with are of its own weights, and stay so."""
    card = _card_of(out)
    command = f"python -m moodreel.training export {source.name} --out DIR --weights {loss.after.precision} --data PATH"
    where = f"{loss.data}, {loss.examples}"
    figures = {
        "accuracy": (loss.before.accuracy, loss.after.accuracy),
        "mean recall": (loss.before.mean_recall, loss.after.mean_recall),
        "bytes of the weights": (loss.before.bytes, loss.after.bytes),
    }
    card["metrics"] = [
        *({**metric, "weights": metric.get("weights", loss.before.precision)} for metric in card.get("metrics", ())),
        *(
            {"name": f"{name}, {loss.after.precision}", "value": round(now, 4), "before": round(then, 4), "data": where}
            | {"weights": loss.after.precision, "command": command}
            for name, (then, now) in figures.items()
        ),
        {"name": "largest change of a probability", "value": round(loss.largest, 5), "data": where}
        | {"weights": loss.after.precision, "command": command},
        {"name": "mean change of a probability", "value": round(loss.mean, 6), "data": where}
        | {"weights": loss.after.precision, "command": command},
    ]
    write_json(out, card)
    written = source / "CARD.md"
    before = written.read_text(encoding="utf-8") if written.is_file() else f"# {source.name}\n"
    (out / "CARD.md").write_text(before.rstrip() + "\n" + _section(source, loss, command), encoding="utf-8")


def _section(source: Path, loss: QuantizationReport, command: str) -> str:
    then, now = loss.before, loss.after
    return f"""
## These weights: {now.precision}
This folder is `{source.name}` with its weights in {now.precision}; all figures above are of {then.precision}. On
{loss.examples} of {loss.data}:

| | {then.precision} | {now.precision} |
| --- | --- | --- |
| accuracy | {then.accuracy:.4f} | {now.accuracy:.4f} |
| mean recall | {then.mean_recall:.4f} | {now.mean_recall:.4f} |
| bytes of the weights | {then.bytes:,} | {now.bytes:,} |

{loss.differ} answers differ; a probability changes by {loss.mean:.5f} on average and {loss.largest:.4f} at most.

```
{command}
```
"""
