"""`evaluate MODEL --data NAME:PATH`: measure one face or text model on a data set."""

import argparse
from pathlib import Path

from moodreel.errors import DataInvalid
from moodreel.models.face_registry import face_model_registry, load_face_model
from moodreel.models.model_card import TEXT, read_kind
from moodreel.models.registry import CARD_FILE
from moodreel.models.text_registry import load_text_model, text_model_registry
from moodreel.training.cli.deprecated import notice
from moodreel.training.cli.options import Commands, add_common, add_data
from moodreel.training.data.dataset import IMAGES
from moodreel.training.data.loading import DataContext
from moodreel.training.engine.device import resolve_device
from moodreel.training.evaluation.evaluate import evaluate
from moodreel.training.evaluation.evaluate_text import evaluate_text, summary
from moodreel.training.evaluation.summary import summarize
from moodreel.training.experiment.recipe import STORE

FACE_DATA, TEXT_DATA = ("ferplus", "muxspace", IMAGES), ("goemotions",)


def add_parser(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("evaluate", help="measure one model on a data set")
    parser.add_argument("model", help="a name in the store, a model's folder or a weights file")
    add_data(parser, f"what to measure on; {', '.join(TEXT_DATA)} for a text model", (*FACE_DATA, *TEXT_DATA))
    parser.add_argument("--groups", type=Path, help="csv file with the columns file and group: measure each group too")
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure a model, and print the metrics."""
    path, is_text, device = Path(args.model), _is_text(args.model), str(resolve_device(args.device))
    data = _parse(args.data, TEXT_DATA if is_text else FACE_DATA)
    if is_text:
        registry = text_model_registry(STORE, device=device)
        text_model = load_text_model(path, device=device) if path.exists() else registry.get(args.model)
        return print(summary(evaluate_text(text_model, data)))
    model = (
        load_face_model(path, device=device)
        if path.exists()
        else face_model_registry(STORE, device=device).get(args.model)
    )
    context = DataContext(STORE, args.cache)
    report = evaluate(model, data, context.landmarker, args.cache, groups=args.groups, workers=args.threads)
    print(summarize(report))


def _parse(spec: str, names: tuple[str, ...]) -> Path:
    """Return the path of NAME:PATH. A mere path is deprecated."""
    name, colon, path = spec.partition(":")
    if colon and name not in names:
        raise DataInvalid(f"This model is measured on {', '.join(names)}, not on {name!r}.")
    if not colon:
        notice("--data PATH", f"--data NAME:PATH, where NAME is one of {', '.join(names)}")
    return Path(path if colon else spec)


def _is_text(model: str) -> bool:
    """Tell whether a name or a path is that of a text model."""
    path = Path(model)
    folder = path if path.is_dir() else path.parent if path.exists() else STORE / model
    return read_kind(folder / CARD_FILE) == TEXT
