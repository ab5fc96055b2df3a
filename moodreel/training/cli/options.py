"""Command-line options that are made from options dataclasses, and those that several verbs have."""

import argparse
from collections.abc import Callable, Collection, Iterable
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moodreel.errors import DataInvalid
from moodreel.models.registry import CARD_FILE
from moodreel.training.cli.deprecated import add_deprecated
from moodreel.training.data.registry import DATASETS
from moodreel.training.engine.checkpoint import CHECKPOINT
from moodreel.training.engine.device import DEVICES
from moodreel.training.experiment.options import PATH, Options, flag
from moodreel.training.experiment.recipe import STORE

TRAIN_LOG = "train.log"
"""Of a training, in the model's folder."""

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:  # the class takes no type argument when it runs
    Commands = argparse._SubParsersAction
"""What `add_subparsers` returns: each verb adds its parser to it."""


def add_fields(parser: argparse.ArgumentParser, *records: Options, names: Collection[str]) -> None:
    """Add an option for each field in `names` of records of options, whose values are the defaults."""
    deprecated: dict[str, argparse.Action] = {}
    options: set[str] = set()
    for record in records:
        for each in (each for each in fields(record) if each.name in names):
            option = _add_field(parser, each, getattr(record, each.name))
            options.add(flag(each.name))
            # Of two options with one old name, the present preset has had the later one.
            deprecated |= {flag(old): option for old in each.metadata["old"]}
    for old in sorted(deprecated.keys() - options):
        add_deprecated(parser, deprecated[old], old)


def _add_field(parser: argparse.ArgumentParser, each: Field[Any], default: Any) -> argparse.Action:
    metadata = each.metadata
    shown = "" if default in ("", None, ()) else " (default: %(default)s)"
    more: dict[str, Any] = {"nargs": "*"} if isinstance(default, tuple) else {}
    return parser.add_argument(
        flag(each.name),
        type=Path if metadata["kind"] == PATH else parse_flag if isinstance(default, bool) else type(each.default),
        default=default,
        choices=metadata["choices"] or None,
        metavar=metadata["kind"] or (None if metadata["choices"] else type(each.default).__name__.upper()),
        help=metadata["help"] + shown,
        **more,
    )


def add_common(parser: argparse.ArgumentParser, *, cache: bool = True) -> argparse.Action:
    """Add --device, --threads and --cache. Returns --device."""
    help = "where to compute (default: %(default)s)"
    device = parser.add_argument("--device", choices=DEVICES, default="auto", help=help)
    help = "CPU threads of torch and the face landmarker (default: 1)"
    parser.add_argument("--threads", type=at_least(1), default=1, help=help)
    if cache:
        help = "folder that caches detected faces (default: %(default)s)"
        parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help=help)
    return device


def add_data(
    parser: argparse.ArgumentParser, help: str, names: Iterable[str] = DATASETS, *, several: bool = False
) -> None:
    """Add --data NAME:PATH of one data set, or of several as a list."""
    text = f"{help}; NAME is one of {', '.join(names)}"
    action = "append" if several else "store"
    parser.add_argument("--data", action=action, required=True, metavar="NAME:PATH", help=text)


def add_out(parser: argparse.ArgumentParser, help: str) -> None:
    """Add --out and --overwrite."""
    parser.add_argument("--out", type=Path, required=True, help=help)
    parser.add_argument("--overwrite", action="store_true", help="write into --out even if it holds files")


def parse_flag(text: str) -> bool:
    """Parse 1, 0, true or false."""
    flags = {"1": True, "true": True, "0": False, "false": False}
    if text.lower() not in flags:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1, 0, true or false")
    return flags[text.lower()]


def at_least(low: int) -> Callable[[str], int]:
    """Make an argparse type: a whole number from `low`."""

    def parse(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {low} or more")
        return int(text)

    return parse


def check_out(out: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Protect what a verb would write over.

    Args:
        out: The folder to write.
        overwrite: Whether existing files may be replaced.
        resume: Whether an interrupted training goes on in it.

    Raises:
        DataInvalid: It is a shipped model, or holds files, such as an interrupted training, or a finished model without
            a checkpoint to go on from.
    """
    if out.resolve().is_relative_to(STORE.resolve()):
        raise DataInvalid(f"{out} is in the store of shipped models; write to another folder, and copy it.")
    if overwrite or (resume and (list_checkpoints(out) or not (out / CARD_FILE).is_file())):
        return
    if is_unfinished(out):
        raise DataInvalid(f"{out} holds an interrupted training: continue it with --resume, or use --overwrite.")
    # A log alone is what a run leaves that failed before its first checkpoint, on a broken picture for instance.
    if out.is_dir() and any(path.name != TRAIN_LOG for path in out.iterdir()):
        raise DataInvalid(f"{out} holds files already; name a new or empty folder, or use --overwrite.")


def is_unfinished(out: Path) -> bool:
    """Tell whether a folder has a checkpoint newer than its model: model.json is written last."""
    card = out / CARD_FILE
    written = card.stat().st_mtime_ns if card.is_file() else 0
    return any(path.stat().st_mtime_ns > written for path in list_checkpoints(out))


def list_checkpoints(out: Path) -> list[Path]:
    """List the checkpoints of a training and of its folds."""
    return [path for path in (out / CHECKPOINT, *out.glob(f"fold-*/{CHECKPOINT}")) if path.is_file()]
