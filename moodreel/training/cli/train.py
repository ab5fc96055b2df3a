"""`train PRESET --data NAME:PATH --out DIR`: train a shipped model, or any architecture on data of your own."""

import argparse
import json
import logging
import shlex
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from moodreel.errors import DataInvalid
from moodreel.training.cli.deprecated import GPU, MODEL_ARGUMENTS, add_deprecated, notice
from moodreel.training.cli.options import (
    TRAIN_LOG,
    Commands,
    add_common,
    add_fields,
    add_out,
    check_out,
    list_checkpoints,
)
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import DATASETS
from moodreel.training.engine.device import resolve_device
from moodreel.training.experiment.options import flag
from moodreel.training.experiment.preset import Preset, load_preset, preset_names
from moodreel.training.experiment.recipe import STORE, RunRequest
from moodreel.training.recipes.task_table import RECIPES, configure

logger = logging.getLogger("moodreel.training")


def add_parser(commands: Commands) -> None:
    """Add the verb, with a parser for each preset."""
    parser = commands.add_parser("train", help="train a model from a preset, and write its folder")
    presets = parser.add_subparsers(dest="preset", required=True, metavar="PRESET")
    for name in preset_names():
        preset = load_preset(name)
        _add_preset(presets.add_parser(name, help=preset.description, description=preset.description), preset)


def _add_preset(parser: argparse.ArgumentParser, preset: Preset) -> None:
    recipe = RECIPES[preset.task]
    names = ", ".join((*recipe.required, *recipe.optional) or DATASETS)
    data = parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="NAME:PATH",
        help=f"a data set to train on; repeat it for each; NAME is one of {names}",
    )
    if recipe.writes_model:
        add_out(parser, "the model's folder, whose name is the model's name")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run with the same --out")
    parser.add_argument("--wandb", default="", metavar="PROJECT", help="log to Weights & Biases too, if installed")
    model_arg = parser.add_argument(
        "--model-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the network; repeat it for each: fusion=gated, layers=2, channels=[32,64]",
    )
    device = add_common(parser)
    config, options = configure(preset)
    add_fields(parser, config, options, names=recipe.uses | vars(options).keys())
    add_deprecated(parser, device, "--gpu", type=lambda text: GPU.get(text, text))
    add_deprecated(parser, data, "--muxspace-data", new="--data muxspace:PATH", type="muxspace:{}".format)
    add_deprecated(parser, model_arg, "--argument")
    for name in MODEL_ARGUMENTS:
        add_deprecated(parser, model_arg, flag(name), new=f"--model-arg {name}=VALUE", type=f"{name}={{}}".format)
    parser.set_defaults(run=lambda args: run(preset, args))


def run(preset: Preset, args: argparse.Namespace) -> None:
    """Train a preset with the options of a command line, and print the summary."""
    started = time.monotonic()
    recipe = RECIPES[preset.task]
    request = build_request(preset, args)
    recipe.check_data(request.data, preset.name)
    if recipe.writes_model:
        check_out(args.out, overwrite=args.overwrite, resume=args.resume)
    # `prepare` finds errors in the request and the data before the folder is changed.
    start = recipe.prepare(request)
    if recipe.writes_model:
        for path in [] if args.resume else list_checkpoints(args.out):
            path.unlink()  # of an older run: --resume would take it for one of this run
        args.out.mkdir(parents=True, exist_ok=True)
        logging.getLogger().addHandler(logging.FileHandler(args.out / TRAIN_LOG, mode="a" if args.resume else "w"))
    # Not the request itself: train.log is published with the model, and must not have paths of this machine.
    logger.info("%s\n%s", request.command, request.record())
    summary = start()
    logger.info("Done in %.1f minutes.", (time.monotonic() - started) / 60)
    print(summary)


def build_request(preset: Preset, args: argparse.Namespace) -> RunRequest[Any]:
    """Return the run that a preset and a command line describe. Raises DataInvalid."""
    recipe, given = RECIPES[preset.task], vars(args)
    names = recipe.uses | {each.name for each in fields(recipe.options)}
    config, options = configure(preset, {name: given[name] for name in names})
    data = parse_data(args.data, recipe.bare_data)
    words = [f"python -m moodreel.training train {preset.name}", *(f"--data {name}:PATH" for name in data)]
    words += ["--out DIR"] if recipe.writes_model else []
    words += [f"--model-arg {shlex.quote(text)}" for text in args.model_arg]
    for chosen, default in zip((config, options), configure(preset), strict=True):
        words += chosen.words(default)
    return RunRequest(
        preset=preset.name,
        architecture=preset.architecture,
        model={**preset.model, **dict(parse_model_arg(text) for text in args.model_arg)},
        config=config,
        options=options,
        data=data,
        out=args.out if recipe.writes_model else Path(),
        context=DataContext(STORE, args.cache, seed=config.seed, workers=args.threads),
        device=str(resolve_device(args.device)),
        resume=args.resume,
        wandb=args.wandb,
        command=" ".join(words),
    )


def parse_data(specs: Sequence[str], bare: str) -> dict[str, Path]:
    """Parse `NAME:PATH` of each data set. A path alone, which is deprecated, means `bare:PATH`. Raises DataInvalid."""
    data: dict[str, Path] = {}
    for spec in specs:
        name, colon, path = spec.partition(":")
        if not colon:
            notice("--data PATH", f"--data {bare}:PATH")
            name, path = bare, spec
        if name in data:
            raise DataInvalid(f"--data names {name} twice; give each data set once.")
        data[name] = Path(path)
    return data


def parse_model_arg(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE; a value that is not JSON is text. Raises DataInvalid."""
    name, equals, value = text.partition("=")
    if not equals:
        raise DataInvalid(f"--model-arg takes NAME=VALUE, not {text!r}.")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value
