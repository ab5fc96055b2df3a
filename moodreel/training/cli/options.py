"""Command-line options that are generated from options dataclasses, and options that verbs share."""

import argparse
from collections.abc import Callable, Collection, Iterable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeAlias

from moodreel.errors import DataInvalid
from moodreel.models.registry import CARD_FILE
from moodreel.training.cli.deprecated import add_deprecated
from moodreel.training.data.registry import DATASETS
from moodreel.training.engine.checkpoint import CHECKPOINT
from moodreel.training.engine.device import DEVICES
from moodreel.training.experiment.options import PATH, Options, flag
from moodreel.training.experiment.recipe import STORE

TRAIN_LOG = "train.log"
"""Log of a training, in the model's folder."""

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns: each verb adds its parser to it."""


def add_fields(parser: argparse.ArgumentParser, *records: Options, names: Collection[str]) -> None:
    """Add an option for each field of options dataclasses that is in `names`, with its value as the default."""
    deprecated: dict[str, argparse.Action] = {}
    options: set[str] = set()
    for record in records:
        for field in (field for field in fields(record) if field.name in names):
            option = _add_field(parser, field, getattr(record, field.name))
            options.add(flag(field.name))
            # An old name that two options share means the later one.
            deprecated |= {flag(old): option for old in field.metadata["old"]}
    for old in sorted(deprecated.keys() - options):
        add_deprecated(parser, deprecated[old], old)


def _add_field(parser: argparse.ArgumentParser, field: Field[Any], default: Any) -> argparse.Action:
    metadata = field.metadata
    shown = "" if default in ("", None, ()) else " (default: %(default)s)"
    more: dict[str, Any] = {"nargs": "*"} if isinstance(default, tuple) else {}
    return parser.add_argument(
        flag(field.name),
        type=Path if metadata["kind"] == PATH else parse_flag if isinstance(default, bool) else type(field.default),
        default=default,
        choices=metadata["choices"] or None,
        metavar=metadata["kind"] or (None if metadata["choices"] else type(field.default).__name__.upper()),
        help=metadata["help"] + shown,
        **more,
    )


def add_common(parser: argparse.ArgumentParser, *, cache: bool = True) -> argparse.Action:
    """Add --device, --threads and --cache. Returns --device."""
    help = "where to compute (default: %(default)s)"
    device = parser.add_argument("--device", choices=DEVICES, default="auto", help=help)
    help = "CPU threads of torch and the face landmarker; processes that make batches for a GPU (default: 1)"
    parser.add_argument("--threads", type=at_least(1), default=1, help=help)
    if cache:
        help = "folder that caches detected faces (default: %(default)s)"
        parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help=help)
    return device


def add_data(
    parser: argparse.ArgumentParser, help: str, names: Iterable[str] = DATASETS, *, several: bool = False
) -> None:
    """Add --data NAME:PATH, for one data set or for several as a list."""
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
    """Return an argparse type: a whole number, `low` or more."""

    def parse(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {low} or more")
        return int(text)

    return parse


def check_out(out: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Check that a verb would not overwrite files.

    Args:
        out: The folder to write.
        overwrite: Whether existing files may be replaced.
        resume: Whether an interrupted training continues in it.

    Raises:
        DataInvalid: The folder is a file, is in the store of shipped models, or holds files, such as an interrupted
            training, or (with `resume`) a finished model without a checkpoint.
    """
    if out.resolve().is_relative_to(STORE.resolve()):
        raise DataInvalid(f"{out} is in the store of shipped models; write to another folder, and copy it.")
    if out.is_file():
        raise DataInvalid(f"{out} is a file; name another folder with --out.")
    if overwrite or (resume and (list_checkpoints(out) or not (out / CARD_FILE).is_file())):
        return
    if is_unfinished(out):
        raise DataInvalid(f"{out} holds an interrupted training: continue it with --resume, or use --overwrite.")
    # A run that fails before its first checkpoint, for example on a broken picture, leaves only a log.
    if out.is_dir() and any(path.name != TRAIN_LOG for path in out.iterdir()):
        raise DataInvalid(f"{out} holds files already; name a new or empty folder, or use --overwrite.")


def is_unfinished(out: Path) -> bool:
    """Return whether a folder has a checkpoint newer than its model: model.json is written last."""
    card = out / CARD_FILE
    written = card.stat().st_mtime_ns if card.is_file() else 0
    return any(path.stat().st_mtime_ns > written for path in list_checkpoints(out))


def list_checkpoints(out: Path) -> list[Path]:
    """List the checkpoints of a training and of its folds."""
    return [path for path in (out / CHECKPOINT, *out.glob(f"fold-*/{CHECKPOINT}")) if path.is_file()]
