"""`compare MODEL… --data NAME:PATH --out DIR`: measure models side by side, and write the report."""

import argparse
from pathlib import Path

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.training.cli.deprecated import add_deprecated
from moodreel.training.cli.options import Commands, add_common, add_data, add_out, at_least, check_out
from moodreel.training.comparison.compare import compare
from moodreel.training.comparison.face_sheets import draw_faces
from moodreel.training.comparison.report import PAGE, TEXT, write_report
from moodreel.training.comparison.results import DECISION_METRIC, ComparisonConfig
from moodreel.training.comparison.split import evaluation_split
from moodreel.training.comparison.verdict import verdict
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.image_folder import read_groups
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset
from moodreel.training.data.splits import SPLIT_BY
from moodreel.training.engine.device import resolve_device
from moodreel.training.evaluation.metrics import CONFUSION_METRICS
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.experiment.recipe import STORE


def add_parser(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("compare", help="measure models side by side, and say whether one is better")
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="a name in the store, a folder or a weights file")
    add_data(parser, "data to measure on")
    add_out(parser, "the report's folder")
    add("--groups", type=Path, help="CSV file with the columns file and group: measure each group too")
    help = "the deciding metric (default: %(default)s)"
    metric = add("--metric", choices=sorted(CONFUSION_METRICS), default=DECISION_METRIC, help=help)
    help = "fraction to measure on, instead of the test part of the data set"
    test_fraction = add("--test-fraction", type=float, metavar="FLOAT", help=help)
    help = "split by person or at random (which leaks); default: person"
    split_by = add("--split-by", choices=SPLIT_BY, default="", help=help)
    help = "seed of the split and of the bootstrap (default: %(default)s)"
    add("--seed", type=at_least(0), default=0, help=help)
    add("--resamples", type=int, default=2000, help="resamples of the bootstrap (default: %(default)s)")
    help = "training examples to measure the generalization gap on, 0 for none (default: %(default)s)"
    add("--gap-sample", type=int, default=1000, help=help)
    help = "measure the gap also of models whose card does not name the data set as training data"
    add("--gap", action="store_true", help=help)
    add_common(parser)
    for option, old in ((metric, "--judge-by"), (test_fraction, "--hold-out"), (split_by, "--by")):
        add_deprecated(parser, option, old)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compare, write the report, and print the verdict."""
    if args.resamples < 100 or args.gap_sample < 0:
        raise DataInvalid("--resamples takes 100 or more, --gap-sample 0 or more.")
    check_out(args.out, overwrite=args.overwrite)
    data = open_dataset(args.data)
    models = open_models(args.models, STORE, device=str(resolve_device(args.device)))
    cards = [model.info.card for model in models]
    split = evaluation_split(data, cards, share=args.test_fraction, by=args.split_by, seed=args.seed)
    groups = groups_of(args.groups, data, Path(args.data.partition(":")[2])) if args.groups else None
    context = DataContext(STORE, args.cache, workers=args.threads)
    config = ComparisonConfig(args.metric, args.resamples, args.seed, args.gap_sample, args.gap)
    comparison, evaluation = compare(models, data, split, context, config, groups=groups)
    drawn = draw_faces(models, evaluation, data.media, context)
    write_report(args.out, comparison, args.command_line, drawn)
    for sentence in verdict(comparison):
        print(sentence)
    print(f"Held out: {comparison.split_description}\n{args.out / PAGE}, {args.out / TEXT}")


def groups_of(file: Path, data: Dataset, folder: Path) -> dict[str, np.ndarray]:
    """Read the groups of a set's files, whose names are relative to its folder: bool (N,) by group."""
    media = [example.media for example in data.examples]
    if not all(isinstance(each, Path) for each in media):
        raise DataInvalid("--groups names files in a folder for each label, but this set has arrays; leave it out.")
    return read_groups(file, tuple(Path(str(each)).relative_to(folder).as_posix() for each in media))
