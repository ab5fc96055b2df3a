"""`python -m moodreel.training compare MODEL… --data NAME:PATH --out DIR`."""

import argparse
import logging
import shlex
from pathlib import Path

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.training.cli.options import Commands, add_common, add_out, check_out
from moodreel.training.comparison.compare import compare
from moodreel.training.comparison.face_sheets import draw_faces
from moodreel.training.comparison.report import PAGE, TEXT, write_report
from moodreel.training.comparison.results import DECISION_METRIC, ComparisonConfig
from moodreel.training.comparison.split import evaluation_split
from moodreel.training.comparison.verdict import verdict
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.image_folder import read_groups
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import DATASETS, open_dataset
from moodreel.training.data.splits import SPLIT_BY
from moodreel.training.engine.device import resolve_device
from moodreel.training.evaluation.face_model import check_media
from moodreel.training.evaluation.metrics import CONFUSION_METRICS
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.explain.highlight import highlighter

logger = logging.getLogger("moodreel.training")


def add_parser(commands: Commands, store: Path) -> None:
    """Add `compare` to the commands. store: the folder of models."""
    parser = commands.add_parser("compare", help="measure models side by side, and say whether one is better")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name in the store, a folder or a weights file")
    parser.add_argument(
        "--data", required=True, metavar="NAME:PATH", help=f"what to measure on; NAME is one of {', '.join(DATASETS)}"
    )
    add_out(parser, "the report's folder")
    parser.add_argument("--groups", type=Path, help="csv of columns file, group: measure each group too")
    parser.add_argument(
        "--judge-by",
        choices=sorted(CONFUSION_METRICS),
        default=DECISION_METRIC,
        help="the deciding metric (default: %(default)s)",
    )
    parser.add_argument(
        "--hold-out", type=float, metavar="SHARE", help="measure on such a share instead of what the set holds out"
    )
    parser.add_argument("--by", choices=SPLIT_BY, default="", help="how to hold out; random leaks (default: person)")
    parser.add_argument("--seed", type=int, default=0, help="of what is held out and resampled (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default: %(default)s)")
    parser.add_argument(
        "--gap-sample",
        type=int,
        default=1000,
        help="training examples to measure the generalization gap on, 0 for none",
    )
    parser.add_argument(
        "--gap", action="store_true", help="also for models whose card does not name the data set as training data"
    )
    add_common(parser)
    parser.set_defaults(run=lambda args: run(args, store))


def run(args: argparse.Namespace, store: Path) -> None:
    """Compare, write the report, and print the verdict."""
    if args.resamples < 100 or args.gap_sample < 0:
        raise DataInvalid("--resamples takes 100 or more, --gap-sample 0 or more.")
    check_out(args.out, overwrite=args.overwrite)
    data = open_dataset(args.data)
    models = open_models(args.models, store, device=str(resolve_device(args.device)))
    check_media(models, data.media)
    cards = [model.info.card for model in models]
    split = evaluation_split(data, cards, share=args.hold_out, by=args.by, seed=args.seed)
    groups = groups_of(args.groups, data, Path(args.data.partition(":")[2])) if args.groups else None
    context = DataContext(store, args.cache, workers=args.threads)
    config = ComparisonConfig(args.judge_by, args.resamples, args.seed, args.gap_sample, args.gap)
    comparison, evaluation = compare(models, data, split, context, config, groups=groups)
    drawn = draw_faces(models, evaluation, data.media, context, highlighter(evaluation.labels))
    write_report(args.out, comparison, command_of(args), drawn)
    for sentence in verdict(comparison):
        print(sentence)
    print(f"Held out: {comparison.split_description}\n{args.out / PAGE}, {args.out / TEXT}")


def groups_of(file: Path, data: Dataset, folder: Path) -> dict[str, np.ndarray]:
    """Read the groups of a set's files, by their names relative to its folder: bool (N,) of each."""
    media = [example.media for example in data.examples]
    if not all(isinstance(each, Path) for each in media):
        raise DataInvalid("Groups are of files in a folder for each label; this set comes as arrays.")
    return read_groups(file, tuple(Path(str(each)).relative_to(folder).as_posix() for each in media))


def command_of(args: argparse.Namespace) -> str:
    """Return the command that made a report, with all that its numbers depend on."""
    words = ["python", "-m", "moodreel.training", "compare", *args.models, "--data", args.data]
    words += ["--groups", str(args.groups)] if args.groups else []
    words += ["--judge-by", args.judge_by] if args.judge_by != DECISION_METRIC else []
    words += ["--hold-out", f"{args.hold_out:g}"] if args.hold_out is not None else []
    words += ["--by", args.by] if args.by else []
    words += ["--seed", str(args.seed), "--resamples", str(args.resamples), "--gap-sample", str(args.gap_sample)]
    words += ["--gap"] if args.gap else []
    return shlex.join([*words, "--out", str(args.out)])
