"""Define options that several commands share."""

import argparse
from pathlib import Path

from moodreel.cli.number import number
from moodreel.models.model_card import DIARY, PRIORS
from moodreel.pipelines.boomerang import LOOP_SECONDS, LOOP_SIDES, LoopOptions
from moodreel.pipelines.loop_crop import ASPECTS


def add_loop_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a loop: --duration, --size and --aspect."""
    parser.add_argument(
        "--duration",
        type=number(float, *LOOP_SECONDS),
        default=LoopOptions.duration,
        help="seconds of the loop, 0.5 to 10 (default: %(default)g)",
    )
    parser.add_argument(
        "--size",
        type=number(int, *LOOP_SIDES),
        default=LoopOptions.size,
        help="longest side of the loop in pixels, 64 to 1080 (default: %(default)s)",
    )
    parser.add_argument(
        "--aspect",
        choices=ASPECTS,
        default=LoopOptions.aspect,
        help="crop the loop around the face (default: %(default)s)",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a face model: --model, --model-path, --model-store and --prior."""
    parser.add_argument("--model", help="name of a model in the store (default: the store's own)")
    parser.add_argument("--model-path", type=Path, help="checkpoint or model folder outside the store")
    parser.add_argument(
        "--model-store", type=Path, help="folder of the models (default: MODEL_STORE, else the shipped ones)"
    )
    parser.add_argument(
        "--prior",
        choices=PRIORS,
        default=DIARY,
        help="how often people show each emotion: mostly calm and happy, or all equally often (default: %(default)s)",
    )
