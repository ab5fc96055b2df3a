"""`evaluate MODEL --data NAME:PATH`: measure one face or text model on a data set, or a face model on several."""

import argparse
from pathlib import Path

from moodreel.errors import DataInvalid
from moodreel.models.face_registry import face_model_registry, load_face_model
from moodreel.models.model_card import DIARY, PRIORS, TEXT, read_kind
from moodreel.models.registry import CARD_FILE
from moodreel.models.text_registry import load_text_model, text_model_registry
from moodreel.training.cli.deprecated import notice
from moodreel.training.cli.options import Commands, add_common, add_data
from moodreel.training.data.dataset import CLIPS, IMAGES
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset
from moodreel.training.engine.device import resolve_device
from moodreel.training.evaluation.criterion import TALKERS, evaluate_sets, summarize_sets
from moodreel.training.evaluation.evaluate import evaluate, summarize
from moodreel.training.evaluation.evaluate_text import evaluate_text, summarize_text
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.experiment.recipe import STORE

FACE_DATA, TEXT_DATA = ("ferplus", "muxspace", IMAGES), ("goemotions",)
"""Data sets that can be measured on alone, with a detailed report."""
TABLE_DATA = ("webfaces", "afew-va", "ravdess", CLIPS, TALKERS)
"""Data sets besides `FACE_DATA` that the table of several sets can have."""


def add_parser(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("evaluate", help="measure one model on a data set")
    parser.add_argument("model", help="a name in the store, a model's folder or a weights file")
    help = (
        f"data to measure on; {', '.join(TEXT_DATA)} for a text model. Several, or {', '.join(TABLE_DATA)}, give one "
        "table with the criterion to choose a model by"
    )
    add_data(parser, help, (*FACE_DATA, *TABLE_DATA, *TEXT_DATA), several=True)
    parser.add_argument(
        "--groups",
        type=Path,
        help="CSV file with the columns file and group: measure each group of one images:PATH too",
    )
    help = "how often people show each emotion; for models whose model.json has priors (default: %(default)s)"
    parser.add_argument("--prior", choices=PRIORS, default=DIARY, help=help)
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure a model, and print the metrics."""
    path, is_text, device = Path(args.model), _is_text(args.model), str(resolve_device(args.device))
    context = DataContext(STORE, args.cache, workers=args.threads)
    if len(args.data) > 1 or args.data[0].partition(":")[0] in TABLE_DATA:
        return _run_table(args, device, context, is_text=is_text)
    data = _parse(args.data[0], TEXT_DATA if is_text else FACE_DATA)
    if is_text:
        registry = text_model_registry(STORE, device=device)
        text_model = load_text_model(path, device=device) if path.exists() else registry.get(args.model)
        return print(summarize_text(evaluate_text(text_model, data)))
    model = (
        load_face_model(path, device=device, prior=args.prior)
        if path.exists()
        else face_model_registry(STORE, device=device, prior=args.prior).get(args.model)
    )
    print(summarize(evaluate(model, data, context, groups=args.groups)))


def _run_table(args: argparse.Namespace, device: str, context: DataContext, *, is_text: bool) -> None:
    """Measure a face model on several sets, and print one table."""
    names = (*FACE_DATA, *TABLE_DATA)
    if is_text:
        raise DataInvalid(f"A text model is measured on one {', '.join(TEXT_DATA)}:PATH.")
    if unknown := [spec for spec in args.data if spec.partition(":")[0] not in names]:
        raise DataInvalid(f"Several sets are measured on {', '.join(names)}, each as NAME:PATH, not on {unknown[0]!r}.")
    if args.groups:
        raise DataInvalid("--groups is for one --data images:PATH; leave it or the other sets out.")
    [model] = open_models([args.model], STORE, device=device, prior=args.prior)
    print(summarize_sets(evaluate_sets(model, [open_dataset(spec) for spec in args.data], context)))


def _parse(spec: str, names: tuple[str, ...]) -> Path:
    """Return the path of NAME:PATH. A path alone is deprecated."""
    name, colon, path = spec.partition(":")
    if colon and name not in names:
        raise DataInvalid(f"This model is measured on {', '.join(names)}, not on {name!r}.")
    if not colon:
        notice("--data PATH", f"--data NAME:PATH, where NAME is one of {', '.join(names)}")
    return Path(path if colon else spec)


def _is_text(model: str) -> bool:
    """Return whether a name or a path is that of a text model."""
    path = Path(model)
    folder = path if path.is_dir() else path.parent if path.exists() else STORE / model
    return read_kind(folder / CARD_FILE) == TEXT
