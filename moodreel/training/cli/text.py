"""What `python -m moodreel.training` does with models for texts."""

import argparse
import logging
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

from moodreel.errors import DataInvalid
from moodreel.models.model_card import TEXT, read_kind
from moodreel.models.quantization import PRECISIONS
from moodreel.models.registry import CARD_FILE, WEIGHTS_FILE
from moodreel.models.text_registry import load_text_model, text_model_registry
from moodreel.training.baselines.tfidf_logreg import measure_tfidf_baseline
from moodreel.training.cli.fit import add_options, begin_log
from moodreel.training.data.ferplus import holdout_mask
from moodreel.training.data.goemotions import read_texts
from moodreel.training.engine.trainer import fit
from moodreel.training.evaluation.evaluate_text import evaluate_text, summary
from moodreel.training.recipes.configs import TextRecipe
from moodreel.training.recipes.minilm_init import find_pretrained
from moodreel.training.recipes.text_card import SizePoint, write_text, write_text_card
from moodreel.training.recipes.text_emotion import TrainedText, train_text

NAME = "text-emotion"

log = logging.getLogger("moodreel.training")


def add_parser(models: argparse._SubParsersAction, option_type: Callable[[object], Callable]) -> None:
    """Add the options of training to those of `train`."""
    parser = models.add_parser(NAME)
    parser.add_argument(
        "--data", type=Path, required=True, help="GoEmotions' folder: train.tsv, dev.tsv, labels.txt, …"
    )
    parser.add_argument("--out", type=Path, required=True, help="the model's folder; its name is the model's")
    parser.add_argument("--pretrained", type=Path, help="folder of MiniLM's weights; default: the installed package's")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="models made before, for the card's curve")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    add_options(parser)
    for field in fields(TextRecipe):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=option_type(field.default), default=field.default, help="default: %(default)s")
    parser.set_defaults(run=run_training)


def run_training(args: argparse.Namespace) -> None:
    """Train a model and write its folder."""
    begun = time.monotonic()
    recipe = TextRecipe(**{field.name: getattr(args, field.name) for field in fields(TextRecipe)})
    if recipe.weights not in PRECISIONS:
        raise DataInvalid(f"--weights is one of {', '.join(PRECISIONS)}, not {recipe.weights!r}.")
    # All that the run will need, before it touches what is there or takes an hour.
    pretrained = args.pretrained or find_pretrained()
    texts, dev = read_texts(args.data, "train"), read_texts(args.data, "dev")
    begin_log(args.out, resume=args.resume)
    log.info("%s", recipe)

    held = holdout_mask(len(texts.texts), recipe.held_out, recipe.seed)
    floor = measure_tfidf_baseline(texts.only(~held), texts.only(held), dev)
    log.info("words counted, and a logistic regression:\n%s", summary(floor))
    kept = partial(fit, folder=args.out, resume=args.resume, wandb=args.wandb)
    trained = train_text(args.data, recipe, pretrained, loop=kept)
    write_text(args.out, trained, recipe)
    curve = [*_precisions(trained, recipe, args), *(_measured(folder, args.data) for folder in args.beside)]
    report = evaluate_text(load_text_model(args.out), args.data)
    write_text_card(args.out, report, trained, recipe, _command(args, recipe), floor, curve)
    log.info("%s\nDone in %.1f minutes.", summary(report), (time.monotonic() - begun) / 60)


def run_evaluation(model: str, data: Path, store: Path) -> None:
    """Measure a model of the store, by its name, or one by its folder."""
    path = Path(model)
    predictor = load_text_model(path) if path.exists() else text_model_registry(store).get(model)
    print(summary(evaluate_text(predictor, data)))


def is_for_texts(model: str, store: Path) -> bool:
    """Tell whether a name or a path is that of a model for texts."""
    folder = Path(model) if Path(model).is_dir() else Path(model).parent if Path(model).exists() else store / model
    return read_kind(folder / CARD_FILE) == TEXT


def _precisions(trained: TrainedText, recipe: TextRecipe, args: argparse.Namespace) -> list[SizePoint]:
    """The same network stored in each way there is."""
    points = []
    with tempfile.TemporaryDirectory() as scratch:
        for weights in PRECISIONS:
            folder = Path(scratch, weights)
            write_text(folder, trained, recipe, weights)
            points.append(_measured(folder, args.data, f"{recipe.layers} layers, {weights}"))
    return points


def _measured(folder: Path, data: Path, name: str | None = None) -> SizePoint:
    report = evaluate_text(load_text_model(folder), data)
    point = SizePoint(name or folder.name, (folder / WEIGHTS_FILE).stat().st_size / 1e6, report)
    log.info("%s, %.1f MB: macro-F1 %.4f, ece %.4f", point.name, point.megabytes, report.macro_f1, report.ece)
    return point


def _command(args: argparse.Namespace, recipe: TextRecipe) -> str:
    changed = {f.name: getattr(recipe, f.name) for f in fields(recipe) if getattr(recipe, f.name) != f.default}
    options = "".join(f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in changed.items())
    return f"python -m moodreel.training train {NAME} --data PATH --out DIR{options}"
