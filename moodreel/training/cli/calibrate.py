"""`calibrate MODEL --data NAME:PATH …`: fit offsets, temperatures and the threshold of `certain` under each prior."""

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path

from moodreel.errors import DataInvalid
from moodreel.models.registry import CARD_FILE
from moodreel.training.cli.evaluate import FACE_DATA, TABLE_DATA
from moodreel.training.cli.options import Commands, add_common, add_data
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset
from moodreel.training.engine.device import resolve_device
from moodreel.training.evaluation.face_model import EvaluatedFaceModel
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.evaluation.priors import card_priors, fit_priors, predict_uncalibrated, summarize_priors
from moodreel.training.experiment.recipe import STORE
from moodreel.training.export.model_folder import write_json

HEADING = "## Prior and confidence"
"""Heading of the section in CARD.md."""


def add_parser(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("calibrate", help="fit the confidence of a face model under each prior")
    parser.add_argument("model", help="a name in the store, or a model's folder")
    add_data(
        parser,
        "data to fit on, once for each set: images, clips and talkers that the model was not trained on",
        (*FACE_DATA, *TABLE_DATA),
        several=True,
    )
    parser.add_argument(
        "--write", action="store_true", help="write the numbers into model.json and the tables into CARD.md"
    )
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Fit a model's priors, and print them with their effect."""
    device = str(resolve_device(args.device))
    [model] = open_models([args.model], STORE, device=device)
    if not isinstance(model, EvaluatedFaceModel):
        raise DataInvalid(f"{model.name} reads voices too; priors are for models that read faces alone.")
    if args.write and not (model.path / CARD_FILE).is_file():
        raise DataInvalid(f"{model.path} is not a folder with a {CARD_FILE} to write priors into; name one.")
    context = DataContext(STORE, args.cache, workers=args.threads)
    sets = predict_uncalibrated(model, [open_dataset(spec) for spec in args.data], context, device=device)
    priors = fit_priors(sets)
    summary = summarize_priors(model.name, card_priors(model.info.card), sets, priors)
    fields = {name: asdict(prior) for name, prior in priors.items()}
    print(f"{summary}\n\n{json.dumps({'priors': fields}, indent=2)}")
    if args.write:
        _write(model.path, fields, summary)


def _write(folder: Path, priors: dict[str, dict[str, object]], summary: str) -> None:
    """Write priors into a folder's model.json, and the section about them into its CARD.md."""
    write_json(folder, {**json.loads((folder / CARD_FILE).read_text(encoding="utf-8")), "priors": priors})
    card = folder / "CARD.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {folder.resolve().name}\n"
    rest = re.sub(rf"^{HEADING}\n.*?(?=^## |\Z)", "", text, flags=re.DOTALL | re.MULTILINE).rstrip()
    card.write_text(f"{rest}\n\n{HEADING}\n\n{summary}\n", encoding="utf-8")
