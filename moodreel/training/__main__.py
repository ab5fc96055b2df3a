"""`python -m moodreel.training`: `fit`, `compare`, `explain`, `export` and `extract` for models of your own; `train`,
`evaluate`, `baseline` and `movements` for those of the store."""

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from moodreel.errors import DataInvalid, MoodreelError
from moodreel.models.face_registry import face_model_registry, load_face_model
from moodreel.models.model_store import find_model_store
from moodreel.training.baselines.audio_logreg import cross_validate_baseline, extract_features
from moodreel.training.baselines.audio_logreg import summary as summary_of_folds
from moodreel.training.cli import compare as comparing
from moodreel.training.cli import explain, export, extract, fit
from moodreel.training.cli import text as text_commands
from moodreel.training.data.ferplus import read_split
from moodreel.training.data.muxspace import FILE as MUXSPACE
from moodreel.training.data.registry import open_dataset
from moodreel.training.engine import trainer
from moodreel.training.evaluation.evaluate import FaceEvaluation, evaluate
from moodreel.training.evaluation.metrics import ClassificationMetrics
from moodreel.training.export.model_folder import write_card, write_model
from moodreel.training.recipes.compact_emotimesh import Recipe, train
from moodreel.training.recipes.configs import AppearanceRecipe, ResEmoteNetRecipe, ViTRecipe
from moodreel.training.recipes.face_cards import (
    write_appearance,
    write_appearance_card,
    write_joint,
    write_joint_card,
)
from moodreel.training.recipes.face_expression import train_appearance
from moodreel.training.recipes.facial_actions import fit_facial_actions, write_facial_actions
from moodreel.training.recipes.moodreel_five import JointRecipe, train_joint

STORE = find_model_store()
LANDMARKER = STORE / "face_landmarker" / "face_landmarker.task"
MODEL = "face-expression"
"""What names of movements are fitted to: the network of seven labels, which all faces of pictures are read by."""

log = logging.getLogger("moodreel.training")


@dataclass(frozen=True)
class Course:
    """What it takes to train one model of the store: its recipe, then the functions that train and write it.

    talkers: whether muxspace is learnt from, and not only measured on.
    """

    recipe: type[Any]
    train: Callable[..., Any]
    write: Callable[..., Any]
    describe: Callable[..., None]
    talkers: bool = False


COURSES = {
    "compact-emotimesh": Course(Recipe, train, write_model, write_card),
    **{
        recipe.architecture: Course(recipe, train_appearance, write_appearance, write_appearance_card, talkers=True)
        for recipe in (AppearanceRecipe, ResEmoteNetRecipe, ViTRecipe)
    },
    "moodreel-five": Course(JointRecipe, train_joint, write_joint, write_joint_card, talkers=True),
}


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        args.run(args)
    except MoodreelError as error:
        sys.exit(f"moodreel.training: {error}")
    except OSError as error:  # a folder that is a file, no rights, a full disk
        sys.exit(
            f"moodreel.training: {error.filename or 'A file'}: {error.strerror or error}; mend it or name another."
        )
    except KeyboardInterrupt:
        more = " The same command with --resume goes on from its last checkpoint." if "resume" in args else ""
        print(f"\nmoodreel.training: interrupted.{more}", file=sys.stderr)
        sys.exit(130)


def _evaluate(args: argparse.Namespace) -> None:
    if text_commands.is_for_texts(args.model, STORE):
        return text_commands.run_evaluation(args.model, args.data, STORE)
    path = Path(args.model)
    predictor = load_face_model(path) if path.exists() else face_model_registry(STORE).get(args.model)
    report = evaluate(predictor, args.data, LANDMARKER, args.cache, groups=args.groups, workers=args.threads)
    print(_summary(report))


def _movements(args: argparse.Namespace) -> None:
    surrogate = fit_facial_actions(
        args.data, LANDMARKER, args.cache, face_model_registry(STORE).get(MODEL), workers=args.threads
    )
    write_facial_actions(args.out, surrogate, MODEL)
    print(f"agreement with {MODEL} {surrogate.agreement:.4f} of {surrogate.pictures} faces")


def _baseline(args: argparse.Namespace) -> None:
    data = open_dataset(args.data)
    print(f"{data.name}: {len(data.examples)} recordings. {data.license}.")
    print(summary_of_folds(cross_validate_baseline(data, extract_features(data), args.folds, seed=args.seed)))


def _train(args: argparse.Namespace) -> None:
    begun = time.monotonic()
    # All that the run will need, before it touches what is there or takes an hour.
    for split in ("train", "valid"):
        read_split(args.data, split)
    if args.muxspace_data and not (args.muxspace_data / MUXSPACE).is_file():
        raise DataInvalid(f"There is no {MUXSPACE} in {args.muxspace_data}; name muxspace's folder, or leave it out.")
    fit.begin_log(args.out, resume=args.resume)
    course = COURSES[args.model]
    recipe = course.recipe(**{field.name: getattr(args, field.name) for field in fields(course.recipe)})
    log.info("%s", recipe)
    more: dict[str, Any] = {"muxspace": args.muxspace_data} if course.talkers else {}
    more["loop"] = partial(trainer.fit, folder=args.out, resume=args.resume, wandb=args.wandb)
    trained = course.train(args.data, LANDMARKER, args.cache, recipe, workers=args.threads, **more)
    model = course.write(args.out, trained, recipe)
    measure = partial(evaluate, model, landmarker=LANDMARKER, cache=args.cache, workers=args.threads)
    report = measure(args.data)
    other = measure(args.muxspace_data) if args.muxspace_data else None
    changed = {f.name: getattr(recipe, f.name) for f in fields(recipe) if getattr(recipe, f.name) != f.default}
    options = "".join(f" --{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in changed.items())
    options = (" --muxspace-data PATH" if args.muxspace_data else "") + options
    command = f"python -m moodreel.training train {args.model} --data PATH --out DIR{options}"
    course.describe(args.out, report, trained, recipe, command, other)
    if other:
        log.info("muxspace, people held out:\n%s", _summary(other))
    log.info("%s\nDone in %.1f minutes.", _summary(report), (time.monotonic() - begun) / 60)


def _summary(report: FaceEvaluation) -> str:
    lines = [_metrics_summary(report.metrics)]
    if report.sequences:
        lines.append(f"expected calibration error {report.sequences.ece:.4f} (pseudo-sequences)")
        for kind, accuracy in report.sequences.by_kind.items():
            lines.append(f"pseudo-sequences {kind}: {accuracy.model:.3f}, mean of frames {accuracy.frame_mean:.3f}")
    lines += _group_summary(report.groups)
    if report.five:
        lines += ["In five classes:", _metrics_summary(report.five)]
    return "\n".join(lines)


def _metrics_summary(metrics: ClassificationMetrics) -> str:
    lines = [
        f"images {metrics.examples}, faces found {metrics.found:.4f}",
        f"accuracy {metrics.accuracy:.4f} (face not found = wrong), {metrics.accuracy_found:.4f} (faces found)",
        f"mean recall {metrics.balanced_accuracy:.4f}",
        f"expected calibration error {metrics.ece:.4f} (images)",
        "recall " + ", ".join(f"{label} {share:.3f}" for label, share in metrics.recall.items()),
        f"confusion, rows true, columns predicted, {', '.join(metrics.labels)}:",
        *(" ".join(f"{count:5d}" for count in row) for row in metrics.confusion[:, :-1]),
    ]
    return "\n".join(lines)


def _group_summary(groups: dict[str, ClassificationMetrics]) -> list[str]:
    if not groups:
        return []
    lines = [
        f"group {group}: images {metrics.examples}, faces found {metrics.found:.4f}, accuracy {metrics.accuracy:.4f}, "
        f"mean recall {metrics.balanced_accuracy:.4f}"
        for group, metrics in groups.items()
    ]
    for label, name in (("accuracy", "accuracy"), ("mean recall", "balanced_accuracy")):
        values = {group: getattr(metrics, name) for group, metrics in groups.items()}
        worst, best = (choose(values, key=values.__getitem__) for choose in (min, max))
        lines.append(
            f"spread of {label} {values[best] - values[worst]:.4f}: "
            f"best {values[best]:.4f} ({best}), worst {values[worst]:.4f} ({worst})"
        )
    return lines


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of train.npz, train_fer2013.npz, valid.npz; of fer2013.csv, fer2013new.csv; or FER2013's csv",
    )
    common.add_argument("--cache", type=Path, default=Path("runs/cache"), help="for faces found (default: %(default)s)")
    common.add_argument("--threads", type=int, default=1, help="of torch and of the face finder (default: %(default)s)")
    parser = argparse.ArgumentParser(prog="python -m moodreel.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train a model and write its folder")
    models = training.add_subparsers(dest="model", required=True)
    for name, course in COURSES.items():
        model = models.add_parser(name, parents=[common])
        model.add_argument("--out", type=Path, required=True, help="the model's folder; its name is the model's")
        model.add_argument(
            "--muxspace-data",
            type=Path,
            help=f"folder of muxspace's faces.npz: more to {'learn from and ' if course.talkers else ''}measure on",
        )
        fit.add_options(model)
        for field in fields(course.recipe):
            option = "--" + field.name.replace("_", "-")
            model.add_argument(option, type=_read_as(field.default), default=field.default, help="default: %(default)s")
        model.set_defaults(run=_train)
    text_commands.add_parser(models, _read_as)
    fit.add_parser(commands, _read_as, STORE)
    evaluation = commands.add_parser("evaluate", parents=[common], help="measure a model")
    evaluation.epilog = (
        "--data may also be muxspace's folder, or one with a folder of pictures for each label; for a model that reads "
        "texts it is GoEmotions'."
    )
    evaluation.add_argument(
        "--groups", type=Path, help="csv of columns file, group: measure each group of pictures too"
    )
    evaluation.add_argument("model", help="a name in the store, a model's folder or a weights file")
    evaluation.set_defaults(run=_evaluate)
    comparing.add_parser(commands, STORE)
    for more in (explain, export):
        more.add_parser(commands, store=STORE)
    movements = commands.add_parser("movements", parents=[common], help="fit what names the movements behind an answer")
    movements.add_argument("--out", type=Path, required=True, help="the folder to write")
    movements.set_defaults(run=_movements)
    frozen = commands.add_parser("baseline", help="measure what sound tells without a network, to compare with")
    frozen.add_argument("--data", required=True, help="ravdess-audio:PATH, or another set with sound")
    frozen.add_argument("--folds", type=int, default=5, help="by person (default: %(default)s)")
    frozen.add_argument("--seed", type=int, default=0, help="of the folds (default: %(default)s)")
    frozen.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    frozen.set_defaults(run=_baseline)
    extract.add_parser(commands, store=STORE)
    return parser


def _read_as(default: Any) -> Callable[[str], Any]:
    """How an option is read whose default is this: argparse would take any word for true."""
    return _read_flag if isinstance(default, bool) else type(default)


def _read_flag(text: str) -> bool:
    flags = {"1": True, "true": True, "0": False, "false": False}
    if text.lower() not in flags:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 0, true nor false")
    return flags[text.lower()]


if __name__ == "__main__":
    main(sys.argv[1:])
