"""`python -m moodreel.training train compact-emotimesh --data PATH --out DIR` and `evaluate MODEL --data PATH`."""

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from moodreel.emotions import FIVE
from moodreel.models.store import ModelStore, load
from moodreel.training.evaluate import Report, evaluate
from moodreel.training.export import write_card, write_model
from moodreel.training.train import Recipe, train

STORE = Path(__file__).resolve().parents[2] / "model_store"
LANDMARKER = STORE / "face_landmarker" / "face_landmarker.task"

log = logging.getLogger("moodreel.training")


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.command == "train":
        _train(args)
    else:
        path = Path(args.model)
        predictor = load(path) if path.exists() else ModelStore(STORE).get(args.model)
        print(_summary(evaluate(predictor, args.data, LANDMARKER, args.cache)))


def _train(args: argparse.Namespace) -> None:
    begun = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    logging.getLogger().addHandler(logging.FileHandler(args.out / "train.log", mode="w"))
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    log.info("%s", recipe)
    trained = train(args.data, LANDMARKER, args.cache, recipe, workers=args.threads)
    report = evaluate(write_model(args.out, trained, recipe), args.data, LANDMARKER, args.cache)
    changed = {f.name: getattr(recipe, f.name) for f in fields(Recipe) if getattr(recipe, f.name) != f.default}
    options = "".join(f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in changed.items())
    command = f"python -m moodreel.training train {args.model} --data PATH --out DIR{options}"
    write_card(args.out, report, trained, recipe, command)
    log.info("%s\nDone in %.1f minutes.", _summary(report), (time.monotonic() - begun) / 60)


def _summary(report: Report) -> str:
    lines = [
        f"pictures {report.pictures}, faces found {report.found:.4f}",
        f"accuracy {report.accuracy:.4f} (face not found = wrong), {report.accuracy_found:.4f} (faces found)",
        f"mean recall {report.mean_recall:.4f}",
        f"expected calibration error {report.ece:.4f} (pictures), {report.ece_sequences:.4f} (sequences)",
        "recall " + ", ".join(f"{label} {share:.3f}" for label, share in report.recall.items()),
        f"confusion, rows true, columns answered, {', '.join(FIVE)}:",
        *(" ".join(f"{n:5d}" for n in row) for row in report.confusion),
        *(f"sequences {k}: {joined:.3f}, mean of moments {mean:.3f}" for k, (joined, mean) in report.by_kind.items()),
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, required=True, help="folder of train.npz, train_fer2013.npz, valid.npz")
    common.add_argument("--cache", type=Path, default=Path("runs/cache"), help="for faces found (default: %(default)s)")
    common.add_argument("--threads", type=int, default=1, help="of torch and of the face finder (default: %(default)s)")
    parser = argparse.ArgumentParser(prog="python -m moodreel.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", parents=[common], help="train a model and write its folder")
    training.add_argument("model", choices=["compact-emotimesh"])
    training.add_argument("--out", type=Path, required=True, help="the model's folder; its name is the model's")
    for field in fields(Recipe):
        option = "--" + field.name.replace("_", "-")
        training.add_argument(option, type=type(field.default), default=field.default, help="default: %(default)s")
    evaluation = commands.add_parser("evaluate", parents=[common], help="measure a model on valid.npz")
    evaluation.add_argument("model", help="a name in the store, a model's folder or a weights file")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
