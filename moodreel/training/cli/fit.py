"""`fit ARCHITECTURE --data NAME:PATH --out DIR`: any architecture on any set."""

import argparse
import json
import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from moodreel.errors import DataInvalid
from moodreel.models.predictor import resolve_device
from moodreel.models.quantization import PRECISIONS
from moodreel.models.registry import CARD_FILE
from moodreel.training.data.dataset import pair_with_faces
from moodreel.training.data.registry import DATASETS, open_dataset
from moodreel.training.data.splits import SPLIT_BY
from moodreel.training.engine.checkpoint import CHECKPOINT
from moodreel.training.engine.schedule import SCHEDULES
from moodreel.training.evaluation.face_model import DataContext
from moodreel.training.experiment.adapters import ADAPTERS, adapter_for
from moodreel.training.experiment.config import BACKBONES, TrainConfig
from moodreel.training.experiment.model_card import write_fitted_card
from moodreel.training.experiment.runner import RunRequest, run_experiment

log = logging.getLogger(__name__)


def add_parser(commands: Any, read_as: Callable[[Any], Callable[[str], Any]], store: Path) -> None:
    parser = commands.add_parser("fit", help="train an architecture on a data set of your own, or any other")
    parser.add_argument("architecture", choices=ADAPTERS, metavar="ARCHITECTURE", help=", ".join(ADAPTERS))
    parser.add_argument("--data", required=True, metavar="NAME:PATH", help=f"NAME is one of {', '.join(DATASETS)}")
    parser.add_argument(
        "--faces", metavar="NAME:PATH", help="pair each recording with faces of its emotion (synthetic pairing)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the model's folder; its name is the model's")
    parser.add_argument(
        "--argument",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the network, as often as needed: fusion=gated, layers=2, channels=[32,64]",
    )
    parser.add_argument("--pretrained", type=Path, help="weights to begin with, where the architecture takes them")
    parser.add_argument(
        "--heard", type=Path, metavar="RUN", help="of pairs: begin from the audio networks of a run with the same folds"
    )
    parser.add_argument(
        "--folds", type=int, default=0, help="cross-validate by person in so many parts, then train on everything"
    )
    add_options(parser)
    parser.add_argument("--gpu", choices=["auto", "0", "1"], default="auto", help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="for faces found (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and of the face finder (default: %(default)s)")
    allowed = {"schedule": list(SCHEDULES), "by": ["", *SPLIT_BY], "weights": list(PRECISIONS)}
    for field in fields(TrainConfig):
        option, choices = "--" + field.name.replace("_", "-"), allowed.get(field.name)
        # Not given is not the same as the default here: see _study.
        default, said = (
            (None, f"{field.default:g}, or 0 for faces over time")
            if field.name == "mixup"
            else (field.default, "%(default)s")
        )
        parser.add_argument(
            option, type=read_as(field.default), default=default, choices=choices, help=f"default: {said}"
        )
    parser.set_defaults(run=lambda args: _run(args, store))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that trains has."""
    parser.add_argument("--resume", action="store_true", help="go on where a run with the same --out was ended")
    parser.add_argument("--wandb", default="", metavar="PROJECT", help="write to Weights & Biases too, if installed")


def _run(args: argparse.Namespace, store: Path) -> None:
    begun = time.monotonic()
    # All that can be wrong with the words, before anything that is in the folder is touched.
    study = _study(args)
    arguments = dict(_argument(given) for given in args.argument)
    data = open_dataset(args.data)
    if args.faces:
        data = pair_with_faces(data, open_dataset(args.faces))
    begin_log(args.out, resume=args.resume)
    order = RunRequest(
        architecture=args.architecture,
        arguments=arguments,
        out=args.out,
        pretrained=args.pretrained,
        heard=args.heard,
        folds=args.folds,
        resume=args.resume,
        wandb=args.wandb,
        device=resolve_device(args.gpu),
        command=_command(args, study),
    )
    means = DataContext(models=store, cache=args.cache, seed=study.seed, workers=args.threads)
    outcome = run_experiment(data, study, order, means)
    write_fitted_card(order, study, outcome, adapter_for(args.architecture))
    log.info("Done in %.1f minutes.", (time.monotonic() - begun) / 60)
    print((args.out / "CARD.md").read_text(encoding="utf-8"))


def begin_log(out: Path, *, resume: bool) -> None:
    """Make a model's folder, and log to its train.log as well.

    Raises DataInvalid where it cannot be made, or holds a run that was ended and would be lost.
    """
    if not resume and _unfinished(out):
        raise DataInvalid(f"{out} holds a training that was ended before its end: go on with --resume, or delete it.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        logging.getLogger().addHandler(logging.FileHandler(out / "train.log", mode="a" if resume else "w"))
    except OSError as error:
        raise DataInvalid(f"{out} cannot be written to ({error.strerror}); name another folder with --out.") from error


def _unfinished(out: Path) -> bool:
    """Whether a folder has a checkpoint that no model has come out of: model.json is written last."""
    card = out / CARD_FILE
    written = card.stat().st_mtime_ns if card.is_file() else 0
    checkpoints = [out / CHECKPOINT, *out.glob(f"fold-*/{CHECKPOINT}")]
    return any(path.stat().st_mtime_ns > written for path in checkpoints if path.is_file())


def _study(args: argparse.Namespace) -> TrainConfig:
    given = {field.name: getattr(args, field.name) for field in fields(TrainConfig)}
    if given["mixup"] is None:
        given["mixup"] = TrainConfig.mixup if adapter_for(args.architecture).supports_mixup else 0.0
    study = TrainConfig(**given)
    if study.frozen and args.architecture not in BACKBONES:
        raise DataInvalid(
            f"{args.architecture} has no trunk to freeze, which {', '.join(BACKBONES)} have; omit --frozen."
        )
    return study


def _argument(given: str) -> tuple[str, Any]:
    name, equals, value = given.partition("=")
    if not equals:
        raise DataInvalid(f"{given!r} is no argument; write NAME=VALUE.")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def _command(args: argparse.Namespace, study: TrainConfig) -> str:
    """The command that repeats a study, without paths."""
    name = args.data.partition(":")[0] if ":" in args.data else "ferplus"
    words = ["python -m moodreel.training fit", args.architecture, "--data", f"{name}:PATH", "--out DIR"]
    words += [f"--faces {args.faces.partition(':')[0]}:PATH"] if args.faces else []
    words += [f"--argument {shlex.quote(given)}" for given in args.argument]
    words += ["--pretrained PATH"] if args.pretrained else []
    words += ["--heard RUN"] if args.heard else []
    words += [f"--folds {args.folds}"] if args.folds else []
    for field in fields(TrainConfig):
        value = getattr(study, field.name)
        if value != field.default:
            words.append(f"--{field.name.replace('_', '-')} {shlex.quote(str(value))}")
    return " ".join(words)
