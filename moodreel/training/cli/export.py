"""`export MODEL --weights int8 --data NAME:PATH --out DIR`: write a model with weights of another data type."""

import argparse

import numpy as np

from moodreel.errors import DataInvalid, ModelInvalid
from moodreel.models.quantization import PRECISIONS
from moodreel.training.cli.options import Commands, add_common, add_data, add_out, at_least, check_out
from moodreel.training.comparison.split import trained_on
from moodreel.training.data.label_mapping import common_labels, mapping_matrix
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset, split_spec
from moodreel.training.engine.device import resolve_device
from moodreel.training.evaluation.face_model import check_media
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.experiment.recipe import STORE
from moodreel.training.export.quantize import convert_weights, report_change


def add_parser(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser(
        "export", help="write a model with weights of another data type, and measure the change"
    )
    parser.add_argument("model", help="a name in the store, or a model's folder")
    add_out(parser, "a new or empty folder; its name is the model's")
    parser.add_argument("--weights", choices=PRECISIONS, required=True, help="the data type of the weights")
    add_data(parser, "a data set whose held-out part measures the change")
    help = "largest number of examples, 0 for all (default: %(default)s)"
    parser.add_argument("--count", type=at_least(0), default=1000, help=help)
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Export a model, and measure it on examples that a data set holds out.

    Examples in which the original model finds no face are left out, before and after.
    """
    check_out(args.out, overwrite=args.overwrite)
    context, device = DataContext(STORE, args.cache, workers=args.threads), str(resolve_device(args.device))
    [model] = open_models([args.model], STORE, device=device)
    data = open_dataset(args.data)
    check_media([model], data.media)
    if not model.path.is_dir():
        raise ModelInvalid(f"{model.path.name!r} is not a folder; name the folder of a model, with a model.json in it.")
    if args.out.resolve() == model.path.resolve():
        raise DataInvalid(f"{args.out} is the model itself; name a new or empty folder.")
    labels = common_labels({model.name: model.info.labels}, data.labels)
    held_out = np.random.default_rng(context.seed).permutation(data.split().held_out)
    rows = np.sort(held_out[: args.count or None])
    examples = [data.examples[row] for row in rows]
    before = model.predict(examples, data.media, context)
    if not before.found.any():
        raise DataInvalid(f"No face was found in any of {len(rows)} examples of {data.name}; check the files.")
    convert_weights(model.path, args.out, args.weights)
    [converted] = open_models([str(args.out)], STORE, device=device)
    after, matrix = converted.predict(examples, data.media, context), mapping_matrix(model.info.labels, labels)
    own, converted_to = (each.probabilities[before.found] @ matrix for each in (before, after))
    truth = mapping_matrix(data.labels, labels).argmax(axis=1)[data.truth[rows]][before.found]
    part = f"held-out {data.noun} of {data.name}"
    if data.published_split is None and trained_on(model.info.card, data.name):
        # After cross-validation, the weights are trained on everything.
        part = f"{data.noun} of {data.name} that training may have seen (only the difference is meaningful)"
    option = f"{split_spec(args.data)[0]}:PATH"
    print(report_change(model.path, args.out, own, converted_to, truth, data=part, option=option))
