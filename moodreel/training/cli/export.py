"""`python -m moodreel.training export MODEL --out DIR --weights int8 --data NAME:PATH`."""

import argparse
from pathlib import Path

import numpy as np

from moodreel.errors import DataInvalid, ModelInvalid
from moodreel.models.quantization import PRECISIONS
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset
from moodreel.training.evaluation.face_model import EvaluatedModel, check_media
from moodreel.training.evaluation.label_mapping import common_labels, mapping_matrix
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.export.quantize import QuantizationReport, quantize_model


def add_parser(commands: argparse._SubParsersAction, *, store: Path) -> None:
    """Add `export` to the commands."""
    parser = commands.add_parser("export", help="write a model in another precision, and measure what that costs")
    parser.add_argument("model", help="a name in the store, or a model's folder")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder; its name is the model's")
    parser.add_argument("--weights", choices=PRECISIONS, required=True)
    parser.add_argument("--data", required=True, help="NAME:PATH of a set; its held-out part is measured on")
    parser.add_argument("--count", type=int, default=1000, help="examples, 0 for all (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="for faces found (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.set_defaults(run=lambda args: _run(args, store))


def _run(args: argparse.Namespace, store: Path) -> None:
    means = DataContext(store, args.cache, workers=args.threads)
    [subject] = open_models([args.model], store)
    print(export_measured(subject, args.out, args.weights, open_dataset(args.data), means, count=args.count))


def export_measured(
    subject: EvaluatedModel, out: Path, weights: str, data: Dataset, means: DataContext, *, count: int = 0
) -> QuantizationReport:
    """Export a model, measured on at most `count` of the examples that a set holds out, or all for 0.

    An example in which the model finds no face counts for neither side.
    Raises MoodreelError for a model and data that do not go together.
    """
    check_media([subject], data.media)
    if not subject.path.is_dir():
        raise ModelInvalid(f"{subject.path.name!r} is no folder; name the folder of a model, with a model.json in it.")
    labels = common_labels({subject.name: subject.info.labels}, data.labels)
    held_out = np.random.default_rng(means.seed).permutation(data.split().held_out)
    rows = np.sort(held_out[: count or None])
    examples = [data.examples[row] for row in rows]
    first = subject.predict(examples, data.media, means)
    if not first.found.any():
        raise DataInvalid(f"No face was found in any of {len(rows)} examples of {data.name}; look at some.")
    into = mapping_matrix(subject.info.labels, labels)
    truth = mapping_matrix(data.labels, labels).argmax(axis=1)[data.truth[rows]]

    def answers(folder: Path) -> np.ndarray:
        said = first
        if folder != subject.path:
            [other] = open_models([str(folder)], means.models)
            said = other.predict(examples, data.media, means)
        return said.probabilities[first.found] @ into

    return quantize_model(subject.path, out, weights, answers, truth[first.found], data=f"{data.name}, held out")
