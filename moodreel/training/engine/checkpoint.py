"""Checkpoints: written atomically, and read without running code that is in them."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from moodreel.errors import DataInvalid

CHECKPOINT = "checkpoint.pt"
"""File in the folder of a run."""

State = dict[str, Any]
"""What a checkpoint holds, by name: tensors, their state dicts, and plain values."""


def plain(values: Mapping[str, object]) -> dict[str, object]:
    """Convert values to what a checkpoint may hold without code: dicts, lists, numbers and strings."""
    converted: dict[str, object] = json.loads(
        json.dumps(values, default=lambda value: dict(value) if isinstance(value, Mapping) else str(value))
    )
    return converted


def only_plain(values: Mapping[str, object]) -> dict[str, object]:
    """Leave out what is not plain: a schedule's state has functions, which its constructor makes again."""
    return {name: value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def save(path: Path, state: State) -> None:
    """Write a checkpoint atomically. Raises DataInvalid where that is not possible; the last one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    try:
        torch.save(state, partial)
    except RuntimeError as error:  # PyTorch's for a full disk, too
        partial.unlink(missing_ok=True)
        raise DataInvalid(
            f"{path} cannot be written; make room on its disk, and continue with the same command and --resume."
        ) from error
    partial.replace(path)


def read_checkpoint(path: Path) -> State:
    """Read a checkpoint to the CPU; it may hold tensors and plain values only.

    Raises:
        DataInvalid: the file is missing, broken or something else.
    """
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        state["about"], state["network"]
    except (OSError, RuntimeError, UnpicklingError, zipfile.BadZipFile, KeyError, TypeError, EOFError) as error:
        raise DataInvalid(
            f"{path} is no checkpoint of this program, or broken; train without --resume, or where --audio-checkpoint "
            "named its run, name another."
        ) from error
    return state


def resume(path: Path, about: Mapping[str, object]) -> State:
    """Read the checkpoint of a run that is to be continued.

    Args:
        path: of the checkpoint.
        about: metadata, trainer's config and phases of the run that continues.

    Raises:
        DataInvalid: the checkpoint is broken, or of a run with another `about`.
    """
    state = read_checkpoint(path)
    theirs = state["about"]
    if differ := [name for name in about.keys() | theirs.keys() if about.get(name) != theirs.get(name)]:
        raise DataInvalid(
            f"{path} is of another run: {', '.join(sorted(differ))} differ. Train with the same options as before, or "
            "without --resume."
        )
    return state
